//! `wasi:nn` for guests: models by name, only the function's own, run in their workers. And `vesta:nn`, which
//! says of the same models and tensors what `wasi:nn` cannot.

mod vesta;

use super::logs::GuestLog;
use crate::meter::share::Share;
use crate::meter::{Meter, ModelFailure};
use crate::models::{Call, InferenceError, Model, Models};
use std::sync::Arc;
use std::time::Instant;
use vesta_core::TenantName;
use vesta_nn::{PORT_NAME_BYTES_MAX, RunError, Tensor, TensorType};
use wasmtime::component::{HasData, Resource, ResourceTable};

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "vesta:nn/ml",
        with: {
            "wasi:nn/graph.graph": super::GuestGraph,
            "wasi:nn/tensor.tensor": super::GuestTensor,
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
use bindings::vesta::nn::{signatures, tensors};
use bindings::wasi::nn::{errors, graph, inference, tensor};

/// Most dimensions of a tensor, and most characters of an error's message: both lie on the host's heap.
const DIMENSIONS_MAX: usize = 32;
const MESSAGE_CHARS_MAX: usize = 1_000;

/// What a tensor takes on the host's heap, in bytes.
fn held_bytes(tensor: &Tensor) -> u64 {
    (tensor.data.len() + 4 * tensor.shape.len()) as u64
}

/// A handle of a tensor. A guest may have several of one tensor, whose memory counts once: nobody but the
/// guest's handles, and a run while it lasts, refers to it.
pub struct GuestTensor(Arc<Tensor>);
/// A model as one guest holds it.
pub struct GuestGraph(Arc<Model>);
/// A model ready to run, as one guest holds it.
pub struct GuestContext(Arc<Model>);
/// An error as the guest reads it.
pub struct GuestError {
    code: errors::ErrorCode,
    message: String,
}

/// What an instance has of `wasi:nn`.
pub(crate) struct NnCtx {
    pub models: Arc<Models>,
    /// Bytes of tensors that the guest may hold on the host's heap, and holds: also from one invocation to
    /// the next.
    pub tensor_bytes_max: u64,
    pub tensor_bytes: u64,
    /// The same, of the host's budget, with other buffers of the instance.
    pub buffers: Share,
}

/// The state of one call.
pub(crate) struct NnView<'a> {
    pub ctx: &'a mut NnCtx,
    pub table: &'a mut ResourceTable,
    /// Whose function calls; None at deploy, where no model runs.
    pub tenant: Option<&'a TenantName>,
    pub log: &'a GuestLog,
    /// Of the invocation that calls.
    pub meter: &'a Arc<Meter>,
    pub deadline: Instant,
}

/// How the linker finds [`NnView`] in a store.
pub(crate) struct HasNn;
impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Adds the interfaces to a linker.
pub(crate) fn add_to_linker<T: Send + 'static>(
    linker: &mut wasmtime::component::Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    graph::add_to_linker::<_, HasNn>(linker, view)?;
    tensor::add_to_linker::<_, HasNn>(linker, view)?;
    inference::add_to_linker::<_, HasNn>(linker, view)?;
    errors::add_to_linker::<_, HasNn>(linker, view)?;
    tensors::add_to_linker::<_, HasNn>(linker, view)?;
    signatures::add_to_linker::<_, HasNn>(linker, view)
}

type Answer<T> = wasmtime::Result<Result<T, Resource<GuestError>>>;

