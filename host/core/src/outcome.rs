//! How an invocation ended.

use serde::{Deserialize, Serialize};

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// How an invocation, or a deployment, ended. What ran is billed for every one of them, save
        /// [`Outcome::StartFailed`] and [`Outcome::PlatformError`], and [`Outcome::HostMemory`] where the
        /// guest never began: see [`UsageRecord::is_charged`](crate::UsageRecord::is_charged).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Outcome { $($(#[$doc])* $variant),+ }

        impl Outcome {
            /// All of them.
            pub const ALL: &[Outcome] = &[$(Self::$variant),+];

            /// The name used in records, metrics and the API.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
            /// The outcome of that name, if there is one.
            pub fn from_name(s: &str) -> Option<Self> {
                match s { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

outcomes! {
    /// The guest answered and returned.
    Ok = "ok",
    /// The guest answered with an error of wasi:http, or returned without an answer.
    GuestError = "guest_error",
    /// The guest trapped (panic, unreachable, out-of-bounds access, stack overflow).
    Trap = "trap",
    /// The guest asked for more memory, tables or instances than its limits, and trapped.
    OutOfMemory = "out_of_memory",
    /// The guest used up its CPU time.
    CpuLimit = "cpu_limit",
    /// A run of a model needed more memory than the function's limit, and the guest did not end well after
    /// it.
    ModelMemory = "model_memory",
    /// A run of a model used up its CPU time, and the guest did not end well after it.
    InferenceLimit = "inference_limit",
    /// The process that ran a model ended unexpectedly, and the guest did not end well after it.
    ModelCrashed = "model_crashed",
    /// The invocation ran past its wall-clock limit.
    WallLimit = "wall_limit",
    /// The response grew past its limit.
    ResponseLimit = "response_limit",
    /// The request's body grew past its limit.
    RequestLimit = "request_limit",
    /// The client went away.
    ClientGone = "client_gone",
    /// The function could not be started.
    StartFailed = "start_failed",
    /// The host had no memory left for it. Billed where the guest had begun, with what it computed.
    HostMemory = "host_memory",
    /// Of a deployment: the package was refused.
    Refused = "refused",
    /// The platform failed. Never billed.
    PlatformError = "platform_error",
}
