//! Statements of this room.

use super::{Function, Version};
use crate::db::{Db, DbError, Write};
use sqlx::Row;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use vesta_core::id::{AliasName, IdError};
use vesta_core::{FunctionName, TenantName};

type Key = (TenantName, FunctionName);

/// Every function with its versions and aliases.
pub async fn load(db: &Db) -> Result<Vec<(TenantName, Function)>, DbError> {
    let mut all: HashMap<Key, Function> = HashMap::new();
    let rows: Vec<(String, String, i64, i64)> =
        sqlx::query_as("SELECT tenant, name, created_unix_ms, updated_unix_ms FROM functions")
            .fetch_all(db.pool())
            .await?;
    for (tenant, name, created_unix_ms, updated_unix_ms) in rows {
        let (tenant, name) = key(&tenant, &name)?;
        let function = Function {
            name: name.clone(),
            created_unix_ms,
            updated_unix_ms,
            versions: BTreeMap::new(),
            aliases: BTreeMap::new(),
        };
        all.insert((tenant, name), function);
    }
    load_versions(db, &mut all).await?;
    load_aliases(db, &mut all).await?;
    Ok(all.into_iter().map(|((tenant, _), function)| (tenant, function)).collect())
}

async fn load_versions(db: &Db, all: &mut HashMap<Key, Function>) -> Result<(), DbError> {
    let sql = "SELECT tenant, function, number, manifest, models, created_unix_ms FROM versions";
    for row in sqlx::query(sql).fetch_all(db.pool()).await? {
        let (tenant, function) = key(row.try_get("tenant")?, row.try_get("function")?)?;
        let damaged = |e: serde_json::Error| DbError::Row {
            table: "versions",
            detail: format!("{tenant}/{function}: {e}"),
        };
        let version = Version {
            number: number(row.try_get("number")?)?,
            manifest: serde_json::from_str(row.try_get("manifest")?).map_err(damaged)?,
            models: serde_json::from_str(row.try_get("models")?).map_err(damaged)?,
            created_unix_ms: row.try_get("created_unix_ms")?,
            tenant,
            function,
        };
        if let Some(f) = all.get_mut(&(version.tenant.clone(), version.function.clone())) {
            f.versions.insert(version.number, Arc::new(version));
        }
    }
    Ok(())
}

async fn load_aliases(db: &Db, all: &mut HashMap<Key, Function>) -> Result<(), DbError> {
    let rows: Vec<(String, String, String, i64)> =
        sqlx::query_as("SELECT tenant, function, alias, version FROM aliases").fetch_all(db.pool()).await?;
    for (tenant, function, alias, version) in rows {
        let alias: AliasName = alias.parse().map_err(bad_name)?;
        if let Some(f) = all.get_mut(&key(&tenant, &function)?) {
            f.aliases.insert(alias, number(version)?);
        }
    }
    Ok(())
}

/// Writes a version under the next number, which it returns with it, and points the alias at it.
pub async fn publish(db: &Db, mut version: Version, alias: Option<&AliasName>) -> Result<Version, DbError> {
    let (tenant, function) = (version.tenant.clone(), version.function.clone());
    let mut write = db.write().await?;
    let last: i64 = sqlx::query_scalar(
        "INSERT INTO function_numbers (tenant, function, last) VALUES (?, ?, 1)
         ON CONFLICT (tenant, function) DO UPDATE SET last = function_numbers.last + 1 RETURNING last",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .fetch_one(&mut *write)
    .await?;
    version.number = number(last)?;
    sqlx::query(
        "INSERT INTO functions (tenant, name, created_unix_ms, updated_unix_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (tenant, name) DO UPDATE SET updated_unix_ms = excluded.updated_unix_ms",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .bind(version.created_unix_ms)
    .bind(version.created_unix_ms)
    .execute(&mut *write)
    .await?;
    sqlx::query(
        "INSERT INTO versions (tenant, function, number, manifest, models, created_unix_ms)
         VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(tenant.as_str())
    .bind(function.as_str())
    .bind(i64::from(version.number))
    .bind(json(&version.manifest)?)
    .bind(json(&version.models)?)
    .bind(version.created_unix_ms)
    .execute(&mut *write)
    .await?;
    if let Some(alias) = alias {
        point(&mut write, &tenant, &function, alias, version.number).await?;
    }
    write.commit().await?;
    Ok(version)
}

pub async fn set_alias(
    db: &Db,
    tenant: &TenantName,
    function: &FunctionName,
    alias: &AliasName,
    number: u32,
    now: i64,
) -> Result<(), DbError> {
    let mut write = db.write().await?;
    point(&mut write, tenant, function, alias, number).await?;
    touch(&mut write, tenant, function, now).await?;
    write.commit().await
}

pub async fn remove_alias(
    db: &Db,
    tenant: &TenantName,
    function: &FunctionName,
    alias: &AliasName,
    now: i64,
) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("DELETE FROM aliases WHERE tenant = ? AND function = ? AND alias = ?")
        .bind(tenant.as_str())
        .bind(function.as_str())
        .bind(alias.as_str())
        .execute(&mut *write)
        .await?;
    touch(&mut write, tenant, function, now).await?;
    write.commit().await
}

pub async fn remove_version(
    db: &Db,
    tenant: &TenantName,
    function: &FunctionName,
    number: u32,
    now: i64,
) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("DELETE FROM versions WHERE tenant = ? AND function = ? AND number = ?")
        .bind(tenant.as_str())
        .bind(function.as_str())
        .bind(i64::from(number))
        .execute(&mut *write)
        .await?;
    touch(&mut write, tenant, function, now).await?;
    write.commit().await
}

pub async fn remove_function(db: &Db, tenant: &TenantName, function: &FunctionName) -> Result<(), DbError> {
    let mut write = db.write().await?;
    // Aliases first: they refer to versions. Versions go with the function.
    for sql in [
        "DELETE FROM aliases WHERE tenant = ? AND function = ?",
        "DELETE FROM functions WHERE tenant = ? AND name = ?",
    ] {
        sqlx::query(sql).bind(tenant.as_str()).bind(function.as_str()).execute(&mut *write).await?;
    }
    write.commit().await
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

fn key(tenant: &str, function: &str) -> Result<Key, DbError> {
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
