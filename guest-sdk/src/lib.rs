//! The guest SDK of Vesta: write a function, get a `wasi:http` component.
//!
//! ```no_run
//! use vesta_sdk::{Error, Request, Response};
//!
//! #[vesta_sdk::handler]
//! fn handle(req: Request) -> Result<Response, Error> {
//!     let name = req.query("name").unwrap_or("world".into());
//!     Ok(Response::text(format!("Hello, {name}!")))
//! }
//! ```
//!
//! In a crate with `crate-type = ["cdylib"]`, `cargo build --target wasm32-wasip2 --release` makes a
//! component of it that runs under Vesta, and under any other host of `wasi:http` 0.2 (and of `wasi:nn`, if
//! it uses models). Nothing is imported but `wasi:` interfaces, and of those only what the function uses. The
//! exception is `vesta:nn`, for what `wasi:nn` lacks: `bool` and `i8`, [`Model::signature`],
//! [`Output::element_type`], and an [`&Output`](Output) as an input.
//!
//! - [`Request`] and [`Response`]: HTTP, JSON through serde, streamed bodies. [`Error`] becomes an RFC 9457 problem.
//! - [`Model`] and [`Tensor`]: inference by the host, on the models named in `vesta.toml`.
//! - [`log`]: structured lines. [`http`]: requests to the hosts that `vesta.toml` names.
//!
//! Each request runs in an instance of its own: nothing is shared and nothing stays, `static`s included.
//! (Unless `vesta.toml` allows reuse; then what is costly to make, a loaded [`Model`] for instance, is worth
//! keeping in a `static`.) The handler may be an `async fn`; [`sleep`] and [`http::send_async`] then wait
//! side by side. What is costly to prepare is prepared once, at deploy, by [`handler`]'s `init`.
#![warn(missing_docs)]

mod any_tensor;
mod body;
mod element;
mod error;
mod executor;
pub mod http;
mod init;
mod inputs;
mod json;
pub mod log;
mod model;
mod model_error;
mod nn;
mod outputs;
mod request;
mod response;
mod serve;
mod signature;
mod tensor;

pub use ::http::{Method, StatusCode};
pub use any_tensor::AnyTensor;
pub use body::{BodyReader, BodyWriter};
pub use element::{Element, ElementType};
pub use error::Error;
pub use executor::sleep;
pub use inputs::{Input, Inputs};
pub use model::Model;
pub use model_error::{ModelError, ModelErrorKind};
pub use outputs::{Output, Outputs};
pub use request::Request;
pub use response::Response;
pub use signature::{Port, Signature};
pub use tensor::{Tensor, TensorError};
pub use vesta_sdk_macros::handler;

/// What the code that `#[handler]` writes refers to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::init::*;
    pub use crate::serve::{Outcome, serve, serve_async};
    pub use wasip2;
}
