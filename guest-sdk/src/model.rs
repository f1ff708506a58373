use std::fmt;
use std::sync::Arc;

use crate::nn::{graph, inference, signatures};
use crate::{Inputs, ModelError, Outputs, Signature};

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
/// Loading is cheap: the host holds the weights, and shares them between all instances. Where `vesta.toml`
/// lets an instance serve several requests (`scaling.reuse`), a model can be kept in a `static`:
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
    name: Arc<str>,
    context: inference::GraphExecutionContext,
    graph: graph::Graph,
}

impl Model {
    /// The model of that name.
    ///
    /// # Errors
    /// [`ModelErrorKind::NotFound`](crate::ModelErrorKind::NotFound) if the function has no such model.
    pub fn load(name: &str) -> Result<Model, ModelError> {
        let refused = |error| ModelError::from_wasi(name, &error);
        let graph = graph::load_by_name(name).map_err(refused)?;
        let context = graph.init_execution_context().map_err(refused)?;
        Ok(Model { name: name.into(), context, graph })
    }

    /// Runs the model once. [`Inputs`] are pairs of name and value: an array or vector if all are of one
    /// type,
    /// a tuple of pairs if not, or what a builder has collected.
    ///
    /// ```no_run
    /// # use vesta_sdk::{Error, Inputs, Model, Tensor};
    /// # fn run(model: Model, ids: Tensor<i64>, mask: Tensor<bool>, names: Vec<String>) -> Result<(), Error> {
    /// model.run([("ids", &ids), ("types", &ids)])?;
    /// model.run((("ids", &ids), ("mask", &mask), ("scale", 0.5f32)))?;
    /// model.run(names.iter().map(|name| (name, &ids)).collect::<Inputs>())?;
    /// # Ok(()) }
    /// ```
    ///
    /// The function sleeps meanwhile; the model's CPU time is billed as inference.
    ///
    /// # Errors
    /// [`ModelErrorKind::InvalidInput`] for a wrong, missing or unknown input, with what the model takes and
    /// what was given; [`ModelErrorKind::Timeout`]; or what the host reports.
    ///
    /// [`ModelErrorKind::InvalidInput`]: crate::ModelErrorKind::InvalidInput
    /// [`ModelErrorKind::Timeout`]: crate::ModelErrorKind::Timeout
    pub fn run(&self, inputs: impl Into<Inputs>) -> Result<Outputs, ModelError> {
        match self.context.compute(inputs.into().into_named()) {
            Ok(all) => Ok(Outputs::new(&self.name, all)),
            Err(error) => Err(ModelError::from_wasi(&self.name, &error)),
        }
    }

    /// What the model takes and gives: names, element types and shapes.
    ///
    /// ```no_run
    /// # use vesta_sdk::{Error, Model};
    /// # fn width(model: &Model) -> Option<usize> {
    /// let signature = model.signature();
    /// *signature.input("image")?.shape.as_ref()?.last()?
    /// # }
    /// ```
    pub fn signature(&self) -> Signature {
        signatures::signature_of(&self.graph).into()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("name", &&*self.name).finish_non_exhaustive()
    }
}
