mod tokenizer;

use serde::{Deserialize, Serialize};
use tokenizer::{PAD, tokenize};
use vesta_sdk::{Error, Model, Request, Response, Tensor};

const TEXTS_MAX: usize = 256;
/// Texts in one run of the model: enough to keep it busy, few enough for its memory.
const BATCH: usize = 8;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    text: Option<String>,
    texts: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Answer {
    /// 384 numbers for each text, of length 1.
    embeddings: Vec<Vec<f32>>,
    /// Of all texts together.
    tokens: usize,
}

#[vesta_sdk::handler]
fn handle(req: Request) -> Result<Response, Error> {
    let question: Question = req.json()?;
    let texts = match (question.text, question.texts) {
        (Some(text), None) => vec![text],
        (None, Some(texts)) => texts,
        _ => return Err(Error::bad_request("send either \"text\" or \"texts\"")),
    };
    if texts.is_empty() || texts.len() > TEXTS_MAX {
        let detail = format!("1 to {TEXTS_MAX} texts can be embedded at once, not {}", texts.len());
        return Err(Error::bad_request(detail).with_field("texts"));
    }

    let tokens: Vec<Vec<u16>> = texts.iter().map(|text| tokenize(text)).collect();
    let model = Model::load("minilm")?;
    let mut embeddings = Vec::with_capacity(texts.len());
    for batch in tokens.chunks(BATCH) {
        embed(&model, batch, &mut embeddings)?;
    }
    Response::json(&Answer { embeddings, tokens: tokens.iter().map(Vec::len).sum() })
}

fn embed(model: &Model, batch: &[Vec<u16>], embeddings: &mut Vec<Vec<f32>>) -> Result<(), Error> {
    let longest = batch.iter().map(Vec::len).max().unwrap_or(0);
    let shape = [batch.len(), longest];
    let padded = |of: fn(u16) -> i64, padding: i64| {
        let rows = batch.iter().flat_map(|tokens| {
            let padding = std::iter::repeat_n(padding, longest - tokens.len());
            tokens.iter().map(move |&token| of(token)).chain(padding)
        });
        Tensor::new(shape, rows.collect())
    };
    let outputs = model.run([
        ("input_ids", padded(i64::from, i64::from(PAD))?),
        ("attention_mask", padded(|_| 1, 0)?),
        ("token_type_ids", Tensor::zeros(shape)?),
    ])?;
    let hidden = outputs.get::<f32>("last_hidden_state")?;
    let [_, length, width] = hidden.shape() else {
        return Err(Error::internal(format!("the model gave the shape {:?}", hidden.shape())));
    };
    debug_assert_eq!(*length, longest);
    for (tokens, states) in batch.iter().zip(hidden.rows()) {
        embeddings.push(pooled(&states[..tokens.len() * width], *width));
    }
    Ok(())
}

/// The mean of a text's states, one for each of its tokens, scaled to length 1.
fn pooled(states: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for state in states.chunks_exact(width) {
        for (sum, value) in sum.iter_mut().zip(state) {
            *sum += value;
        }
    }
    // The sum and the mean have one direction.
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt().max(1e-12);
    sum.iter().map(|value| value / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_ends_on_the_unit_sphere() {
        assert_eq!(pooled(&[3.0, 0.0, 0.0, 4.0], 2), [0.6, 0.8]);
        assert_eq!(pooled(&[0.0, 0.0], 2), [0.0, 0.0]);
    }

    #[test]
    fn wrong_questions_are_explained() {
        let error =
            |body: &str| handle(Request::for_test(vesta_sdk::Method::POST, "/", &[], body)).unwrap_err();
        assert_eq!(error(r#"{"texts": []}"#).field(), Some("texts"));
        assert_eq!(error(r#"{"texts": ["a", 7]}"#).field(), Some("texts[1]"));
        assert!(error("{}").detail().starts_with("send either"));
        let many = format!(r#"{{"texts": {:?}}}"#, vec!["a"; 257]);
        assert!(error(&many).detail().contains("not 257"));
    }
}
