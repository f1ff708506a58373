use std::fmt;

use http::StatusCode;
use serde::Serialize;

use crate::{BodyWriter, Error};

/// What the client gets back.
///
/// Every constructor makes a 200 with a fitting `content-type`; [`Response::with_status`] and
/// [`Response::with_header`] change that. Whole bodies carry a `content-length`, streamed ones do not.
///
/// ```
/// use vesta_sdk::{Response, StatusCode};
///
/// let made = Response::text("made").with_status(StatusCode::CREATED).with_header("location", "/things/7");
/// assert_eq!(made.status(), 201);
/// ```
pub struct Response {
    status: StatusCode,
    headers: Vec<(String, Vec<u8>)>,
    pub(crate) content: Content,
}

pub(crate) enum Content {
    Whole(Vec<u8>),
    Stream(WriteBody),
}

pub(crate) type WriteBody = Box<dyn FnOnce(&mut BodyWriter) -> Result<(), Error>>;

impl Response {
    /// JSON, by serde.
    ///
    /// # Errors
    /// A 500 if the value has no JSON form: a map with keys that are not strings, or a failing `Serialize`.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Response, Error> {
        Ok(Response::with_type("application/json", Content::Whole(serde_json::to_vec(value)?)))
    }

    /// Plain text, UTF-8.
    pub fn text(text: impl Into<String>) -> Response {
        Response::with_type("text/plain; charset=utf-8", Content::Whole(text.into().into_bytes()))
    }

    /// Any bytes, as `application/octet-stream` unless a header says otherwise.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Response {
        Response::with_type("application/octet-stream", Content::Whole(bytes.into()))
    }

    /// A status without a body.
    pub fn empty(status: StatusCode) -> Response {
        Response { status, headers: Vec::new(), content: Content::Whole(Vec::new()) }
    }

    /// A body that is written piece by piece, after status and headers have been sent. Give it a
    /// `content-type`.
    ///
    /// ```
    /// # use vesta_sdk::Response;
    /// let countdown = Response::stream(|body| {
    ///     for n in (0..3).rev() {
    ///         body.write(format!("{n}\n"))?;
    ///         body.flush()?; // the client may have this line now
    ///     }
    ///     Ok(())
    /// })
    /// .with_header("content-type", "text/plain");
    /// ```
    ///
    /// An error ends the body early; the client sees it cut off, and the log says why.
    pub fn stream(write: impl FnOnce(&mut BodyWriter) -> Result<(), Error> + 'static) -> Response {
        Response::with_type("application/octet-stream", Content::Stream(Box::new(write)))
    }

    fn with_type(content_type: &str, content: Content) -> Response {
        let headers = vec![("content-type".to_string(), content_type.as_bytes().to_vec())];
        Response { status: StatusCode::OK, headers, content }
    }

    /// Changes the status.
    pub fn with_status(mut self, status: StatusCode) -> Response {
        self.status = status;
        self
    }

    /// Sets a header, in place of all of that name (whatever their case). A name or value that HTTP does not
    /// allow makes the response a 500.
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Response {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.and_header(name, value)
    }

    /// Adds a header beside those of the same name, as `set-cookie` needs it.
    pub fn and_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Response {
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The first header of that name, if it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// The body; none if it is a stream.
    pub fn body(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes),
            Content::Stream(_) => None,
        }
    }

    /// The headers as they are sent: for a whole body with its length, for which there is one source only.
    pub(crate) fn take_headers(&mut self) -> Vec<(String, Vec<u8>)> {
        let mut headers = std::mem::take(&mut self.headers);
        if let Content::Whole(bytes) = &self.content {
            headers.retain(|(name, _)| name != "content-length");
            let has_no_body = self.status.is_informational() || matches!(self.status.as_u16(), 204 | 304);
            if !has_no_body {
                headers.push(("content-length".to_string(), bytes.len().to_string().into_bytes()));
            }
        }
        headers
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body().map_or("stream".to_string(), |bytes| format!("{} bytes", bytes.len()));
        f.debug_struct("Response").field("status", &self.status).field("body", &body).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_body_has_its_length_and_no_other() {
        let mut response = Response::text("four").with_header("Content-Length", "99");
        let lengths: Vec<_> =
            response.take_headers().into_iter().filter(|(n, _)| n == "content-length").collect();
        assert_eq!(lengths, [("content-length".to_string(), b"4".to_vec())]);
    }

    #[test]
    fn streams_and_bodiless_statuses_have_no_length() {
        for mut response in [Response::stream(|_| Ok(())), Response::empty(StatusCode::NO_CONTENT)] {
            assert!(response.take_headers().iter().all(|(name, _)| name != "content-length"));
        }
    }

    #[test]
    fn with_header_replaces_and_and_header_adds() {
        let response = Response::text("").with_header("Content-Type", "text/html");
        assert_eq!(response.header("content-type"), Some("text/html"));
        let mut cookies = response.and_header("set-cookie", "a=1").and_header("set-cookie", "b=2");
        assert_eq!(cookies.take_headers().iter().filter(|(name, _)| name == "set-cookie").count(), 2);
    }

    #[test]
    fn json_without_a_form_is_an_error() {
        let map = std::collections::HashMap::from([((1, 2), 3)]);
        assert_eq!(Response::json(&map).unwrap_err().status(), 500);
    }
}
