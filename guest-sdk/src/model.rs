use std::fmt;

use crate::nn::{errors, graph, inference, tensor};
use crate::tensor::{Element, ElementType, Tensor};

/// A model that the host runs, named in `vesta.toml`.
///
/// ```no_run
/// # use vesta_sdk::{Error, Model, Tensor};
/// # fn classify(pixels: Vec<f32>) -> Result<Vec<f32>, Error> {
/// let model = Model::load("digits")?;
/// let outputs = model.run([("image", Tensor::new([1, 64], pixels)?)])?;
/// let scores = outputs.get::<f32>("logits")?;
/// # Ok(scores.into_vec()) }
/// ```
///
/// Loading is cheap: the host holds the weights, and shares them between all instances. Where `vesta.toml` lets an instance
/// serve several requests (`scaling.reuse`), a model can be kept in a `static`:
///
/// ```no_run
/// # use vesta_sdk::{Error, Model};
/// static DIGITS: std::sync::OnceLock<Model> = std::sync::OnceLock::new();
///
/// fn digits() -> Result<&'static Model, Error> {
///     match DIGITS.get() {
///         Some(model) => Ok(model),
///         None => {
///             let model = Model::load("digits")?;
///             Ok(DIGITS.get_or_init(|| model))
///         }
///     }
/// }
/// ```
pub struct Model {
    name: String,
    context: inference::GraphExecutionContext,
}

/// Why a model gave no answer. `?` in a handler makes it a 500 whose cause is logged, or a 504 for a timeout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model \"{model}\": {kind}")]
pub struct ModelError {
    /// The model's name.
    pub model: String,
    /// What went wrong.
    pub kind: ModelErrorKind,
}

/// What went wrong with a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelErrorKind {
    /// The function has no model of that name.
    #[error("not found; vesta.toml names the function's models{}", in_brackets(.0))]
    NotFound(String),
    /// An input has the wrong name, type or shape.
    #[error("it does not take these inputs{}", in_brackets(.0))]
    InvalidInput(String),
    /// There was no time left to run it.
    #[error("out of time{}", in_brackets(.0))]
    Timeout(String),
    /// Anything else that the host reports.
    #[error("{code}{}", in_brackets(.detail))]
    Host {
        /// The name of the code in `wasi:nn`.
        code: &'static str,
        /// The host's words.
        detail: String,
    },
    /// The function asked for an output that the model does not have.
    #[error("it has no output \"{output}\", but {}", .available.join(", "))]
    NoOutput {
        /// The name asked for.
        output: String,
        /// The names there are.
        available: Vec<String>,
    },
    /// An output is not of the type that the function asked for.
    #[error("output \"{output}\" is {actual}, not {expected}")]
    OutputType {
        /// The output's name.
        output: String,
        /// The type asked for.
        expected: ElementType,
        /// The type it has.
        actual: ElementType,
    },
    /// The host's tensor has other bytes than its shape says.
    #[error("output \"{output}\" of shape {shape:?} came with {bytes} bytes")]
    BadOutput {
        /// The output's name.
        output: String,
        /// The shape that the host named.
        shape: Vec<u32>,
        /// The length of its data.
        bytes: usize,
    },
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

impl ModelError {
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self.kind, ModelErrorKind::Timeout(_))
    }

    #[cold]
    fn from_wasi(model: &str, error: &errors::Error) -> ModelError {
        use errors::ErrorCode as Code;
        let detail = error.data();
        let kind = match error.code() {
            Code::NotFound => ModelErrorKind::NotFound(detail),
            Code::InvalidArgument => ModelErrorKind::InvalidInput(detail),
            Code::Timeout => ModelErrorKind::Timeout(detail),
            Code::InvalidEncoding => ModelErrorKind::Host { code: "invalid encoding", detail },
            Code::RuntimeError => ModelErrorKind::Host { code: "runtime error", detail },
            Code::UnsupportedOperation => ModelErrorKind::Host { code: "unsupported operation", detail },
            Code::TooLarge => ModelErrorKind::Host { code: "too large", detail },
            Code::Security => ModelErrorKind::Host { code: "not permitted", detail },
            Code::Unknown => ModelErrorKind::Host { code: "unknown error", detail },
        };
        ModelError { model: model.to_string(), kind }
    }
}

impl Model {
    /// The model of that name.
    ///
    /// # Errors
    /// [`ModelErrorKind::NotFound`] if the function has no such model.
    pub fn load(name: &str) -> Result<Model, ModelError> {
        let context = graph::load_by_name(name).and_then(|graph| graph.init_execution_context());
        match context {
            Ok(context) => Ok(Model { name: name.to_string(), context }),
            Err(error) => Err(ModelError::from_wasi(name, &error)),
        }
    }

