//! What a function prepares before its first request: what `#[handler(init = …)]` expands to calls.

use std::sync::Once;

use crate::log;

mod bindings {
    #![allow(
        unsafe_code,
        missing_docs,
        reason = "generated: a host's call into a function is unsafe in Rust"
    )]

    // The name is the one that Wizer calls, so that any tool that takes snapshots knows it.
    wit_bindgen::generate!({
        inline: "
            package vesta:sdk;
            world initialized {
                export wizer-initialize: func();
            }
        ",
        pub_export_macro: true,
        export_macro_name: "export_init",
        default_bindings_module: "::vesta_sdk::__private",
    });
}
pub use bindings::*;

/// Runs the initialisation, unless that was done in this instance, or in the snapshot that it began as.
pub fn initialize(init: fn()) {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        log::panics_as_lines();
        init();
    });
}
