//! A request's body on its way to the guest: counted, and held to its limit.

use super::answer::Received;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use vesta_engine::BodyError;

/// What is known of a body while the guest reads it.
#[derive(Debug, Default)]
pub struct BodyMeter {
    bytes: AtomicU64,
    over_limit: AtomicBool,
    broken: AtomicBool,
}

impl BodyMeter {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
    /// Whether the body was cut because it is over its limit.
    pub fn is_over_limit(&self) -> bool {
        self.over_limit.load(Relaxed)
    }
    /// Whether the body ended before its end, or is not framed as it says.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }
}

/// The body that the guest reads.
pub struct RequestBody {
    pub inner: Received,
    pub bytes_max: u64,
    pub meter: Arc<BodyMeter>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => {
                self.meter.broken.store(true, Relaxed);
                return Poll::Ready(Some(Err(error.into())));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        if let Some(data) = frame.data_ref() {
            let read = self.meter.bytes.fetch_add(data.len() as u64, Relaxed) + data.len() as u64;
            if read > self.bytes_max {
                self.meter.over_limit.store(true, Relaxed);
                return Poll::Ready(Some(Err(BodyError::HttpRequestBodySize(Some(read)))));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
