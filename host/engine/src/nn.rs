//! `wasi:nn` for guests: models by name, only the function's own, run on the inference threads.

use crate::meter::Meter;
use crate::pool::{InferenceError, InferencePool};
use crate::share::Share;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use vesta_core::memory::Reservation;
use vesta_nn::{Graph, RunError, TensorType};
use wasmtime::component::{HasData, Resource, ResourceTable};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/wasi-nn.wit",
        world: "ml",
        with: {
            "wasi:nn/graph.graph": super::GuestGraph,
            "wasi:nn/tensor.tensor": vesta_nn::Tensor,
            "wasi:nn/inference.graph-execution-context": super::GuestContext,
            "wasi:nn/errors.error": super::GuestError,
        },
        imports: {
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
            default: trappable,
        },
        require_store_data_send: true,
    });
}
use bindings::wasi::nn::{errors, graph, inference, tensor};

/// Most dimensions of a tensor, and most characters of an error's message: both lie on the host's heap.
const DIMENSIONS_MAX: usize = 32;
const MESSAGE_CHARS_MAX: usize = 1_000;

/// What a tensor takes on the host's heap, in bytes.
fn held_bytes(tensor: &vesta_nn::Tensor) -> u64 {
    (tensor.data.len() + 4 * tensor.shape.len()) as u64
}

/// A model as one guest holds it.
pub struct GuestGraph(Arc<dyn Graph>);
/// A model ready to run, as one guest holds it.
pub struct GuestContext(Arc<dyn Graph>);
/// An error as the guest reads it.
pub struct GuestError {
    code: errors::ErrorCode,
    message: String,
}

/// The models that a function may name. Whoever refers to them keeps all that the function holds on the host's books.
#[derive(Default)]
pub(crate) struct Models {
    // Dropped in this order: memory is given back once it is free.
    pub by_name: HashMap<String, Arc<dyn Graph>>,
    /// What the function's code and models take of the host's memory.
    pub _held: Option<Arc<Reservation>>,
}

/// What an instance has of `wasi:nn`.
pub(crate) struct NnCtx {
    pub models: Arc<Models>,
    pub pool: Arc<InferencePool>,
    /// Bytes of tensors that the guest may hold on the host's heap, and holds: also from one invocation to the next.
    pub tensor_bytes_max: u64,
    pub tensor_bytes: u64,
    /// The same, of the host's budget, with other buffers of the instance.
    pub buffers: Share,
}

/// The state of one call.
pub(crate) struct NnView<'a> {
    pub ctx: &'a mut NnCtx,
    pub table: &'a mut ResourceTable,
    /// Of the invocation that calls.
    pub meter: &'a Arc<Meter>,
    pub deadline: Instant,
}

/// How the linker finds [`NnView`] in a store.
pub(crate) struct HasNn;
impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Adds the four interfaces to a linker.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut wasmtime::component::Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    graph::add_to_linker::<_, HasNn>(linker, view)?;
    tensor::add_to_linker::<_, HasNn>(linker, view)?;
    inference::add_to_linker::<_, HasNn>(linker, view)?;
    errors::add_to_linker::<_, HasNn>(linker, view)
}

type Answer<T> = wasmtime::Result<Result<T, Resource<GuestError>>>;

impl NnView<'_> {
    fn refuse<T>(&mut self, code: errors::ErrorCode, message: impl Into<String>) -> Answer<T> {
        let message = message.into().chars().take(MESSAGE_CHARS_MAX).collect();
        Ok(Err(self.table.push(GuestError { code, message })?))
    }

    fn push_tensor(&mut self, tensor: vesta_nn::Tensor) -> wasmtime::Result<Resource<vesta_nn::Tensor>> {
        let bytes = held_bytes(&tensor);
        let held = self.ctx.tensor_bytes + bytes;
        if held > self.ctx.tensor_bytes_max {
            self.meter.refuse_memory();
            wasmtime::bail!("tensors of {held} bytes; at most {} may be held", self.ctx.tensor_bytes_max);
        }
        self.ctx.buffers.grow(bytes, self.meter)?;
        self.ctx.tensor_bytes = held;
        Ok(self.table.push(tensor)?)
    }

    /// Takes a tensor from the guest. On the host's books it stays until it is gone.
    fn take_tensor(&mut self, tensor: Resource<vesta_nn::Tensor>) -> wasmtime::Result<vesta_nn::Tensor> {
        let tensor = self.table.delete(tensor)?;
        self.ctx.tensor_bytes -= held_bytes(&tensor);
        Ok(tensor)
    }
}

impl graph::Host for NnView<'_> {
    fn load(
        &mut self,
        _: Vec<Vec<u8>>,
        _: graph::GraphEncoding,
        _: graph::ExecutionTarget,
    ) -> Answer<Resource<GuestGraph>> {
        let message =
            "a guest cannot bring model bytes: name the model in vesta.toml and load it by that name";
        self.refuse(errors::ErrorCode::Security, message)
    }

    fn load_by_name(&mut self, name: String) -> Answer<Resource<GuestGraph>> {
        match self.ctx.models.by_name.get(&name) {
            Some(graph) => Ok(Ok(self.table.push(GuestGraph(graph.clone()))?)),
            None => {
                let mut known: Vec<&str> = self.ctx.models.by_name.keys().map(String::as_str).collect();
                known.sort_unstable();
                let name: String = name.chars().take(100).collect();
                let message = format!("no model {name:?}; this function has {known:?}");
                self.refuse(errors::ErrorCode::NotFound, message)
            }
        }
    }
}

