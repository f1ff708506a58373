//! Statements of this room.

use super::key::KeyHash;
use super::{Role, TenantInfo};
use crate::db::{DbError, Write, readable};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use vesta_core::TenantName;

pub struct KeyRow {
    pub prefix: String,
    pub hash: KeyHash,
    pub role: Role,
    pub tenant: Option<TenantName>,
    pub created_unix_ms: i64,
}

/// All tenants. A row that cannot be read is logged and passed over.
pub async fn tenants(connection: &mut SqliteConnection) -> Result<Vec<TenantInfo>, DbError> {
    let rows = sqlx::query("SELECT name, created_unix_ms FROM tenants").fetch_all(connection).await?;
    Ok(rows.iter().filter_map(|row| readable("tenants", &["name"], row, tenant)).collect())
}

pub async fn tenant_named(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<TenantInfo>, DbError> {
    let row = sqlx::query("SELECT name, created_unix_ms FROM tenants WHERE name = ?").bind(name);
    let row = row.fetch_optional(connection).await?;
    Ok(row.and_then(|row| readable("tenants", &["name"], &row, tenant)))
}

pub async fn any_key(connection: &mut SqliteConnection) -> Result<bool, DbError> {
    let first: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM api_keys LIMIT 1").fetch_optional(connection).await?;
    Ok(first.is_some())
}

/// All keys in force. A row that cannot be read is logged and passed over: that key opens nothing.
pub async fn keys_in_force(connection: &mut SqliteConnection) -> Result<Vec<KeyRow>, DbError> {
    let sql =
        "SELECT prefix, hash, role, tenant, created_unix_ms FROM api_keys WHERE revoked_unix_ms IS NULL";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    Ok(rows.iter().filter_map(|row| readable("api_keys", &["prefix"], row, key)).collect())
}

pub async fn key_in_force(
    connection: &mut SqliteConnection,
    prefix: &str,
) -> Result<Option<KeyRow>, DbError> {
    let sql = "SELECT prefix, hash, role, tenant, created_unix_ms FROM api_keys
               WHERE prefix = ? AND revoked_unix_ms IS NULL";
    let row = sqlx::query(sql).bind(prefix).fetch_optional(connection).await?;
    Ok(row.and_then(|row| readable("api_keys", &["prefix"], &row, key)))
}

pub async fn insert_tenant(write: &mut Write, name: &TenantName, now: i64) -> Result<(), DbError> {
    sqlx::query("INSERT INTO tenants (name, created_unix_ms) VALUES (?, ?)")
        .bind(name.as_str())
        .bind(now)
        .execute(&mut **write)
        .await?;
    Ok(())
}

pub async fn insert_key(
    write: &mut Write,
    prefix: &str,
    hash: &KeyHash,
    role: Role,
    tenant: Option<&TenantName>,
    now: i64,
) -> Result<(), DbError> {
    sqlx::query("INSERT INTO api_keys (prefix, hash, role, tenant, created_unix_ms) VALUES (?, ?, ?, ?, ?)")
        .bind(prefix)
        .bind(hash.as_bytes())
        .bind(role.as_str())
        .bind(tenant.map(TenantName::as_str))
        .bind(now)
        .execute(&mut **write)
        .await?;
    Ok(())
}

pub async fn revoke(write: &mut Write, prefix: &str, now: i64) -> Result<(), DbError> {
    sqlx::query("UPDATE api_keys SET revoked_unix_ms = ? WHERE prefix = ? AND revoked_unix_ms IS NULL")
        .bind(now)
        .bind(prefix)
        .execute(&mut **write)
        .await?;
    Ok(())
}

fn tenant(row: &SqliteRow) -> Result<TenantInfo, DbError> {
    Ok(TenantInfo {
        name: tenant_name(row.try_get("name")?)?,
        created_unix_ms: row.try_get("created_unix_ms")?,
    })
}

fn key(row: &SqliteRow) -> Result<KeyRow, DbError> {
    let hash = KeyHash::from_slice(row.try_get("hash")?)
        .ok_or_else(|| DbError::Row { table: "api_keys", detail: "a hash that has not 32 bytes".into() })?;
    let tenant: Option<String> = row.try_get("tenant")?;
    let role = match (row.try_get("role")?, &tenant) {
        ("tenant", Some(_)) => Role::Tenant,
        ("operator", None) => Role::Operator,
        (role, _) => {
            let detail = format!("the role {role:?} with the tenant {tenant:?}");
            return Err(DbError::Row { table: "api_keys", detail });
        }
    };
    Ok(KeyRow {
        prefix: row.try_get("prefix")?,
        hash,
        role,
        tenant: tenant.map(tenant_name).transpose()?,
        created_unix_ms: row.try_get("created_unix_ms")?,
    })
}

fn tenant_name(name: String) -> Result<TenantName, DbError> {
    name.parse()
        .map_err(|e: vesta_core::id::IdError| DbError::Row { table: "tenants", detail: e.to_string() })
}
