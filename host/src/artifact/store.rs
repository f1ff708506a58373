//! Statements of this room.

use super::PrepareError;
use crate::db::{Db, DbError, readable};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::str::FromStr;
use vesta_core::id::IdError;
use vesta_core::manifest::BlobRef;
use vesta_core::{Digest, FunctionName, TenantName};

pub struct Upload {
    pub tenant: TenantName,
    pub digest: Digest,
    pub uploaded_unix_ms: i64,
}

/// All uploads. A row that cannot be read is passed over: what versions refer to is kept without it.
pub async fn uploads(db: &Db) -> Result<Vec<Upload>, DbError> {
    let sql = "SELECT tenant, digest, uploaded_unix_ms FROM tenant_blobs";
    let rows = sqlx::query(sql).fetch_all(db.pool()).await?;
    let read = |row| {
        readable("tenant_blobs", &["tenant", "digest"], row, |row| {
            Ok(Upload {
                tenant: parsed("tenant_blobs", row.try_get("tenant")?)?,
                digest: parsed("tenant_blobs", row.try_get("digest")?)?,
                uploaded_unix_ms: row.try_get("uploaded_unix_ms")?,
            })
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// The size of a blob that this tenant has uploaded.
pub async fn uploaded_size(db: &Db, tenant: &TenantName, digest: &Digest) -> Result<Option<u64>, DbError> {
    let size: Option<i64> =
        sqlx::query_scalar("SELECT size FROM tenant_blobs WHERE tenant = ? AND digest = ?")
            .bind(tenant.as_str())
            .bind(digest.to_string())
            .fetch_optional(db.pool())
            .await?;
    Ok(size.and_then(|s| u64::try_from(s).ok()))
}

/// The size of all blobs that this tenant has uploaded and that are still here, in bytes.
pub async fn uploaded_bytes(db: &Db, tenant: &TenantName) -> Result<u64, DbError> {
    let sql = "SELECT coalesce(sum(size), 0) FROM tenant_blobs WHERE tenant = ?";
    let bytes: i64 = sqlx::query_scalar(sql).bind(tenant.as_str()).fetch_one(db.pool()).await?;
    Ok(u64::try_from(bytes).unwrap_or(u64::MAX))
}

pub async fn uploaded(db: &Db, tenant: &TenantName, blob: &BlobRef, now: i64) -> Result<(), DbError> {
    let size = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let mut write = db.write().await?;
    sqlx::query(
        "INSERT INTO tenant_blobs (tenant, digest, size, uploaded_unix_ms) VALUES (?, ?, ?, ?)
         ON CONFLICT (tenant, digest) DO UPDATE SET uploaded_unix_ms = excluded.uploaded_unix_ms",
    )
    .bind(tenant.as_str())
    .bind(blob.digest.to_string())
    .bind(size)
    .bind(now)
    .execute(&mut *write)
    .await?;
    write.commit().await
}

pub async fn forget(db: &Db, uploads: &[(TenantName, Digest)]) -> Result<(), DbError> {
    if uploads.is_empty() {
        return Ok(());
    }
    let mut write = db.write().await?;
    for (tenant, digest) in uploads {
        sqlx::query("DELETE FROM tenant_blobs WHERE tenant = ? AND digest = ?")
            .bind(tenant.as_str())
            .bind(digest.to_string())
            .execute(&mut *write)
            .await?;
    }
    write.commit().await
}

#[derive(Clone)]
pub struct Row {
    pub id: String,
    pub tenant: TenantName,
    pub function: FunctionName,
    pub created_unix_ms: i64,
}

/// The deployments that were under way when the host stopped.
pub async fn open_deployments(db: &Db) -> Result<Vec<Row>, DbError> {
    let sql = "SELECT id, tenant, function, created_unix_ms FROM open_deployments";
    let rows = sqlx::query(sql).fetch_all(db.pool()).await?;
    let read = |row| readable("open_deployments", &["id"], row, |row| deployment("open_deployments", row));
    Ok(rows.iter().filter_map(read).collect())
}

/// The deployments that have ended, with their versions or why they failed.
pub async fn ended_deployments(db: &Db) -> Result<Vec<(Row, Result<u32, PrepareError>)>, DbError> {
    let sql =
        "SELECT id, tenant, function, created_unix_ms, version, error_code, error_detail, error_platform
               FROM ended_deployments";
    let rows = sqlx::query(sql).fetch_all(db.pool()).await?;
    let read = |row| {
        readable("ended_deployments", &["id"], row, |row| {
            let ended = match row.try_get::<Option<u32>, _>("version")? {
                Some(version) => Ok(version),
                None => Err(PrepareError {
                    code: row.try_get("error_code")?,
                    detail: row.try_get("error_detail")?,
                    platform: row.try_get("error_platform")?,
                }),
            };
            Ok((deployment("ended_deployments", row)?, ended))
        })
    };
    Ok(rows.iter().filter_map(read).collect())
}

pub async fn deployment_opened(db: &Db, open: &Row) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("INSERT INTO open_deployments (id, tenant, function, created_unix_ms) VALUES (?, ?, ?, ?)")
        .bind(&open.id)
        .bind(open.tenant.as_str())
        .bind(open.function.as_str())
        .bind(open.created_unix_ms)
        .execute(&mut *write)
        .await?;
    write.commit().await
}

/// A deployment has ended. Of its tenant's that have, the newest `kept` are kept.
pub async fn deployment_ended(
    db: &Db,
    row: &Row,
    ended: &Result<u32, PrepareError>,
    kept: usize,
) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("DELETE FROM open_deployments WHERE id = ?").bind(&row.id).execute(&mut *write).await?;
    let error = ended.as_ref().err();
    sqlx::query(
        "INSERT INTO ended_deployments
         (id, tenant, function, created_unix_ms, version, error_code, error_detail, error_platform)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&row.id)
    .bind(row.tenant.as_str())
    .bind(row.function.as_str())
    .bind(row.created_unix_ms)
    .bind(ended.as_ref().ok())
    .bind(error.map(|e| &e.code))
    .bind(error.map(|e| &e.detail))
    .bind(error.map(|e| e.platform))
    .execute(&mut *write)
    .await?;
    sqlx::query(
        "DELETE FROM ended_deployments WHERE tenant = ?1 AND id NOT IN
         (SELECT id FROM ended_deployments WHERE tenant = ?1 ORDER BY id DESC LIMIT ?2)",
    )
    .bind(row.tenant.as_str())
    .bind(kept as i64)
    .execute(&mut *write)
    .await?;
    write.commit().await
}

fn deployment(table: &'static str, row: &SqliteRow) -> Result<Row, DbError> {
    Ok(Row {
        id: row.try_get("id")?,
        tenant: parsed(table, row.try_get("tenant")?)?,
        function: parsed(table, row.try_get("function")?)?,
        created_unix_ms: row.try_get("created_unix_ms")?,
    })
}

fn parsed<T: FromStr<Err = IdError>>(table: &'static str, text: &str) -> Result<T, DbError> {
    text.parse().map_err(|e: IdError| DbError::Row { table, detail: e.to_string() })
}
