//! A component under a plain host of wasi:http: no epochs, no limits, no meter. The settings that its speed depends on
//! are those of `host/engine/src/config.rs`.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use rustix::time::{ClockId, clock_gettime};
use std::io::BufRead;
use std::path::Path;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::{Config, Engine, OptLevel, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};
use wasmtime_wasi_nn::wit::{WasiNnCtx, WasiNnView};
use wasmtime_wasi_nn::{Graph, GraphRegistry, Registry};

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    nn: WasiNnCtx,
    table: ResourceTable,
    hooks: NoOutbound,
}

struct NoModels;

impl GraphRegistry for NoModels {
    fn get(&self, _: &str) -> Option<&Graph> {
        None
    }
    fn get_mut(&mut self, _: &str) -> Option<&mut Graph> {
        None
    }
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

/// Answers each path of standard input with the CPU nanoseconds that a GET of it took this thread.
pub fn serve(component: &Path) {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.memory_reservation(4 << 30);
    config.memory_guard_size(32 << 20);
    let engine = Engine::new(&config).expect("an engine");
    let component = Component::from_file(&engine, component).expect("a component");
    let mut linker: Linker<State> = Linker::new(&engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker).expect("links wasi");
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).expect("links wasi:http");
    wasmtime_wasi_nn::wit::add_to_linker(&mut linker, |s: &mut State| {
        WasiNnView::new(&mut s.table, &mut s.nn)
    })
    .expect("links wasi:nn");
    let pre = ProxyPre::new(linker.instantiate_pre(&component).expect("all imports")).expect("a handler");
    // One thread: its clock is the guest's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for path in std::io::stdin().lock().lines().map_while(Result::ok) {
        let begun = cpu_ns();
        runtime.block_on(get(&engine, &pre, &path)).unwrap_or_else(|e| panic!("{path}: {e:?}"));
        println!("{}", cpu_ns() - begun);
    }
}

async fn get(engine: &Engine, pre: &ProxyPre<State>, path: &str) -> wasmtime::Result<()> {
    let state = State {
        wasi: WasiCtx::builder().build(),
        http: WasiHttpCtx::new(),
        nn: WasiNnCtx::new([], Registry::from(NoModels)),
        table: ResourceTable::new(),
        hooks: NoOutbound,
    };
    let mut store = Store::new(engine, state);
    let body = Empty::<Bytes>::new().map_err(|e| match e {}).boxed();
    let request = http::Request::get(format!("http://plain.example{path}")).header("host", "plain.example");
    let request: http::Request<http_body_util::combinators::BoxBody<Bytes, hyper::Error>> =
        request.body(body)?;
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let out = store.data_mut().http().new_response_outparam(sender)?;
    let proxy = pre.instantiate_async(&mut store).await?;
    let answer = async {
        let response = receiver.await.map_err(wasmtime::Error::from)??;
        let status = response.status();
        response.into_body().collect().await?;
        wasmtime::Result::<_>::Ok(status)
    };
    let guest = proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out);
    let (ran, status) = tokio::join!(guest, answer);
    ran?;
    wasmtime::ensure!(status?.is_success(), "the guest refused {path}");
    Ok(())
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
