//! Requests that the function itself makes, to the hosts that `outbound.hosts` in `vesta.toml` names.
//!
//! ```no_run
//! # fn example() -> Result<(), vesta_sdk::Error> {
//! use vesta_sdk::http;
//!
//! let answer = http::send(http::get("https://api.example.com/rates?base=CHF"))?;
//! let rates: serde_json::Value = answer.json()?;
//!
//! let order = serde_json::json!({ "count": 3 });
//! http::send(http::post("https://api.example.com/orders").with_json(&order)?)?;
//! # Ok(()) }
//! ```
//!
//! In an `async` handler, [`send_async`] lets several requests wait side by side.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri};
use serde::{Deserialize, Serialize};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, Method as WasiMethod, OutgoingBody,
    OutgoingRequest, RequestOptions, Scheme,
};

use crate::{BodyReader, Error};

/// A request to another server.
#[derive(Debug, Clone)]
pub struct ClientRequest {
    method: Method,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

/// Why there is no answer. `?` in a handler makes it a 500 whose cause is logged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The URL is not an absolute `http://` or `https://` one.
    #[error("\"{url}\" is not an absolute http or https URL")]
    Url {
        /// The URL given.
        url: String,
    },
    /// HTTP does not allow a header, or the host reserves it.
    #[error("a header of the request to {url} is not allowed: {reason}")]
    Header {
        /// The URL asked.
        url: String,
        /// The host's words.
        reason: String,
    },
    /// The host would not send it, or nobody answered. `vesta.toml` must name the server in `outbound.hosts`.
    #[error("no answer from {url}: {code:?}")]
    Failed {
        /// The URL asked.
        url: String,
        /// What `wasi:http` calls it.
        code: ErrorCode,
    },
}

/// A GET request.
pub fn get(url: impl Into<String>) -> ClientRequest {
    request(Method::GET, url)
}

/// A POST request.
pub fn post(url: impl Into<String>) -> ClientRequest {
    request(Method::POST, url)
}

