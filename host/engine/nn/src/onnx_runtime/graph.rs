//! A model that the library has loaded.

use super::end_if_out_of_memory;
use super::external::External;
use super::value::{Description, Value, ok};
use crate::convert;
use crate::inputs::sorted;
use crate::mapped::MappedWeights;
use crate::rten::{guarded, thread_cpu_ns};
use crate::{
    Graph, LoadError, ModelInfo, Output, Port, ReadAhead, RunError, RunOutput, Signature, Tensor, TensorType,
    TensorView, bytes_of,
};
use ort::AsPointer;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::sys::ONNXTensorElementDataType as Type;
use ort::value::{Outlet, ValueType};
use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

pub struct OnnxRuntimeGraph {
    // Dropped in this order: the session reads tensors that lie in the weights.
    session: Session,
    _external: External<'static>,
    weights: MappedWeights,
    signature: Signature,
    memory: MemoryInfo<'static>,
    /// Name and element type of each input and output, in the order of the signature.
    inputs: Vec<(CString, Type)>,
    outputs: Vec<(CString, Type)>,
    resident: u64,
}

impl OnnxRuntimeGraph {
    pub fn new(
        session: Session,
        external: External<'static>,
        weights: MappedWeights,
        info: ModelInfo,
    ) -> Result<OnnxRuntimeGraph, LoadError> {
        let inputs = ports(&info.signature.inputs, session.inputs()).map_err(LoadError::Engine)?;
        let outputs = ports(&info.signature.outputs, session.outputs()).map_err(LoadError::Engine)?;
        let memory = cpu_memory().map_err(LoadError::Engine)?;
        // Weights may be there a second time, in the order in which the kernels read them.
        let resident = 2 * info.weights_bytes + info.graph_bytes;
        Ok(OnnxRuntimeGraph {
            session,
            _external: external,
            weights,
            signature: info.signature,
            memory,
            inputs,
            outputs,
            resident,
        })
    }

