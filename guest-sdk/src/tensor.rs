use crate::element::{Element, ElementType};
use crate::nn;

/// Why numbers don't make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Shape and data disagree.
    #[error("shape {shape:?} takes {} elements, got {len}", .expected.map_or("too many".into(), |n| n.to_string()))]
    Length {
        /// The shape asked for.
        shape: Vec<usize>,
        /// The product of the shape; none if it overflows.
        expected: Option<usize>,
        /// The number of elements given.
        len: usize,
    },
    /// A tensor of another element type.
    #[error("the tensor is {actual}, not {expected}")]
    Type {
        /// The type asked for.
        expected: ElementType,
        /// The type it has.
        actual: ElementType,
    },
    /// Rows of different lengths.
    #[error("row {row} has {len} elements, the rows before have {expected}")]
    Ragged {
        /// Index of the first row that differs.
        row: usize,
        /// Its length.
        len: usize,
        /// The length of the rows before.
        expected: usize,
    },
}

/// Elements of one type in a shape: row-major, the last dimension lies side by side.
///
/// Where the element type is known only at run time, see [`AnyTensor`](crate::AnyTensor).
///
/// ```
/// use vesta_sdk::Tensor;
///
/// let images = Tensor::new([2, 3], vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(images.shape(), [2, 3]);
/// assert_eq!(images.row(1), Some(&[4.0, 5.0, 6.0][..]));
/// assert!(Tensor::new([2, 2], vec![1i64]).is_err());
/// # Ok::<(), vesta_sdk::TensorError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

impl<T: Element> Tensor<T> {
    /// A tensor of this shape. An empty shape is a single value.
    ///
    /// # Errors
    /// [`TensorError::Length`] unless `data` has as many elements as the product of `shape`.
    pub fn new(shape: impl AsRef<[usize]>, data: Vec<T>) -> Result<Tensor<T>, TensorError> {
        let shape = shape.as_ref().to_vec();
        check_len(&shape, data.len())?;
        Ok(Tensor { shape, data })
    }

    /// A tensor full of zeros.
    ///
    /// # Errors
    /// [`TensorError::Length`] if the product of `shape` overflows.
    pub fn zeros(shape: impl AsRef<[usize]>) -> Result<Tensor<T>, TensorError> {
        let shape = shape.as_ref().to_vec();
        let len =
            elements(&shape).ok_or(TensorError::Length { shape: shape.clone(), expected: None, len: 0 })?;
        Ok(Tensor { shape, data: vec![T::default(); len] })
    }

    /// A tensor of rank 2 from rows of equal length; without rows it has the shape `[0, 0]`.
    ///
    /// # Errors
    /// [`TensorError::Ragged`] names the first row of another length.
    pub fn from_rows(rows: &[impl AsRef<[T]>]) -> Result<Tensor<T>, TensorError> {
        let width = rows.first().map_or(0, |row| row.as_ref().len());
        let mut data = Vec::with_capacity(rows.len() * width);
        for (index, row) in rows.iter().enumerate() {
            let row = row.as_ref();
            if row.len() != width {
                return Err(TensorError::Ragged { row: index, len: row.len(), expected: width });
            }
            data.extend_from_slice(row);
        }
        Ok(Tensor { shape: vec![rows.len(), width], data })
    }

    /// A single value: a tensor without dimensions.
    ///
    /// ```
    /// # use vesta_sdk::Tensor;
    /// let rate = Tensor::scalar(16_000i64);
    /// assert!(rate.shape().is_empty());
    /// assert_eq!(rate.item(), Some(16_000));
    /// ```
    pub fn scalar(value: T) -> Tensor<T> {
        Tensor { shape: Vec::new(), data: vec![value] }
    }

