//! Who calls, and what they may: tenants and their API keys.
//!
//! Everything is in memory after [`Tenancy::open`], so that identifying a caller costs one look-up and one
//! HMAC. Memory follows the database ([`crate::db::changes`]).

mod key;
mod store;

use crate::db::changes::{self, Changing, Follower, Seen, Since};
use crate::db::{Db, DbError};
use dashmap::DashMap;
use key::{KeyHash, Pepper};
use sqlx::SqliteConnection;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use store::KeyRow;
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
    seen: Seen,
}

/// What was read of the tenants and keys that changed. `None` stands for one that is gone or revoked.
#[derive(Default)]
pub struct News {
    tenants: HashMap<TenantName, Option<i64>>,
    keys: HashMap<String, Option<Key>>,
    /// These are all there are.
    whole: bool,
}

impl Tenancy {
    /// Loads every tenant and every key in force. The pepper is the secret of this data directory.
    pub async fn open(db: Db, pepper: [u8; 32]) -> Result<Arc<Self>, TenancyError> {
        let seen = Seen::newest(&db).await?;
        let (tenants, keys) = (DashMap::new(), DashMap::new());
        let this = Arc::new(Self { db, pepper: Pepper::new(&pepper), tenants, keys, seen });
        let mut connection = this.db.pool().acquire().await?;
        this.apply(this.read(&mut connection, Since::Everything).await?);
        Ok(this)
    }

    /// On a data directory without any key: makes the operator's, the tenant [`DEFAULT_TENANT`] and its key,
    /// all or none.
    pub async fn bootstrap(self: &Arc<Self>, clock: &dyn Clock) -> Result<Option<FirstKeys>, TenancyError> {
        let (this, now) = (self.clone(), unix_ms(clock));
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            if store::any_key(changing.write.reading()).await? {
                return Ok(None);
            }
            let default: TenantName = DEFAULT_TENANT.parse()?;
            if !this.tenants.contains_key(&default) {
                this.insert_tenant(&mut changing, &default, now).await?;
            }
            let tenant = this.insert_key(&mut changing, Some(&default), now).await?;
            let operator = this.insert_key(&mut changing, None, now).await?;
            changes::commit(&*this, changing).await?;
            Ok(Some(FirstKeys { operator: operator.key, tenant: tenant.key }))
        };
        self.db.to_the_end(change).await
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

    /// Makes a tenant and its first key, both or neither.
    pub async fn create_tenant(
        self: &Arc<Self>,
        name: TenantName,
        clock: &dyn Clock,
    ) -> Result<(TenantInfo, NewKey), TenancyError> {
        let (this, now) = (self.clone(), unix_ms(clock));
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            if this.tenants.contains_key(&name) {
                return Err(TenancyError::TenantExists(name));
            }
            if this.tenants.len() >= TENANTS_MAX {
                return Err(TenancyError::TooManyTenants);
            }
            this.insert_tenant(&mut changing, &name, now).await?;
            let key = this.insert_key(&mut changing, Some(&name), now).await?;
            changes::commit(&*this, changing).await?;
            Ok((TenantInfo { name, created_unix_ms: now }, key))
        };
        self.db.to_the_end(change).await
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
        self: &Arc<Self>,
        tenant: Option<TenantName>,
        clock: &dyn Clock,
    ) -> Result<NewKey, TenancyError> {
        let (this, now) = (self.clone(), unix_ms(clock));
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            if let Some(name) = &tenant
                && !this.tenants.contains_key(name)
            {
                return Err(TenancyError::NoTenant(name.to_string()));
            }
            if this.list_keys(tenant.as_ref()).len() >= KEYS_MAX {
                return Err(TenancyError::TooManyKeys);
            }
            let key = this.insert_key(&mut changing, tenant.as_ref(), now).await?;
            changes::commit(&*this, changing).await?;
            Ok(key)
        };
        self.db.to_the_end(change).await
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
        self: &Arc<Self>,
        tenant: Option<&TenantName>,
        prefix: &str,
        clock: &dyn Clock,
    ) -> Result<(), TenancyError> {
        let (this, now) = (self.clone(), unix_ms(clock));
        let (tenant, prefix) = (tenant.cloned(), prefix.to_owned());
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            let keys = this.list_keys(tenant.as_ref());
            if !keys.iter().any(|k| k.prefix == prefix) {
                return Err(TenancyError::NoKey(prefix.chars().take(80).collect()));
            }
            if tenant.is_none() && keys.len() == 1 {
                return Err(TenancyError::LastOperatorKey);
            }
            store::revoke(&mut changing.write, &prefix, now).await?;
            changes::note(&mut changing.write, KEY, "", &prefix, now).await?;
            Ok(changes::commit(&*this, changing).await?)
        };
        self.db.to_the_end(change).await
    }

    async fn insert_tenant(
        &self,
        changing: &mut Changing<'_>,
        name: &TenantName,
        now: i64,
    ) -> Result<(), TenancyError> {
        store::insert_tenant(&mut changing.write, name, now).await?;
        Ok(changes::note(&mut changing.write, TENANT, "", name.as_str(), now).await?)
    }

    async fn insert_key(
        &self,
        changing: &mut Changing<'_>,
        tenant: Option<&TenantName>,
        now: i64,
    ) -> Result<NewKey, TenancyError> {
        let (prefix, secret) = key::generate();
        let role = if tenant.is_some() { Role::Tenant } else { Role::Operator };
        let hash = self.pepper.hash(&secret);
        store::insert_key(&mut changing.write, &prefix, &hash, role, tenant, now).await?;
        changes::note(&mut changing.write, KEY, "", &prefix, now).await?;
        let key = key::join(&prefix, &secret);
        Ok(NewKey { prefix, key })
    }
}