    fn compute_in(&self, inputs: &[TensorView<'_>]) -> Result<Vec<Output<'_>>, RunError> {
        let mut copies = Vec::with_capacity(inputs.len());
        for ((port, (_, element)), tensor) in self.signature.inputs.iter().zip(&self.inputs).zip(inputs) {
            check(port, *tensor)?;
            let converted = convert::to_type(port, *tensor)?.map(|bytes| Aligned::copy(bytes.into_iter()));
            copies.push(converted.or_else(|| prepared(*element, *tensor)));
        }
        let mut values = Vec::with_capacity(inputs.len());
        let ports = self.signature.inputs.iter().zip(&self.inputs);
        for ((tensor, copy), (port, (_, element))) in inputs.iter().zip(&copies).zip(ports) {
            let shape: Vec<i64> = tensor.shape.iter().map(|&dim| i64::from(dim)).collect();
            let bytes = bytes_of(port.ty, tensor.shape).unwrap_or_default() as usize;
            let data = copy.as_ref().map_or(tensor.data, |copy| &copy.bytes()[..bytes]);
            let value = Value::over(&self.memory, data, &shape, *element).map_err(RunError::Engine)?;
            values.push(value);
        }
        let names =
            |ports: &[(CString, Type)]| ports.iter().map(|(name, _)| name.as_ptr()).collect::<Vec<_>>();
        let (input_names, output_names) = (names(&self.inputs), names(&self.outputs));
        let outputs = run(&self.session, &input_names, &values, &output_names).map_err(|reason| {
            end_if_out_of_memory(&reason);
            RunError::Engine(reason)
        })?;
        let all = self.signature.outputs.iter().zip(&self.outputs).zip(outputs);
        let copies = copies.iter().flatten().map(Aligned::bytes);
        let lent: Vec<_> = inputs.iter().map(|tensor| tensor.data).chain(copies).collect();
        all.map(|((port, (_, element)), value)| output(port, *element, value, &lent)).collect()
    }
}

/// Names and element types of ports, in the order of the signature.
fn ports(ports: &[Port], outlets: &[Outlet]) -> Result<Vec<(CString, Type)>, String> {
    if ports.len() != outlets.len() {
        return Err("the graph has other inputs or outputs than its description".into());
    }
    let of = |port: &Port| {
        let outlet = outlets.iter().find(|outlet| outlet.name() == port.name);
        let outlet = outlet.ok_or_else(|| format!("the engine knows no {:?}", port.name))?;
        let ValueType::Tensor { ty, .. } = outlet.dtype() else {
            return Err(format!("{:?} is not a tensor", port.name));
        };
        let element = Type::from(*ty);
        if !carries(element, port.ty) {
            return Err(format!("{:?} is {ty}, which {} cannot carry", port.name, port.ty));
        }
        Ok((CString::new(port.name.as_str()).map_err(|e| e.to_string())?, element))
    };
    ports.iter().map(of).collect()
}

/// Whether elements of the library are those of a type.
fn carries(element: Type, ty: TensorType) -> bool {
    use Type as T;
    let wanted = match ty {
        TensorType::Bool => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        TensorType::I8 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        TensorType::U8 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        TensorType::I32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        TensorType::I64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        TensorType::F16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        TensorType::Bf16 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        TensorType::F32 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        TensorType::F64 => T::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
    };
    element == wanted
}

fn check(port: &Port, tensor: TensorView<'_>) -> Result<(), RunError> {
    let name = || port.name.clone();
    tensor.check().map_err(|source| RunError::WrongLength { name: name(), source })?;
    if !port.takes_bytes_of(tensor.ty) && !convert::is_convertible(port.ty, tensor.ty) {
        return Err(RunError::WrongType { name: name(), expected: port.ty, got: tensor.ty });
    }
    if !port.accepts(tensor.shape) {
        let expected = port.shape_text();
        return Err(RunError::WrongShape { name: name(), expected, got: tensor.shape.to_vec() });
    }
    Ok(())
}

/// Bytes at an address that is right for elements of any type.
struct Aligned(Vec<u64>);

impl Aligned {
    fn copy(bytes: impl ExactSizeIterator<Item = u8>) -> Aligned {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        for (place, byte) in words.iter_mut().flat_map(bytemuck::bytes_of_mut).zip(bytes) {
            *place = byte;
        }
        Aligned(words)
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// A copy of an input, where it cannot be taken as it lies: at an address that is wrong for its elements, or
/// booleans, of which the library believes that they are 0 or 1.
fn prepared(element: Type, tensor: TensorView<'_>) -> Option<Aligned> {
    let data = tensor.data.iter();
    if element == Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL {
        let is_odd = tensor.data.iter().any(|byte| *byte > 1);
        return is_odd.then(|| Aligned::copy(data.map(|byte| u8::from(*byte != 0))));
    }
    let is_aligned = tensor.data.as_ptr().addr().is_multiple_of(tensor.ty.size_bytes());
    (!is_aligned).then(|| Aligned::copy(data.copied()))
}

/// Computes all outputs. One session may be in several runs at once, which ONNX Runtime promises of its
/// processor provider: there is no arena, no plan of memory, and no pool of threads that they would share.
///
/// An output that the graph only hands on lies where the input does.
fn run<'a>(
    session: &Session,
    input_names: &[*const std::ffi::c_char],
    inputs: &[Value<'a>],
    output_names: &[*const std::ffi::c_char],
) -> Result<Vec<Value<'a>>, String> {
    let inputs: Vec<_> = inputs.iter().map(Value::ptr).collect();
    let mut outputs = vec![null_mut(); output_names.len()];
    // SAFETY: names and values are alive, as many as is said, and the library fills in the outputs.
    #[allow(unsafe_code)]
    let result = ok(unsafe {
        (ort::api().Run)(
            session.inner().ptr().cast_mut(),
            null(),
            input_names.as_ptr(),
            inputs.as_ptr(),
            inputs.len(),
            output_names.as_ptr(),
            output_names.len(),
            outputs.as_mut_ptr(),
        )
    });
    // Those that are there are taken also where the run has failed.
    let outputs: Vec<_> = outputs.into_iter().map(Value::taken).collect();
    result.and_then(|()| outputs.into_iter().collect())
}

/// The output for a value, which has to be what the model says. One that lies in `lent`, the memory of the
/// inputs, is copied: that memory is the caller's again, who may write over it.
fn output<'a>(
    port: &'a Port,
    element: Type,
    value: Value<'_>,
    lent: &[&[u8]],
) -> Result<Output<'a>, RunError> {
    let wrong = |text: &str| RunError::Engine(format!("output {:?} {text}", port.name));
    let Description { element: got, shape } = value.describe().map_err(RunError::Engine)?;
    if got != element {
        return Err(wrong("is of another type than the model says"));
    }
    let shape: Vec<u32> = shape
        .into_iter()
        .map(u32::try_from)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("has a dimension that is too large"))?;
    let bytes = bytes_of(port.ty, &shape).ok_or_else(|| wrong("is larger than any memory"))?;
    // Looked at once here, so that writing cannot fail.
    let data = value.bytes(bytes as usize).map_err(RunError::Engine)?;
    if lent.iter().any(|input| overlap(input, data)) {
        return Ok(Output::of(&port.name, Tensor { ty: port.ty, shape, data: data.to_vec() }));
    }
    // SAFETY: it lies in none of the inputs. What else it may lie in is the library's memory or the weights,
    // which outlive the output: both are the graph's.
    #[allow(unsafe_code)]
    let value = unsafe { value.owned() };
    let write = Box::new(move |place: &mut [u8]| {
        if let Ok(data) = value.bytes(place.len()) {
            place.copy_from_slice(data);
        }
    });
    Ok(Output { name: &port.name, ty: port.ty, shape, bytes, write })
}

fn overlap(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    a.start < b.end && b.start < a.end
}

pub fn cpu_memory() -> Result<MemoryInfo<'static>, String> {
    MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
        .map_err(|e| e.to_string())
}

/// Runs a model of one input and one output, both of 32-bit floats; gives the output's bytes.
pub fn run_once(
    session: &Session,
    input: &CStr,
    data: &[u8],
    shape: &[i64],
    output: &CStr,
) -> Result<Vec<u8>, String> {
    let copy = Aligned::copy(data.iter().copied());
    let memory = cpu_memory()?;
    let element = Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    let value = Value::over(&memory, &copy.bytes()[..data.len()], shape, element)?;
    let mut outputs = run(session, &[input.as_ptr()], &[value], &[output.as_ptr()])?;
    let value = outputs.pop().ok_or("there is no output")?;
    let elements: i64 = value.describe()?.shape.iter().product();
    Ok(value.bytes(4 * elements as usize)?.to_vec())
}

impl Graph for OnnxRuntimeGraph {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn compute(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Output<'_>>, RunError> {
        let inputs = sorted(&self.signature, inputs)?;
        self.weights.fetch_rows_of(&self.signature, &inputs);
        guarded(|| self.compute_in(&inputs)).unwrap_or_else(|panic| Err(RunError::Engine(panic)))
    }

    fn run(&self, inputs: Vec<(String, Tensor)>) -> Result<RunOutput, RunError> {
        let start = thread_cpu_ns();
        let views: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let outputs = self.compute(&views)?.into_iter().map(Output::copied).collect();
        Ok(RunOutput { outputs, cpu_ns: thread_cpu_ns().saturating_sub(start) })
    }

    fn read_ahead(&self, part: ReadAhead) {
        self.weights.read_ahead(part);
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }
}