    /// The only element. None if there are several or none.
    pub fn item(&self) -> Option<T> {
        match self.data.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    /// The sizes of the dimensions, outermost first; none for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All elements.
    pub fn as_slice(&self) -> &[T] {
        &self.data
    }

    /// All elements, to change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// All elements, without a copy.
    pub fn into_vec(self) -> Vec<T> {
        self.data
    }

    /// Part `index` along the first dimension: of shape `[N, 10]`, ten elements. None past the end.
    pub fn row(&self, index: usize) -> Option<&[T]> {
        let (&rows, inner) = self.shape.split_first()?;
        let width: usize = inner.iter().product();
        if index < rows { self.data.get(index * width..(index + 1) * width) } else { None }
    }

    /// The parts along the first dimension, in order; a single value has none.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> {
        let rows = self.shape.first().copied().unwrap_or(0);
        (0..rows).map(|index| self.row(index).unwrap_or_default())
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// [`TensorError::Length`] unless both shapes have the same product.
    pub fn reshape(mut self, shape: impl AsRef<[usize]>) -> Result<Tensor<T>, TensorError> {
        let shape = shape.as_ref().to_vec();
        check_len(&shape, self.data.len())?;
        self.shape = shape;
        Ok(self)
    }

    /// The tensor at the host.
    pub(crate) fn to_host(&self) -> nn::tensor::Tensor {
        let dimensions: Vec<u32> = self.shape.iter().map(|&size| size as u32).collect();
        T::to_host(&dimensions, T::as_bytes(&self.data))
    }

    /// None unless `bytes` has as many elements as `dimensions` say.
    pub(crate) fn from_host(dimensions: &[u32], bytes: Vec<u8>) -> Option<Tensor<T>> {
        let shape: Vec<usize> = dimensions.iter().map(|&size| size as usize).collect();
        if elements(&shape)?.checked_mul(size_of::<T>())? != bytes.len() {
            return None;
        }
        Some(Tensor { shape, data: T::from_bytes(bytes) })
    }
}

fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

fn check_len(shape: &[usize], len: usize) -> Result<(), TensorError> {
    let expected = elements(shape);
    if expected == Some(len) {
        return Ok(());
    }
    Err(TensorError::Length { shape: shape.to_vec(), expected, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_and_length_must_agree() {
        let error = Tensor::new([2, 2], vec![1u8; 3]).unwrap_err();
        assert_eq!(error.to_string(), "shape [2, 2] takes 4 elements, got 3");
        let error = Tensor::new([usize::MAX, 2], vec![1u8; 3]).unwrap_err();
        assert_eq!(error.to_string(), format!("shape [{}, 2] takes too many elements, got 3", usize::MAX));
        assert!(Tensor::<f32>::zeros([usize::MAX, 2]).is_err());
        assert_eq!(Tensor::new([], vec![1i64]).unwrap().shape(), [0usize; 0]);
        assert_eq!(Tensor::<f32>::zeros([3, 0]).unwrap().rows().len(), 3);
    }

    #[test]
    fn rows_go_along_the_first_dimension() {
        let tensor = Tensor::new([2, 1, 2], vec![1, 2, 3, 4]).unwrap();
        assert_eq!(tensor.row(0), Some(&[1, 2][..]));
        assert_eq!(tensor.row(2), None);
        assert_eq!(tensor.row(usize::MAX), None);
        assert_eq!(tensor.rows().collect::<Vec<_>>(), [&[1, 2][..], &[3, 4]]);
        assert_eq!(tensor.reshape([4, 1]).unwrap().row(3), Some(&[4][..]));
    }

    #[test]
    fn ragged_rows_are_named() {
        let rows = [vec![1.0f32, 2.0], vec![3.0]];
        assert_eq!(
            Tensor::from_rows(&rows).unwrap_err().to_string(),
            "row 1 has 1 elements, the rows before have 2"
        );
        assert_eq!(Tensor::<f32>::from_rows(&[[1.0, 2.0]]).unwrap().shape(), [1, 2]);
        assert_eq!(Tensor::<f32>::from_rows(&[] as &[[f32; 2]]).unwrap().shape(), [0, 0]);
    }

    #[test]
    fn bytes_of_the_host_are_little_endian_and_checked() {
        let tensor = Tensor::<i32>::from_host(&[2], vec![1, 0, 0, 0, 0, 1, 0, 0]).unwrap();
        assert_eq!(tensor.into_vec(), [1, 256]);
        let halves = Tensor::<half::f16>::from_host(&[1], vec![0x00, 0x3c]).unwrap();
        assert_eq!(halves.as_slice()[0].to_f32(), 1.0);
        assert_eq!(Tensor::<i64>::from_host(&[1], vec![0; 7]), None);
        assert_eq!(Tensor::<u8>::from_host(&[2, 2], vec![1, 2, 3, 4]).unwrap().row(1), Some(&[3, 4][..]));
        assert_eq!(Tensor::<i8>::from_host(&[2], vec![0x80, 0x7f]).unwrap().as_slice(), [-128, 127]);
        assert_eq!(Tensor::<bool>::from_host(&[3], vec![0, 1, 2]).unwrap().as_slice(), [false, true, true]);
    }

    #[test]
    fn a_scalar_has_one_element_and_no_dimension() {
        let scalar = Tensor::<i64>::from_host(&[], vec![7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!(scalar, Tensor::scalar(7));
        assert_eq!((scalar.shape(), scalar.item()), (&[][..], Some(7)));
        assert_eq!(Tensor::<i64>::from_host(&[], vec![]), None);
        assert_eq!(Tensor::new([2], vec![1u8, 2]).unwrap().item(), None);
    }
}