/// Kinds of changes.
const TENANT: &str = "tenant";
const KEY: &str = "key";

impl Follower for Tenancy {
    type News = News;
    const KINDS: &'static [&'static str] = &[TENANT, KEY];

    fn db(&self) -> &Db {
        &self.db
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    async fn read(&self, connection: &mut SqliteConnection, since: Since) -> Result<News, DbError> {
        let mut news = News::default();
        let Since::These(changes) = since else {
            news.whole = true;
            let tenants = store::tenants(connection).await?;
            news.tenants = tenants.into_iter().map(|t| (t.name, Some(t.created_unix_ms))).collect();
            let keys = store::keys_in_force(connection).await?;
            news.keys = keys.into_iter().map(|row| (row.prefix.clone(), Some(Key::from(row)))).collect();
            return Ok(news);
        };
        for change in changes {
            if change.kind == KEY {
                let key = store::key_in_force(connection, &change.name).await?;
                news.keys.insert(change.name, key.map(Key::from));
            } else if let Ok(name) = change.name.parse() {
                let tenant = store::tenant_named(connection, &change.name).await?;
                news.tenants.insert(name, tenant.map(|t| t.created_unix_ms));
            }
        }
        Ok(news)
    }

    fn apply(&self, news: News) {
        // Keys that are revoked go before anything else, and new tenants come before their keys.
        take(&self.keys, news.whole, news.keys.iter().map(|(prefix, key)| (prefix, key.is_some())));
        take(&self.tenants, news.whole, news.tenants.iter().map(|(name, made)| (name, made.is_some())));
        for (name, created_unix_ms) in news.tenants {
            created_unix_ms.map(|made| self.tenants.insert(name, made));
        }
        for (prefix, key) in news.keys {
            key.map(|key| self.keys.insert(prefix, key));
        }
    }
}

