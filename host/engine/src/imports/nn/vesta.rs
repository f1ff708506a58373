//! `vesta:nn` for guests: signatures of models, tensors of every element type, and several handles of one.

use super::{GuestGraph, GuestTensor, NnView, signatures, tensors};
use vesta_nn::{Port, TensorType};
use wasmtime::component::Resource;

impl tensors::Host for NnView<'_> {
    fn create(
        &mut self,
        shape: Vec<u32>,
        ty: tensors::ElementType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<GuestTensor>> {
        self.new_tensor(from_guest(ty), shape, data)
    }

    fn type_of(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<tensors::ElementType> {
        Ok(to_guest(self.table.get(&tensor)?.0.ty))
    }

    fn share(&mut self, tensor: Resource<GuestTensor>) -> wasmtime::Result<Resource<GuestTensor>> {
        let tensor = self.table.get(&tensor)?.0.clone();
        Ok(self.table.push(GuestTensor(tensor))?)
    }
}

impl signatures::Host for NnView<'_> {
    fn signature_of(&mut self, graph: Resource<GuestGraph>) -> wasmtime::Result<signatures::Signature> {
        let signature = &self.table.get(&graph)?.0.signature;
        let ports = |ports: &[Port]| ports.iter().map(port).collect();
        Ok(signatures::Signature { inputs: ports(&signature.inputs), outputs: ports(&signature.outputs) })
    }
}

fn port(port: &Port) -> signatures::Port {
    signatures::Port {
        name: port.name.clone(),
        ty: to_guest(port.ty),
        dimensions: port.ranked.then(|| port.shape.clone()),
    }
}

fn from_guest(ty: tensors::ElementType) -> TensorType {
    match ty {
        tensors::ElementType::Bool => TensorType::Bool,
        tensors::ElementType::I8 => TensorType::I8,
        tensors::ElementType::U8 => TensorType::U8,
        tensors::ElementType::I32 => TensorType::I32,
        tensors::ElementType::I64 => TensorType::I64,
        tensors::ElementType::F16 => TensorType::F16,
        tensors::ElementType::Bf16 => TensorType::Bf16,
        tensors::ElementType::F32 => TensorType::F32,
        tensors::ElementType::F64 => TensorType::F64,
    }
}

fn to_guest(ty: TensorType) -> tensors::ElementType {
    match ty {
        TensorType::Bool => tensors::ElementType::Bool,
        TensorType::I8 => tensors::ElementType::I8,
        TensorType::U8 => tensors::ElementType::U8,
        TensorType::I32 => tensors::ElementType::I32,
        TensorType::I64 => tensors::ElementType::I64,
        TensorType::F16 => tensors::ElementType::F16,
        TensorType::Bf16 => tensors::ElementType::Bf16,
        TensorType::F32 => tensors::ElementType::F32,
        TensorType::F64 => tensors::ElementType::F64,
    }
}
