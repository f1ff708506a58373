//! Who calls, and what they may: tenants and their API keys.
//!
//! Everything is in memory after [`Tenancy::open`] and written through to the database, so that identifying a caller
//! costs one look-up and one HMAC.

mod key;
mod store;

use crate::db::{Db, DbError};
use dashmap::DashMap;
use key::{KeyHash, Pepper};
use std::sync::Arc;
use tokio::sync::Mutex;
use vesta_core::TenantName;
use vesta_core::clock::Clock;
use vesta_core::id::IdError;

/// The tenant that a new data directory begins with, and that an operator acts on unless another is named.
pub const DEFAULT_TENANT: &str = "default";
/// Most tenants of one host.
pub const TENANTS_MAX: usize = 10_000;
/// Most keys of one tenant, and of the operators together, that are in force at once.
pub const KEYS_MAX: usize = 100;

/// What a key lets its holder be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs the host: acts for every tenant.
    Operator,
    /// Acts for one tenant.
    Tenant,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::Tenant => "tenant",
        }
    }
}

/// A caller whose key was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub role: Role,
    /// Set for [`Role::Tenant`].
    pub tenant: Option<TenantName>,
    /// The public part of the key, to name it in lists and logs.
    pub key_prefix: String,
}

impl Identity {
    /// Whether the caller may act on what belongs to `tenant`.
    pub fn may_act_for(&self, tenant: &TenantName) -> bool {
        self.role == Role::Operator || self.tenant.as_ref() == Some(tenant)
    }
}

/// Whether a header is a key of Vesta's, whatever becomes of it: no guest is shown one.
pub fn is_our_key(authorization: &http::HeaderValue) -> bool {
    let text = String::from_utf8_lossy(authorization.as_bytes());
    bearer(&text).is_some_and(key::has_scheme)
}

/// The public part of the key that a header has the form of, whether or not there is such a key.
pub fn claimed_prefix(authorization: &http::HeaderValue) -> Option<String> {
    let (prefix, _) = key::split(bearer(authorization.to_str().ok()?)?)?;
    Some(prefix.to_owned())
}

/// The token of a bearer's header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Why an `Authorization` header identifies nobody. It does not tell a revoked key from one that never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    #[error("the Authorization header must be `Bearer vk_<prefix>_<secret>`")]
    Malformed,
    #[error("the API key is unknown, wrong or revoked")]
    Unknown,
}

