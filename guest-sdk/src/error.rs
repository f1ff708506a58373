use std::error::Error as StdError;

use http::StatusCode;
use serde::Serialize;

use crate::{ModelError, Response, TensorError};

/// Why a request could not be answered: a status, and words for the client.
///
/// The client receives it as `application/problem+json` (RFC 9457). `?` turns any [`std::error::Error`] into
/// a 500: the cause is logged at level `error`, and the client is told nothing of it.
///
/// Two errors become a 400 that shows the client the expected and the given shape or type: a
/// [`TensorError`], and
/// a [`ModelErrorKind::InvalidInput`]. If the client did not send the values, use [`Error::internal`].
///
/// [`TensorError`]: crate::TensorError
/// [`ModelErrorKind::InvalidInput`]: crate::ModelErrorKind::InvalidInput
///
/// ```
/// use vesta_sdk::Error;
///
/// let error = Error::bad_request("must be 0..=16, got 99").with_field("pixels[3]");
/// assert_eq!(error.status(), 400);
/// ```
#[derive(Debug)]
pub struct Error {
    status: StatusCode,
    detail: String,
    field: Option<String>,
    cause: Option<Box<dyn StdError>>,
}

impl Error {
    /// An error of any status. For statuses of 500 and above the detail is shown to the client too; use
    /// [`Error::internal`] for what only the log should say.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Error {
        Error { status, detail: detail.into(), field: None, cause: None }
    }

    /// 400: the request is malformed.
    pub fn bad_request(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 401: the client has to say who it is.
    pub fn unauthorized(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// 403: the client may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404: there is nothing here.
    pub fn not_found(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405: this path is not for this method.
    pub fn method_not_allowed(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// 413: the request is larger than the function accepts.
    pub fn payload_too_large(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 422: well-formed, and still not something the function can work on.
    pub fn unprocessable(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 500: the function's own fault. The detail goes to the log; the client reads only that it failed.
    pub fn internal(detail: impl Into<String>) -> Error {
        let detail: String = detail.into();
        Error { cause: Some(detail.into()), ..Error::hidden(StatusCode::INTERNAL_SERVER_ERROR) }
    }

    /// 503: try again later.
    pub fn unavailable(detail: impl Into<String>) -> Error {
        Error::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// Names the part of the request that is wrong, such as `pixels[3]`; the client sees it as `field`.
    pub fn with_field(mut self, field: impl Into<String>) -> Error {
        self.field = Some(field.into());
        self
    }

    /// The status that the client will see.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The words that the client will see.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The part of the request that is wrong, if one was named.
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// What the client must not see: the error that `?` converted, or the detail of [`Error::internal`].
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref()
    }

    fn hidden(status: StatusCode) -> Error {
        Error::new(status, "the function failed; its log says why")
    }

    /// The response that the client gets.
    pub(crate) fn to_response(&self) -> Response {
        #[derive(Serialize)]
        struct Problem<'a> {
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            field: Option<&'a str>,
        }
        let problem = Problem {
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            field: self.field(),
        };
        let body = serde_json::to_vec(&problem).expect("strings and a number are always JSON");
        Response::bytes(body).with_status(self.status).with_header("content-type", "application/problem+json")
    }

    /// The cause and the causes of the cause, in one line for the log.
    pub(crate) fn causes(&self) -> Option<String> {
        let mut cause = self.cause()?;
        let mut line = cause.to_string();
        while let Some(deeper) = cause.source() {
            line.push_str(": ");
            line.push_str(&deeper.to_string());
            cause = deeper;
        }
        Some(line)
    }
}

/// Makes `?` work on every error of the standard library's kind. (That is why [`Error`] itself is not one.)
impl<E: StdError + 'static> From<E> for Error {
    fn from(cause: E) -> Error {
        let any: &(dyn StdError + 'static) = &cause;
        let status = match (any.downcast_ref::<ModelError>(), any.is::<TensorError>()) {
            (Some(error), _) => error.status(),
            (None, true) => StatusCode::BAD_REQUEST,
            (None, false) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::BAD_REQUEST {
            return Error::new(status, cause.to_string());
        }
        Error { cause: Some(Box::new(cause)), ..Error::hidden(status) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_status_detail_and_field() {
        let response = Error::bad_request("must be \"0..=16\"").with_field("pixels[3]").to_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        assert_eq!(
            response.body().unwrap(),
            br#"{"title":"Bad Request","status":400,"detail":"must be \"0..=16\"","field":"pixels[3]"}"#
        );
    }

    #[test]
    fn a_converted_error_keeps_its_secret_from_the_client() {
        let error: Error = "x".parse::<u8>().map_err(Error::from).unwrap_err();
        assert_eq!(error.status(), 500);
        assert_eq!(error.causes().unwrap(), "invalid digit found in string");
        let body = error.to_response();
        assert!(!String::from_utf8_lossy(body.body().unwrap()).contains("digit"));
    }

    #[test]
    fn numbers_that_make_no_tensor_are_a_400_that_says_why() {
        let error = crate::Tensor::new([2, 2], vec![0u8; 3]).map_err(Error::from).unwrap_err();
        assert_eq!((error.status().as_u16(), error.detail()), (400, "shape [2, 2] takes 4 elements, got 3"));
        assert!(error.cause().is_none());
    }

    #[test]
    fn internal_details_are_for_the_log_only() {
        let error = Error::internal("secret");
        assert_eq!(error.causes().unwrap(), "secret");
        assert!(!error.detail().contains("secret"));
    }
}