/// Removes from memory what is gone: of what changed, or, where all that is there was read, whatever else is
/// in memory.
fn take<'a, K: Eq + Hash + 'a, V>(
    memory: &DashMap<K, V>,
    whole: bool,
    changed: impl Iterator<Item = (&'a K, bool)>,
) {
    let (there, gone): (Vec<_>, Vec<_>) = changed.partition(|(_, is_there)| *is_there);
    for (key, _) in gone {
        memory.remove(key);
    }
    if whole {
        let there: HashSet<&K> = there.into_iter().map(|(key, _)| key).collect();
        memory.retain(|key, _| there.contains(key));
    }
}

impl From<KeyRow> for Key {
    fn from(row: KeyRow) -> Self {
        let identity = Identity { role: row.role, tenant: row.tenant, key_prefix: row.prefix };
        Key { identity: Arc::new(identity), hash: row.hash, created_unix_ms: row.created_unix_ms }
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

    #[tokio::test]
    async fn memory_follows_what_another_host_changed() {
        let dir = tempfile::tempdir().expect("dir");
        let clock = SystemClock::start();
        let (here, there) = (opened(&dir).await, opened(&dir).await);
        let first = here.bootstrap(&clock).await.expect("bootstrap").expect("keys");
        assert!(there.identify(Some(&bearer(&first.operator))).is_err());
        changes::follow(&*there).await.expect("followed");
        assert!(there.identify(Some(&bearer(&first.operator))).is_ok());

        // A change is checked against what the other host did, though nobody followed it.
        let acme: TenantName = "acme".parse().expect("name");
        let (_, key) = here.create_tenant(acme.clone(), &clock).await.expect("tenant");
        let twice = there.create_tenant(acme.clone(), &clock).await;
        assert!(matches!(twice, Err(TenancyError::TenantExists(_))), "{twice:?}");
        assert!(there.identify(Some(&bearer(&key.key))).is_ok());
        there.revoke_key(Some(&acme), &key.prefix, &clock).await.expect("revoked");
        changes::follow(&*here).await.expect("followed");
        assert_eq!(here.identify(Some(&bearer(&key.key))), Err(IdentifyError::Unknown));
    }

    #[tokio::test]
    async fn who_is_far_behind_reads_everything_again() {
        let dir = tempfile::tempdir().expect("dir");
        let clock = SystemClock::start();
        let (here, there) = (opened(&dir).await, opened(&dir).await);
        here.bootstrap(&clock).await.expect("bootstrap");
        changes::follow(&*there).await.expect("followed");
        let default: TenantName = DEFAULT_TENANT.parse().expect("name");
        let old = there.list_keys(Some(&default)).remove(0).prefix;
        here.revoke_key(Some(&default), &old, &clock).await.expect("revoked");
        let (_, new) = here.create_tenant("acme".parse().expect("name"), &clock).await.expect("tenant");
        // As if more changes had come than are kept.
        let mut write = here.db.write().await.expect("write");
        let sql = "DELETE FROM changes WHERE seq < (SELECT MAX(seq) FROM changes)";
        sqlx::query(sql).execute(&mut *write).await.expect("delete");
        write.commit().await.expect("commit");
        changes::follow(&*there).await.expect("followed");
        assert!(there.list_keys(Some(&default)).is_empty());
        assert!(there.tenant_exists("acme") && there.identify(Some(&bearer(&new.key))).is_ok());
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_costs_itself() {
        let dir = tempfile::tempdir().expect("dir");
        let clock = SystemClock::start();
        let tenancy = opened(&dir).await;
        let first = tenancy.bootstrap(&clock).await.expect("bootstrap").expect("keys");
        let (_, damaged) =
            tenancy.create_tenant("acme".parse().expect("name"), &clock).await.expect("tenant");
        let mut write = tenancy.db.write().await.expect("write");
        for sql in [
            "INSERT INTO tenants (name, created_unix_ms) VALUES ('No Name', 0), ('no-time', 'yesterday')",
            "UPDATE api_keys SET hash = x'00' WHERE tenant = 'acme'",
        ] {
            sqlx::query(sql).execute(&mut *write).await.expect("statement");
        }
        write.commit().await.expect("commit");
        let tenancy = opened(&dir).await;
        assert!(tenancy.identify(Some(&bearer(&first.operator))).is_ok());
        assert_eq!(tenancy.identify(Some(&bearer(&damaged.key))), Err(IdentifyError::Unknown));
        let names: Vec<_> = tenancy.list_tenants().into_iter().map(|t| t.name.to_string()).collect();
        assert_eq!(names, ["acme", "default"]);
    }

    #[tokio::test]
    async fn a_header_that_was_changed_at_random_opens_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let tenancy = opened(&dir).await;
        let first = tenancy.bootstrap(&SystemClock::start()).await.expect("bootstrap").expect("keys");
        let sound = format!("Bearer {}", first.tenant);
        crate::mutate::each(&[sound.as_bytes(), b"Bearer vk__", b"Basic dmVzdGE6eA=="], |bytes| {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
            is_our_key(&value);
            if let Ok(Some(identity)) = tenancy.identify(Some(&value)) {
                // Only the scheme's case and the white space around it may differ.
                let text = value.to_str().expect("text");
                assert!(text.contains(&first.tenant), "{text:?} is {identity:?}");
            }
        });
    }
}
