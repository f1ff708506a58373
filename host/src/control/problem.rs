//! Errors as HTTP answers (RFC 9457): the one table of codes and statuses.
//!
//! What belongs to another tenant is answered as if it did not exist. A failure of our own says nothing of
//! its inside: that goes to the host's log.

use crate::artifact::deploy::DeployError;
use crate::artifact::{ArtifactError, PrepareError, ReceiveError};
use crate::db::DbError;
use crate::ledger::LedgerError;
use crate::package::archive::ArchiveError;
use crate::registry::RegistryError;
use crate::telemetry::refusals::Reason;
use crate::tenancy::{IdentifyError, TenancyError};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};
use vesta_core::id::IdError;
use vesta_core::limits::LimitError;
use vesta_core::manifest::ManifestError;

/// What the types of problems begin with.
const TYPE: &str = "urn:vesta:problem:";

/// An error, as of RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:vesta:problem:` and a code in kebab case that stays the same.
    #[schema(example = "urn:vesta:problem:no-such-function")]
    pub r#type: String,
    /// The code in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// The part of the request that is wrong, such as `limits.cpu_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl Problem {
    /// `code` in kebab case.
    pub fn new(status: StatusCode, code: &str, detail: impl ToString) -> Self {
        let mut title = code.replace('-', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        let r#type = format!("{TYPE}{code}");
        Self { r#type, title, status: status.as_u16(), detail: detail.to_string(), field: None }
    }

    /// Names the part of the request that is wrong.
    pub fn with_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// A failure of our own, whose inside goes to the log.
    pub fn internal(inside: &dyn std::fmt::Display) -> Self {
        tracing::error!("a control request failed: {inside}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the host failed; its log says why")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("strings and a number always become JSON");
        let mut response = (status, body).into_response();
        let code = self.r#type.trim_start_matches(TYPE).to_owned();
        response.extensions_mut().insert(Reason { code: code.into(), function: None });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("10"));
        }
        response
    }
}

/// Answers that every operation with a key may give.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub enum Refusals {
    #[response(
        status = 400,
        content_type = "application/problem+json",
        description = "Not to be read: a broken body, an unknown or malformed parameter"
    )]
    Malformed(Problem),
    #[response(
        status = 401,
        content_type = "application/problem+json",
        description = "No key, or one that is unknown or revoked"
    )]
    Unauthenticated(Problem),
    #[response(
        status = 403,
        content_type = "application/problem+json",
        description = "The operator's key is needed"
    )]
    Forbidden(Problem),
    #[response(
        status = 404,
        content_type = "application/problem+json",
        description = "There is no such thing, or it is another tenant's"
    )]
    NotFound(Problem),
    #[response(
        status = 500,
        content_type = "application/problem+json",
        description = "The host failed; nothing was changed"
    )]
    Internal(Problem),
}

/// Answers of operations that read many records.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub enum Busy {
    #[response(
        status = 429,
        content_type = "application/problem+json",
        description = "Other reads of the tenant are under way, and it was not this one's turn within 3 s"
    )]
    TenantBusy(Problem),
    #[response(
        status = 503,
        content_type = "application/problem+json",
        description = "Other reads are under way, this one took too long, or the ledger lags behind"
    )]
    Busy(Problem),
}

/// Answers that operations which change something may give besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub enum Conflicts {
    #[response(
        status = 409,
        content_type = "application/problem+json",
        description = "Something there stands against it, or a bound is reached"
    )]
    Conflict(Problem),
    #[response(
        status = 413,
        content_type = "application/problem+json",
        description = "The body is longer than allowed"
    )]
    TooLarge(Problem),
    #[response(
        status = 422,
        content_type = "application/problem+json",
        description = "It can be read, but makes no sense; `field` names the part"
    )]
    Unprocessable(Problem),
}

use StatusCode as S;

impl From<IdentifyError> for Problem {
    fn from(e: IdentifyError) -> Self {
        Problem::new(S::UNAUTHORIZED, "invalid-key", e)
    }
}

