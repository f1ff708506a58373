use serde::{Deserialize, Serialize};
use vesta_sdk::{Error, Model, Request, Response, Tensor, log};

/// The names of vesta.toml, and of the model's input and output. `vesta deploy` prints what a model has.
const MODEL: &str = "model";
const INPUT: &str = "input";
const OUTPUT: &str = "output";

#[derive(Deserialize)]
struct Question {
    values: Vec<f32>,
}

#[derive(Serialize)]
struct Answer {
    shape: Vec<usize>,
    values: Vec<f32>,
}

#[vesta_sdk::handler]
fn handle(req: Request) -> Result<Response, Error> {
    let question: Question = req.json()?;
    if question.values.is_empty() {
        return Err(Error::bad_request("must not be empty").with_field("values"));
    }

    // Values that the model does not take are the client's mistake: `?` answers 400 with what it takes.
    let input = Tensor::new([1, question.values.len()], question.values)?;
    let output = Model::load(MODEL)?.run([(INPUT, input)])?.get::<f32>(OUTPUT)?;

    log::info!("answered", shape = output.shape());
    Response::json(&Answer { shape: output.shape().to_vec(), values: output.into_vec() })
}
