//! Outbound HTTP of guests: only to the hosts that the manifest names, and never to an address that is not
//! public. The address is checked where it is connected to, so that a name cannot be rebound in between.

use super::lookups::TenantLookups;
use crate::meter::Meter;
use crate::meter::cpu::metered;
use crate::meter::outbound::OutboundWork;
use bytes::Bytes;
use http::uri::Scheme;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Longest wait for a connection, for the first byte and between bytes; a guest may ask for less. The
/// invocation's own wall-clock limit ends everything earlier.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Connections that one invocation may have open at once.
const CONNECTIONS_MAX: usize = 16;
/// Most bytes of a body that a guest may have the host hold in one piece.
const CHUNK_BYTES: usize = 64 << 10;

/// What one function may reach.
#[derive(Debug, Clone, Default)]
pub struct OutboundPolicy {
    /// `name` (any port) or `name:port`, from the manifest.
    pub hosts: Vec<String>,
    /// Networks that the operator allows although they are not public.
    pub allow_networks: Vec<IpNet>,
}

impl OutboundPolicy {
    fn names(&self, host: &str, port: u16) -> bool {
        self.hosts.iter().any(|allowed| match allowed.rsplit_once(':') {
            Some((name, p)) => name.eq_ignore_ascii_case(host) && p.parse() == Ok(port),
            None => allowed.eq_ignore_ascii_case(host),
        })
    }

    fn reaches(&self, address: IpAddr) -> bool {
        let address = plain(address);
        is_public(address) || self.allow_networks.iter().any(|net| net.contains(&address))
    }
}

/// The IPv4 address inside an IPv6 one that merely carries it (mapped, compatible, 6to4, NAT64, Teredo is
/// refused as a whole by [`is_public`]).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let s = v6.segments();
    let low = Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] => low.into(),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => low.into(),
        [0x2002, a, b, ..] => Ipv4Addr::from((u32::from(a) << 16) | u32::from(b)).into(),
        [0, 0, 0, 0, 0, 0, ..] if u32::from(low) > 1 => low.into(),
        _ => address,
    }
}

/// Whether an address is globally reachable: none of the special-purpose ranges of the IANA registries.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (18..20).contains(&b)))
        }
        // Only the global unicast range 2000::/3, without its special parts.
        IpAddr::V6(v6) => {
            let s = v6.segments();
            (s[0] & 0xe000) == 0x2000
                && !(s[0] == 0x2001 && s[1] < 0x200)
                && !(s[0] == 0x2001 && s[1] == 0xdb8)
                && s[0] != 0x2002
                && v6 != Ipv6Addr::UNSPECIFIED
        }
    }
}

/// The hooks of one instance. What the host does for its calls is billed to the invocation that it serves.
pub(crate) struct Outbound {
    policy: Arc<OutboundPolicy>,
    lookups: Option<TenantLookups>,
    connections: Arc<Semaphore>,
    meter: Arc<Meter>,
}

impl Outbound {
    /// Without `lookups` no name has an address.
    pub fn new(policy: Arc<OutboundPolicy>, lookups: Option<TenantLookups>, meter: Arc<Meter>) -> Outbound {
        Outbound { policy, lookups, connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)), meter }
    }

    /// Another invocation begins. Calls that an earlier one began stay on that one's bill.
    pub fn begin(&mut self, meter: Arc<Meter>) {
        self.meter = meter;
    }
}

type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _body_error: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let call =
            Call { policy: self.policy.clone(), lookups: self.lookups.clone(), meter: self.meter.clone() };
        let (connections, meter) = (self.connections.clone(), self.meter.clone());
        let work = async move {
            let place = connections.acquire_owned().await.map_err(|_| Error::ConnectionLimitReached)?;
            call.send(request, options, place).await
        };
        Box::new(OutboundWork::new(work, &meter))
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

/// One call of a guest.
struct Call {
    policy: Arc<OutboundPolicy>,
    lookups: Option<TenantLookups>,
    meter: Arc<Meter>,
}

impl Call {
    async fn send(
        &self,
        mut request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        place: OwnedSemaphorePermit,
    ) -> Result<Sent, Error> {
        let uri = request.uri();
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_string();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if !self.policy.names(&host, port) {
            return Err(Error::HttpRequestDenied);
        }
        let bound = |asked: Option<Duration>| asked.unwrap_or(TIMEOUT_MAX).min(TIMEOUT_MAX);
        let connect_timeout = bound(options.as_ref().and_then(|o| o.connect_timeout));
        let first_byte_timeout = bound(options.as_ref().and_then(|o| o.first_byte_timeout));
        let idle_timeout = bound(options.as_ref().and_then(|o| o.between_bytes_timeout));

        let connected = timeout(connect_timeout, self.connect(&host, port, tls)).await;
        let stream = connected.map_err(|_| Error::ConnectionTimeout)??;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_headers(128)
            .handshake(TokioIo::new(stream))
            .await?;
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_string();
        *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;

        // The connection is driven beside the response, and dropped with it.
        let driver = AbortOnDrop(tokio::spawn(OutboundWork::new(connection, &self.meter)));
        let response = timeout(first_byte_timeout, sender.send_request(request)).await;
        let response = match response {
            Ok(response) => response?,
            Err(_) => return Err(Error::ConnectionReadTimeout),
        };
        let response =
            response.map(|body| IdleTimeout::new(body, idle_timeout, self.meter.clone()).boxed_unsync());
        let drive = async move {
            let _place = place;
            driver.join().await
        };
        Ok((response, Box::new(drive)))
    }

