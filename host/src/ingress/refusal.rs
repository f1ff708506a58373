//! The one table from what went wrong to what a client of the data plane is told.

use super::Body;
use super::listener::Refused;
use super::shares::NoPlace;
use crate::lifecycle::{NotAdmitted, StartError};
use crate::telemetry::refusals::Reason;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use vesta_core::Outcome;
use vesta_engine::Ended;

/// An answer of the platform instead of the function's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    /// Names the problem for programs: `urn:vesta:problem:{code}`.
    pub code: &'static str,
    pub detail: String,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None }
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Nothing of that name, or nothing that this caller may know of: both read the same.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is no such function, version or alias")
    }

    pub fn no_route() -> Self {
        let detail = "invoke a function at /fn/{tenant}/{function}[@{version or alias}]/{path}";
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub fn no_host() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "no-host",
            "a request has one Host header: a name or an address, with a port or without",
        )
    }

    pub fn no_key() -> Self {
        let detail = "this function is private: send a key of its tenant as 'Authorization: Bearer vk_...'";
        Self::new(StatusCode::UNAUTHORIZED, "no-key", detail)
    }

    pub fn wrong_key(detail: String) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "wrong-key", detail)
    }

    pub fn body_too_large(max: u64) -> Self {
        let detail =
            format!("the request's body is over the function's limit of {max} bytes (limits.request_body)");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
    }

    /// The body ended before its end, or is not framed as it says.
    pub fn body_broken() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "body-broken", "the request's body broke off")
    }

    /// Usage records cannot be written: nothing may run that could not be billed.
    pub fn unrecorded() -> Self {
        let detail = "this host cannot record usage at the moment and runs nothing meanwhile";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "usage-journal", detail).retry_after(5)
    }
}

impl From<NotAdmitted> for Refusal {
    fn from(e: NotAdmitted) -> Self {
        let detail = e.to_string();
        match e {
            NotAdmitted::Concurrency(_) => {
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, "concurrency", detail).retry_after(1)
            }
            NotAdmitted::Draining => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail),
        }
    }
}

impl From<Refused> for Refusal {
    fn from(why: Refused) -> Self {
        let (status, code) = why.problem();
        Refusal::new(status, code, why.to_string())
    }
}

impl From<NoPlace> for Refusal {
    fn from(e: NoPlace) -> Self {
        let code = match e {
            NoPlace::Requests { .. } => "tenant-requests",
            NoPlace::Unread { .. } => "unread-answers",
        };
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, code, e.to_string()).retry_after(1)
    }
}

impl From<&StartError> for Refusal {
    fn from(e: &StartError) -> Self {
        let code = if e.is_memory() { "host-memory" } else { "start-failed" };
        let seconds = e.retry_after().as_secs_f64().ceil().max(1.0) as u32;
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, code, e.to_string()).retry_after(seconds)
    }
}

impl From<&Ended> for Refusal {
    /// For a guest that ended without a whole response.
    fn from(ended: &Ended) -> Self {
        let (status, code) = match ended.outcome {
            Outcome::CpuLimit => (StatusCode::GATEWAY_TIMEOUT, "cpu-limit"),
            Outcome::WallLimit => (StatusCode::GATEWAY_TIMEOUT, "wall-limit"),
            Outcome::InferenceLimit => (StatusCode::GATEWAY_TIMEOUT, "inference-limit"),
            Outcome::OutOfMemory => (StatusCode::BAD_GATEWAY, "out-of-memory"),
            Outcome::ModelMemory => (StatusCode::BAD_GATEWAY, "model-memory"),
            Outcome::ModelCrashed => (StatusCode::BAD_GATEWAY, "model-crashed"),
            Outcome::ResponseLimit => (StatusCode::BAD_GATEWAY, "response-too-large"),
            Outcome::RequestLimit => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Outcome::Trap => (StatusCode::BAD_GATEWAY, "guest-trap"),
            Outcome::StartFailed => (StatusCode::SERVICE_UNAVAILABLE, "start-failed"),
            Outcome::HostMemory => (StatusCode::SERVICE_UNAVAILABLE, "host-memory"),
            Outcome::PlatformError => (StatusCode::SERVICE_UNAVAILABLE, "platform-error"),
            Outcome::GuestError if ended.detail.contains("without sending") => {
                (StatusCode::BAD_GATEWAY, "no-response")
            }
            Outcome::Ok | Outcome::GuestError | Outcome::ClientGone | Outcome::Refused => {
                (StatusCode::BAD_GATEWAY, "guest-error")
            }
        };
        let refusal = Refusal::new(status, code, ended.detail.clone());
        if ended.outcome == Outcome::HostMemory { refusal.retry_after(1) } else { refusal }
    }
}

impl Refusal {
    /// The answer as `application/problem+json` (RFC 9457).
    pub fn into_response(self) -> Response<Body> {
        let problem = serde_json::json!({
            "type": format!("urn:vesta:problem:{}", self.code),
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(full(problem.to_string().into()));
        response.extensions_mut().insert(Reason { code: self.code.into(), function: None });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A body that is there as a whole.
pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failure_of_a_model_has_a_status_of_its_own() {
        for (outcome, status, code) in [
            (Outcome::ModelMemory, StatusCode::BAD_GATEWAY, "model-memory"),
            (Outcome::InferenceLimit, StatusCode::GATEWAY_TIMEOUT, "inference-limit"),
            (Outcome::ModelCrashed, StatusCode::BAD_GATEWAY, "model-crashed"),
        ] {
            let refusal = Refusal::from(&Ended { outcome, detail: "why".into() });
            assert_eq!((refusal.status, refusal.code, refusal.detail.as_str()), (status, code, "why"));
        }
    }
}
