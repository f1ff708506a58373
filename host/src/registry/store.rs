//! Statements of this room.

use super::{Function, Version};
use crate::db::{DbError, Write, readable};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use vesta_core::id::{AliasName, IdError};
use vesta_core::{FunctionName, TenantName};

pub type Key = (TenantName, FunctionName);

/// Rows of a table that are read at a time.
const PAGE_ROWS: usize = 1_000;

/// Every function with its versions and aliases. Of rows that cannot be read each costs itself; whether any
/// function or number of a version is among them.
pub async fn load(connection: &mut SqliteConnection) -> Result<(HashMap<Key, Function>, bool), DbError> {
    let mut all: HashMap<Key, Function> = HashMap::new();
    let mut passed_over = false;
    let columns = "tenant, name, created_unix_ms, updated_unix_ms";
    each_row(connection, columns, "functions", |row| {
        match readable("functions", &["tenant", "name"], row, function) {
            Some((key, function)) => drop(all.insert(key, function)),
            None => passed_over = true,
        }
    })
    .await?;
    let columns = "tenant, function, number, manifest, models, created_unix_ms";
    each_row(connection, columns, "versions", |row| {
        let keys = ["tenant", "function", "number"];
        let Some((owner, number)) = readable("versions", &keys, row, numbered) else {
            passed_over = true;
            return;
        };
        let Some(function) = all.get_mut(&owner) else { return };
        match readable("versions", &keys, row, version) {
            Some(version) => drop(function.versions.insert(number, Arc::new(version))),
            None => drop(function.damaged.insert(number)),
        }
    })
    .await?;
    each_row(connection, "tenant, function, alias, version", "aliases", |row| {
        let read = readable("aliases", &["tenant", "function", "alias"], row, alias);
        let Some((owner, alias, number)) = read else { return };
        if let Some(function) = all.get_mut(&owner) {
            function.aliases.insert(alias, number);
        }
    })
    .await?;
    Ok((all, passed_over))
}

/// Reads a whole table, a page at a time: all rows at once, freed among what stays of them, would leave the
/// heap full of holes (1.7 kB for each of 10,000 functions).
async fn each_row(
    connection: &mut SqliteConnection,
    columns: &str,
    table: &str,
    mut read: impl FnMut(&SqliteRow),
) -> Result<(), DbError> {
    let sql =
        format!("SELECT rowid, {columns} FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {PAGE_ROWS}");
    let mut last = i64::MIN;
    loop {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql.as_str())).bind(last).fetch_all(&mut *connection).await?;
        rows.iter().for_each(&mut read);
        let Some(end) = rows.last() else { return Ok(()) };
        last = end.try_get("rowid")?;
    }
}

/// A function as it is now. Versions that `before` has are taken from there: a version never changes.
pub async fn load_one(
    connection: &mut SqliteConnection,
    key: &Key,
    before: Option<&Function>,
) -> Result<Option<Function>, DbError> {
    let (tenant, name) = (key.0.as_str(), key.1.as_str());
    let sql =
        "SELECT tenant, name, created_unix_ms, updated_unix_ms FROM functions WHERE tenant = ? AND name = ?";
    let row = sqlx::query(sql).bind(tenant).bind(name).fetch_optional(&mut *connection).await?;
    let read = row.and_then(|row| readable("functions", &["tenant", "name"], &row, function));
    let Some((_, mut function)) = read else { return Ok(None) };
    let sql = "SELECT number FROM versions WHERE tenant = ? AND function = ?";
    let rows = sqlx::query(sql).bind(tenant).bind(name).fetch_all(&mut *connection).await?;
    // A number that cannot be read costs its row: [`load`] has told of it.
    for number in rows.iter().filter_map(|row| row.try_get::<i64, _>("number").ok()) {
        let known = u32::try_from(number).ok().and_then(|n| before?.versions.get_key_value(&n));
        if let Some((number, version)) = known {
            function.versions.insert(*number, version.clone());
            continue;
        }
        let sql = "SELECT tenant, function, number, manifest, models, created_unix_ms FROM versions
                   WHERE tenant = ? AND function = ? AND number = ?";
        let row = sqlx::query(sql).bind(tenant).bind(name).bind(number).fetch_one(&mut *connection).await?;
        let keys = ["tenant", "function", "number"];
        let Some((_, number)) = readable("versions", &keys, &row, numbered) else { continue };
        match readable("versions", &keys, &row, version) {
            Some(version) => drop(function.versions.insert(number, Arc::new(version))),
            None => drop(function.damaged.insert(number)),
        }
    }
    let sql = "SELECT tenant, function, alias, version FROM aliases WHERE tenant = ? AND function = ?";
    let rows = sqlx::query(sql).bind(tenant).bind(name).fetch_all(&mut *connection).await?;
    let aliases =
        rows.iter().filter_map(|row| readable("aliases", &["tenant", "function", "alias"], row, alias));
    function.aliases = aliases.map(|(_, alias, number)| (alias, number)).collect();
    Ok(Some(function))
}