    async fn connect(&self, host: &str, port: u16, tls: bool) -> Result<Box<dyn Duplex>, Error> {
        let found =
            self.lookups.as_ref().ok_or(Error::DestinationNotFound)?.addresses(host, &self.meter).await;
        let addresses = found.map_err(|e| Error::DnsError { rcode: Some(e.to_string()), info_code: None })?;
        if addresses.is_empty() {
            return Err(Error::DestinationNotFound);
        }
        let reached = addresses.into_iter().filter(|address| self.policy.reaches(*address));
        let allowed: Vec<SocketAddr> = reached.map(|address| SocketAddr::new(address, port)).collect();
        if allowed.is_empty() {
            return Err(Error::DestinationIpProhibited);
        }
        let tcp = TcpStream::connect(&allowed[..]).await.map_err(Error::Connect)?;
        // Once more on the peer that was really reached.
        let peer = tcp.peer_addr().map_err(Error::Connect)?;
        if !self.policy.reaches(peer.ip()) {
            return Err(Error::DestinationIpProhibited);
        }
        let _ = tcp.set_nodelay(true);
        if !tls {
            return Ok(Box::new(tcp));
        }
        let name = ServerName::try_from(host.to_string()).map_err(|_| Error::TlsCertificateError)?;
        let tls = TLS.connect(name, tcp).await.map_err(Error::Tls)?;
        Ok(Box::new(tls))
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

static TLS: LazyLock<TlsConnector> = LazyLock::new(|| {
    let roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
});

struct AbortOnDrop(tokio::task::JoinHandle<Result<(), hyper::Error>>);

impl AbortOnDrop {
    async fn join(mut self) -> Result<(), Error> {
        match (&mut self.0).await {
            Ok(Err(e)) => Err(e.into()),
            _ => Ok(()),
        }
    }
}
impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's body that fails when nothing comes for too long.
struct IdleTimeout {
    body: hyper::body::Incoming,
    limit: Duration,
    timer: std::pin::Pin<Box<tokio::time::Sleep>>,
    meter: Arc<Meter>,
}

impl IdleTimeout {
    fn new(body: hyper::body::Incoming, limit: Duration, meter: Arc<Meter>) -> Self {
        Self { body, limit, timer: Box::pin(tokio::time::sleep(limit)), meter }
    }
}

impl http_body::Body for IdleTimeout {
    type Data = Bytes;
    type Error = Error;
    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        use std::task::Poll;
        let (polled, cpu_ns) = metered(|| std::pin::Pin::new(&mut self.body).poll_frame(cx));
        self.meter.outbound_ran(cpu_ns);
        match polled {
            Poll::Ready(frame) => {
                let next = tokio::time::Instant::now() + self.limit;
                self.timer.as_mut().reset(next);
                Poll::Ready(frame.map(|f| f.map_err(Error::from)))
            }
            Poll::Pending if self.timer.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hosts: &[&str]) -> OutboundPolicy {
        OutboundPolicy { hosts: hosts.iter().map(|h| h.to_string()).collect(), allow_networks: vec![] }
    }

    #[test]
    fn only_named_hosts_and_ports_are_reached() {
        let p = policy(&["api.example.com", "db.example.com:8443"]);
        assert!(p.names("API.example.com", 443));
        assert!(p.names("api.example.com", 80));
        assert!(p.names("db.example.com", 8443));
        assert!(!p.names("db.example.com", 443));
        assert!(!p.names("evil.example.com", 443));
        assert!(!p.names("com", 443));
    }

    #[test]
    fn no_address_that_is_not_public_is_reached_however_it_is_written() {
        let p = policy(&[]);
        for bad in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001:db8::1",
            "2001::1",
            "64:ff9b:1::7f00:1",
        ] {
            assert!(!p.reaches(bad.parse().expect("address")), "{bad}");
        }
        for good in ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::101:101"] {
            assert!(p.reaches(good.parse().expect("address")), "{good}");
        }
    }

    #[test]
    fn the_operator_may_open_a_private_network() {
        let mut p = policy(&[]);
        p.allow_networks.push("10.0.0.0/8".parse().expect("network"));
        assert!(p.reaches("10.1.2.3".parse().expect("address")));
        assert!(p.reaches("::ffff:10.1.2.3".parse().expect("address")));
        assert!(!p.reaches("127.0.0.1".parse().expect("address")));
    }
}
