use std::fmt;

use crate::nn;
use crate::{AnyTensor, Tensor};

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ElementType {
    Bool,
    I8,
    U8,
    I32,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ElementType::Bool => "bool",
            ElementType::I8 => "i8",
            ElementType::U8 => "u8",
            ElementType::I32 => "i32",
            ElementType::I64 => "i64",
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
            ElementType::F32 => "f32",
            ElementType::F64 => "f64",
        })
    }
}

/// A Rust type that tensors can hold: `bool`, `i8`, `u8`, `i32`, `i64`, `half::f16`, `half::bf16`, `f32`,
/// `f64`.
pub trait Element: Copy + Default + sealed::Sealed {
    /// Its name in the model.
    const TYPE: ElementType;
}

pub(crate) mod sealed {
    use super::*;

    /// How elements lie in memory, and how they cross to the host.
    pub trait Sealed: Sized {
        /// Little-endian, as the host wants them; on every Wasm host that is how memory holds them already.
        fn as_bytes(elements: &[Self]) -> &[u8];
        /// `bytes` are whole elements.
        fn from_bytes(bytes: Vec<u8>) -> Vec<Self>;
        fn to_host(dimensions: &[u32], bytes: &[u8]) -> nn::tensor::Tensor;
        /// The type of a host's tensor, as precisely as it takes to read elements of this type from it.
        fn type_at_host(tensor: &nn::tensor::Tensor) -> ElementType;
        fn of_any(tensor: &AnyTensor) -> Option<&Tensor<Self>>;
        fn from_any(tensor: AnyTensor) -> Result<Tensor<Self>, AnyTensor>;
        fn into_any(tensor: Tensor<Self>) -> AnyTensor;
    }
}

/// What types have in common, whatever host they cross to.
macro_rules! any {
    ($name:ident) => {
        fn of_any(tensor: &AnyTensor) -> Option<&Tensor<Self>> {
            match tensor {
                AnyTensor::$name(tensor) => Some(tensor),
                _ => None,
            }
        }
        fn from_any(tensor: AnyTensor) -> Result<Tensor<Self>, AnyTensor> {
            match tensor {
                AnyTensor::$name(tensor) => Ok(tensor),
                other => Err(other),
            }
        }
        fn into_any(tensor: Tensor<Self>) -> AnyTensor {
            AnyTensor::$name(tensor)
        }
    };
}

/// Types of which each pattern of bits is a value.
macro_rules! plain {
    () => {
        fn as_bytes(elements: &[Self]) -> &[u8] {
            const { assert!(cfg!(target_endian = "little"), "tensors are handed over as they lie in memory") };
            bytemuck::cast_slice(elements)
        }
        fn from_bytes(bytes: Vec<u8>) -> Vec<Self> {
            // Bytes come aligned for bytes: unless elements are bytes, too, they are copied once.
            bytemuck::allocation::try_cast_vec(bytes)
                .unwrap_or_else(|(_, bytes)| bytemuck::allocation::pod_collect_to_vec(&bytes))
        }
    };
}

/// Types of `wasi:nn`. They cross by that alone, so that a function which uses no other runs under any host.
macro_rules! of_wasi {
    ($($rust:ty => $name:ident $wasi:ident),*) => {
        $(
            impl Element for $rust {
                const TYPE: ElementType = ElementType::$name;
            }
            impl sealed::Sealed for $rust {
                plain! {}
                any! { $name }
                fn to_host(dimensions: &[u32], bytes: &[u8]) -> nn::tensor::Tensor {
                    nn::tensor::Tensor::new(dimensions, nn::tensor::TensorType::$wasi, bytes)
                }
                fn type_at_host(tensor: &nn::tensor::Tensor) -> ElementType {
                    tensor.ty().into()
                }
            }
        )*
        impl From<nn::tensor::TensorType> for ElementType {
            fn from(ty: nn::tensor::TensorType) -> ElementType {
                match ty { $(nn::tensor::TensorType::$wasi => ElementType::$name),* }
            }
        }
    };
}

of_wasi! {
    half::f16 => F16 Fp16, half::bf16 => Bf16 Bf16, f32 => F32 Fp32, f64 => F64 Fp64,
    u8 => U8 U8, i32 => I32 I32, i64 => I64 I64
}

/// Types that `wasi:nn` lacks.
macro_rules! of_vesta {
    ($name:ident) => {
        any! { $name }
        fn to_host(dimensions: &[u32], bytes: &[u8]) -> nn::tensor::Tensor {
            nn::tensors::create(dimensions, nn::tensors::ElementType::$name, bytes)
        }
        fn type_at_host(tensor: &nn::tensor::Tensor) -> ElementType {
            nn::tensors::type_of(tensor).into()
        }
    };
}

impl Element for i8 {
    const TYPE: ElementType = ElementType::I8;
}
impl sealed::Sealed for i8 {
    plain! {}
    of_vesta! { I8 }
}

impl Element for bool {
    const TYPE: ElementType = ElementType::Bool;
}
impl sealed::Sealed for bool {
    fn as_bytes(elements: &[bool]) -> &[u8] {
        bytemuck::cast_slice(elements)
    }
    fn from_bytes(bytes: Vec<u8>) -> Vec<bool> {
        bytes.into_iter().map(|byte| byte != 0).collect()
    }
    of_vesta! { Bool }
}

impl From<nn::tensors::ElementType> for ElementType {
    fn from(ty: nn::tensors::ElementType) -> ElementType {
        use nn::tensors::ElementType as Host;
        match ty {
            Host::Bool => ElementType::Bool,
            Host::I8 => ElementType::I8,
            Host::U8 => ElementType::U8,
            Host::I32 => ElementType::I32,
            Host::I64 => ElementType::I64,
            Host::F16 => ElementType::F16,
            Host::Bf16 => ElementType::Bf16,
            Host::F32 => ElementType::F32,
            Host::F64 => ElementType::F64,
        }
    }
}
