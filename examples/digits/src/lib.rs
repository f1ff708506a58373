use serde::{Deserialize, Serialize};
use vesta_sdk::{Error, Model, Request, Response, Tensor};

/// Of an image: 8 rows of 8 pixels, each 0 (white) to 16 (black).
const PIXELS: usize = 64;
const PIXEL_MAX: f32 = 16.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    pixels: Option<Vec<f32>>,
    images: Option<Vec<Vec<f32>>>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Answer<'a> {
    digit: usize,
    probabilities: &'a [f32],
}

#[derive(Serialize)]
struct Answers<'a> {
    answers: Vec<Answer<'a>>,
}

#[vesta_sdk::handler]
fn handle(req: Request) -> Result<Response, Error> {
    let question: Question = req.json()?;
    match (question.pixels, question.images) {
        (Some(pixels), None) => {
            let probabilities = classify(scaled(&[pixels], |_| "pixels".into())?)?;
            Response::json(&answer(probabilities.as_slice()))
        }
        (None, Some(images)) => {
            let probabilities = classify(scaled(&images, |index| format!("images[{index}]"))?)?;
            Response::json(&Answers { answers: probabilities.rows().map(answer).collect() })
        }
        _ => Err(Error::bad_request("send either \"pixels\", for one image, or \"images\", for many")),
    }
}

fn classify(images: Tensor<f32>) -> Result<Tensor<f32>, Error> {
    Ok(Model::load("digits")?.run([("image", images)])?.get("probabilities")?)
}

/// Checks the images and scales them to 0..=1, as the model was trained: `[images, 64]`.
fn scaled(images: &[Vec<f32>], field: impl Fn(usize) -> String) -> Result<Tensor<f32>, Error> {
    if images.is_empty() {
        return Err(Error::bad_request("there must be at least one image").with_field("images"));
    }
    let mut all = Vec::with_capacity(images.len() * PIXELS);
    for (index, image) in images.iter().enumerate() {
        if image.len() != PIXELS {
            let detail = format!("an image has {PIXELS} pixels, this one {}", image.len());
            return Err(Error::bad_request(detail).with_field(field(index)));
        }
        for (place, &pixel) in image.iter().enumerate() {
            if !(0.0..=PIXEL_MAX).contains(&pixel) {
                let detail = format!("a pixel is 0 to {PIXEL_MAX}, this one {pixel}");
                return Err(Error::bad_request(detail).with_field(format!("{}[{place}]", field(index))));
            }
            all.push(pixel / PIXEL_MAX);
        }
    }
    Ok(Tensor::new([images.len(), PIXELS], all)?)
}

fn answer(probabilities: &[f32]) -> Answer<'_> {
    let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    Answer { digit: best.map_or(0, |(digit, _)| digit), probabilities }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> (String, Option<String>) {
        let error = handle(Request::for_test(vesta_sdk::Method::POST, "/", &[], body)).unwrap_err();
        assert_eq!(error.status(), 400);
        (error.detail().to_string(), error.field().map(str::to_string))
    }

    #[test]
    fn wrong_images_are_named() {
        assert_eq!(error(r#"{"pixels": [1, 2]}"#).1.as_deref(), Some("pixels"));
        let bright = format!(r#"{{"images": [{:?}, {:?}]}}"#, [0; 64], [99; 64]);
        assert_eq!(
            error(&bright),
            ("a pixel is 0 to 16, this one 99".to_string(), Some("images[1][0]".to_string()))
        );
        assert_eq!(error(r#"{"images": []}"#).1.as_deref(), Some("images"));
        assert!(error("{}").0.starts_with("send either"));
        assert!(error(r#"{"image": []}"#).0.contains("unknown field `image`"));
    }

    #[test]
    fn pixels_are_scaled_and_the_likeliest_digit_wins() {
        let scaled = scaled(&[vec![8.0; 64]], |_| String::new()).unwrap();
        assert_eq!((scaled.shape(), scaled.as_slice()[63]), (&[1, 64][..], 0.5));
        assert_eq!(answer(&[0.1, 0.7, 0.2]).digit, 1);
    }
}
