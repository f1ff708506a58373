//! The examples' unchanged components run under a plain host of wasi:http and wasi:nn: nothing of ours is
//! imported.

use bytes::Bytes;
use http_body_util::Full;
use vesta_tests::plain::Plain;
use vesta_tests::{guests, load};
use wasmtime::Engine;
use wasmtime::component::Component;
use wasmtime_wasi_nn::backend::{BackendError, BackendExecutionContext, BackendGraph, Id, NamedTensor};
use wasmtime_wasi_nn::wit::TensorType;
use wasmtime_wasi_nn::{ExecutionContext, Graph, GraphRegistry, Tensor};

/// An output that a stub gives, whatever it is asked.
#[derive(Clone)]
struct Stub {
    name: &'static str,
    shape: Vec<u32>,
    values: Vec<f32>,
}

impl BackendGraph for Stub {
    fn init_execution_context(&self) -> Result<ExecutionContext, BackendError> {
        let context: Box<dyn BackendExecutionContext> = Box::new(self.clone());
        Ok(context.into())
    }
}

impl BackendExecutionContext for Stub {
    fn set_input(&mut self, _: Id, _: &Tensor) -> Result<(), BackendError> {
        Err(BackendError::UnsupportedTensorType("not used by wasi:nn's WIT".into()))
    }
    fn get_output(&mut self, _: Id) -> Result<Tensor, BackendError> {
        Err(BackendError::UnsupportedTensorType("not used by wasi:nn's WIT".into()))
    }
    fn compute(
        &mut self,
        inputs: Option<Vec<NamedTensor>>,
    ) -> Result<Option<Vec<NamedTensor>>, BackendError> {
        assert!(inputs.is_some_and(|i| !i.is_empty()), "the guest gives its inputs by name");
        let data = self.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let tensor = Tensor::new(self.shape.clone(), TensorType::Fp32, data);
        Ok(Some(vec![NamedTensor { name: self.name.into(), tensor }]))
    }
}

/// One model under one name.
struct One(&'static str, Graph);

impl GraphRegistry for One {
    fn get(&self, name: &str) -> Option<&Graph> {
        (name == self.0).then_some(&self.1)
    }
    fn get_mut(&mut self, name: &str) -> Option<&mut Graph> {
        (name == self.0).then_some(&mut self.1)
    }
}

fn run(
    component: &[u8],
    model: &'static str,
    stub: Stub,
    method: &str,
    target: &str,
    body: String,
) -> (u16, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://plain.example{target}"))
        .header("host", "plain.example")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("a valid request");
    let plain = Plain::new(Engine::default(), component).expect("all imports are there");
    let graph: Box<dyn BackendGraph> = Box::new(stub);
    let models = One(model, graph.into());
    load::runtime().block_on(plain.call(models, request)).expect("the plain host runs it")
}

fn no_model() -> Stub {
    Stub { name: "none", shape: vec![1], values: vec![0.0] }
}

#[test]
fn hello_runs_under_a_plain_host() {
    let hello = guests::example("hello").component;
    let said = run(&hello, "none", no_model(), "GET", "/?name=Ada", String::new());
    assert_eq!(said, (200, "Hello, Ada!".into()));
}

#[test]
fn digits_runs_under_a_plain_host_with_any_backend() {
    let digits = guests::example("digits").component;
    let mut values = vec![0.01; 10];
    values[7] = 0.91;
    let stub = Stub { name: "probabilities", shape: vec![1, 10], values };
    let (status, body) = run(&digits, "digits", stub, "POST", "/", crate::examples::digit_request(0));
    assert_eq!(status, 200, "{body}");
    assert_eq!(crate::examples::digit_answer(&body), 7, "the stub's answer: {body}");
}

#[test]
fn an_initialisation_runs_under_a_plain_host_before_the_first_request() {
    let prepared = crate::snapshots::prepared("table", 1);
    let (status, body) = run(&prepared, "none", no_model(), "GET", "/table", String::new());
    assert_eq!(status, 200, "{body}");
    assert!(body.starts_with("131072 "), "{body}");
}

#[test]
fn only_a_function_with_an_initialisation_exports_it() {
    let engine = Engine::default();
    let exports = |bytes: Vec<u8>| -> Vec<String> {
        let component = Component::new(&engine, bytes).expect("a component");
        component.component_type().exports(&engine).map(|(name, _)| name.to_string()).collect()
    };
    let only_handler = exports(guests::example("hello").component);
    assert!(only_handler.iter().all(|e| e.starts_with("wasi:http/incoming-handler@")), "{only_handler:?}");
    assert!(exports(guests::fixture("prepared")).contains(&"wizer-initialize".to_string()));
}

fn imports(component: &[u8]) -> Vec<String> {
    let engine = Engine::default();
    let component = Component::new(&engine, component).expect("a component");
    let imports = component.component_type();
    imports.imports(&engine).map(|(name, _)| name.to_string()).collect()
}

#[test]
fn what_wasi_nn_lacks_is_the_only_import_of_our_own() {
    let tensors = imports(&guests::fixture("tensors"));
    let own: Vec<&String> = tensors.iter().filter(|name| !name.starts_with("wasi:")).collect();
    assert_eq!(own, ["vesta:nn/tensors@0.1.0", "vesta:nn/signatures@0.1.0"]);
}

#[test]
fn the_host_offers_what_the_sdk_asks_for() {
    let text = |path: &str| std::fs::read_to_string(vesta_tests::in_root(path)).expect("an interface");
    assert_eq!(text("host/engine/wit/vesta-nn.wit"), text("guest-sdk/wit/vesta-nn.wit"));
}

#[test]
fn components_import_only_interfaces_of_wasi() {
    let examples = ["hello", "digits"].map(|name| (name, guests::example(name).component));
    for (name, component) in examples.into_iter().chain([("prepared", guests::fixture("prepared"))]) {
        let imports = imports(&component);
        assert!(!imports.is_empty());
        for import in imports {
            assert!(import.starts_with("wasi:"), "{name} imports {import}");
        }
    }
}
