use std::cell::OnceCell;
use std::time::{Duration, Instant};

use http::Method;
use serde::Deserialize;
use wasip2::http::types::{Fields, IncomingRequest, Method as WasiMethod};

use crate::{BodyReader, Error};

/// What the client sent.
///
/// Nothing is fetched from the host before it is asked for, and nothing twice: a function that reads only the
/// path pays only for the path.
///
/// ```
/// # use vesta_sdk::{Request, Response, Error};
/// fn handle(req: Request) -> Result<Response, Error> {
///     let name = req.query("name").unwrap_or("world".into());
///     Ok(Response::text(format!("Hello, {name}!")))
/// }
/// ```
pub struct Request {
    // The headers are a child of the request at the host, and must be dropped before it.
    headers: OnceCell<Fields>,
    source: Source,
    method: OnceCell<Method>,
    target: OnceCell<String>,
    body: OnceCell<Vec<u8>>,
    deadline: OnceCell<Option<Instant>>,
}

enum Source {
    Host(IncomingRequest),
    /// Made by a test.
    Given(Vec<(String, String)>),
}

impl Request {
    pub(crate) fn incoming(request: IncomingRequest) -> Request {
        Request::from_source(Source::Host(request))
    }

    fn from_source(source: Source) -> Request {
        Request {
            headers: OnceCell::new(),
            source,
            method: OnceCell::new(),
            target: OnceCell::new(),
            body: OnceCell::new(),
            deadline: OnceCell::new(),
        }
    }

    /// A request that no client sent, to test a handler with plain `cargo test`.
    ///
    /// ```
    /// use vesta_sdk::{Method, Request};
    ///
    /// let req = Request::for_test(Method::POST, "/echo?loud=1", &[("x-kind", "demo")], "{}");
    /// assert_eq!(req.path(), "/echo");
    /// assert_eq!(req.query("loud").as_deref(), Some("1"));
    /// assert_eq!(req.header("X-Kind").as_deref(), Some("demo"));
    /// ```
    pub fn for_test(
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Request {
        let headers = headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()));
        Request {
            method: method.into(),
            target: target.to_string().into(),
            body: body.into().into(),
            ..Request::from_source(Source::Given(headers.collect()))
        }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        self.method.get_or_init(|| match &self.source {
            Source::Host(request) => method(request.method()),
            Source::Given(_) => Method::GET,
        })
    }

    /// The path below the function, from its first `/`, percent-encoded as it was sent.
    pub fn path(&self) -> &str {
        self.split_target().0
    }

    /// Everything after the `?`, as it was sent; empty if there is none.
    pub fn query_string(&self) -> &str {
        self.split_target().1
    }

    /// The first value of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// All query parameters in order, decoded (`+` and `%20` are spaces).
    pub fn query_pairs(&self) -> impl Iterator<Item = (String, String)> {
        form_urlencoded::parse(self.query_string().as_bytes()).into_owned()
    }

    fn split_target(&self) -> (&str, &str) {
        let target = self.target.get_or_init(|| match &self.source {
            Source::Host(request) => request.path_with_query().unwrap_or_else(|| "/".to_string()),
            Source::Given(_) => "/".to_string(),
        });
        target.split_once('?').unwrap_or((target, ""))
    }

    /// The first header of that name (in any case), if it is there and is UTF-8.
    pub fn header(&self, name: &str) -> Option<String> {
        match &self.source {
            Source::Host(_) => {
                let first = self.fields()?.get(name).into_iter().next()?;
                String::from_utf8(first).ok()
            }
            Source::Given(headers) => {
                headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
            }
        }
    }

    /// All headers, names in lower case.
    pub fn headers(&self) -> Vec<(String, Vec<u8>)> {
        match &self.source {
            Source::Host(_) => self.fields().map(Fields::entries).unwrap_or_default(),
            Source::Given(headers) => {
                headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect()
            }
        }
    }

    fn fields(&self) -> Option<&Fields> {
        match &self.source {
            Source::Host(request) => Some(self.headers.get_or_init(|| request.headers())),
            Source::Given(_) => None,
        }
    }

    /// The whole body. It is read on the first call and kept.
    ///
    /// # Errors
    /// 413 if the body is over the host's limit; 400 if it broke off, or if [`Request::reader`] has it.
    pub fn body(&self) -> Result<&[u8], Error> {
        if let Some(body) = self.body.get() {
            return Ok(body);
        }
        let body = self.reader()?.read_all()?;
        Ok(self.body.get_or_init(|| body))
    }

    /// The body piece by piece, as it arrives: for bodies too large to hold. It can be taken once, and not
    /// after [`Request::body`].
    ///
    /// # Errors
    /// 500 if the body was taken before.
    pub fn reader(&self) -> Result<BodyReader, Error> {
        let taken = || Error::internal("the request's body was taken before");
        match &self.source {
            Source::Host(request) if self.body.get().is_none() => {
                BodyReader::new(request.consume().map_err(|()| taken())?)
            }
            Source::Host(_) => Err(taken()),
            Source::Given(_) => Ok(BodyReader::given(self.body.get().cloned().unwrap_or_default())),
        }
    }

    /// The body as text.
    ///
    /// # Errors
    /// 400 if it is not UTF-8; else as [`Request::body`].
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(self.body()?).map_err(|error| {
            Error::bad_request(format!("the body is not UTF-8 from byte {}", error.valid_up_to()))
        })
    }

    /// The body as JSON, into any type of serde's; the type may borrow its strings from the body.
    ///
    /// # Errors
    /// 400 that names the field and the place: `pixels[3]: invalid type: string "x", expected f32 at line 1
    /// column 19`. Else as [`Request::body`].
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        crate::json::parse(self.body()?)
    }

    /// When the host will stop this invocation. Without such a limit: none.
    ///
    /// The host says how much time was left when the function was called; the first call of this method adds
    /// that to the present time. So call it before the long work.
    pub fn deadline(&self) -> Option<Instant> {
        *self.deadline.get_or_init(|| {
            let left_ms: u64 = self.header("vesta-deadline-ms")?.parse().ok()?;
            Instant::now().checked_add(Duration::from_millis(left_ms))
        })
    }

    /// The invocation's id, by which the host's logs and usage records name it. None under a host other than
    /// Vesta.
    pub fn invocation_id(&self) -> Option<String> {
        self.header("vesta-invocation-id")
    }

    /// The name under which the function is deployed. None under a host other than Vesta.
    pub fn function(&self) -> Option<String> {
        self.header("vesta-function")
    }

    /// The version that is running, such as `3`. None under a host other than Vesta.
    pub fn version(&self) -> Option<String> {
        self.header("vesta-version")
    }
}

