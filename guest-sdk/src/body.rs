//! Bodies piece by piece: [`BodyReader`] for what comes in, [`BodyWriter`] for what goes out.

use std::io;

use wasip2::http::types::{ErrorCode, IncomingBody, http_error_code};
use wasip2::io::streams::{Error as StreamFault, InputStream, OutputStream, StreamError};

use crate::Error;

/// The most bytes asked of the host at once. The host gives what it has, so this is a bound, not a buffer.
const CHUNK_LEN_MAX: u64 = 1 << 20;

/// A body as it arrives. It is an [`io::Read`] too.
pub struct BodyReader {
    source: Source,
    /// What was received, and not yet all handed on by [`io::Read`].
    rest: io::Cursor<Vec<u8>>,
}

enum Source {
    /// The stream is a child of the body at the host, and must be dropped before it.
    Host {
        stream: InputStream,
        _body: IncomingBody,
    },
    Given(Option<Vec<u8>>),
}

impl BodyReader {
    pub(crate) fn new(body: IncomingBody) -> Result<BodyReader, Error> {
        let stream = body.stream().map_err(|()| Error::internal("the body's stream was taken before"))?;
        Ok(BodyReader { source: Source::Host { stream, _body: body }, rest: io::Cursor::default() })
    }

    pub(crate) fn given(body: Vec<u8>) -> BodyReader {
        BodyReader { source: Source::Given(Some(body)), rest: io::Cursor::default() }
    }

    /// Waits for the next piece, of at most 1 MiB; none at the end.
    ///
    /// # Errors
    /// 413 if the body is over the host's limit, 400 if it broke off.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match &mut self.source {
            Source::Host { stream, .. } => received(stream.blocking_read(CHUNK_LEN_MAX)),
            Source::Given(body) => Ok(body.take().filter(|body| !body.is_empty())),
        }
    }

    /// As [`BodyReader::next_chunk`], and lets the function's other futures run meanwhile.
    ///
    /// # Errors
    /// As [`BodyReader::next_chunk`].
    pub async fn next_chunk_async(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match &mut self.source {
            Source::Host { stream, .. } => loop {
                match received(stream.read(CHUNK_LEN_MAX))? {
                    Some(chunk) if chunk.is_empty() => crate::executor::wait(stream.subscribe()).await,
                    chunk_or_end => return Ok(chunk_or_end),
                }
            },
            Source::Given(body) => Ok(body.take().filter(|body| !body.is_empty())),
        }
    }

    pub(crate) fn read_all(mut self) -> Result<Vec<u8>, Error> {
        // Most bodies are one chunk, which is then not copied.
        let mut body = self.next_chunk()?.unwrap_or_default();
        while let Some(chunk) = self.next_chunk()? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

impl io::Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.rest.read(buffer)?;
            if len > 0 || buffer.is_empty() {
                return Ok(len);
            }
            match self.next_chunk() {
                Ok(Some(chunk)) => self.rest = io::Cursor::new(chunk),
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::other(error.detail().to_string())),
            }
        }
    }
}

fn received(chunk: Result<Vec<u8>, StreamError>) -> Result<Option<Vec<u8>>, Error> {
    match chunk {
        Ok(chunk) => Ok(Some(chunk)),
        Err(StreamError::Closed) => Ok(None),
        Err(StreamError::LastOperationFailed(fault)) => Err(broken(&fault)),
    }
}

#[cold]
fn broken(fault: &StreamFault) -> Error {
    match http_error_code(fault) {
        Some(ErrorCode::HttpRequestBodySize(_)) => {
            Error::payload_too_large("the request's body is over the limit")
        }
        _ => Error::bad_request("the body broke off"),
    }
}

/// A body on its way out, given to the closure of [`Response::stream`](crate::Response::stream). It is an
/// [`io::Write`] too, for `write!` and serde.
///
/// Small writes are gathered: bytes are sent when 16 KiB have come together, at [`BodyWriter::flush`], and at
/// the end.
pub struct BodyWriter {
    stream: OutputStream,
    buffer: Vec<u8>,
}

const WRITE_BUFFER_LEN: usize = 16 << 10;

impl BodyWriter {
    pub(crate) fn new(stream: OutputStream) -> BodyWriter {
        BodyWriter { stream, buffer: Vec::new() }
    }

    /// Appends bytes or text. Waits while the client is slow to take what was sent before.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] if the client has gone, or the body is over the host's limit.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        if bytes.len() <= WRITE_BUFFER_LEN - self.buffer.len() {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.send_buffer()?;
        send(&self.stream, bytes)
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// As [`BodyWriter::write`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.send_buffer()?;
        self.stream.flush().map_err(|_| gone())
    }

    pub(crate) fn send_buffer(&mut self) -> io::Result<()> {
        let sent = send(&self.stream, &self.buffer);
        self.buffer.clear();
        sent
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BodyWriter::write(self, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        BodyWriter::flush(self)
    }
}

/// Writes all of `bytes`. The host says how much it takes at a time; a body within that costs two calls,
/// neither of which waits.
pub(crate) fn send(stream: &OutputStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let allowed = stream.check_write().map_err(|_| gone())? as usize;
        if allowed == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, later) = bytes.split_at(allowed.min(bytes.len()));
        stream.write(now).map_err(|_| gone())?;
        bytes = later;
    }
    Ok(())
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_reader_gives_every_byte_whatever_the_buffer() {
        let mut text = String::new();
        let mut reader = BodyReader::given(b"some words".to_vec());
        let mut small = [0; 3];
        assert_eq!(reader.read(&mut small).unwrap(), 3);
        reader.read_to_string(&mut text).unwrap();
        assert_eq!((&small, text.as_str()), (b"som", "e words"));
    }
}
