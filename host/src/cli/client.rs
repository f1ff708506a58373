//! The HTTP client of the commands: JSON both ways, and errors that say what to do.

use super::config::{Connection, Settings};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body, SendBody};

/// Most bytes of a JSON answer that are read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Uploads from this size on wait for the host's word before they send, so that a refusal costs nothing.
const EXPECT_FROM_BYTES: u64 = 1 << 20;
/// Where a host takes invocations unless it is told otherwise.
pub const INVOKE_URL: &str = "http://127.0.0.1:7070";
/// Longer than any invocation may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1_000);

/// An error that the API answered, in the terms of RFC 9457.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub struct ApiError {
    pub status: u16,
    pub problem: Problem,
    /// What the user can do about it.
    pub hint: Option<&'static str>,
}

/// A problem document; every part may be absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    pub r#type: String,
    pub title: String,
    pub status: Option<u16>,
    pub detail: Option<String>,
    pub field: Option<String>,
}

impl Problem {
    /// Whether it is the platform's and not a guest's.
    pub fn is_ours(&self) -> bool {
        self.r#type.starts_with("urn:vesta:problem:")
    }
}

impl ApiError {
    fn text(&self) -> String {
        let problem = &self.problem;
        let mut text = match (&problem.detail, problem.title.as_str()) {
            (Some(detail), _) if !detail.is_empty() => detail.clone(),
            (_, "") => format!("the host answered with status {} and no explanation", self.status),
            (_, title) => title.to_string(),
        };
        if let Some(field) = problem.field.as_ref().filter(|f| !text.contains(f.as_str())) {
            text = format!("{field}: {text}");
        }
        if let Some(hint) = self.hint {
            text = format!("{text}; {hint}");
        }
        super::output::printable(&text)
    }
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach {url}: {reason}; is `vesta serve` running there?")]
pub struct Unreachable {
    url: String,
    reason: String,
}

/// A client of one host.
pub struct Client {
    agent: Agent,
    pub settings: Settings,
}

/// A request's body.
pub enum Payload<'a> {
    None,
    Json(&'a Value),
    Bytes(Vec<u8>),
    /// A stream of known size, in bytes.
    Stream(&'a mut dyn Read, u64),
}

/// Who the key belongs to.
#[derive(Debug, Clone, Deserialize)]
pub struct WhoAmI {
    pub role: String,
    pub tenant: Option<String>,
    /// Where invocations go, where the host says so.
    #[serde(default)]
    pub invoke_url: Option<String>,
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .user_agent(concat!("vesta/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), settings }
    }

    pub fn of(connection: &Connection) -> anyhow::Result<Self> {
        Ok(Self::new(connection.settings()?))
    }

    pub fn whoami(&self) -> anyhow::Result<WhoAmI> {
        super::api::read(self.get("/whoami")?)
    }

    /// The URL under which the functions lie of the tenant that commands act on: the one that was named, the
    /// key's own, or `default`.
    pub fn functions_url(&self) -> anyhow::Result<String> {
        let settings = &self.settings;
        let named = settings.tenant.as_ref().map(|t| t.to_string());
        let (invoke_url, tenant) = match (&settings.invoke_url, named, &settings.key) {
            (Some(url), Some(tenant), _) => (Some(url.clone()), Some(tenant)),
            // A public function needs no key.
            (url, tenant, None) => (url.clone(), tenant),
            (url, tenant, Some(_)) => {
                let who = self.whoami()?;
                (url.clone().or(who.invoke_url), tenant.or(who.tenant))
            }
        };
        let invoke_url = super::config::checked_url(invoke_url.as_deref().unwrap_or(INVOKE_URL))?;
        Ok(format!("{invoke_url}/fn/{}", tenant.as_deref().unwrap_or("default")))
    }

    /// Paths of the API begin after `/api/v1`.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.api(Method::GET, path, Payload::None)
    }

    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.api(Method::DELETE, path, Payload::None)
    }

    /// Sends a request to the API and reads its JSON answer; null where it has none.
    pub fn api(&self, method: Method, path: &str, payload: Payload<'_>) -> anyhow::Result<Value> {
        let mut response = self.api_response(method, path, payload)?;
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|e| self.unreachable(&self.settings.url, &e))?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(|_| {
            anyhow::anyhow!("{} answered something else than JSON; is it Vesta?", self.settings.url)
        })
    }

    /// The same with the answer's body unread.
    pub fn api_response(
        &self,
        method: Method,
        path: &str,
        payload: Payload<'_>,
    ) -> anyhow::Result<Response<Body>> {
        let mut url = format!("{}/api/v1{path}", self.settings.url);
        if let Some(tenant) = &self.settings.tenant {
            url.push_str(if path.contains('?') { "&tenant=" } else { "?tenant=" });
            url.push_str(tenant.as_str());
        }
        let response = self.send(method, &url, &[], payload)?;
        match response.status().as_u16() {
            200..=299 => Ok(response),
            _ => Err(self.api_error(response).into()),
        }
    }

    /// Sends any request, with the key; answers of every status are returned.
    pub fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(String, String)],
        payload: Payload<'_>,
    ) -> anyhow::Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(key) = &self.settings.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let answer = match payload {
            Payload::None => self.agent.run(request.body(())?),
            Payload::Json(value) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(serde_json::to_vec(value)?)?)
            }
            Payload::Bytes(bytes) => self.agent.run(request.body(bytes)?),
            Payload::Stream(reader, size) => {
                request = request.header("content-type", "application/octet-stream");
                request = request.header("content-length", size);
                if size >= EXPECT_FROM_BYTES {
                    request = request.header("expect", "100-continue");
                }
                self.agent.run(request.body(SendBody::from_reader(reader))?)
            }
        };
        answer.map_err(|e| self.unreachable(url, &e))
    }

    /// The error of an answer that is not a success.
    pub fn api_error(&self, mut response: Response<Body>) -> ApiError {
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(1 << 20).read_to_string().unwrap_or_default();
        let problem = serde_json::from_str(&text).unwrap_or_default();
        let hint = match (status, &self.settings.key) {
            (401, None) => Some("no key is set: run `vesta login`, or set VESTA_KEY"),
            _ => None,
        };
        ApiError { status, problem, hint }
    }

    fn unreachable(&self, url: &str, error: &ureq::Error) -> anyhow::Error {
        let reason = match error {
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                "the connection was refused".to_string()
            }
            ureq::Error::Io(e) => e.to_string(),
            ureq::Error::HostNotFound => "no such host".to_string(),
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => return anyhow::anyhow!("{url}: {error}"),
            other => other.to_string(),
        };
        let authority = url.split('/').take(3).collect::<Vec<_>>().join("/");
        Unreachable { url: authority, reason }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str) -> ApiError {
        ApiError { status, problem: serde_json::from_str(body).unwrap_or_default(), hint: None }
    }

    #[test]
    fn a_problem_is_told_with_its_field() {
        let e = error(422, r#"{"title":"Limit","detail":"must be at most 5","field":"limits.cpu_ms"}"#);
        assert_eq!(e.to_string(), "limits.cpu_ms: must be at most 5");
        let e = error(422, r#"{"title":"Limit","detail":"limits.cpu_ms is bad","field":"limits.cpu_ms"}"#);
        assert_eq!(e.to_string(), "limits.cpu_ms is bad");
        assert_eq!(error(404, r#"{"title":"No such function"}"#).to_string(), "No such function");
        let e = error(502, "<html>");
        assert_eq!(e.to_string(), "the host answered with status 502 and no explanation");
    }
}
