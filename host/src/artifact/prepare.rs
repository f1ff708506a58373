//! What is done to blobs before a version may be published: filled by the room that compiles and checks
//! models.

use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use vesta_core::manifest::{ModelRef, PackageManifest};
use vesta_core::usage::CpuTime;
use vesta_core::{Digest, FunctionName, InvocationId, TenantName};

/// Why a blob could not be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct PrepareError {
    /// In kebab case, such as `not-a-component`.
    pub code: String,
    /// For the developer: what is wrong, and where.
    pub detail: String,
    /// The platform's own failure, and not the package's.
    pub platform: bool,
}

/// Prepares blobs. Preparing the same blob again is cheap, and two at once share one preparation. What CPU
/// time it takes is in `spent`, also where it fails.
pub trait Prepare: Send + Sync {
    /// Compiles a function's component.
    fn component<'a>(
        &'a self,
        manifest: &'a PackageManifest,
        blob: &'a Path,
        spent: &'a CpuTime,
    ) -> BoxFuture<'a, Result<(), PrepareError>>;
    /// Checks a model and rewrites it for mapping; returns what is known of it: name, inputs, outputs.
    fn model<'a>(
        &'a self,
        model: &'a ModelRef,
        blob: &'a Path,
        spent: &'a CpuTime,
    ) -> BoxFuture<'a, Result<serde_json::Value, PrepareError>>;
    /// Whether what was prepared of a package fits into this host at all.
    fn fits(&self, manifest: &PackageManifest) -> Result<(), PrepareError>;
    /// Drops whatever was prepared of a blob that is being deleted.
    fn discard(&self, digest: &Digest);
}

/// A deployment that has ended, as it is billed.
#[derive(Debug, Clone)]
pub struct Deployed {
    pub id: InvocationId,
    pub tenant: TenantName,
    pub function: FunctionName,
    /// When it began: milliseconds since 1970 by the wall clock.
    pub began_unix_ms: i64,
    /// CPU time of all that was done for it: receiving, compiling, initialising, checking and trying; in
    /// nanoseconds.
    pub cpu_ns: u64,
    /// The version, or why there is none.
    pub ended: Result<u32, PrepareError>,
}

/// Takes deployments that have ended to the books: filled by the host, which knows prices and journal.
pub trait DeployBill: Send + Sync {
    /// CPU time of the calling thread, in nanoseconds.
    fn thread_cpu_ns(&self) -> u64;
    /// A deployment has ended. Resolves once its record is safe; where it cannot be written, that is logged.
    fn deployed(&self, deployed: Deployed) -> BoxFuture<'_, ()>;
}

/// Adds the CPU time of a future's polls to `spent`.
pub async fn metered<F: Future>(bill: &dyn DeployBill, spent: &CpuTime, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| {
        let before_ns = bill.thread_cpu_ns();
        let polled = work.as_mut().poll(cx);
        spent.add(bill.thread_cpu_ns().saturating_sub(before_ns));
        polled
    })
    .await
}

#[cfg(test)]
pub mod testing {
    use super::{DeployBill, Deployed};
    use futures_util::future::BoxFuture;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    /// Keeps what is billed. Its clock goes on by a microsecond each time that it is looked at.
    #[derive(Default)]
    pub struct Billed {
        pub all: Mutex<Vec<Deployed>>,
        now_ns: AtomicU64,
    }

    impl DeployBill for Billed {
        fn thread_cpu_ns(&self) -> u64 {
            self.now_ns.fetch_add(1_000, Relaxed)
        }
        fn deployed(&self, deployed: Deployed) -> BoxFuture<'_, ()> {
            self.all.lock().expect("no panic").push(deployed);
            Box::pin(async {})
        }
    }
}
