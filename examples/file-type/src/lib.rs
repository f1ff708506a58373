mod features;
mod tables;

use serde::Serialize;
use vesta_sdk::{Error, Method, Model, Request, Response, Tensor};

use crate::features::Features;
use crate::tables::{Kind, LABELS, TXT, UNKNOWN};

#[derive(Debug, PartialEq, Serialize)]
struct Answer {
    #[serde(flatten)]
    kind: &'static Kind,
    score: f32,
    /// The model's own guess, before thresholds; "undefined" if it was not asked.
    model_label: &'static str,
}

#[vesta_sdk::handler]
fn handle(req: Request) -> Result<Response, Error> {
    if *req.method() != Method::POST {
        return Err(Error::method_not_allowed("POST the bytes of a file").with_field("method"));
    }
    Response::json(&identify(req.body()?)?)
}

fn identify(content: &[u8]) -> Result<Answer, Error> {
    match features::extract(content) {
        Features::Known(kind) => Ok(Answer { kind, score: 1.0, model_label: "undefined" }),
        Features::Bytes(bytes) => {
            let input = Tensor::new([1, bytes.len()], bytes)?;
            let scores = Model::load("magika")?.run([("bytes", input)])?.get::<f32>("target_label")?;
            judge(scores.as_slice())
        }
    }
}

/// The likeliest label, if the model is sure enough of it; else only whether it is text.
fn judge(scores: &[f32]) -> Result<Answer, Error> {
    let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    let (index, &score) = best.ok_or_else(|| Error::internal("the model gave no scores"))?;
    let label =
        LABELS.get(index).ok_or_else(|| Error::internal(format!("the model has no label {index}")))?;
    let kind = match f64::from(score) >= label.threshold {
        true => &label.kind,
        false if label.kind.is_text => &TXT,
        false => &UNKNOWN,
    };
    Ok(Answer { kind, score, model_label: label.name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(label: &str, score: f32) -> Answer {
        let index = LABELS.iter().position(|one| one.name == label).unwrap();
        let mut scores = vec![0.001; index + 3];
        scores[index] = score;
        judge(&scores).unwrap()
    }

    #[test]
    fn an_unsure_guess_becomes_text_or_unknown() {
        assert_eq!(judged("python", 0.5).kind.label, "python");
        assert_eq!(judged("python", 0.49).kind.label, "txt");
        assert_eq!(judged("png", 0.49).kind.label, "unknown");
        assert_eq!(judged("ignorefile", 0.94).kind.label, "txt");
    }

    #[test]
    fn labels_are_reported_under_their_overwritten_names() {
        let answer = judged("randombytes", 0.9);
        assert_eq!((answer.kind.label, answer.model_label), ("unknown", "randombytes"));
        assert_eq!(judged("randomtxt", 0.9).kind.mime_type, "text/plain");
    }

    #[test]
    fn small_files_need_no_model() {
        assert_eq!(identify(b"").unwrap().kind.label, "empty");
        assert_eq!(identify(b"seven b").unwrap().kind.label, "txt");
        assert_eq!(identify(b"\xff\xfe").unwrap().kind.label, "unknown");
    }
}