fn function(row: &SqliteRow) -> Result<(Key, Function), DbError> {
    let key = key(row.try_get("tenant")?, row.try_get("name")?)?;
    let function = Function {
        name: key.1.clone(),
        created_unix_ms: row.try_get("created_unix_ms")?,
        updated_unix_ms: row.try_get("updated_unix_ms")?,
        versions: BTreeMap::new(),
        aliases: BTreeMap::new(),
        damaged: BTreeSet::new(),
    };
    Ok((key, function))
}

fn numbered(row: &SqliteRow) -> Result<(Key, u32), DbError> {
    Ok((key(row.try_get("tenant")?, row.try_get("function")?)?, number(row.try_get("number")?)?))
}

fn version(row: &SqliteRow) -> Result<Version, DbError> {
    let damaged = |e: serde_json::Error| DbError::Row { table: "versions", detail: e.to_string() };
    let ((tenant, function), number) = numbered(row)?;
    Ok(Version {
        tenant,
        function,
        number,
        manifest: serde_json::from_str(row.try_get("manifest")?).map_err(damaged)?,
        models: serde_json::from_str(row.try_get("models")?).map_err(damaged)?,
        created_unix_ms: row.try_get("created_unix_ms")?,
    })
}

fn alias(row: &SqliteRow) -> Result<(Key, AliasName, u32), DbError> {
    let owner = key(row.try_get("tenant")?, row.try_get("function")?)?;
    let alias: &str = row.try_get("alias")?;
    Ok((owner, alias.parse().map_err(bad_name)?, number(row.try_get("version")?)?))
}

