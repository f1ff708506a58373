//! Sample inputs of a model: what its trial run at deploy computes with.

use crate::manifest::ModelRef;
use serde::{Deserialize, Serialize};

/// Most samples of a model: one for each of its inputs.
pub const SAMPLES_MAX: usize = 256;
/// Most dimensions of a sample.
pub const RANK_MAX: usize = 16;
/// Longest name of an input, in bytes.
pub const INPUT_NAME_MAX: usize = 512;
/// Most numbers that the samples of a model list: 1 MiB of 64-bit numbers.
pub const VALUES_MAX: u64 = 1 << 17;
/// Most elements of all samples of a model together: 256 MiB of 64-bit numbers.
pub const ELEMENTS_MAX: u64 = 1 << 25;

/// An input of a model for its trial run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Name of the model's input.
    pub input: String,
    /// Empty for a scalar.
    pub shape: Vec<u32>,
    /// All elements, row-major. Absent: each is `fill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<f64>>,
    /// Every element, 0 where neither this nor `values` is stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<f64>,
}

/// Why a sample was refused; each names the field. `at` is the sample's place, such as
/// `models[0].samples[1]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("models[{model}].samples: {got} samples; at most {SAMPLES_MAX} are allowed")]
    TooMany { model: usize, got: usize },
    #[error("{at}.input: must be 1 to {INPUT_NAME_MAX} bytes long, not {got}")]
    Name { at: String, got: usize },
    #[error("{at}.input: {input:?} is used twice")]
    Twice { at: String, input: String },
    #[error("{at}.shape: {got} dimensions; at most {RANK_MAX} are allowed")]
    Rank { at: String, got: usize },
    #[error("{at}.shape: the samples of a model have more than {ELEMENTS_MAX} elements together")]
    Elements { at: String },
    #[error("{at}.values: {got} values; the shape {shape:?} has {expected} elements")]
    Length { at: String, got: usize, shape: Vec<u32>, expected: u64 },
    #[error("{at}.values: the samples of a model list more than {VALUES_MAX} values together; use fill")]
    Values { at: String },
    #[error("{at}.{field}: {value} is not a finite number")]
    NotFinite { at: String, field: &'static str, value: String },
    #[error("{at}.fill: must not be stated together with values")]
    Both { at: String },
}

impl Sample {
    /// The number of elements; `None` where 64 bits do not count them.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)))
    }
}

/// Checks the samples of the model at `index` of a manifest.
pub(crate) fn check(index: usize, model: &ModelRef) -> Result<(), SampleError> {
    let samples = &model.samples;
    if samples.len() > SAMPLES_MAX {
        return Err(SampleError::TooMany { model: index, got: samples.len() });
    }
    let (mut elements, mut values) = (0, 0);
    for (i, sample) in samples.iter().enumerate() {
        let at = format!("models[{index}].samples[{i}]");
        if !(1..=INPUT_NAME_MAX).contains(&sample.input.len()) {
            return Err(SampleError::Name { at, got: sample.input.len() });
        }
        if samples[..i].iter().any(|s| s.input == sample.input) {
            return Err(SampleError::Twice { at, input: sample.input.clone() });
        }
        if sample.shape.len() > RANK_MAX {
            return Err(SampleError::Rank { at, got: sample.shape.len() });
        }
        let expected = sample.elements().filter(|n| *n <= ELEMENTS_MAX - elements);
        let Some(expected) = expected else { return Err(SampleError::Elements { at }) };
        elements += expected;
        let listed = sample.values.as_deref().unwrap_or_default();
        if sample.values.is_some() && listed.len() as u64 != expected {
            let shape = sample.shape.clone();
            return Err(SampleError::Length { at, got: listed.len(), shape, expected });
        }
        values += listed.len() as u64;
        if values > VALUES_MAX {
            return Err(SampleError::Values { at });
        }
        if sample.values.is_some() && sample.fill.is_some() {
            return Err(SampleError::Both { at });
        }
        let fields = listed.iter().map(|v| ("values", *v)).chain(sample.fill.map(|v| ("fill", v)));
        if let Some((field, value)) = fields.into_iter().find(|(_, v)| !v.is_finite()) {
            return Err(SampleError::NotFinite { at, field, value: value.to_string() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::manifest::{BlobRef, Encoding, Precision};

    fn sample(input: &str, shape: &[u32]) -> Sample {
        Sample { input: input.into(), shape: shape.to_vec(), values: None, fill: None }
    }

    fn checked(samples: Vec<Sample>) -> Result<(), String> {
        let blob = BlobRef { digest: Digest::from_bytes([1; 32]), size: 1 };
        let model = ModelRef {
            name: "m".into(),
            encoding: Encoding::Onnx,
            blob,
            threads: 1,
            batch: Default::default(),
            engine: Default::default(),
            samples,
            precision: Precision::Full,
        };
        check(2, &model).map_err(|e| e.to_string())
    }

    fn refused(samples: Vec<Sample>) -> String {
        checked(samples).expect_err("refused")
    }

    #[test]
    fn samples_within_their_bounds_pass() {
        assert_eq!(checked(Vec::new()), Ok(()));
        let listed = Sample { values: Some(vec![1.0, -2.5]), ..sample("a", &[1, 2]) };
        let filled = Sample { fill: Some(7.0), ..sample("b", &[3]) };
        assert_eq!(checked(vec![listed, filled, sample("c", &[]), sample("d", &[0, u32::MAX])]), Ok(()));
        assert_eq!(checked(vec![sample("a", &[1 << 25])]), Ok(()));
    }

    #[test]
    fn every_mistake_names_its_field_and_the_limit() {
        let many = (0..257).map(|i| sample(&i.to_string(), &[])).collect();
        assert_eq!(refused(many), "models[2].samples: 257 samples; at most 256 are allowed");
        assert!(refused(vec![sample("", &[])]).starts_with("models[2].samples[0].input: must be 1 to 512"));
        let twice = refused(vec![sample("a", &[]), sample("a", &[])]);
        assert_eq!(twice, "models[2].samples[1].input: \"a\" is used twice");
        assert!(refused(vec![sample("a", &[1; 17])]).contains("].shape: 17 dimensions; at most 16"));
        for shape in [&[1 << 25, 2][..], &[u32::MAX; 3]] {
            assert!(refused(vec![sample("a", shape)]).contains("].shape: the samples of a model have more"));
        }
        let together = refused(vec![sample("a", &[1 << 25]), sample("b", &[])]);
        assert!(together.starts_with("models[2].samples[1].shape: "), "{together}");
        let short = Sample { values: Some(vec![1.0]), ..sample("a", &[2, 3]) };
        let text = refused(vec![short]);
        assert_eq!(text, "models[2].samples[0].values: 1 values; the shape [2, 3] has 6 elements");
        let long = Sample { values: Some(vec![0.0; (1 << 17) + 1]), ..sample("a", &[(1 << 17) + 1]) };
        assert!(refused(vec![long]).contains("].values: the samples of a model list more than 131072"));
        let nan = Sample { values: Some(vec![f64::NAN]), ..sample("a", &[1]) };
        assert_eq!(refused(vec![nan]), "models[2].samples[0].values: NaN is not a finite number");
        let infinite = Sample { fill: Some(f64::INFINITY), ..sample("a", &[1]) };
        assert!(refused(vec![infinite]).contains("].fill: inf is not"));
        let both = Sample { values: Some(vec![1.0]), fill: Some(1.0), ..sample("a", &[1]) };
        assert!(refused(vec![both]).contains("].fill: must not be stated together with values"));
    }
}
