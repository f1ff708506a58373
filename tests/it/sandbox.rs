//! What a guest can see and reach: nothing that its manifest does not name.

use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use vesta_tests::{Host, Package};

#[test]
fn the_environment_is_what_the_manifest_declares() {
    let host = Host::shared();
    let variables = json!({ "LEVEL": "3", "EMPTY": "", "UNICODE": "λ" });
    Package::rogue("environment").set("/variables", variables).deploy(&host.control());
    let seen = host.invoke("environment", "/env").expect(200).text();
    assert_eq!(seen, "EMPTY=\nLEVEL=3\nUNICODE=λ\n");
    assert_eq!(host.invoke("environment", "/stdin").expect(200).text(), "0 bytes\n");
}

#[test]
fn there_are_no_files_and_no_sockets() {
    let host = Host::shared();
    Package::rogue("curious").deploy(&host.control());
    let files = host.invoke("curious", "/files").expect(200).text();
    assert!(!files.contains("ALLOWED"), "{files}");
    assert!(files.contains("preopened directories: 0"), "{files}");

    let (port, connections) = listener();
    let sockets = host.invoke("curious", &format!("/sockets?port={port}")).expect(200).text();
    assert!(!sockets.contains("ALLOWED"), "{sockets}");
    assert!(sockets.lines().count() >= 5, "{sockets}");
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

/// A server on the loopback that answers everything with 200, and counts.
fn listener() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut socket = socket;
            let _ = socket.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = socket.read(&mut [0; 4096]);
            let _ =
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\ninside");
        }
    });
    (port, count)
}

#[test]
fn outbound_http_goes_only_to_named_hosts_and_never_inside() {
    let host = Host::shared();
    let (port, connections) = listener();
    // Names that lead inside, named in the manifest as if they were harmless.
    let named = json!([
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        "169.254.169.254",
        "10.0.0.1",
        format!("2130706433:{port}")
    ]);
    Package::rogue("outbound").set("/outbound", named).limit("wall_ms", 10_000).deploy(&host.control());
    let fetch = |url: String| host.invoke("outbound", &format!("/outbound?url={url}")).expect(200).text();
    for url in [
        format!("http://localhost:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://127.1:{port}/"),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://10.0.0.1/".into(),
        "http://unnamed.example/".into(),
        format!("http://{}/api/v1/whoami", host.control_address()),
        "ftp://localhost/".into(),
    ] {
        let said = fetch(url.clone());
        assert!(said.starts_with("refused"), "{url}: {said}");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 0, "no connection was even tried");
}

#[test]
fn an_operator_may_open_a_network_but_not_a_host_that_no_manifest_names() {
    let host = Host::builder().config("outbound_allow_networks = [\"127.0.0.0/8\"]\n").start();
    let (port, connections) = listener();
    let named = json!([format!("localhost:{port}")]);
    Package::rogue("opened").set("/outbound", named).deploy(&host.control());
    let fetch = |url: &str| host.invoke("opened", &format!("/outbound?url={url}")).expect(200).text();
    assert_eq!(fetch(&format!("http://localhost:{port}/")), "status 200\ninside\n");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    assert!(fetch(&format!("http://127.0.0.1:{port}/")).starts_with("refused"));
    assert!(fetch(&format!("http://localhost:{}/", port.wrapping_add(1).max(1))).starts_with("refused"));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
