//! Turns on a thread of Tokio.

use super::Meter;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// Sends the task of an invocation behind all others of its thread, those included whose input has come
/// meanwhile.
pub(crate) async fn let_others_run(meter: Arc<Meter>) {
    let _away = meter.away();
    // Tokio's own yield has the thread look for input, and wakes no second one. But it wakes this task last,
    // and what is woken last runs first.
    tokio::task::yield_now().await;
    // A task that wakes itself goes to the end of the queue.
    let mut is_last = false;
    poll_fn(|cx| {
        if is_last {
            return Poll::Ready(());
        }
        is_last = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