/// A request of any method.
pub fn request(method: Method, url: impl Into<String>) -> ClientRequest {
    ClientRequest { method, url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
}

impl ClientRequest {
    /// Adds a header.
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> ClientRequest {
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// Sets the body.
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> ClientRequest {
        self.body = body.into();
        self
    }

    /// Sets the body to JSON, with its `content-type`.
    ///
    /// # Errors
    /// A 500 if the value has no JSON form.
    pub fn with_json<T: Serialize + ?Sized>(self, value: &T) -> Result<ClientRequest, Error> {
        Ok(self.with_header("content-type", "application/json").with_body(serde_json::to_vec(value)?))
    }

    /// The longest wait for a connection, and again for the first byte of the answer. Without one: the host's
    /// own.
    pub fn with_timeout(mut self, timeout: Duration) -> ClientRequest {
        self.timeout = Some(timeout);
        self
    }
}

/// Sends a request and waits for the answer's status and headers. A status of 400 or 500 is an answer too.
///
/// # Errors
/// See [`SendError`].
pub fn send(request: ClientRequest) -> Result<ClientResponse, SendError> {
    let (url, answer) = start(request)?;
    answer.subscribe().block();
    finish(url, &answer)
}

/// As [`send`], and lets the function's other futures run meanwhile.
///
/// # Errors
/// See [`SendError`].
pub async fn send_async(request: ClientRequest) -> Result<ClientResponse, SendError> {
    let (url, answer) = start(request)?;
    crate::executor::wait(answer.subscribe()).await;
    finish(url, &answer)
}

fn start(request: ClientRequest) -> Result<(String, FutureIncomingResponse), SendError> {
    let ClientRequest { method, url, mut headers, body, timeout } = request;
    let target = Target::parse(&url)?;
    let is_bare_get = method == Method::GET && body.is_empty();
    let has_length = headers.iter().any(|(name, _)| name == "content-length");
    if !is_bare_get && !has_length {
        headers.push(("content-length".to_string(), body.len().to_string().into_bytes()));
    }
    let fields = Fields::from_list(&headers)
        .map_err(|error| SendError::Header { url: url.clone(), reason: error.to_string() })?;
    let outgoing = OutgoingRequest::new(fields);
    let accepted = outgoing.set_method(&wasi_method(&method)).is_ok()
        && outgoing.set_scheme(Some(&target.scheme)).is_ok()
        && outgoing.set_authority(Some(&target.authority)).is_ok()
        && outgoing.set_path_with_query(Some(&target.path)).is_ok();
    if !accepted {
        return Err(SendError::Url { url });
    }
    let options = timeout.map(|timeout| {
        let options = RequestOptions::new();
        let ns = u64::try_from(timeout.as_nanos()).ok();
        // A host that can't keep such a timeout says so, and then its own limits hold.
        let _ = options.set_connect_timeout(ns);
        let _ = options.set_first_byte_timeout(ns);
        options
    });
    let failed = |code| SendError::Failed { url: url.clone(), code };
    let outgoing_body = outgoing.body().expect("a new request's body is there to take");
    let answer = outgoing_handler::handle(outgoing, options).map_err(failed)?;
    let stream = outgoing_body.write().expect("a new body's stream is there to take");
    // A server may answer before it has read everything: then its answer counts.
    if crate::body::send(&stream, &body).is_ok() {
        drop(stream);
        let _ = OutgoingBody::finish(outgoing_body, None);
    }
    Ok((url, answer))
}

fn finish(url: String, answer: &FutureIncomingResponse) -> Result<ClientResponse, SendError> {
    match answer.get() {
        Some(Ok(Ok(response))) => Ok(ClientResponse { response }),
        Some(Ok(Err(code))) => Err(SendError::Failed { url, code }),
        Some(Err(())) | None => Err(SendError::Failed { url, code: ErrorCode::InternalError(None) }),
    }
}

struct Target {
    scheme: Scheme,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Target, SendError> {
        let wrong = || SendError::Url { url: url.to_string() };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?.to_string();
        let path = match uri.path_and_query().map_or("", PathAndQuery::as_str) {
            path if path.starts_with('/') => path.to_string(),
            bare => format!("/{bare}"),
        };
        Ok(Target { scheme, authority, path })
    }
}

fn wasi_method(method: &Method) -> WasiMethod {
    match method.as_str() {
        "GET" => WasiMethod::Get,
        "HEAD" => WasiMethod::Head,
        "POST" => WasiMethod::Post,
        "PUT" => WasiMethod::Put,
        "DELETE" => WasiMethod::Delete,
        "CONNECT" => WasiMethod::Connect,
        "OPTIONS" => WasiMethod::Options,
        "TRACE" => WasiMethod::Trace,
        "PATCH" => WasiMethod::Patch,
        other => WasiMethod::Other(other.to_string()),
    }
}

/// What another server answered.
#[derive(Debug)]
pub struct ClientResponse {
    response: IncomingResponse,
}

impl ClientResponse {
    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.response.status()).unwrap_or(StatusCode::BAD_GATEWAY)
    }

    /// The first header of that name, if it is there and is UTF-8.
    pub fn header(&self, name: &str) -> Option<String> {
        String::from_utf8(self.response.headers().get(name).into_iter().next()?).ok()
    }

    /// The whole body.
    ///
    /// # Errors
    /// A 502 if it broke off.
    pub fn bytes(self) -> Result<Vec<u8>, Error> {
        self.reader()?.read_all().map_err(bad_gateway)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// A 502 that names the field if it is not what was expected.
    pub fn json<T: for<'a> Deserialize<'a>>(self) -> Result<T, Error> {
        crate::json::parse(&self.bytes()?).map_err(bad_gateway)
    }

    /// The body piece by piece.
    ///
    /// # Errors
    /// A 500 if the body was taken before.
    pub fn reader(self) -> Result<BodyReader, Error> {
        BodyReader::new(self.response.consume().map_err(|()| Error::internal("the body was taken before"))?)
    }
}

/// What would be the client's mistake in a request is the other server's in its answer.
fn bad_gateway(error: Error) -> Error {
    Error::new(
        StatusCode::BAD_GATEWAY,
        format!("an answer that the function needs is unusable: {}", error.detail()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_split() {
        let target = Target::parse("https://api.example.com:8443/a/b?c=d%20e").unwrap();
        assert!(matches!(target.scheme, Scheme::Https));
        assert_eq!(
            (target.authority.as_str(), target.path.as_str()),
            ("api.example.com:8443", "/a/b?c=d%20e")
        );
        assert_eq!(Target::parse("http://example.com").unwrap().path, "/");
        assert_eq!(Target::parse("http://example.com?x=1").unwrap().path, "/?x=1");
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "/path", "example.com/x", "ftp://example.com/", "https://", "https://a b/"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