fn method(method: WasiMethod) -> Method {
    match method {
        WasiMethod::Get => Method::GET,
        WasiMethod::Head => Method::HEAD,
        WasiMethod::Post => Method::POST,
        WasiMethod::Put => Method::PUT,
        WasiMethod::Delete => Method::DELETE,
        WasiMethod::Connect => Method::CONNECT,
        WasiMethod::Options => Method::OPTIONS,
        WasiMethod::Trace => Method::TRACE,
        WasiMethod::Patch => Method::PATCH,
        // The host has checked it as a token of HTTP, which is all that `http` asks for.
        WasiMethod::Other(name) => Method::from_bytes(name.as_bytes()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Request {
        Request::for_test(Method::GET, target, &[("vesta-deadline-ms", "1500"), ("vesta-version", "3")], "")
    }

    #[test]
    fn a_target_splits_at_its_first_question_mark() {
        let req = get("/a%20b/c?x=1?2");
        assert_eq!((req.path(), req.query_string()), ("/a%20b/c", "x=1?2"));
        assert_eq!((get("/").path(), get("/").query_string()), ("/", ""));
    }

    #[test]
    fn query_parameters_are_decoded() {
        let req = get("/?name=J%C3%BCrgen+K&empty=&flag&name=second&bad=%zz");
        assert_eq!(req.query("name").as_deref(), Some("Jürgen K"));
        assert_eq!(req.query("empty").as_deref(), Some(""));
        assert_eq!(req.query("flag").as_deref(), Some(""));
        assert_eq!(req.query("bad").as_deref(), Some("%zz"));
        assert_eq!(req.query("missing"), None);
        assert_eq!(req.query_pairs().count(), 5);
    }

    #[test]
    fn the_deadline_lies_ahead_by_what_the_host_said() {
        let left = get("/").deadline().unwrap() - Instant::now();
        assert!(left <= Duration::from_millis(1500) && left > Duration::from_millis(1000));
        assert_eq!(
            Request::for_test(Method::GET, "/", &[("vesta-deadline-ms", "soon")], "").deadline(),
            None
        );
        assert_eq!(get("/").version().as_deref(), Some("3"));
    }

    #[test]
    fn text_that_is_not_utf8_is_the_clients_mistake() {
        let req = Request::for_test(Method::POST, "/", &[], b"ab\xff".to_vec());
        assert_eq!(req.text().unwrap_err().detail(), "the body is not UTF-8 from byte 2");
    }
}
