//! JSON bodies of control requests have to come: slowly, but steadily. Uploads have a bound of their own.

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// What every body is given.
const AT_LEAST: Duration = Duration::from_secs(30);
/// And a second more for so many bytes that have come.
const BYTES_A_SECOND: u64 = 16 << 10;

/// A body came too slowly to be waited for.
#[derive(Debug, thiserror::Error)]
#[error(
    "the body came too slowly: it is given {} s, and a second more for each {BYTES_A_SECOND} bytes",
    AT_LEAST.as_secs()
)]
pub struct TooSlow;

/// A body with a time-out.
pub struct InTime<B> {
    body: B,
    at_least: Duration,
    begun: Instant,
    bytes: u64,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> InTime<B> {
    pub fn new(body: B) -> InTime<B> {
        InTime { body, at_least: AT_LEAST, begun: Instant::now(), bytes: 0, timer: None }
    }
}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin> Body for InTime<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            if let Some(Ok(frame)) = &frame {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let deadline = self.begun + self.at_least + Duration::from_secs(self.bytes / BYTES_A_SECOND);
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx).map(|()| Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;

    const GIVEN: Duration = Duration::from_millis(200);
    const PAUSE: Duration = Duration::from_millis(10);

    /// A piece of so many bytes after each pause, without end.
    fn trickle(bytes: usize) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let pieces = stream::repeat(()).then(move |()| async move {
            tokio::time::sleep(PAUSE).await;
            Ok(Frame::data(Bytes::from(vec![0; bytes])))
        });
        StreamBody::new(Box::pin(pieces))
    }

    #[tokio::test]
    async fn a_body_that_comes_too_slowly_is_given_up_and_a_steady_one_is_not() {
        let begun = Instant::now();
        let mut slow = InTime { at_least: GIVEN, ..InTime::new(trickle(1)) };
        let error = loop {
            if let Err(error) = slow.frame().await.expect("no end") {
                break error;
            }
        };
        assert!(error.is::<TooSlow>(), "{error}");
        assert!(begun.elapsed() >= GIVEN, "{:?}", begun.elapsed());
        let mut steady = InTime { at_least: GIVEN, ..InTime::new(trickle(BYTES_A_SECOND as usize)) };
        for _ in 0..2 * GIVEN.as_millis() / PAUSE.as_millis() {
            assert!(steady.frame().await.expect("no end").is_ok());
        }
    }
}