/// Writes a version under the next number, which it returns, and points the alias at it.
pub async fn publish(
    write: &mut Write,
    version: &Version,
    deployment: Option<&str>,
    alias: Option<&AliasName>,
) -> Result<u32, DbError> {
    let (tenant, function) = (&version.tenant, &version.function);
    let last: i64 = sqlx::query_scalar(
        "INSERT INTO function_numbers (tenant, function, last) VALUES (?, ?, 1)
         ON CONFLICT (tenant, function) DO UPDATE SET last = function_numbers.last + 1 RETURNING last",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .fetch_one(&mut **write)
    .await?;
    let number = number(last)?;
    sqlx::query(
        "INSERT INTO functions (tenant, name, created_unix_ms, updated_unix_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (tenant, name) DO UPDATE SET updated_unix_ms = excluded.updated_unix_ms",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .bind(version.created_unix_ms)
    .bind(version.created_unix_ms)
    .execute(&mut **write)
    .await?;
    sqlx::query(
        "INSERT INTO versions (tenant, function, number, manifest, models, created_unix_ms, deployment)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .bind(i64::from(number))
    .bind(json(&version.manifest)?)
    .bind(json(&version.models)?)
    .bind(version.created_unix_ms)
    .bind(deployment)
    .execute(&mut **write)
    .await?;
    if let Some(alias) = alias {
        point(write, tenant, function, alias, number).await?;
    }
    Ok(number)
}

/// The version that a deployment has published.
pub async fn published_by(
    connection: &mut SqliteConnection,
    tenant: &TenantName,
    function: &FunctionName,
    deployment: &str,
) -> Result<Option<u32>, DbError> {
    let sql = "SELECT number FROM versions WHERE tenant = ? AND function = ? AND deployment = ?";
    let found: Option<i64> = sqlx::query_scalar(sql)
        .bind(tenant.as_str())
        .bind(function.as_str())
        .bind(deployment)
        .fetch_optional(connection)
        .await?;
    found.map(number).transpose()
}

pub async fn set_alias(
    write: &mut Write,
    (tenant, function): &Key,
    alias: &AliasName,
    number: u32,
    now: i64,
) -> Result<(), DbError> {
    point(write, tenant, function, alias, number).await?;
    touch(write, tenant, function, now).await
}

pub async fn remove_alias(
    write: &mut Write,
    (tenant, function): &Key,
    alias: &AliasName,
    now: i64,
) -> Result<(), DbError> {
    sqlx::query("DELETE FROM aliases WHERE tenant = ? AND function = ? AND alias = ?")
        .bind(tenant.as_str())
        .bind(function.as_str())
        .bind(alias.as_str())
        .execute(&mut **write)
        .await?;
    touch(write, tenant, function, now).await
}

pub async fn remove_version(
    write: &mut Write,
    (tenant, function): &Key,
    number: u32,
    now: i64,
) -> Result<(), DbError> {
    sqlx::query("DELETE FROM versions WHERE tenant = ? AND function = ? AND number = ?")
        .bind(tenant.as_str())
        .bind(function.as_str())
        .bind(i64::from(number))
        .execute(&mut **write)
        .await?;
    touch(write, tenant, function, now).await
}

pub async fn remove_function(write: &mut Write, (tenant, function): &Key) -> Result<(), DbError> {
    // Aliases first: they refer to versions. Versions go with the function.
    for sql in [
        "DELETE FROM aliases WHERE tenant = ? AND function = ?",
        "DELETE FROM functions WHERE tenant = ? AND name = ?",
    ] {
        sqlx::query(sql).bind(tenant.as_str()).bind(function.as_str()).execute(&mut **write).await?;
    }
    Ok(())
}

async fn point(
    write: &mut Write,
    tenant: &TenantName,
    function: &FunctionName,
    alias: &AliasName,
    number: u32,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO aliases (tenant, function, alias, version) VALUES (?, ?, ?, ?)
         ON CONFLICT (tenant, function, alias) DO UPDATE SET version = excluded.version",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .bind(alias.as_str())
    .bind(i64::from(number))
    .execute(&mut **write)
    .await?;
    Ok(())
}

async fn touch(
    write: &mut Write,
    tenant: &TenantName,
    function: &FunctionName,
    now: i64,
) -> Result<(), DbError> {
    sqlx::query("UPDATE functions SET updated_unix_ms = ? WHERE tenant = ? AND name = ?")
        .bind(now)
        .bind(tenant.as_str())
        .bind(function.as_str())
        .execute(&mut **write)
        .await?;
    Ok(())
}

pub fn key(tenant: &str, function: &str) -> Result<Key, DbError> {
    Ok((tenant.parse().map_err(bad_name)?, function.parse().map_err(bad_name)?))
}

fn number(n: i64) -> Result<u32, DbError> {
    u32::try_from(n).map_err(|_| DbError::Row { table: "versions", detail: format!("version number {n}") })
}

fn bad_name(e: IdError) -> DbError {
    DbError::Row { table: "functions", detail: e.to_string() }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|e| DbError::Row { table: "versions", detail: e.to_string() })
}
