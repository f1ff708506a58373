//! Statements of this room.

use crate::db::{Db, DbError};
use vesta_core::id::IdError;
use vesta_core::manifest::BlobRef;
use vesta_core::{Digest, FunctionName, TenantName};

pub struct Upload {
    pub tenant: TenantName,
    pub digest: Digest,
    pub uploaded_unix_ms: i64,
}

pub async fn uploads(db: &Db) -> Result<Vec<Upload>, DbError> {
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT tenant, digest, uploaded_unix_ms FROM tenant_blobs")
            .fetch_all(db.pool())
            .await?;
    rows.into_iter()
        .map(|(tenant, digest, uploaded_unix_ms)| {
            Ok(Upload {
                tenant: tenant.parse().map_err(damaged)?,
                digest: digest.parse().map_err(damaged)?,
                uploaded_unix_ms,
            })
        })
        .collect()
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

pub struct OpenDeployment {
    pub id: String,
    pub tenant: TenantName,
    pub function: FunctionName,
    pub created_unix_ms: i64,
}

/// Takes the deployments that were under way when the host stopped.
pub async fn take_open_deployments(db: &Db) -> Result<Vec<OpenDeployment>, DbError> {
    let mut write = db.write().await?;
    let rows: Vec<(String, String, String, i64)> =
        sqlx::query_as("DELETE FROM open_deployments RETURNING id, tenant, function, created_unix_ms")
            .fetch_all(&mut *write)
            .await?;
    write.commit().await?;
    rows.into_iter()
        .map(|(id, tenant, function, created_unix_ms)| {
            Ok(OpenDeployment {
                id,
                tenant: tenant.parse().map_err(damaged)?,
                function: function.parse().map_err(damaged)?,
                created_unix_ms,
            })
        })
        .collect()
}

pub async fn deployment_opened(db: &Db, open: &OpenDeployment) -> Result<(), DbError> {
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

pub async fn deployment_closed(db: &Db, id: &str) -> Result<(), DbError> {
    let mut write = db.write().await?;
    sqlx::query("DELETE FROM open_deployments WHERE id = ?").bind(id).execute(&mut *write).await?;
    write.commit().await
}

fn damaged(e: IdError) -> DbError {
    DbError::Row { table: "tenant_blobs", detail: e.to_string() }
}