    /// Runs the model once. Inputs are pairs of name and tensor: an array or vector if all are of one type, a tuple
    /// of pairs if not.
    ///
    /// ```no_run
    /// # use vesta_sdk::{Error, Model, Tensor};
    /// # fn run(model: Model, ids: Tensor<i64>, mask: Tensor<i64>, scale: Tensor<f32>) -> Result<(), Error> {
    /// model.run([("ids", &ids), ("mask", &mask)])?;
    /// model.run((("ids", &ids), ("scale", &scale)))?;
    /// # Ok(()) }
    /// ```
    ///
    /// The function sleeps meanwhile; the model's CPU time is billed as inference.
    ///
    /// # Errors
    /// [`ModelErrorKind::InvalidInput`] for a wrong name, type or shape; [`ModelErrorKind::Timeout`]; or what the
    /// host reports.
    pub fn run(&self, inputs: impl Inputs) -> Result<Outputs, ModelError> {
        match self.context.compute(inputs.into_named()) {
            Ok(all) => Ok(Outputs { model: self.name.clone(), all }),
            Err(error) => Err(ModelError::from_wasi(&self.name, &error)),
        }
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a model gave. The host keeps the numbers until they are asked for.
pub struct Outputs {
    model: String,
    all: Vec<inference::NamedTensor>,
}

impl Outputs {
    /// The output of that name.
    ///
    /// # Errors
    /// [`ModelErrorKind::NoOutput`] with the names there are; [`ModelErrorKind::OutputType`] if it is of another type.
    pub fn get<T: Element>(&self, name: &str) -> Result<Tensor<T>, ModelError> {
        match self.all.iter().find(|(other, _)| other == name) {
            Some((_, tensor)) => read(name, tensor).map_err(|kind| self.error(kind)),
            None => {
                let available = self.names().map(str::to_string).collect();
                Err(self.error(ModelErrorKind::NoOutput { output: name.to_string(), available }))
            }
        }
    }

    /// The names of all outputs, in the model's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(name, _)| name.as_str())
    }

    fn error(&self, kind: ModelErrorKind) -> ModelError {
        ModelError { model: self.model.clone(), kind }
    }
}

fn read<T: Element>(name: &str, tensor: &tensor::Tensor) -> Result<Tensor<T>, ModelErrorKind> {
    let actual: ElementType = tensor.ty().into();
    if actual != T::TYPE {
        return Err(ModelErrorKind::OutputType { output: name.to_string(), expected: T::TYPE, actual });
    }
    let (shape, bytes) = (tensor.dimensions(), tensor.data());
    let len = bytes.len();
    Tensor::from_wasi(&shape, bytes).ok_or_else(|| ModelErrorKind::BadOutput {
        output: name.to_string(),
        shape,
        bytes: len,
    })
}

/// What [`Model::run`] takes: named tensors, as an array, a vector, or a tuple of up to six pairs.
pub trait Inputs {
    #[doc(hidden)]
    #[allow(private_interfaces, reason = "the trait's use is public, the host's type is not")]
    fn into_named(self) -> Vec<inference::NamedTensor>;
}

/// A tensor or a reference to one.
#[doc(hidden)]
pub trait AsInput {
    #[allow(private_interfaces, reason = "as above")]
    fn to_input(&self) -> tensor::Tensor;
}

impl<T: Element> AsInput for Tensor<T> {
    #[allow(private_interfaces, reason = "as above")]
    fn to_input(&self) -> tensor::Tensor {
        self.to_wasi()
    }
}

impl<T: AsInput> AsInput for &T {
    #[allow(private_interfaces, reason = "as above")]
    fn to_input(&self) -> tensor::Tensor {
        (*self).to_input()
    }
}

impl<N: AsRef<str>, T: AsInput, const COUNT: usize> Inputs for [(N, T); COUNT] {
    #[allow(private_interfaces, reason = "as above")]
    fn into_named(self) -> Vec<inference::NamedTensor> {
        self.iter().map(|(name, tensor)| (name.as_ref().to_string(), tensor.to_input())).collect()
    }
}

impl<N: AsRef<str>, T: AsInput> Inputs for Vec<(N, T)> {
    #[allow(private_interfaces, reason = "as above")]
    fn into_named(self) -> Vec<inference::NamedTensor> {
        self.iter().map(|(name, tensor)| (name.as_ref().to_string(), tensor.to_input())).collect()
    }
}

macro_rules! tuples {
    ($($($name:ident $tensor:ident $index:tt),+;)+) => {$(
        impl<$($name: AsRef<str>, $tensor: AsInput),+> Inputs for ($(($name, $tensor),)+) {
            #[allow(private_interfaces, reason = "as above")]
            fn into_named(self) -> Vec<inference::NamedTensor> {
                vec![$((self.$index.0.as_ref().to_string(), self.$index.1.to_input())),+]
            }
        }
    )+};
}

tuples! {
    A TA 0;
    A TA 0, B TB 1;
    A TA 0, B TB 1, C TC 2;
    A TA 0, B TB 1, C TC 2, D TD 3;
    A TA 0, B TB 1, C TC 2, D TD 3, E TE 4;
    A TA 0, B TB 1, C TC 2, D TD 3, E TE 4, F TF 5;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_model_and_the_mistake() {
        let say = |kind| ModelError { model: "digits".into(), kind }.to_string();
        assert_eq!(
            say(ModelErrorKind::NoOutput { output: "x".into(), available: vec!["a".into(), "b".into()] }),
            "model \"digits\": it has no output \"x\", but a, b"
        );
        let (expected, actual) = (ElementType::F32, ElementType::I64);
        assert_eq!(
            say(ModelErrorKind::OutputType { output: "y".into(), expected, actual }),
            "model \"digits\": output \"y\" is i64, not f32"
        );
        assert_eq!(say(ModelErrorKind::Timeout(String::new())), "model \"digits\": out of time");
    }

    #[test]
    fn a_timeout_is_a_504_and_the_rest_a_500() {
        let error = |kind| crate::Error::from(ModelError { model: "m".into(), kind }).status();
        assert_eq!(error(ModelErrorKind::Timeout(String::new())), 504);
        assert_eq!(error(ModelErrorKind::NotFound(String::new())), 500);
    }
}
