use std::sync::Arc;

use crate::nn::{inference, tensor, tensors};
use crate::{AnyTensor, Element, ElementType, ModelError, ModelErrorKind, Tensor};

/// What a model gave, in its order. The host keeps the elements until they are asked for.
pub struct Outputs {
    model: Arc<str>,
    all: Vec<Output>,
}

/// One output of a run, at the host. It can be read, and it can be an input of another run without its
/// elements being copied to the function.
///
/// ```no_run
/// # use vesta_sdk::{Error, Model, Tensor};
/// # fn generate(encoder: Model, decoder: Model, text: Tensor<i64>) -> Result<(), Error> {
/// let encoded = encoder.run([("ids", text)])?.take("hidden")?;
/// let mut token = Tensor::new([1, 1], vec![0i64])?;
/// for _ in 0..10 {
///     let outputs = decoder.run((("hidden", &encoded), ("token", &token)))?;
///     token = outputs.get("next")?;
/// }
/// # Ok(()) }
/// ```
///
/// Its memory counts as the function's until it is dropped, or given up to a run.
pub struct Output {
    model: Arc<str>,
    name: String,
    tensor: tensor::Tensor,
}

impl Outputs {
    pub(crate) fn new(model: &Arc<str>, all: Vec<inference::NamedTensor>) -> Outputs {
        let output = |(name, tensor)| Output { model: model.clone(), name, tensor };
        Outputs { model: model.clone(), all: all.into_iter().map(output).collect() }
    }

    /// The elements of the output of that name; as [`Output::read`].
    ///
    /// # Errors
    /// [`ModelErrorKind::NoOutput`] with the names there are; [`ModelErrorKind::OutputType`] if it is of
    /// another type.
    pub fn get<T: Element>(&self, name: &str) -> Result<Tensor<T>, ModelError> {
        self.output(name)?.read()
    }

    /// The output of that name.
    ///
    /// # Errors
    /// [`ModelErrorKind::NoOutput`] with the names there are.
    pub fn output(&self, name: &str) -> Result<&Output, ModelError> {
        self.all.iter().find(|output| output.name == name).ok_or_else(|| self.no_output(name))
    }

    /// Takes the output of that name out, to keep it longer than the others.
    ///
    /// # Errors
    /// [`ModelErrorKind::NoOutput`] with the names there are.
    pub fn take(&mut self, name: &str) -> Result<Output, ModelError> {
        match self.all.iter().position(|output| output.name == name) {
            Some(index) => Ok(self.all.remove(index)),
            None => Err(self.no_output(name)),
        }
    }

    /// The names of all outputs, in the model's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(Output::name)
    }

    /// All outputs, in the model's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Output> {
        self.all.iter()
    }

    fn no_output(&self, name: &str) -> ModelError {
        let available = self.names().map(str::to_string).collect();
        let kind = ModelErrorKind::NoOutput { output: name.to_string(), available };
        ModelError { model: self.model.to_string(), kind }
    }
}

impl IntoIterator for Outputs {
    type Item = Output;
    type IntoIter = std::vec::IntoIter<Output>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.into_iter()
    }
}

impl<'a> IntoIterator for &'a Outputs {
    type Item = &'a Output;
    type IntoIter = std::slice::Iter<'a, Output>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Output {
    /// Its name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements. (Asked of `vesta:nn`, since `wasi:nn` knows neither `bool` nor `i8`.)
    pub fn element_type(&self) -> ElementType {
        tensors::type_of(&self.tensor).into()
    }

    /// The sizes of its dimensions, outermost first; none for a scalar.
    pub fn shape(&self) -> Vec<usize> {
        self.tensor.dimensions().into_iter().map(|size| size as usize).collect()
    }

    /// Copies its elements to the function. As `u8` the elements of a `bool` or `i8` can be read, too: as the
    /// bytes that they are in `wasi:nn`.
    ///
    /// # Errors
    /// [`ModelErrorKind::OutputType`] if it is of another type.
    pub fn read<T: Element>(&self) -> Result<Tensor<T>, ModelError> {
        let actual = T::type_at_host(&self.tensor);
        if actual != T::TYPE {
            let (output, expected) = (self.name.clone(), T::TYPE);
            return Err(self.error(ModelErrorKind::OutputType { output, expected, actual }));
        }
        self.read_with(Tensor::from_host)
    }

    /// Copies its elements to the function, of whatever type they are.
    ///
    /// # Errors
    /// [`ModelErrorKind::BadOutput`] if the host contradicts itself.
    pub fn read_any(&self) -> Result<AnyTensor, ModelError> {
        let ty = self.element_type();
        self.read_with(|dimensions, bytes| AnyTensor::from_host(ty, dimensions, bytes))
    }

    fn read_with<R>(&self, make: impl FnOnce(&[u32], Vec<u8>) -> Option<R>) -> Result<R, ModelError> {
        let (shape, bytes) = (self.tensor.dimensions(), self.tensor.data());
        let len = bytes.len();
        make(&shape, bytes).ok_or_else(|| {
            self.error(ModelErrorKind::BadOutput { output: self.name.clone(), shape, bytes: len })
        })
    }

    fn error(&self, kind: ModelErrorKind) -> ModelError {
        ModelError { model: self.model.to_string(), kind }
    }

    pub(crate) fn at_host(&self) -> &tensor::Tensor {
        &self.tensor
    }

    pub(crate) fn into_host(self) -> tensor::Tensor {
        self.tensor
    }
}
