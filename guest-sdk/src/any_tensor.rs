use crate::nn;
use crate::{Element, ElementType, Tensor, TensorError};

/// A tensor whose element type is known only at run time.
///
/// ```
/// use vesta_sdk::{AnyTensor, ElementType, Tensor};
///
/// let tensor = AnyTensor::from(Tensor::new([2], vec![true, false])?);
/// assert_eq!((tensor.element_type(), tensor.shape()), (ElementType::Bool, &[2][..]));
/// assert_eq!(tensor.downcast_ref::<bool>().map(Tensor::as_slice), Some(&[true, false][..]));
/// assert_eq!(tensor.downcast::<f32>().unwrap_err().to_string(), "the tensor is bool, not f32");
/// # Ok::<(), vesta_sdk::TensorError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum AnyTensor {
    Bool(Tensor<bool>),
    I8(Tensor<i8>),
    U8(Tensor<u8>),
    I32(Tensor<i32>),
    I64(Tensor<i64>),
    F16(Tensor<half::f16>),
    Bf16(Tensor<half::bf16>),
    F32(Tensor<f32>),
    F64(Tensor<f64>),
}

/// One expression for a tensor of any type.
macro_rules! each {
    ($any:expr, $tensor:ident => $result:expr) => {
        match $any {
            AnyTensor::Bool($tensor) => $result,
            AnyTensor::I8($tensor) => $result,
            AnyTensor::U8($tensor) => $result,
            AnyTensor::I32($tensor) => $result,
            AnyTensor::I64($tensor) => $result,
            AnyTensor::F16($tensor) => $result,
            AnyTensor::Bf16($tensor) => $result,
            AnyTensor::F32($tensor) => $result,
            AnyTensor::F64($tensor) => $result,
        }
    };
}

impl AnyTensor {
    /// The type of the elements.
    pub fn element_type(&self) -> ElementType {
        fn of<T: Element>(_: &Tensor<T>) -> ElementType {
            T::TYPE
        }
        each!(self, tensor => of(tensor))
    }

    /// The sizes of the dimensions, outermost first; none for a scalar.
    pub fn shape(&self) -> &[usize] {
        each!(self, tensor => tensor.shape())
    }

    /// The tensor, if its elements are of type `T`.
    pub fn downcast_ref<T: Element>(&self) -> Option<&Tensor<T>> {
        T::of_any(self)
    }

    /// The tensor with elements of type `T`.
    ///
    /// # Errors
    /// [`TensorError::Type`] if they are of another type.
    pub fn downcast<T: Element>(self) -> Result<Tensor<T>, TensorError> {
        T::from_any(self)
            .map_err(|other| TensorError::Type { expected: T::TYPE, actual: other.element_type() })
    }

    pub(crate) fn to_host(&self) -> nn::tensor::Tensor {
        each!(self, tensor => tensor.to_host())
    }

    /// None unless `bytes` has as many elements as `dimensions` say.
    pub(crate) fn from_host(ty: ElementType, dimensions: &[u32], bytes: Vec<u8>) -> Option<AnyTensor> {
        fn of<T: Element>(dimensions: &[u32], bytes: Vec<u8>) -> Option<AnyTensor> {
            Tensor::<T>::from_host(dimensions, bytes).map(AnyTensor::from)
        }
        match ty {
            ElementType::Bool => of::<bool>(dimensions, bytes),
            ElementType::I8 => of::<i8>(dimensions, bytes),
            ElementType::U8 => of::<u8>(dimensions, bytes),
            ElementType::I32 => of::<i32>(dimensions, bytes),
            ElementType::I64 => of::<i64>(dimensions, bytes),
            ElementType::F16 => of::<half::f16>(dimensions, bytes),
            ElementType::Bf16 => of::<half::bf16>(dimensions, bytes),
            ElementType::F32 => of::<f32>(dimensions, bytes),
            ElementType::F64 => of::<f64>(dimensions, bytes),
        }
    }
}

impl<T: Element> From<Tensor<T>> for AnyTensor {
    fn from(tensor: Tensor<T>) -> AnyTensor {
        T::into_any(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_comes_from_the_host_as_it_is() {
        let bytes = |ty| AnyTensor::from_host(ty, &[1], vec![0xff]);
        assert_eq!(bytes(ElementType::I8), Some(AnyTensor::I8(Tensor::new([1], vec![-1]).unwrap())));
        assert_eq!(bytes(ElementType::U8), Some(AnyTensor::U8(Tensor::new([1], vec![255]).unwrap())));
        assert_eq!(bytes(ElementType::Bool), Some(AnyTensor::Bool(Tensor::new([1], vec![true]).unwrap())));
        assert_eq!(bytes(ElementType::F32), None);
        let scalar = AnyTensor::from_host(ElementType::F64, &[], 0.5f64.to_le_bytes().into());
        assert_eq!(scalar, Some(Tensor::scalar(0.5f64).into()));
    }

    #[test]
    fn a_tensor_is_given_as_its_own_type_only() {
        let tensor = AnyTensor::from(Tensor::scalar(half::f16::ONE));
        assert_eq!(tensor.element_type(), ElementType::F16);
        assert!(tensor.downcast_ref::<half::bf16>().is_none());
        let error = tensor.clone().downcast::<f32>().unwrap_err();
        assert_eq!(error, TensorError::Type { expected: ElementType::F32, actual: ElementType::F16 });
        assert_eq!(tensor.downcast::<half::f16>().unwrap().item(), Some(half::f16::ONE));
    }
}
