//! Functions: immutable versions and the aliases that move between them.
//!
//! Everything is in memory after [`Registry::open`], so that resolving costs two look-ups. Memory follows the
//! database ([`crate::db::changes`]).

mod follow;
mod store;

use crate::db::changes::{self, Changing, Follower, Seen, Since};
use crate::db::{Db, DbError};
use dashmap::DashMap;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use store::Key;
use tokio::sync::broadcast;
use vesta_core::id::{AliasName, LIVE};
use vesta_core::manifest::PackageManifest;
use vesta_core::{Digest, FunctionName, TenantName};

/// Most functions of a tenant.
pub const FUNCTIONS_MAX: usize = 10_000;
/// Most versions of a function. A deploy of one more removes the oldest to which no alias points.
pub const VERSIONS_MAX: usize = 1_000;
/// Most aliases of a function: fewer than versions, so that there is always one to remove.
pub const ALIASES_MAX: usize = 64;
/// Events kept for a subscriber that falls behind; one that misses some is told so and looks at everything
/// again.
const EVENTS_KEPT: usize = 4096;

/// One immutable version of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub tenant: TenantName,
    pub function: FunctionName,
    /// From 1; never used again within a tenant and function name.
    pub number: u32,
    pub manifest: PackageManifest,
    pub created_unix_ms: i64,
    /// What the check of each model found, in the manifest's order: name, inputs, outputs.
    pub models: Vec<serde_json::Value>,
}

/// A function as it stands now.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: FunctionName,
    pub created_unix_ms: i64,
    /// When a version or an alias last changed.
    pub updated_unix_ms: i64,
    pub versions: BTreeMap<u32, Arc<Version>>,
    pub aliases: BTreeMap<AliasName, u32>,
    /// Versions whose rows in the database cannot be read: nothing is known of them but their numbers.
    pub damaged: BTreeSet<u32>,
}

impl Function {
    /// One without versions.
    fn empty(name: &FunctionName) -> Self {
        Self {
            name: name.clone(),
            created_unix_ms: 0,
            updated_unix_ms: 0,
            versions: BTreeMap::new(),
            aliases: BTreeMap::new(),
            damaged: BTreeSet::new(),
        }
    }

    /// The number that the alias `live` points at.
    pub fn live(&self) -> Option<u32> {
        self.aliases.get(LIVE).copied()
    }
}

/// What changed. Sent after the change is durable and visible to [`Registry::resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryEvent {
    VersionAdded { tenant: TenantName, function: FunctionName, number: u32 },
    VersionRemoved { tenant: TenantName, function: FunctionName, number: u32 },
    AliasMoved { tenant: TenantName, function: FunctionName, alias: AliasName, number: Option<u32> },
}

/// Why a name leads to no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("there is no such function")]
    NoFunction,
    #[error("the function has no such version or alias")]
    NoVersion,
}

/// Why the registry was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("there is no function {0:?}")]
    NoFunction(String),
    #[error("function {function:?} has no version {number}")]
    NoVersion { function: FunctionName, number: u32 },
    #[error("function {function:?} has no alias {alias:?}")]
    NoAlias { function: FunctionName, alias: AliasName },
    #[error("version {number} of {function:?} is what the alias {alias:?} points at: move the alias first")]
    AliasPoints { function: FunctionName, number: u32, alias: AliasName },
    #[error("alias {0:?} consists of digits, which name versions")]
    AliasIsNumber(AliasName),
    #[error("the alias `live` can be moved, but not removed: delete the function instead")]
    LiveStays,
    #[error("the tenant has {FUNCTIONS_MAX} functions, the most: delete one first")]
    TooManyFunctions,
    #[error("the function has {ALIASES_MAX} aliases, the most: delete one first")]
    TooManyAliases,
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What is published.
#[derive(Debug)]
pub struct NewVersion {
    pub manifest: PackageManifest,
    /// What the check of each model found, in the manifest's order.
    pub models: Vec<serde_json::Value>,
    pub alias: Option<AliasName>,
    /// The id of the deployment that publishes it.
    pub deployment: Option<String>,
}

type Functions = DashMap<FunctionName, Function>;

/// The kind of its changes.
const FUNCTION: &str = "function";

/// All functions of one host.
pub struct Registry {
    db: Db,
    tenants: DashMap<TenantName, Functions>,
    events: broadcast::Sender<RegistryEvent>,
    seen: Seen,
    /// Whether functions or versions were passed over, since not even their names could be read.
    passed_over: AtomicBool,
}

impl Registry {
    /// Loads every function.
    pub async fn open(db: Db) -> Result<Arc<Self>, RegistryError> {
        let seen = Seen::newest(&db).await?;
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let (tenants, passed_over) = (DashMap::new(), AtomicBool::new(false));
        let this = Arc::new(Self { db, tenants, events, seen, passed_over });
        let mut connection = this.db.pool().acquire().await.map_err(DbError::from)?;
        this.apply(this.read(&mut connection, Since::Everything).await?);
        Ok(this)
    }