/// Why tenants or keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum TenancyError {
    #[error(transparent)]
    Name(#[from] IdError),
    #[error("there is a tenant {0:?} already")]
    TenantExists(TenantName),
    #[error("there are {TENANTS_MAX} tenants, the most that a host takes")]
    TooManyTenants,
    #[error("there is no tenant {0:?}")]
    NoTenant(String),
    #[error("there are {KEYS_MAX} keys in force, the most at once: revoke one first")]
    TooManyKeys,
    #[error("there is no key {0:?}")]
    NoKey(String),
    #[error("this is the operator's last key: make another one before revoking it")]
    LastOperatorKey,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl From<sqlx::Error> for TenancyError {
    fn from(e: sqlx::Error) -> Self {
        TenancyError::Db(e.into())
    }
}

/// The keys made for a new data directory: shown once, and not kept.
#[derive(Debug)]
pub struct FirstKeys {
    pub operator: String,
    /// Of the tenant [`DEFAULT_TENANT`].
    pub tenant: String,
}

/// A key just made. `key` is shown once, and not kept.
#[derive(Debug)]
pub struct NewKey {
    pub prefix: String,
    pub key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantInfo {
    pub name: TenantName,
    pub created_unix_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    pub prefix: String,
    pub role: Role,
    pub tenant: Option<TenantName>,
    pub created_unix_ms: i64,
}

struct Key {
    identity: Arc<Identity>,
    hash: KeyHash,
    created_unix_ms: i64,
}

/// Tenants and keys of one host.
pub struct Tenancy {
    db: Db,
    pepper: Pepper,
    tenants: DashMap<TenantName, i64>,
    keys: DashMap<String, Key>,
    /// Held while tenants or keys change, so that the bounds hold and memory follows the database in order.
    changes: Mutex<()>,
}

impl Tenancy {
    /// Loads every tenant and every key in force. The pepper is the secret of this data directory.
    pub async fn open(db: Db, pepper: [u8; 32]) -> Result<Arc<Self>, TenancyError> {
        let tenants = store::tenants(&db).await?.into_iter().map(|t| (t.name, t.created_unix_ms)).collect();
        let keys = store::keys_in_force(&db).await?;
        let keys = keys.into_iter().map(|row| {
            let identity = Identity { role: row.role, tenant: row.tenant, key_prefix: row.prefix.clone() };
            let key =
                Key { identity: Arc::new(identity), hash: row.hash, created_unix_ms: row.created_unix_ms };
            (row.prefix, key)
        });
        let keys = keys.collect();
        Ok(Arc::new(Self { db, pepper: Pepper::new(&pepper), tenants, keys, changes: Mutex::new(()) }))
    }

    /// On a data directory without any key: makes the operator's, the tenant [`DEFAULT_TENANT`] and its key.
    pub async fn bootstrap(&self, clock: &dyn Clock) -> Result<Option<FirstKeys>, TenancyError> {
        let _turn = self.changes.lock().await;
        if store::any_key(&self.db).await? {
            return Ok(None);
        }
        let default: TenantName = DEFAULT_TENANT.parse()?;
        if !self.tenants.contains_key(&default) {
            self.insert_tenant(default.clone(), unix_ms(clock)).await?;
        }
        let tenant = self.insert_key(Some(default), unix_ms(clock)).await?;
        let operator = self.insert_key(None, unix_ms(clock)).await?;
        Ok(Some(FirstKeys { operator: operator.key, tenant: tenant.key }))
    }

    /// Who sent this `Authorization` header; `None` where there is none.
    pub fn identify(
        &self,
        authorization: Option<&http::HeaderValue>,
    ) -> Result<Option<Arc<Identity>>, IdentifyError> {
        let Some(value) = authorization else { return Ok(None) };
        let text = value.to_str().map_err(|_| IdentifyError::Malformed)?;
        let token = bearer(text).ok_or(IdentifyError::Malformed)?;
        let (prefix, secret) = key::split(token).ok_or(IdentifyError::Malformed)?;
        let key = self.keys.get(prefix).ok_or(IdentifyError::Unknown)?;
        if !self.pepper.hash(secret).same(&key.hash) {
            return Err(IdentifyError::Unknown);
        }
        Ok(Some(key.identity.clone()))
    }

    pub fn tenant_exists(&self, name: &str) -> bool {
        self.tenants.contains_key(name)
    }

    /// Whether there is more than one tenant.
    pub fn has_several_tenants(&self) -> bool {
        self.tenants.len() > 1
    }

    /// Makes a tenant and its first key.
    pub async fn create_tenant(
        &self,
        name: TenantName,
        clock: &dyn Clock,
    ) -> Result<(TenantInfo, NewKey), TenancyError> {
        let _turn = self.changes.lock().await;
        if self.tenants.contains_key(&name) {
            return Err(TenancyError::TenantExists(name));
        }
        if self.tenants.len() >= TENANTS_MAX {
            return Err(TenancyError::TooManyTenants);
        }
        let info = self.insert_tenant(name.clone(), unix_ms(clock)).await?;
        let key = self.insert_key(Some(name), unix_ms(clock)).await?;
        Ok((info, key))
    }

    /// All tenants, by name.
    pub fn list_tenants(&self) -> Vec<TenantInfo> {
        let info = |t: dashmap::mapref::multiple::RefMulti<'_, TenantName, i64>| TenantInfo {
            name: t.key().clone(),
            created_unix_ms: *t.value(),
        };
        let mut all: Vec<_> = self.tenants.iter().map(info).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Makes a key: of a tenant, or of an operator with `None`.
    pub async fn create_key(
        &self,
        tenant: Option<TenantName>,
        clock: &dyn Clock,
    ) -> Result<NewKey, TenancyError> {
        let _turn = self.changes.lock().await;
        if let Some(name) = &tenant
            && !self.tenants.contains_key(name)
        {
            return Err(TenancyError::NoTenant(name.to_string()));
        }
        if self.list_keys(tenant.as_ref()).len() >= KEYS_MAX {
            return Err(TenancyError::TooManyKeys);
        }
        self.insert_key(tenant, unix_ms(clock)).await
    }

    /// Keys in force of a tenant, or the operators' with `None`; oldest first.
    pub fn list_keys(&self, tenant: Option<&TenantName>) -> Vec<KeyInfo> {
        let of_tenant = self.keys.iter().filter(|k| k.identity.tenant.as_ref() == tenant);
        let mut all: Vec<_> = of_tenant
            .map(|k| KeyInfo {
                prefix: k.key().clone(),
                role: k.identity.role,
                tenant: k.identity.tenant.clone(),
                created_unix_ms: k.created_unix_ms,
            })
            .collect();
        all.sort_by(|a, b| (a.created_unix_ms, &a.prefix).cmp(&(b.created_unix_ms, &b.prefix)));
        all
    }

    /// Ends a key of a tenant, or of an operator with `None`. It is refused from this moment on.
    pub async fn revoke_key(
        &self,
        tenant: Option<&TenantName>,
        prefix: &str,
        clock: &dyn Clock,
    ) -> Result<(), TenancyError> {
        let _turn = self.changes.lock().await;
        let keys = self.list_keys(tenant);
        if !keys.iter().any(|k| k.prefix == prefix) {
            return Err(TenancyError::NoKey(prefix.chars().take(80).collect()));
        }
        if tenant.is_none() && keys.len() == 1 {
            return Err(TenancyError::LastOperatorKey);
        }
        store::revoke(&self.db, prefix, unix_ms(clock)).await?;
        self.keys.remove(prefix);
        Ok(())
    }

    async fn insert_tenant(&self, name: TenantName, now: i64) -> Result<TenantInfo, TenancyError> {
        store::insert_tenant(&self.db, &name, now).await?;
        self.tenants.insert(name.clone(), now);
        Ok(TenantInfo { name, created_unix_ms: now })
    }

    async fn insert_key(&self, tenant: Option<TenantName>, now: i64) -> Result<NewKey, TenancyError> {
        let (prefix, secret) = key::generate();
        let role = if tenant.is_some() { Role::Tenant } else { Role::Operator };
        let hash = self.pepper.hash(&secret);
        store::insert_key(&self.db, &prefix, &hash, role, tenant.as_ref(), now).await?;
        let identity = Arc::new(Identity { role, tenant, key_prefix: prefix.clone() });
        self.keys.insert(prefix.clone(), Key { identity, hash, created_unix_ms: now });
        let key = key::join(&prefix, &secret);
        Ok(NewKey { prefix, key })
    }
}

fn unix_ms(clock: &dyn Clock) -> i64 {
    clock.unix_ns() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing;
    use http::HeaderValue;
    use vesta_core::clock::SystemClock;

    fn bearer(key: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Bearer {key}")).expect("header")
    }

    async fn opened(dir: &tempfile::TempDir) -> Arc<Tenancy> {
        Tenancy::open(testing::db(dir).await, [7; 32]).await.expect("open")
    }

    #[tokio::test]
    async fn a_new_directory_gets_its_first_keys_once_and_they_identify_after_a_restart() {
        let dir = tempfile::tempdir().expect("dir");
        let clock = SystemClock::start();
        let tenancy = opened(&dir).await;
        let first = tenancy.bootstrap(&clock).await.expect("bootstrap").expect("keys");
        assert!(tenancy.bootstrap(&clock).await.expect("bootstrap").is_none());

        let tenancy = opened(&dir).await;
        let operator = tenancy.identify(Some(&bearer(&first.operator))).expect("known").expect("someone");
        let tenant = tenancy.identify(Some(&bearer(&first.tenant))).expect("known").expect("someone");
        let default: TenantName = DEFAULT_TENANT.parse().expect("name");
        let other: TenantName = "other".parse().expect("name");
        assert!(operator.may_act_for(&other) && operator.role == Role::Operator);
        assert!(tenant.may_act_for(&default) && !tenant.may_act_for(&other));
        assert!(tenancy.bootstrap(&clock).await.expect("bootstrap").is_none());
    }

    #[tokio::test]
    async fn a_key_is_stored_hashed_and_only_the_right_one_identifies() {
        let dir = tempfile::tempdir().expect("dir");
        let tenancy = opened(&dir).await;
        let first = tenancy.bootstrap(&SystemClock::start()).await.expect("bootstrap").expect("keys");
        assert_eq!(tenancy.identify(None), Ok(None));
        for malformed in ["", "Bearer", "Basic x", "Bearer x", "Bearer vk_a_b", "Bearer vk_", "Bearer \u{e9}"]
        {
            let value = HeaderValue::from_bytes(malformed.as_bytes()).expect("header");
            assert_eq!(tenancy.identify(Some(&value)), Err(IdentifyError::Malformed), "{malformed:?}");
        }
        let (rest, last) = first.tenant.split_at(first.tenant.len() - 1);
        let wrong = format!("{rest}{}", if last == "a" { "b" } else { "a" });
        assert_eq!(tenancy.identify(Some(&bearer(&wrong))), Err(IdentifyError::Unknown));
        // Under another pepper the stored hash is worth nothing.
        let elsewhere = Tenancy::open(tenancy.db.clone(), [8; 32]).await.expect("open");
        assert_eq!(elsewhere.identify(Some(&bearer(&first.tenant))), Err(IdentifyError::Unknown));

        tenancy.db.close().await;
        let (_, secret) = key::split(&first.tenant).expect("key");
        for file in std::fs::read_dir(dir.path()).expect("dir") {
            let bytes = std::fs::read(file.expect("file").path()).expect("read");
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
        }
    }

    #[tokio::test]
    async fn a_revoked_key_is_refused_at_once_and_after_a_restart() {
        let dir = tempfile::tempdir().expect("dir");
        let clock = SystemClock::start();
        let tenancy = opened(&dir).await;
        tenancy.bootstrap(&clock).await.expect("bootstrap");
        let acme: TenantName = "acme".parse().expect("name");
        let (_, first) = tenancy.create_tenant(acme.clone(), &clock).await.expect("tenant");
        let again = tenancy.create_tenant(acme.clone(), &clock).await;
        assert!(matches!(again, Err(TenancyError::TenantExists(_))));
        let second = tenancy.create_key(Some(acme.clone()), &clock).await.expect("key");

        // Another tenant cannot name it; nor can the last key of the operator go.
        let default: TenantName = DEFAULT_TENANT.parse().expect("name");
        let refused = tenancy.revoke_key(Some(&default), &second.prefix, &clock).await;
        assert!(matches!(refused, Err(TenancyError::NoKey(_))));
        let operator = tenancy.list_keys(None).remove(0).prefix;
        let refused = tenancy.revoke_key(None, &operator, &clock).await;
        assert!(matches!(refused, Err(TenancyError::LastOperatorKey)));

        tenancy.revoke_key(Some(&acme), &second.prefix, &clock).await.expect("revoke");
        for tenancy in [tenancy, opened(&dir).await] {
            assert_eq!(tenancy.identify(Some(&bearer(&second.key))), Err(IdentifyError::Unknown));
            assert!(tenancy.identify(Some(&bearer(&first.key))).is_ok());
            assert_eq!(tenancy.list_keys(Some(&acme)).len(), 1);
            assert!(tenancy.tenant_exists("acme") && !tenancy.tenant_exists("nobody"));
        }
    }
}
