//! A client of the control API and of the data plane that hides nothing: statuses are answers, not errors.

use serde_json::Value;
use std::time::Duration;

/// One base address and one key.
#[derive(Clone)]
pub struct Api {
    base: String,
    key: Option<String>,
    agent: ureq::Agent,
}

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Api {
    pub fn new(base: &str, key: Option<&str>) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(Duration::from_secs(120)))
            .build();
        Self { base: base.trim_end_matches('/').into(), key: key.map(Into::into), agent: config.into() }
    }

    /// The same address with another key.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// The same address without a key.
    pub fn without_key(&self) -> Self {
        Self { key: None, ..self.clone() }
    }

    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }
    pub fn post_json(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }
    pub fn put_json(&self, path: &str, body: &Value) -> Reply {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }
    pub fn put(&self, path: &str, body: &[u8]) -> Reply {
        self.send("PUT", path, &[("content-type", "application/octet-stream")], body)
    }
    pub fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.send("POST", path, &[("content-type", "application/octet-stream")], body)
    }

    /// Sends one request. A broken connection is a panic with the reason; see [`Api::try_send`].
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_send(method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: no whole response: {e}"))
    }

    /// Sends one request; an error where no whole response came.
    pub fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, ureq::Error> {
        let mut request = http::Request::builder().method(method).uri(self.url(path));
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let bodiless = body.is_empty() && matches!(method, "GET" | "HEAD" | "DELETE");
        let response = if bodiless {
            self.agent.run(request.body(()).expect("a valid request"))?
        } else {
            self.agent.run(request.body(body).expect("a valid request"))?
        };
        let (parts, mut body) = response.into_parts();
        let body = body.with_config().limit(1 << 30).read_to_vec()?;
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("status {}: not JSON ({e}): {}", self.status, self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Panics with the whole answer unless the status is the expected one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "unexpected status; {:?} {}", self.headers, self.text());
        self
    }

    /// Panics unless this is a problem of RFC 9457 with the expected status and the code at the end of its
    /// type.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let this = self.expect(status);
        assert_eq!(this.header("content-type"), Some("application/problem+json"), "{}", this.text());
        let json = this.json();
        assert_eq!(json["type"], format!("urn:vesta:problem:{code}"), "{json}");
        assert_eq!(json["status"], status, "{json}");
        assert!(json["title"].as_str().is_some_and(|t| !t.is_empty()), "{json}");
        this
    }

    /// The `detail` of a problem; empty where there is none.
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap_or_default().to_string()
    }

    pub fn invocation(&self) -> String {
        self.header("vesta-invocation-id").expect("Vesta-Invocation-Id").to_string()
    }

    /// `Vesta-Billed-CPU-Us`.
    pub fn billed_cpu_us(&self) -> u64 {
        let text = self.header("vesta-billed-cpu-us").expect("Vesta-Billed-CPU-Us");
        text.parse().expect("Vesta-Billed-CPU-Us is a whole number")
    }

    /// `Vesta-Cost` in 10^-18 units of currency.
    pub fn cost(&self) -> i128 {
        attos(self.header("vesta-cost").expect("Vesta-Cost"))
    }

    /// A phase of `Server-Timing` in milliseconds, if it is there.
    pub fn timing(&self, phase: &str) -> Option<f64> {
        timing(self.header("server-timing")?, phase)
    }
}

/// A phase in the value of `Server-Timing`, in milliseconds.
pub fn timing(header: &str, phase: &str) -> Option<f64> {
    header.split(',').find_map(|part| {
        let mut fields = part.trim().split(';');
        let same = fields.next()?.trim() == phase;
        let duration = fields.find_map(|f| f.trim().strip_prefix("dur="))?.parse().ok();
        if same { duration } else { None }
    })
}

/// A decimal with 18 places, as an integer of 10^-18.
pub fn attos(text: &str) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= 18, "{text:?} has more than 18 decimal places");
    format!("{whole}{fraction:0<18}").parse().unwrap_or_else(|_| panic!("{text:?} is not a decimal"))
}
