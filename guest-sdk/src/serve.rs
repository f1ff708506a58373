//! From the host's call to the handler, and back: what `#[handler]` expands to calls.

use std::io::{self, Write};

use http::StatusCode;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

use crate::body::send;
use crate::response::{Content, WriteBody};
use crate::{BodyWriter, Error, Request, Response, log};

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "a handler returns `Result<Response, vesta_sdk::Error>`, not `{Self}`",
    label = "this return type",
    note = "`Response` alone is fine too, and so is any error type that `vesta_sdk::Error` can be made from"
)]
pub trait Outcome {
    #[doc(hidden)]
    fn into_result(self) -> Result<Response, Error>;
}

impl Outcome for Response {
    fn into_result(self) -> Result<Response, Error> {
        Ok(self)
    }
}

impl<E: Into<Error>> Outcome for Result<Response, E> {
    fn into_result(self) -> Result<Response, Error> {
        self.map_err(Into::into)
    }
}

/// Answers one request with an `fn`.
pub fn serve<O: Outcome>(
    request: IncomingRequest,
    out: ResponseOutparam,
    handler: impl FnOnce(Request) -> O,
) {
    log::panics_as_lines();
    respond(handler(Request::incoming(request)).into_result(), out);
    end_of_output();
}

/// What was printed without the end of a line belongs to this request, and not to the next one of a reused
/// instance.
fn end_of_output() {
    // An error means that nobody takes it.
    let _ = io::stdout().flush();
}

/// Answers one request with an `async fn`.
pub fn serve_async<F: Future<Output: Outcome>>(
    request: IncomingRequest,
    out: ResponseOutparam,
    handler: impl FnOnce(Request) -> F,
) {
    log::panics_as_lines();
    respond(crate::executor::block_on(handler(Request::incoming(request))).into_result(), out);
    end_of_output();
}

fn respond(result: Result<Response, Error>, out: ResponseOutparam) {
    let mut response = result.unwrap_or_else(|error| {
        if let Some(causes) = error.causes() {
            log::error!("{causes}", status = error.status().as_u16());
        }
        error.to_response()
    });
    let headers = Fields::from_list(&response.take_headers()).unwrap_or_else(|error| {
        log::error!("a response header is not allowed: {error}");
        response = Response::empty(StatusCode::INTERNAL_SERVER_ERROR);
        Fields::new()
    });
    let outgoing = OutgoingResponse::new(headers);
    if response.status() != StatusCode::OK && outgoing.set_status_code(response.status().as_u16()).is_err() {
        return ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("status out of range".into()))));
    }
    match response.content {
        Content::Whole(bytes) if bytes.is_empty() => ResponseOutparam::set(out, Ok(outgoing)),
        Content::Whole(bytes) => {
            let body = outgoing.body().expect("a new response's body is there to take");
            ResponseOutparam::set(out, Ok(outgoing));
            // Whether the client is still there to read it is the host's business.
            let _ = send_whole(body, &bytes);
        }
        Content::Stream(write) => {
            let body = outgoing.body().expect("a new response's body is there to take");
            ResponseOutparam::set(out, Ok(outgoing));
            if let Err(error) = send_stream(body, write) {
                let why = error.causes().unwrap_or_else(|| error.detail().to_string());
                log::error!("the response's body was cut off: {why}");
            }
        }
    }
}

fn send_whole(body: OutgoingBody, bytes: &[u8]) -> io::Result<()> {
    let stream = body.write().expect("a new body's stream is there to take");
    send(&stream, bytes)?;
    drop(stream);
    OutgoingBody::finish(body, None).map_err(io::Error::other)
}

/// A body that is dropped before it is finished reaches the client as one that was cut off.
fn send_stream(body: OutgoingBody, write: WriteBody) -> Result<(), Error> {
    let mut writer = BodyWriter::new(body.write().expect("a new body's stream is there to take"));
    write(&mut writer)?;
    writer.send_buffer()?;
    drop(writer);
    Ok(OutgoingBody::finish(body, None)?)
}
