//! CPU time of what the host does for a guest's calls to other hosts, on whichever thread.

use super::Meter;
use super::cpu::metered;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A future whose polls are billed as outbound CPU time.
pub(crate) struct OutboundWork<F> {
    work: Pin<Box<F>>,
    meter: Arc<Meter>,
}

impl<F> OutboundWork<F> {
    pub fn new(work: F, meter: &Arc<Meter>) -> OutboundWork<F> {
        OutboundWork { work: Box::pin(work), meter: meter.clone() }
    }
}

impl<F: Future> Future for OutboundWork<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let (polled, cpu_ns) = metered(|| self.work.as_mut().poll(cx));
        self.meter.outbound_ran(cpu_ns);
        polled
    }
}