impl From<IdError> for Problem {
    fn from(e: IdError) -> Self {
        let (status, code) = match e {
            IdError::Name { .. } => (S::UNPROCESSABLE_ENTITY, "invalid-name"),
            IdError::Digest(_) => (S::BAD_REQUEST, "invalid-digest"),
            IdError::Invocation(_) => (S::BAD_REQUEST, "invalid-invocation-id"),
        };
        Problem::new(status, code, e)
    }
}

impl From<TenancyError> for Problem {
    fn from(e: TenancyError) -> Self {
        match e {
            TenancyError::Name(e) => Problem::from(e).with_field("name"),
            TenancyError::TenantExists(_) => Problem::new(S::CONFLICT, "tenant-exists", e).with_field("name"),
            TenancyError::TooManyTenants | TenancyError::TooManyKeys => {
                Problem::new(S::CONFLICT, "limit-reached", e)
            }
            TenancyError::NoTenant(_) => Problem::new(S::NOT_FOUND, "no-such-tenant", e),
            TenancyError::NoKey(_) => Problem::new(S::NOT_FOUND, "no-such-key", e),
            TenancyError::LastOperatorKey => Problem::new(S::CONFLICT, "last-operator-key", e),
            TenancyError::Db(e) => e.into(),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(e: RegistryError) -> Self {
        use RegistryError as R;
        match e {
            R::NoFunction(_) => Problem::new(S::NOT_FOUND, "no-such-function", e),
            R::NoVersion { .. } => Problem::new(S::NOT_FOUND, "no-such-version", e),
            R::NoAlias { .. } => Problem::new(S::NOT_FOUND, "no-such-alias", e),
            R::AliasPoints { .. } => Problem::new(S::CONFLICT, "alias-points-at-it", e),
            R::AliasIsNumber(_) => {
                Problem::new(S::UNPROCESSABLE_ENTITY, "invalid-name", e).with_field("alias")
            }
            R::LiveStays => Problem::new(S::CONFLICT, "live-stays", e),
            R::TooManyFunctions | R::TooManyAliases => Problem::new(S::CONFLICT, "limit-reached", e),
            R::Db(e) => e.into(),
        }
    }
}

impl From<DeployError> for Problem {
    fn from(e: DeployError) -> Self {
        use DeployError as D;
        match e {
            D::Manifest(e) => e.into(),
            D::PackageTooLarge { .. } => {
                Problem::new(S::PAYLOAD_TOO_LARGE, "package-too-large", e).with_field("size")
            }
            D::TenantDisk { .. } => Problem::new(S::INSUFFICIENT_STORAGE, "tenant-disk", e),
            D::TooManyOpen(_) => Problem::new(S::TOO_MANY_REQUESTS, "too-many-deployments", e),
            D::NoDeployment => Problem::new(S::NOT_FOUND, "no-such-deployment", e),
            D::NoBlob(_) => Problem::new(S::NOT_FOUND, "no-such-blob", e),
            D::UploadInProgress => Problem::new(S::CONFLICT, "upload-in-progress", e),
            D::NotUploading => Problem::new(S::CONFLICT, "deployment-closed", e),
            D::Incomplete(_) => Problem::new(S::CONFLICT, "blobs-missing", e),
            D::AliasIsNumber(_) => {
                Problem::new(S::UNPROCESSABLE_ENTITY, "invalid-name", e).with_field("alias")
            }
            D::Receive(e) => e.into(),
            D::Store(e) => e.into(),
        }
    }
}

impl From<ReceiveError> for Problem {
    fn from(e: ReceiveError) -> Self {
        match e {
            ReceiveError::TooLong { .. } => Problem::new(S::PAYLOAD_TOO_LARGE, "blob-too-long", e),
            ReceiveError::Short { .. } => Problem::new(S::BAD_REQUEST, "blob-short", e),
            ReceiveError::WrongDigest { .. } => Problem::new(S::UNPROCESSABLE_ENTITY, "wrong-digest", e),
            ReceiveError::Silent => Problem::new(S::REQUEST_TIMEOUT, "upload-silent", e),
            ReceiveError::Broken(_) => Problem::new(S::BAD_REQUEST, "upload-broken", e),
            ReceiveError::Store(e) => e.into(),
        }
    }
}

impl From<ArtifactError> for Problem {
    fn from(e: ArtifactError) -> Self {
        match e {
            ArtifactError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                storage_full()
            }
            ArtifactError::Db(e) => e.into(),
            e => Problem::internal(&e),
        }
    }
}

impl From<ArchiveError> for Problem {
    fn from(e: ArchiveError) -> Self {
        use ArchiveError as A;
        let status = match e {
            A::Manifest(e) => return e.into(),
            A::TooManyEntries(_) | A::ManifestTooLarge { .. } => S::PAYLOAD_TOO_LARGE,
            A::BlobTooLarge { .. } | A::PackageTooLarge { .. } => S::PAYLOAD_TOO_LARGE,
            A::Empty | A::NotTar | A::Truncated(_) | A::Read(_) => S::BAD_REQUEST,
            A::Sink(e) => match e.downcast::<DeployError>() {
                Ok(e) => return e.into(),
                Err(e) => return Problem::internal(&e),
            },
            _ => S::UNPROCESSABLE_ENTITY,
        };
        Problem::new(status, e.code(), e)
    }
}

impl From<PrepareError> for Problem {
    fn from(e: PrepareError) -> Self {
        let status = if e.platform { S::INTERNAL_SERVER_ERROR } else { S::UNPROCESSABLE_ENTITY };
        Problem::new(status, &e.code, e.detail)
    }
}

impl From<DbError> for Problem {
    fn from(e: DbError) -> Self {
        match e.is_storage_full() {
            true => storage_full(),
            false => Problem::internal(&e),
        }
    }
}

fn storage_full() -> Problem {
    Problem::new(S::INSUFFICIENT_STORAGE, "storage-full", "the host's disk is full; nothing was changed")
}

impl From<LedgerError> for Problem {
    fn from(e: LedgerError) -> Self {
        match e {
            LedgerError::TenantBusy(_) => Problem::new(S::TOO_MANY_REQUESTS, "too-many-reads", e),
            LedgerError::Busy(_) => Problem::new(S::SERVICE_UNAVAILABLE, "reads-busy", e),
            LedgerError::TooLong(_) => Problem::new(S::SERVICE_UNAVAILABLE, "read-too-long", e),
            e => Problem::internal(&e),
        }
    }
}

impl From<ManifestError> for Problem {
    fn from(e: ManifestError) -> Self {
        use ManifestError as M;
        let field = match &e {
            M::Format(_) => "format".into(),
            M::Limit(LimitError { field, .. }) => (*field).to_owned(),
            M::TooManyModels(_) => "models".into(),
            M::ModelName { index, .. } | M::ModelTwice { index, .. } => format!("models[{index}].name"),
            M::Threads { index, .. } => format!("models[{index}].threads"),
            M::BatchMax { index, .. } => format!("models[{index}].batch.max"),
            M::BatchWait { index, .. } => format!("models[{index}].batch.wait"),
            // Its text begins with the field.
            M::Sample(e) => e.to_string().split(": ").next().unwrap_or_default().to_owned(),
            M::EmptyBlob { field } => format!("{field}.size"),
            M::TooManyHosts(_) => "outbound".into(),
            M::Host { index, .. } => format!("outbound[{index}]"),
            M::TooManyVariables(_) | M::VariablesTooLong(_) => "variables".into(),
            M::VariableName(name) | M::VariableValue(name) => format!("variables.{name}"),
        };
        Problem::new(S::UNPROCESSABLE_ENTITY, "invalid-manifest", e).with_field(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_its_code_twice_and_hides_our_own_failures() {
        let problem = Problem::from(RegistryError::NoFunction("x".into()));
        assert_eq!(problem.r#type, "urn:vesta:problem:no-such-function");
        assert_eq!((problem.title.as_str(), problem.status), ("No such function", 404));
        let internal = Problem::from(DbError::Row { table: "secrets", detail: "inside".into() });
        assert!(internal.status == 500 && !internal.detail.contains("inside"));
        let limit = LimitError { field: "limits.cpu_ms", value: 0, min: 1, max: 2 };
        let problem = Problem::from(ManifestError::Limit(limit));
        assert_eq!((problem.status, problem.field.as_deref()), (422, Some("limits.cpu_ms")));
    }
}
