use crate::nn::{inference, tensor, tensors};
use crate::{AnyTensor, Element, Output, Tensor};

/// What [`Model::run`](crate::Model::run) takes: named tensors, as many as the model has, each of its own
/// type.
///
/// ```no_run
/// # use vesta_sdk::{Error, Inputs, Model, Output, Tensor};
/// # fn run(model: Model, chunk: &Tensor<f32>, state: Output, is_last: bool) -> Result<(), Error> {
/// let mut inputs = Inputs::new().with("chunk", chunk).with("state", state).with("rate", 16_000i64);
/// if is_last {
///     inputs.insert("mask", Tensor::new([2], vec![true, false])?);
/// }
/// model.run(inputs)?;
/// # Ok(()) }
/// ```
///
/// Pairs of name and value become inputs by themselves: an array, a vector or an iterator if all are of one
/// type, a tuple of up to six pairs if not.
#[derive(Default)]
pub struct Inputs(Vec<inference::NamedTensor>);

/// One input: from a [`Tensor`] or an [`AnyTensor`], whose elements are copied to the host; from an
/// [`Output`] of an earlier run, which is at the host already; or from one number or `bool`, a scalar.
///
/// An [`Output`] by value is given up to the run; of a `&Output` nothing is copied either, and it stays.
pub struct Input(tensor::Tensor);

impl Inputs {
    /// No inputs.
    pub fn new() -> Inputs {
        Inputs::default()
    }

    /// These inputs and another one.
    pub fn with(mut self, name: impl AsRef<str>, input: impl Into<Input>) -> Inputs {
        self.insert(name, input);
        self
    }

    /// Adds an input. Two of one name are refused by the run.
    pub fn insert(&mut self, name: impl AsRef<str>, input: impl Into<Input>) {
        self.0.push((name.as_ref().to_string(), input.into().0));
    }

    pub(crate) fn into_named(self) -> Vec<inference::NamedTensor> {
        self.0
    }
}

impl<T: Element> From<Tensor<T>> for Input {
    fn from(tensor: Tensor<T>) -> Input {
        Input(tensor.to_host())
    }
}

impl<T: Element> From<&Tensor<T>> for Input {
    fn from(tensor: &Tensor<T>) -> Input {
        Input(tensor.to_host())
    }
}

impl From<AnyTensor> for Input {
    fn from(tensor: AnyTensor) -> Input {
        Input(tensor.to_host())
    }
}

impl From<&AnyTensor> for Input {
    fn from(tensor: &AnyTensor) -> Input {
        Input(tensor.to_host())
    }
}

impl From<Output> for Input {
    fn from(output: Output) -> Input {
        Input(output.into_host())
    }
}

impl From<&Output> for Input {
    fn from(output: &Output) -> Input {
        Input(tensors::share(output.at_host()))
    }
}

impl<T: Element> From<T> for Input {
    fn from(value: T) -> Input {
        Input(Tensor::scalar(value).to_host())
    }
}

impl<N: AsRef<str>, T: Into<Input>> Extend<(N, T)> for Inputs {
    fn extend<I: IntoIterator<Item = (N, T)>>(&mut self, pairs: I) {
        pairs.into_iter().for_each(|(name, input)| self.insert(name, input));
    }
}

impl<N: AsRef<str>, T: Into<Input>> FromIterator<(N, T)> for Inputs {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(pairs: I) -> Inputs {
        let mut inputs = Inputs::new();
        inputs.extend(pairs);
        inputs
    }
}

impl<N: AsRef<str>, T: Into<Input>, const COUNT: usize> From<[(N, T); COUNT]> for Inputs {
    fn from(pairs: [(N, T); COUNT]) -> Inputs {
        pairs.into_iter().collect()
    }
}

impl<N: AsRef<str>, T: Into<Input>> From<Vec<(N, T)>> for Inputs {
    fn from(pairs: Vec<(N, T)>) -> Inputs {
        pairs.into_iter().collect()
    }
}

macro_rules! tuples {
    ($($($name:ident $input:ident $index:tt),+;)+) => {$(
        impl<$($name: AsRef<str>, $input: Into<Input>),+> From<($(($name, $input),)+)> for Inputs {
            fn from(pairs: ($(($name, $input),)+)) -> Inputs {
                Inputs::new()$(.with(pairs.$index.0, pairs.$index.1))+
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
