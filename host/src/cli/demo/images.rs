//! The held-out images of the digits example: 8 x 8 pixels from 0 (paper) to 16 (ink).

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Deserialize)]
pub struct Images {
    pub images: Vec<Vec<u8>>,
    pub labels: Vec<usize>,
}

impl Images {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let read = || -> anyhow::Result<Self> {
            let images: Images = serde_json::from_str(&std::fs::read_to_string(path)?)?;
            ensure!(
                images.images.len() > 1 && images.images.len() == images.labels.len(),
                "images without labels"
            );
            ensure!(images.images.iter().all(|i| i.len() == 64), "an image is not of 64 pixels");
            Ok(images)
        };
        read().with_context(|| format!("{}", path.display()))
    }
}

/// What the digits function is asked.
pub fn request(image: &[u8]) -> Value {
    json!({ "pixels": image })
}

/// What the digits function answered.
#[derive(Deserialize)]
pub struct Guess {
    pub digit: usize,
    /// Of the digits 0 to 9.
    pub probabilities: Vec<f32>,
}

impl Guess {
    pub fn read(body: &str) -> anyhow::Result<Self> {
        serde_json::from_str(body).context("the answer of digits")
    }

    pub fn describe(&self) -> String {
        let probability = self.probabilities.get(self.digit).copied().unwrap_or_default();
        format!("{{\"digit\": {}, ...}}, of which it is {:.1} % sure", self.digit, 100.0 * probability)
    }
}

/// The image in characters, two to a pixel, since they are about twice as high as wide.
pub fn art(image: &[u8]) -> String {
    const INKS: [char; 5] = [' ', '░', '▒', '▓', '█'];
    let ink = |pixel: &u8| INKS[usize::from(*pixel).min(16).div_ceil(4)];
    let row = |pixels: &[u8]| pixels.iter().flat_map(|p| [ink(p); 2]).collect::<String>();
    image.chunks(8).map(|pixels| format!("    |{}|", row(pixels))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_drawn_row_by_row() {
        let mut image = [0; 64];
        image[0] = 16;
        image[9] = 1;
        let art = art(&image);
        assert_eq!(art.lines().count(), 8);
        assert_eq!(art.lines().next(), Some("    |██              |"));
        assert_eq!(art.lines().nth(1), Some("    |  ░░            |"));
    }

    #[test]
    fn the_answered_digit_is_shown_with_its_probability() {
        let guess = Guess::read(r#"{"digit":1,"probabilities":[0.25,0.75]}"#).expect("read");
        assert_eq!(guess.describe(), "{\"digit\": 1, ...}, of which it is 75.0 % sure");
        assert!(Guess::read("oops").is_err());
    }
}
