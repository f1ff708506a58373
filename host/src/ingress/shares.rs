//! The front door's shares: no tenant's requests and answers take all that there is of it.

use crate::lifecycle::SeveralTenants;
use dashmap::DashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use vesta_core::TenantName;

/// Of the memory budget, the share that unread answers of one tenant's functions may hold before further
/// requests are refused.
const UNREAD_SHARE: u64 = 16;
/// The same where there is one tenant.
const UNREAD_SHARE_ALONE: u64 = 4;
/// Least of it, in bytes.
const UNREAD_BYTES_MIN: u64 = 16 << 20;

/// The share of each tenant.
pub struct Shares {
    requests_max: usize,
    memory: u64,
    several_tenants: SeveralTenants,
    all: DashMap<TenantName, Arc<Share>>,
}

#[derive(Default)]
struct Share {
    requests: AtomicUsize,
    unread: AtomicU64,
}

/// Why a request got no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("{max} requests to functions of this tenant are under way, the most of one tenant")]
    Requests { max: usize },
    #[error(
        "clients have not read {bytes} bytes of answers of this tenant's functions; {max} is the most of one tenant"
    )]
    Unread { bytes: u64, max: u64 },
}

impl Shares {
    /// `requests` is the most that the host runs at once: where there are several tenants, one may have half
    /// as many under way. `memory` is the host's budget in bytes.
    pub fn new(requests: usize, memory: u64, several_tenants: SeveralTenants) -> Shares {
        Shares { several_tenants, requests_max: (requests / 2).max(1), memory, all: DashMap::new() }
    }

    /// A place for a request to a function of the tenant.
    pub fn enter(&self, tenant: &TenantName) -> Result<Arc<Place>, NoPlace> {
        let share = self.all.get(tenant).map(|share| share.clone());
        let share = share.unwrap_or_else(|| self.all.entry(tenant.clone()).or_default().clone());
        let bytes = share.unread.load(Relaxed);
        if bytes > UNREAD_BYTES_MIN {
            let share = if (self.several_tenants)() { UNREAD_SHARE } else { UNREAD_SHARE_ALONE };
            let max = (self.memory / share).max(UNREAD_BYTES_MIN);
            if bytes > max {
                return Err(NoPlace::Unread { bytes, max });
            }
        }
        let place = Place(share);
        let others = place.0.requests.fetch_add(1, Relaxed);
        if others >= self.requests_max && (self.several_tenants)() {
            return Err(NoPlace::Requests { max: self.requests_max });
        }
        Ok(Arc::new(place))
    }
}

/// The place of one request, from its admission to the end of its answer.
pub struct Place(Arc<Share>);

impl Place {
    /// Counts bytes of an answer until its client has read them.
    pub fn unread(&self, bytes: u64) -> Unread {
        self.0.unread.fetch_add(bytes, Relaxed);
        Unread { share: self.0.clone(), bytes }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// Bytes of an answer that its client has not read.
pub struct Unread {
    share: Arc<Share>,
    bytes: u64,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.share.unread.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_half_of_the_places_and_a_share_of_the_memory() {
        let shares = Shares::new(4, 0, Arc::new(|| true));
        let (one, other): (TenantName, TenantName) =
            ("one".parse().expect("name"), "other".parse().expect("name"));
        let first = shares.enter(&one).expect("a place");
        let second = shares.enter(&one).expect("a place");
        assert_eq!(shares.enter(&one).err(), Some(NoPlace::Requests { max: 2 }));
        let held = first.unread(UNREAD_BYTES_MIN + 1);
        drop((first, second));
        assert!(matches!(shares.enter(&one), Err(NoPlace::Unread { .. })));
        assert!(shares.enter(&other).is_ok());
        drop(held);
        assert!(shares.enter(&one).is_ok());
        // One that is alone has no others to leave something to.
        let shares = Shares::new(2, 0, Arc::new(|| false));
        let all: Vec<_> = (0..5).map(|_| shares.enter(&one)).collect();
        assert!(all.iter().all(Result::is_ok));
    }
}
