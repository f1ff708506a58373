//! A component under a plain host: no epochs, no limits, no meter. The settings that its speed depends on are
//! those of `host/engine/src/config.rs`.

use http_body_util::Full;
use rustix::time::{ClockId, clock_gettime};
use std::io::BufRead;
use std::path::Path;
use vesta_tests::plain::Plain;
use wasmtime::{Config, Engine, OptLevel};
use wasmtime_wasi_nn::{Graph, GraphRegistry};

struct NoModels;

impl GraphRegistry for NoModels {
    fn get(&self, _: &str) -> Option<&Graph> {
        None
    }
    fn get_mut(&mut self, _: &str) -> Option<&mut Graph> {
        None
    }
}

/// Answers each path of standard input with the CPU nanoseconds that a GET of it took this thread.
pub fn serve(component: &Path) {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.memory_reservation(4 << 30);
    config.memory_guard_size(32 << 20);
    let engine = Engine::new(&config).expect("an engine");
    let component = std::fs::read(component).expect("the component");
    let plain = Plain::new(engine, &component).expect("all imports are there");
    // One thread: its clock is the guest's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for path in std::io::stdin().lock().lines().map_while(Result::ok) {
        let request =
            http::Request::get(format!("http://plain.example{path}")).header("host", "plain.example");
        let request = request.body(Full::default()).expect("a valid request");
        let begun = cpu_ns();
        let (status, body) = runtime.block_on(plain.call(NoModels, request)).expect("the plain host runs it");
        println!("{}", cpu_ns() - begun);
        assert_eq!(status, 200, "{path}: {body}");
    }
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
