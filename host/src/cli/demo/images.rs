//! The held-out images of the digits example: 8 x 8 pixels from 0 (paper) to 16 (ink).

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Deserialize)]
pub struct Images {
    pub images: Vec<Vec<u8>>,
    pub labels: Vec<u64>,
}

impl Images {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let read = || -> anyhow::Result<Self> {
            let images: Images = serde_json::from_str(&std::fs::read_to_string(path)?)?;
            ensure!(
                !images.images.is_empty() && images.images.len() == images.labels.len(),
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
    json!({ "image": image })
}

/// The digit that the function answered.
pub fn digit(body: &str) -> Option<u64> {
    serde_json::from_str::<Value>(body).ok()?["digit"].as_u64()
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
    fn the_answered_digit_is_found() {
        assert_eq!(digit(r#"{"digit":7}"#), Some(7));
        assert_eq!(digit("oops"), None);
    }
}
