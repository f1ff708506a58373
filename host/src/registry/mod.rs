//! Functions: immutable versions and the aliases that move between them.
//!
//! Everything is in memory after [`Registry::open`], so that resolving costs two look-ups, and is written through to
//! the database before memory changes.

mod store;

use crate::db::{Db, DbError};
use dashmap::DashMap;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use tokio::sync::{Mutex, broadcast};
use vesta_core::id::{AliasName, LIVE};
use vesta_core::manifest::PackageManifest;
use vesta_core::{Digest, FunctionName, TenantName};

/// Most functions of a tenant, versions of a function, and aliases of a function.
pub const FUNCTIONS_MAX: usize = 10_000;
pub const VERSIONS_MAX: usize = 1_000;
pub const ALIASES_MAX: usize = 64;
/// Events kept for a subscriber that falls behind; one that misses some is told so and looks at everything again.
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
}

impl Function {
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
    #[error("the function has {VERSIONS_MAX} versions, the most: delete one first")]
    TooManyVersions,
    #[error("the function has {ALIASES_MAX} aliases, the most: delete one first")]
    TooManyAliases,
    #[error(transparent)]
    Db(#[from] DbError),
}

type Functions = DashMap<FunctionName, Function>;

/// All functions of one host.
pub struct Registry {
    db: Db,
    tenants: DashMap<TenantName, Functions>,
    events: broadcast::Sender<RegistryEvent>,
    /// Held while something changes, so that memory follows the database in order.
    changes: Mutex<()>,
}

impl Registry {
    /// Loads every function.
    pub async fn open(db: Db) -> Result<Arc<Self>, RegistryError> {
        let tenants = DashMap::<TenantName, Functions>::new();
        for (tenant, function) in store::load(&db).await? {
            tenants.entry(tenant).or_default().insert(function.name.clone(), function);
        }
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Ok(Arc::new(Self { db, tenants, events, changes: Mutex::new(()) }))
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

    /// The blobs that versions refer to, with the tenants that own these versions.
    pub fn referenced(&self) -> HashSet<(TenantName, Digest)> {
        let mut all = HashSet::new();
        for version in self.all_versions() {
            let blobs = version.manifest.blobs().into_iter().map(|b| (version.tenant.clone(), b.digest));
            all.extend(blobs);
        }
        all
    }

    /// Adds a version with the next number and, in the same transaction, points the alias at it.
    pub async fn publish(
        &self,
        tenant: &TenantName,
        manifest: PackageManifest,
        models: Vec<serde_json::Value>,
        alias: Option<AliasName>,
        now_unix_ms: i64,
    ) -> Result<Arc<Version>, RegistryError> {
        let _turn = self.changes.lock().await;
        let name = manifest.name.clone();
        let before = self.get(tenant, name.as_str()).ok();
        self.check_room(tenant, before.as_ref(), alias.as_ref())?;
        let version = Version {
            tenant: tenant.clone(),
            function: name.clone(),
            number: 0,
            manifest,
            created_unix_ms: now_unix_ms,
            models,
        };
        let version = Arc::new(store::publish(&self.db, version, alias.as_ref()).await?);
        let number = version.number;
        let mut function = before.unwrap_or_else(|| Function {
            name: name.clone(),
            created_unix_ms: now_unix_ms,
            updated_unix_ms: now_unix_ms,
            versions: BTreeMap::new(),
            aliases: BTreeMap::new(),
        });
        function.updated_unix_ms = now_unix_ms;
        function.versions.insert(number, version.clone());
        if let Some(alias) = &alias {
            function.aliases.insert(alias.clone(), number);
        }
        self.put(tenant, function);
        self.send(RegistryEvent::VersionAdded { tenant: tenant.clone(), function: name.clone(), number });
        if let Some(alias) = alias {
            let tenant = tenant.clone();
            self.send(RegistryEvent::AliasMoved { tenant, function: name, alias, number: Some(number) });
        }
        Ok(version)
    }

    /// Points an alias at a version.
    pub async fn set_alias(
        &self,
        tenant: &TenantName,
        function: &str,
        alias: AliasName,
        number: u32,
        now_unix_ms: i64,
    ) -> Result<Function, RegistryError> {
        let _turn = self.changes.lock().await;
        let mut function = self.get(tenant, function)?;
        check_alias(&function, &alias)?;
        if !function.versions.contains_key(&number) {
            return Err(RegistryError::NoVersion { function: function.name, number });
        }
        store::set_alias(&self.db, tenant, &function.name, &alias, number, now_unix_ms).await?;
        function.aliases.insert(alias.clone(), number);
        function.updated_unix_ms = now_unix_ms;
        self.put(tenant, function.clone());
        let name = function.name.clone();
        let moved =
            RegistryEvent::AliasMoved { tenant: tenant.clone(), function: name, alias, number: Some(number) };
        self.send(moved);
        Ok(function)
    }

    /// Removes an alias; [`LIVE`] stays as long as the function.
    pub async fn remove_alias(
        &self,
        tenant: &TenantName,
        function: &str,
        alias: &AliasName,
        now_unix_ms: i64,
    ) -> Result<(), RegistryError> {
        let _turn = self.changes.lock().await;
        let mut function = self.get(tenant, function)?;
        if alias.as_str() == LIVE {
            return Err(RegistryError::LiveStays);
        }
        if function.aliases.remove(alias).is_none() {
            return Err(RegistryError::NoAlias { function: function.name, alias: alias.clone() });
        }
        store::remove_alias(&self.db, tenant, &function.name, alias, now_unix_ms).await?;
        function.updated_unix_ms = now_unix_ms;
        let name = function.name.clone();
        self.put(tenant, function);
        let (tenant, alias) = (tenant.clone(), alias.clone());
        self.send(RegistryEvent::AliasMoved { tenant, function: name, alias, number: None });
        Ok(())
    }

    /// Removes a version to which no alias points.
    pub async fn remove_version(
        &self,
        tenant: &TenantName,
        function: &str,
        number: u32,
        now_unix_ms: i64,
    ) -> Result<(), RegistryError> {
        let _turn = self.changes.lock().await;
        let mut function = self.get(tenant, function)?;
        let name = function.name.clone();
        if function.versions.remove(&number).is_none() {
            return Err(RegistryError::NoVersion { function: name, number });
        }
        if let Some((alias, _)) = function.aliases.iter().find(|(_, n)| **n == number) {
            return Err(RegistryError::AliasPoints { function: name, number, alias: alias.clone() });
        }
        store::remove_version(&self.db, tenant, &name, number, now_unix_ms).await?;
        function.updated_unix_ms = now_unix_ms;
        self.put(tenant, function);
        self.send(RegistryEvent::VersionRemoved { tenant: tenant.clone(), function: name, number });
        Ok(())
    }

    /// Removes a function with its versions and aliases. Its usage records stay.
    pub async fn remove_function(&self, tenant: &TenantName, function: &str) -> Result<(), RegistryError> {
        let _turn = self.changes.lock().await;
        let function = self.get(tenant, function)?;
        store::remove_function(&self.db, tenant, &function.name).await?;
        if let Some(functions) = self.tenants.get(tenant) {
            functions.remove(&function.name);
        }
        for number in function.versions.into_keys() {
            let name = function.name.clone();
            self.send(RegistryEvent::VersionRemoved { tenant: tenant.clone(), function: name, number });
        }
        Ok(())
    }

    fn check_room(
        &self,
        tenant: &TenantName,
        function: Option<&Function>,
        alias: Option<&AliasName>,
    ) -> Result<(), RegistryError> {
        match (function, alias) {
            (Some(f), _) if f.versions.len() >= VERSIONS_MAX => Err(RegistryError::TooManyVersions),
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

    fn put(&self, tenant: &TenantName, function: Function) {
        self.tenants.entry(tenant.clone()).or_default().insert(function.name.clone(), function);
    }

    fn send(&self, event: RegistryEvent) {
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
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