impl graph::HostGraph for NnView<'_> {
    fn init_execution_context(&mut self, graph: Resource<GuestGraph>) -> Answer<Resource<GuestContext>> {
        let graph = self.table.get(&graph)?.0.clone();
        Ok(Ok(self.table.push(GuestContext(graph))?))
    }
    fn drop(&mut self, graph: Resource<GuestGraph>) -> wasmtime::Result<()> {
        self.table.delete(graph)?;
        Ok(())
    }
}

impl inference::Host for NnView<'_> {}
impl inference::HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<GuestContext>,
        inputs: Vec<(String, Resource<vesta_nn::Tensor>)>,
    ) -> Answer<Vec<(String, Resource<vesta_nn::Tensor>)>> {
        use errors::ErrorCode;
        let graph = self.table.get(&context)?.0.clone();
        let mut named = Vec::with_capacity(inputs.len());
        let mut taken_bytes = 0;
        for (name, tensor) in inputs {
            let tensor = self.take_tensor(tensor)?;
            taken_bytes += held_bytes(&tensor);
            named.push((name, tensor));
        }
        let models = self.ctx.models.clone();
        let submitted = self.ctx.pool.submit(graph, models, named, self.meter.clone(), self.deadline);
        let result = match submitted {
            Ok(answer) => answer.await.unwrap_or(Err(InferenceError::Crashed)),
            Err(e) => Err(e),
        };
        self.ctx.buffers.shrink(taken_bytes);
        match result {
            Ok(outputs) => {
                let push = |(name, tensor)| Ok((name, self.push_tensor(tensor)?));
                Ok(Ok(outputs.into_iter().map(push).collect::<wasmtime::Result<_>>()?))
            }
            Err(e) => {
                let code = match &e {
                    InferenceError::QueueFull(_) => ErrorCode::RuntimeError,
                    InferenceError::DeadlinePassed => ErrorCode::Timeout,
                    InferenceError::Run(run) => code_of(run),
                    InferenceError::Crashed => ErrorCode::Unknown,
                };
                self.refuse(code, e.to_string())
            }
        }
    }

    fn drop(&mut self, context: Resource<GuestContext>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

fn code_of(e: &RunError) -> errors::ErrorCode {
    if e.is_bad_input() { errors::ErrorCode::InvalidArgument } else { errors::ErrorCode::RuntimeError }
}

impl tensor::Host for NnView<'_> {}
impl tensor::HostTensor for NnView<'_> {
    fn new(
        &mut self,
        shape: Vec<u32>,
        ty: tensor::TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<vesta_nn::Tensor>> {
        if shape.len() > DIMENSIONS_MAX {
            wasmtime::bail!("a tensor of {} dimensions; at most {DIMENSIONS_MAX}", shape.len());
        }
        // A shape that does not fit its data is told by compute, which can answer with an error.
        self.push_tensor(vesta_nn::Tensor { ty: from_guest(ty), shape, data })
    }
    fn dimensions(&mut self, tensor: Resource<vesta_nn::Tensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.shape.clone())
    }
    fn ty(&mut self, tensor: Resource<vesta_nn::Tensor>) -> wasmtime::Result<tensor::TensorType> {
        Ok(to_guest(self.table.get(&tensor)?.ty))
    }
    fn data(&mut self, tensor: Resource<vesta_nn::Tensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.data.clone())
    }
    fn drop(&mut self, tensor: Resource<vesta_nn::Tensor>) -> wasmtime::Result<()> {
        let tensor = self.take_tensor(tensor)?;
        self.ctx.buffers.shrink(held_bytes(&tensor));
        Ok(())
    }
}

fn from_guest(ty: tensor::TensorType) -> TensorType {
    match ty {
        tensor::TensorType::Fp16 => TensorType::F16,
        tensor::TensorType::Fp32 => TensorType::F32,
        tensor::TensorType::Fp64 => TensorType::F64,
        tensor::TensorType::Bf16 => TensorType::Bf16,
        tensor::TensorType::U8 => TensorType::U8,
        tensor::TensorType::I32 => TensorType::I32,
        tensor::TensorType::I64 => TensorType::I64,
    }
}

fn to_guest(ty: TensorType) -> tensor::TensorType {
    match ty {
        TensorType::F16 => tensor::TensorType::Fp16,
        TensorType::F32 => tensor::TensorType::Fp32,
        TensorType::F64 => tensor::TensorType::Fp64,
        TensorType::Bf16 => tensor::TensorType::Bf16,
        TensorType::U8 => tensor::TensorType::U8,
        TensorType::I32 => tensor::TensorType::I32,
        TensorType::I64 => tensor::TensorType::I64,
    }
}

impl errors::Host for NnView<'_> {}
impl errors::HostError for NnView<'_> {
    fn code(&mut self, error: Resource<GuestError>) -> wasmtime::Result<errors::ErrorCode> {
        Ok(self.table.get(&error)?.code)
    }
    fn data(&mut self, error: Resource<GuestError>) -> wasmtime::Result<String> {
        Ok(self.table.get(&error)?.message.clone())
    }
    fn drop(&mut self, error: Resource<GuestError>) -> wasmtime::Result<()> {
        self.table.delete(error)?;
        Ok(())
    }
}
