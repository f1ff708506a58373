//! Names of hosts become addresses, without a thread that waits for a name server, and with a share for each
//! tenant.

use crate::meter::Meter;
use crate::meter::outbound::OutboundWork;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use vesta_core::TenantName;

/// Look-ups under way, of one tenant and of all.
const OF_TENANT_MAX: usize = 8;
const OF_ALL_MAX: usize = 256;
/// How long a look-up may take. A name server is asked twice, for so long each.
const LOOKUP_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// How long an address is remembered, whatever its owner says.
const REMEMBERED_MAX: Duration = Duration::from_secs(300);

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("NXDOMAIN")]
    NoSuchName,
    #[error("lookup failed")]
    Failed,
}

/// The look-ups of a host.
pub(crate) struct Lookups {
    /// None: those of `/etc/resolv.conf`.
    name_servers: Vec<SocketAddr>,
    /// Made with the first look-up: it reads files.
    resolver: OnceLock<TokioResolver>,
    all: Arc<Semaphore>,
    shares: Mutex<HashMap<TenantName, Weak<Semaphore>>>,
}

/// A tenant's.
#[derive(Clone)]
pub(crate) struct TenantLookups {
    lookups: Arc<Lookups>,
    share: Arc<Semaphore>,
}

impl Lookups {
    /// These name servers are asked, or those of the system where there are none.
    pub fn new(name_servers: Vec<SocketAddr>) -> Arc<Lookups> {
        Arc::new(Lookups {
            name_servers,
            resolver: OnceLock::new(),
            all: Arc::new(Semaphore::new(OF_ALL_MAX)),
            shares: Mutex::default(),
        })
    }

    pub fn of(self: &Arc<Self>, tenant: &TenantName) -> TenantLookups {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(tenant).and_then(Weak::upgrade) {
            return TenantLookups { lookups: self.clone(), share };
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(OF_TENANT_MAX));
        shares.insert(tenant.clone(), Arc::downgrade(&share));
        TenantLookups { lookups: self.clone(), share }
    }

    fn resolver(&self) -> Result<TokioResolver, LookupError> {
        if let Some(resolver) = self.resolver.get() {
            return Ok(resolver.clone());
        }
        // Where that fails, the next look-up tries again.
        let made = resolver(&self.name_servers).map_err(told)?;
        Ok(self.resolver.get_or_init(|| made).clone())
    }
}

fn resolver(name_servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = name_servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options: &mut ResolverOpts = builder.options_mut();
    options.timeout = options.timeout.min(ANSWER_MAX);
    options.attempts = options.attempts.min(2);
    options.max_active_requests = OF_ALL_MAX * 2;
    options.positive_max_ttl = Some(REMEMBERED_MAX);
    options.negative_max_ttl = Some(REMEMBERED_MAX);
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

impl TenantLookups {
    /// The addresses of a host. One that is written as an address is looked up nowhere. The CPU time goes to
    /// `meter`.
    pub async fn addresses(&self, host: &str, meter: &Arc<Meter>) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if is_number(host) {
            return Err(LookupError::NoSuchName);
        }
        let resolver = self.lookups.resolver()?;
        // Never closed.
        let closed = |_| LookupError::Failed;
        let of_tenant = self.share.clone().acquire_owned().await.map_err(closed)?;
        let of_all = self.lookups.all.clone().acquire_owned().await.map_err(closed)?;
        let host = host.to_owned();
        // Whoever asked may go away; the name server is asked nevertheless, and counted.
        let work = async move {
            let _counted = (of_tenant, of_all);
            timeout(LOOKUP_MAX, resolver.lookup_ip(host)).await
        };
        let asked = tokio::spawn(OutboundWork::new(work, meter));
        match asked.await {
            Ok(Ok(Ok(found))) => Ok(found.iter().collect()),
            Ok(Ok(Err(e))) => Err(told(e)),
            Ok(Err(_)) | Err(_) => Err(LookupError::Failed),
        }
    }
}

/// Whether a host is an address in one of its old forms (`127.1`, `2130706433`, `0x7f.1`). No name ends with
/// a number (RFC 3696, section 2).
fn is_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    hexadecimal
        .map_or(last.bytes().all(|b| b.is_ascii_digit()), |rest| rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn told(e: NetError) -> LookupError {
    if e.is_nx_domain() {
        return LookupError::NoSuchName;
    }
    // Of the host's network, guests are told no more.
    tracing::debug!(%e, "a look-up failed");
    LookupError::Failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::net::UdpSocket;

    fn tenant(name: &str) -> TenantName {
        name.parse().expect("a name")
    }

    /// A name server that says nothing.
    async fn silent() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("an address");
        (socket, address)
    }

    #[tokio::test]
    async fn an_address_is_looked_up_nowhere() {
        let (_socket, server) = silent().await;
        let lookups = Lookups::new(vec![server]).of(&tenant("acme"));
        let begun = Instant::now();
        for literal in ["127.0.0.1", "::1", "2001:db8::7"] {
            let address: IpAddr = literal.parse().expect("an address");
            assert_eq!(lookups.addresses(literal, &Arc::default()).await, Ok(vec![address]));
        }
        for number in ["127.1", "2130706433", "0x7f000001", "0x7f.1", "1.2.3.4.", ""] {
            assert_eq!(
                lookups.addresses(number, &Arc::default()).await,
                Err(LookupError::NoSuchName),
                "{number}"
            );
        }
        assert!(begun.elapsed() < Duration::from_millis(500));
    }

    #[tokio::test]
    async fn a_silent_name_server_keeps_one_tenant_waiting_and_no_other() {
        let (socket, server) = silent().await;
        let lookups = Lookups::new(vec![server]);
        let (mallory, acme) = (lookups.of(&tenant("mallory")), lookups.of(&tenant("acme")));
        for n in 0..3 * OF_TENANT_MAX {
            // Asked, and given up at once.
            let name = format!("{n}.example.com");
            let given_up =
                timeout(Duration::from_millis(10), mallory.addresses(&name, &Arc::default())).await;
            assert!(given_up.is_err());
        }
        assert_eq!(mallory.share.available_permits(), 0, "its share is in use");
        assert_eq!(acme.share.available_permits(), OF_TENANT_MAX);
        // The name server hears of the other tenant's name at once.
        let asked = tokio::spawn(async move { acme.addresses("acme.example.org", &Arc::default()).await });
        let mut packet = [0; 512];
        let heard = timeout(Duration::from_secs(2), async {
            loop {
                let (n, _) = socket.recv_from(&mut packet).await.expect("a question");
                if packet[..n].windows(4).any(|w| w == b"acme") {
                    return;
                }
            }
        });
        heard.await.expect("asked");
        let begun = Instant::now();
        let said = asked.await.expect("no panic").expect_err("nobody answers");
        assert_eq!(said, LookupError::Failed);
        assert!(begun.elapsed() < LOOKUP_MAX + Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(lookups.all.available_permits() + mallory.in_use(), OF_ALL_MAX);
    }

    impl TenantLookups {
        fn in_use(&self) -> usize {
            OF_TENANT_MAX - self.share.available_permits()
        }
    }
}