    /// The version that a request is for. `selector` is a version number or an alias; without one, [`LIVE`].
    pub fn resolve(
        &self,
        tenant: &str,
        function: &str,
        selector: Option<&str>,
    ) -> Result<Arc<Version>, ResolveError> {
        let functions = self.tenants.get(tenant).ok_or(ResolveError::NoFunction)?;
        let function = functions.get(function).ok_or(ResolveError::NoFunction)?;
        let selector = selector.unwrap_or(LIVE);
        let number = match is_number(selector) {
            true => selector.parse().ok(),
            false => function.aliases.get(selector).copied(),
        };
        number.and_then(|n| function.versions.get(&n).cloned()).ok_or(ResolveError::NoVersion)
    }

    /// Changes from now on. A receiver that lags must look at [`Registry::list`] again.
    pub fn subscribe(&self) -> broadcast::Receiver<RegistryEvent> {
        self.events.subscribe()
    }

    /// A tenant's functions, by name.
    pub fn list(&self, tenant: &TenantName) -> Vec<Function> {
        let Some(functions) = self.tenants.get(tenant) else { return Vec::new() };
        let mut all: Vec<_> = functions.iter().map(|f| f.value().clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Every version of every tenant: what a host that starts has to know.
    pub fn all_versions(&self) -> Vec<Arc<Version>> {
        let mut all = Vec::new();
        for functions in &self.tenants {
            for function in functions.value() {
                all.extend(function.versions.values().cloned());
            }
        }
        all
    }

    /// A function as it stands now.
    pub fn get(&self, tenant: &TenantName, function: &str) -> Result<Function, RegistryError> {
        let functions = self.tenants.get(tenant);
        let found = functions.as_ref().and_then(|f| f.get(function)).map(|f| f.value().clone());
        found.ok_or_else(|| RegistryError::NoFunction(function.chars().take(80).collect()))
    }

    /// Whether there are versions that cannot be read: nobody knows which blobs they refer to.
    pub fn has_damaged(&self) -> bool {
        let damaged = || self.tenants.iter().any(|functions| functions.iter().any(|f| !f.damaged.is_empty()));
        self.passed_over.load(SeqCst) || damaged()
    }

    /// Whether more than one tenant has functions.
    pub fn has_several_owners(&self) -> bool {
        self.tenants.iter().filter(|functions| !functions.is_empty()).nth(1).is_some()
    }

    /// The blobs that versions refer to, with the tenants that own these versions.
    pub fn referenced(&self) -> HashSet<(TenantName, Digest)> {
        let mut all = HashSet::new();
        for version in self.all_versions() {
            let blobs = version.manifest.blobs().into_iter().map(|b| (version.tenant.clone(), b.digest));
            all.extend(blobs);
        }
        all
    }

    /// Adds a version with the next number and, in the same transaction, points the alias at it. Where the
    /// function has [`VERSIONS_MAX`] versions, the oldest to which no alias points is removed.
    ///
    /// `deployment` is kept with the version, so that [`Registry::published_by`] knows what became of it.
    pub async fn publish(
        self: &Arc<Self>,
        tenant: &TenantName,
        new: NewVersion,
        now: i64,
    ) -> Result<Arc<Version>, RegistryError> {
        let (this, tenant) = (self.clone(), tenant.clone());
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            let key = (tenant, new.manifest.name.clone());
            let before = this.get(&key.0, key.1.as_str()).ok();
            this.check_room(&key.0, before.as_ref(), new.alias.as_ref())?;
            let version = Version {
                tenant: key.0.clone(),
                function: key.1.clone(),
                number: 0,
                manifest: new.manifest,
                created_unix_ms: now,
                models: new.models,
            };
            let (deployment, alias) = (new.deployment.as_deref(), new.alias.as_ref());
            let number = store::publish(&mut changing.write, &version, deployment, alias).await?;
            for old in before.iter().flat_map(|f| too_old(f, alias)) {
                store::remove_version(&mut changing.write, &key, old, now).await?;
            }
            changes::note(&mut changing.write, FUNCTION, key.0.as_str(), key.1.as_str(), now).await?;
            changes::commit(&*this, changing).await?;
            let function = this.get(&key.0, key.1.as_str())?;
            let version = function.versions.get(&number).cloned();
            version.ok_or(RegistryError::NoVersion { function: function.name, number })
        };
        self.db.to_the_end(change).await
    }

    /// The version that came of a deployment, if it was published.
    pub async fn published_by(
        &self,
        tenant: &TenantName,
        function: &FunctionName,
        deployment: &str,
    ) -> Result<Option<u32>, RegistryError> {
        let mut connection = self.db.pool().acquire().await.map_err(DbError::from)?;
        Ok(store::published_by(&mut connection, tenant, function, deployment).await?)
    }

    /// Points an alias at a version.
    pub async fn set_alias(
        self: &Arc<Self>,
        tenant: &TenantName,
        function: &str,
        alias: AliasName,
        number: u32,
        now: i64,
    ) -> Result<Function, RegistryError> {
        let (this, tenant, name) = (self.clone(), tenant.clone(), function.to_owned());
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            let function = this.get(&tenant, &name)?;
            check_alias(&function, &alias)?;
            if !function.versions.contains_key(&number) {
                return Err(RegistryError::NoVersion { function: function.name, number });
            }
            let key = (tenant, function.name);
            store::set_alias(&mut changing.write, &key, &alias, number, now).await?;
            this.note_and_commit(changing, &key, now).await?;
            this.get(&key.0, &name)
        };
        self.db.to_the_end(change).await
    }

