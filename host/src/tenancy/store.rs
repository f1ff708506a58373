//! Statements of this room.

use super::key::KeyHash;
use super::{Role, TenantInfo};
use crate::db::{Db, DbError};
use sqlx::Row;
use vesta_core::TenantName;

pub struct KeyRow {
    pub prefix: String,
    pub hash: KeyHash,
    pub role: Role,
    pub tenant: Option<TenantName>,
    pub created_unix_ms: i64,
}

pub async fn tenants(db: &Db) -> Result<Vec<TenantInfo>, DbError> {
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT name, created_unix_ms FROM tenants").fetch_all(db.pool()).await?;
    rows.into_iter()
        .map(|(name, created_unix_ms)| Ok(TenantInfo { name: tenant_name(name)?, created_unix_ms }))
        .collect()
}

pub async fn any_key(db: &Db) -> Result<bool, DbError> {
    let first: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM api_keys LIMIT 1").fetch_optional(db.pool()).await?;
    Ok(first.is_some())
}

pub async fn keys_in_force(db: &Db) -> Result<Vec<KeyRow>, DbError> {
    let sql =
        "SELECT prefix, hash, role, tenant, created_unix_ms FROM api_keys WHERE revoked_unix_ms IS NULL";
    let rows = sqlx::query(sql).fetch_all(db.pool()).await?;
    rows.into_iter()
        .map(|row| {
            let hash = KeyHash::from_slice(row.try_get("hash")?).ok_or_else(|| DbError::Row {
                table: "api_keys",
                detail: "a hash that has not 32 bytes".into(),
            })?;
            let tenant: Option<String> = row.try_get("tenant")?;
            let role = if tenant.is_some() { Role::Tenant } else { Role::Operator };
            Ok(KeyRow {
                prefix: row.try_get("prefix")?,
                hash,
                role,
                tenant: tenant.map(tenant_name).transpose()?,
                created_unix_ms: row.try_get("created_unix_ms")?,
            })
        })
        .collect()
}

pub async fn insert_tenant(db: &Db, name: &TenantName, now: i64) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("INSERT INTO tenants (name, created_unix_ms) VALUES (?, ?)")
        .bind(name.as_str())
        .bind(now)
        .execute(&mut *write)
        .await?;
    write.commit().await
}

pub async fn insert_key(
    db: &Db,
    prefix: &str,
    hash: &KeyHash,
    role: Role,
    tenant: Option<&TenantName>,
    now: i64,
) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("INSERT INTO api_keys (prefix, hash, role, tenant, created_unix_ms) VALUES (?, ?, ?, ?, ?)")
        .bind(prefix)
        .bind(hash.as_bytes())
        .bind(role.as_str())
        .bind(tenant.map(TenantName::as_str))
        .bind(now)
        .execute(&mut *write)
        .await?;
    write.commit().await
}

pub async fn revoke(db: &Db, prefix: &str, now: i64) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("UPDATE api_keys SET revoked_unix_ms = ? WHERE prefix = ? AND revoked_unix_ms IS NULL")
        .bind(now)
        .bind(prefix)
        .execute(&mut *write)
        .await?;
    write.commit().await
}

fn tenant_name(name: String) -> Result<TenantName, DbError> {
    name.parse()
        .map_err(|e: vesta_core::id::IdError| DbError::Row { table: "tenants", detail: e.to_string() })
}
