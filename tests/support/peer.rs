//! Other hosts that guests call: servers on the loopback, which an operator opens by
//! `outbound_allow_networks`.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The key opens nothing: the certificate is signed by itself, and nobody trusts it.
const CERTIFICATE: &[u8] = include_bytes!("peer/certificate.pem");
const KEY: &[u8] = include_bytes!("peer/key.pem");

/// What the configuration of a host says for its guests to reach peers.
pub const OPENED: &str = "outbound_allow_networks = [\"127.0.0.0/8\"]\n";
/// The host that a manifest names.
pub const HOST: &str = "127.0.0.1";

/// Serves each connection in a thread of its own; gives the port.
fn serve(each: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((HOST, 0)).expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let each = Arc::new(each);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let each = each.clone();
            let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
            std::thread::spawn(move || each(socket));
        }
    });
    port
}

/// Answers every request with a body of so many bytes.
pub fn http(bytes: usize) -> u16 {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n");
    let answer = [head.into_bytes(), vec![b'.'; bytes]].concat();
    serve(move |mut socket| {
        let _ = socket.read(&mut [0; 4096]);
        let _ = socket.write_all(&answer);
    })
}

/// Speaks TLS, with a certificate that no host of ours trusts: each call ends in the handshake.
pub fn tls() -> u16 {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key");
    let config = Arc::new(config);
    serve(move |mut socket| {
        let Ok(mut tls) = ServerConnection::new(config.clone()) else { return };
        let _ = tls.complete_io(&mut socket);
        let _ = socket.read(&mut [0; 4096]);
    })
}
