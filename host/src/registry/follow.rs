//! Memory follows the database, and subscribers are told what changed.

use super::store::{self, Key};
use super::{FUNCTION, Function, Registry, RegistryEvent};
use crate::db::changes::{Change, Follower, Seen, Since};
use crate::db::{Db, DbError};
use sqlx::SqliteConnection;
use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;

/// Functions that changed, as they are now; `None` for one that is gone.
type News = HashMap<Key, Option<Function>>;

impl Follower for Registry {
    type News = News;
    const KINDS: &'static [&'static str] = &[FUNCTION];

    fn db(&self) -> &Db {
        &self.db
    }

    fn seen(&self) -> &Seen {
        &self.seen
    }

    async fn read(&self, connection: &mut SqliteConnection, since: Since) -> Result<News, DbError> {
        match since {
            Since::Everything => {
                let mut news: News = self.keys().into_iter().map(|key| (key, None)).collect();
                let (all, passed_over) = store::load(connection).await?;
                self.passed_over.fetch_or(passed_over, SeqCst);
                news.extend(all.into_iter().map(|(key, function)| (key, Some(function))));
                Ok(news)
            }
            Since::These(changes) => self.read_these(connection, changes).await,
        }
    }

    fn apply(&self, news: News) {
        for (key, after) in news {
            self.put(key, after);
        }
    }
}

impl Registry {
    async fn read_these(
        &self,
        connection: &mut SqliteConnection,
        changes: Vec<Change>,
    ) -> Result<News, DbError> {
        let mut news = News::new();
        for change in changes {
            let Ok(key) = store::key(&change.tenant, &change.name) else { continue };
            let before = self.get(&key.0, key.1.as_str()).ok();
            let after = store::load_one(connection, &key, before.as_ref()).await?;
            news.insert(key, after);
        }
        Ok(news)
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        for functions in &self.tenants {
            keys.extend(functions.iter().map(|f| (functions.key().clone(), f.key().clone())));
        }
        keys
    }

    /// Puts a function into memory as it is now, and sends the events of what is different.
    fn put(&self, key: Key, after: Option<Function>) {
        let before = self.get(&key.0, key.1.as_str()).ok();
        let events = differences(&key, before.as_ref(), after.as_ref());
        let (tenant, function) = key;
        match after {
            // Moved and not copied: at the start, copies beside what is freed would leave the heap full of
            // holes.
            Some(after) => drop(self.tenants.entry(tenant).or_default().insert(function, after)),
            None => {
                if let Some(functions) = self.tenants.get(&tenant) {
                    functions.remove(&function);
                }
            }
        }
        for event in events {
            self.send(event);
        }
    }
}

/// The events that lead from a function as it was to the function as it is: first what was added, then what
/// is gone.
fn differences(key: &Key, before: Option<&Function>, after: Option<&Function>) -> Vec<RegistryEvent> {
    let none = Function::empty(&key.1);
    let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&none));
    let named = || key.clone();
    let mut events = Vec::new();
    for &number in after.versions.keys().filter(|n| !before.versions.contains_key(n)) {
        let (tenant, function) = named();
        events.push(RegistryEvent::VersionAdded { tenant, function, number });
    }
    for (alias, &number) in after.aliases.iter().filter(|(alias, n)| before.aliases.get(*alias) != Some(n)) {
        let ((tenant, function), alias) = (named(), alias.clone());
        events.push(RegistryEvent::AliasMoved { tenant, function, alias, number: Some(number) });
    }
    for alias in before.aliases.keys().filter(|alias| !after.aliases.contains_key(*alias)) {
        let ((tenant, function), alias) = (named(), alias.clone());
        events.push(RegistryEvent::AliasMoved { tenant, function, alias, number: None });
    }
    for &number in before.versions.keys().filter(|n| !after.versions.contains_key(n)) {
        let (tenant, function) = named();
        events.push(RegistryEvent::VersionRemoved { tenant, function, number });
    }
    events
}