impl NnView<'_> {
    fn refuse<T>(&mut self, code: errors::ErrorCode, message: impl Into<String>) -> Answer<T> {
        let message = message.into().chars().take(MESSAGE_CHARS_MAX).collect();
        Ok(Err(self.table.push(GuestError { code, message })?))
    }

    fn push_tensor(&mut self, tensor: Tensor) -> wasmtime::Result<Resource<GuestTensor>> {
        let bytes = held_bytes(&tensor);
        let held = self.ctx.tensor_bytes + bytes;
        if held > self.ctx.tensor_bytes_max {
            self.meter.refuse_memory();
            wasmtime::bail!("tensors of {held} bytes; at most {} may be held", self.ctx.tensor_bytes_max);
        }
        self.ctx.buffers.grow(bytes, self.meter)?;
        self.ctx.tensor_bytes = held;
        self.meter.memory_grows(bytes);
        Ok(self.table.push(GuestTensor(Arc::new(tensor)))?)
    }

    /// A tensor that the guest makes.
    fn new_tensor(
        &mut self,
        ty: TensorType,
        shape: Vec<u32>,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<GuestTensor>> {
        if shape.len() > DIMENSIONS_MAX {
            wasmtime::bail!("a tensor of {} dimensions; at most {DIMENSIONS_MAX}", shape.len());
        }
        // A shape that does not fit its data is told by compute, which can answer with an error.
        self.push_tensor(Tensor { ty, shape, data })
    }

    /// Why inputs are not given to a run, if they are not.
    fn unfit(&self, inputs: &[(String, Arc<Tensor>)]) -> Option<(errors::ErrorCode, String)> {
        if let Some((name, _)) = inputs.iter().find(|(name, _)| name.len() > PORT_NAME_BYTES_MAX) {
            let message =
                format!("the name of an input has {} bytes; at most {PORT_NAME_BYTES_MAX}", name.len());
            return Some((errors::ErrorCode::InvalidArgument, message));
        }
        // The guest holds each tensor once, and may give it several times.
        let (bytes, most) =
            (inputs.iter().map(|(_, t)| held_bytes(t)).sum::<u64>(), self.ctx.tensor_bytes_max);
        (bytes > most).then(|| {
            (
                errors::ErrorCode::TooLarge,
                format!("the inputs have {bytes} bytes; at most {most} (limits.memory)"),
            )
        })
    }

    /// What ended a run is known to the meter by name, and stands in the function's log.
    fn note(&self, e: &InferenceError) {
        let failure = match e {
            InferenceError::Memory(_) => ModelFailure::Memory,
            InferenceError::Limit(_) => ModelFailure::InferenceLimit,
            InferenceError::Crashed(_) | InferenceError::SetAside { .. } => ModelFailure::Crashed,
            InferenceError::HostMemory => return self.meter.lack_host_memory(),
            InferenceError::Run(RunError::NoSpace { .. }) => return self.meter.refuse_memory(),
            _ => return,
        };
        self.meter.model_failed(failure);
        self.log.note(&e.to_string());
    }

    /// A handle of a tensor is gone, and with the last one the tensor.
    fn release(&mut self, tensor: Arc<Tensor>) {
        let Some(tensor) = Arc::into_inner(tensor) else { return };
        let bytes = held_bytes(&tensor);
        self.ctx.tensor_bytes -= bytes;
        self.ctx.buffers.shrink(bytes);
        self.meter.memory_shrinks(bytes);
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
        inputs: Vec<(String, Resource<GuestTensor>)>,
    ) -> Answer<Vec<(String, Resource<GuestTensor>)>> {
        let model = self.table.get(&context)?.0.clone();
        // Taken from the guest, and on its books until the run has ended.
        let mut named = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            named.push((name, self.table.delete(tensor)?.0));
        }
        if let Some((code, message)) = self.unfit(&named) {
            named.into_iter().for_each(|(_, tensor)| self.release(tensor));
            return self.refuse(code, message);
        }
        let Some(tenant) = self.tenant else {
            return self.refuse(errors::ErrorCode::Security, "models are there in requests only");
        };
        let call = Call {
            rows: 1,
            others: &[],
            tenant,
            inputs: &named,
            outputs_max: self.ctx.tensor_bytes_max.saturating_sub(self.ctx.tensor_bytes),
            meter: self.meter,
            deadline: self.deadline,
            held: &self.ctx.models.held,
        };
        let result = model.run(call).await;
        let answer = match result {
            Ok(outputs) => {
                let push = |(name, tensor)| Ok((name, self.push_tensor(tensor)?));
                Ok(outputs.into_iter().map(push).collect::<wasmtime::Result<_>>()?)
            }
            Err(e) => {
                self.note(&e);
                Err(e)
            }
        };
        // Let go of last: inputs and outputs are held together.
        named.into_iter().for_each(|(_, tensor)| self.release(tensor));
        match answer {
            Ok(outputs) => Ok(Ok(outputs)),
            Err(e) => self.refuse(code_of(&e), e.to_string()),
        }
    }

    fn drop(&mut self, context: Resource<GuestContext>) -> wasmtime::Result<()> {
        self.table.delete(context)?;
        Ok(())
    }
}

fn code_of(e: &InferenceError) -> errors::ErrorCode {
    use errors::ErrorCode;
    match e {
        InferenceError::Queue(e) if e.is_late() => ErrorCode::Timeout,
        InferenceError::Run(run) if run.is_bad_input() => ErrorCode::InvalidArgument,
        InferenceError::Inputs(_) => ErrorCode::InvalidArgument,
        _ => ErrorCode::RuntimeError,
    }
}

impl tensor::Host for NnView<'_> {}
impl tensor::HostTensor for NnView<'_> {
    fn new(
        &mut self,
        shape: Vec<u32>,
        ty: tensor::TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<GuestTensor>> {
        self.new_tensor(from_guest(ty), shape, data)
    }
    fn dimensions(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.0.shape.clone())
    }
    fn ty(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<tensor::TensorType> {
        Ok(to_guest(self.table.get(&tensor)?.0.ty))
    }
    fn data(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.0.data.clone())
    }
    fn drop(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?.0;
        self.release(tensor);
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
        TensorType::Bool | TensorType::I8 | TensorType::U8 => tensor::TensorType::U8,
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