    /// Removes an alias; [`LIVE`] stays as long as the function.
    pub async fn remove_alias(
        self: &Arc<Self>,
        tenant: &TenantName,
        function: &str,
        alias: &AliasName,
        now: i64,
    ) -> Result<(), RegistryError> {
        let (this, tenant, function) = (self.clone(), tenant.clone(), function.to_owned());
        let alias = alias.clone();
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            let function = this.get(&tenant, &function)?;
            if alias.as_str() == LIVE {
                return Err(RegistryError::LiveStays);
            }
            if !function.aliases.contains_key(&alias) {
                return Err(RegistryError::NoAlias { function: function.name, alias });
            }
            let key = (tenant, function.name);
            store::remove_alias(&mut changing.write, &key, &alias, now).await?;
            this.note_and_commit(changing, &key, now).await
        };
        self.db.to_the_end(change).await
    }

    /// Removes a version to which no alias points.
    pub async fn remove_version(
        self: &Arc<Self>,
        tenant: &TenantName,
        function: &str,
        number: u32,
        now: i64,
    ) -> Result<(), RegistryError> {
        let (this, tenant, function) = (self.clone(), tenant.clone(), function.to_owned());
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            let function = this.get(&tenant, &function)?;
            if !function.versions.contains_key(&number) && !function.damaged.contains(&number) {
                return Err(RegistryError::NoVersion { function: function.name, number });
            }
            if let Some((alias, _)) = function.aliases.iter().find(|(_, n)| **n == number) {
                let alias = alias.clone();
                return Err(RegistryError::AliasPoints { function: function.name, number, alias });
            }
            let key = (tenant, function.name);
            store::remove_version(&mut changing.write, &key, number, now).await?;
            this.note_and_commit(changing, &key, now).await
        };
        self.db.to_the_end(change).await
    }

    /// Removes a function with its versions and aliases. Its usage records stay.
    pub async fn remove_function(
        self: &Arc<Self>,
        tenant: &TenantName,
        function: &str,
        now: i64,
    ) -> Result<(), RegistryError> {
        let (this, tenant, function) = (self.clone(), tenant.clone(), function.to_owned());
        let change = async move {
            let mut changing = changes::begin(&*this).await?;
            let key = (tenant.clone(), this.get(&tenant, &function)?.name);
            store::remove_function(&mut changing.write, &key).await?;
            this.note_and_commit(changing, &key, now).await
        };
        self.db.to_the_end(change).await
    }

    async fn note_and_commit(
        &self,
        mut changing: Changing<'_>,
        (tenant, function): &Key,
        now: i64,
    ) -> Result<(), RegistryError> {
        changes::note(&mut changing.write, FUNCTION, tenant.as_str(), function.as_str(), now).await?;
        Ok(changes::commit(self, changing).await?)
    }

    fn check_room(
        &self,
        tenant: &TenantName,
        function: Option<&Function>,
        alias: Option<&AliasName>,
    ) -> Result<(), RegistryError> {
        match (function, alias) {
            (Some(f), Some(alias)) => check_alias(f, alias),
            (Some(_), None) => Ok(()),
            (None, Some(alias)) if is_number(alias.as_str()) => {
                Err(RegistryError::AliasIsNumber(alias.clone()))
            }
            (None, _) => {
                let functions = self.tenants.get(tenant).map_or(0, |f| f.len());
                if functions >= FUNCTIONS_MAX { Err(RegistryError::TooManyFunctions) } else { Ok(()) }
            }
        }
    }

    fn send(&self, event: RegistryEvent) {
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
}

/// The versions of a function that have to go for one more, to which `moves` will point: the oldest to which
/// no other alias points.
fn too_old(function: &Function, moves: Option<&AliasName>) -> Vec<u32> {
    let numbers: BTreeSet<u32> = function.versions.keys().chain(&function.damaged).copied().collect();
    let others = function.aliases.iter().filter(|(alias, _)| Some(*alias) != moves);
    let pointed: HashSet<u32> = others.map(|(_, number)| *number).collect();
    let too_many = (numbers.len() + 1).saturating_sub(VERSIONS_MAX);
    numbers.into_iter().filter(|n| !pointed.contains(n)).take(too_many).collect()
}

fn check_alias(function: &Function, alias: &AliasName) -> Result<(), RegistryError> {
    if is_number(alias.as_str()) {
        return Err(RegistryError::AliasIsNumber(alias.clone()));
    }
    if !function.aliases.contains_key(alias) && function.aliases.len() >= ALIASES_MAX {
        return Err(RegistryError::TooManyAliases);
    }
    Ok(())
}

fn is_number(selector: &str) -> bool {
    selector.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests;
