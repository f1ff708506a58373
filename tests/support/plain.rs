//! A plain host of `wasi:http` and `wasi:nn`, of Wasmtime's own crates: what a component runs under
//! elsewhere. No limits, no meter, no requests of the guest's.

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};
use wasmtime_wasi_nn::wit::{WasiNnCtx, WasiNnView};
use wasmtime_wasi_nn::{GraphRegistry, Registry};

/// A component, ready to be instantiated.
pub struct Plain {
    engine: Engine,
    pre: ProxyPre<State>,
}

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    nn: WasiNnCtx,
    table: ResourceTable,
    hooks: NoOutbound,
}

struct NoOutbound;

type Sent = (http::Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

impl WasiHttpHooks for NoOutbound {
    fn send_request(
        &mut self,
        _: http::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

impl Plain {
    /// Compiles a component and links what a plain host offers.
    pub fn new(engine: Engine, component: &[u8]) -> wasmtime::Result<Plain> {
        let component = Component::new(&engine, component)?;
        let mut linker: Linker<State> = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        wasmtime_wasi_nn::wit::add_to_linker(&mut linker, |s: &mut State| {
            WasiNnView::new(&mut s.table, &mut s.nn)
        })?;
        Ok(Plain { pre: ProxyPre::new(linker.instantiate_pre(&component)?)?, engine })
    }

    /// One request in a fresh instance, on the calling thread: the status and the body.
    pub async fn call(
        &self,
        models: impl GraphRegistry + 'static,
        request: http::Request<Full<Bytes>>,
    ) -> wasmtime::Result<(u16, String)> {
        let state = State {
            wasi: WasiCtx::builder().inherit_stderr().build(),
            http: WasiHttpCtx::new(),
            nn: WasiNnCtx::new([], Registry::from(models)),
            table: ResourceTable::new(),
            hooks: NoOutbound,
        };
        let mut store = Store::new(&self.engine, state);
        // The body's error cannot happen, but has to be of hyper's type.
        let request: http::Request<BoxBody<Bytes, hyper::Error>> =
            request.map(|body| body.map_err(|never| match never {}).boxed());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(sender)?;
        let proxy = self.pre.instantiate_async(&mut store).await?;
        let answer = async {
            let response = receiver.await.map_err(wasmtime::Error::from)??;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            wasmtime::Result::<_>::Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        // The guest's own end is the more telling error: without it there is no answer either.
        let guest = async {
            let handler = proxy.wasi_http_incoming_handler();
            handler.call_handle(store, request, out).await
        };
        let (ended, answer) = tokio::join!(guest, answer);
        ended?;
        answer
    }
}
