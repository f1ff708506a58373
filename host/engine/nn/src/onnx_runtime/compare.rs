//! Whether two engines compute the same: the inputs and outputs of one engine's trial run, kept in a file,
//! and what another engine makes of the same inputs.

use crate::{DryRun, PrepareError, Tensor, TensorType};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;

/// Name of the file of a trial run beside a prepared model. Whoever asked for it takes it away.
pub const TRIAL_FILE: &str = "trial";

/// Most bytes of inputs and outputs that are kept; larger ones are not compared.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// How far a number may be from another engine's, as a part of the largest number of its tensor.
pub const TOLERANCE: f64 = 1e-3;
/// The same where the model computes with 16-bit floats, which one engine does and another does not.
pub const TOLERANCE_16: f64 = 1e-2;

/// A trial run as it is kept.
#[derive(Serialize, Deserialize)]
pub struct Kept {
    pub run: DryRun,
    /// CPU time of such a run once the model is warm, in milliseconds, where that was measured.
    pub cpu_ms: Option<f64>,
    inputs: Vec<KeptTensor>,
    outputs: Vec<KeptTensor>,
}

#[derive(Serialize, Deserialize)]
struct KeptTensor {
    name: String,
    ty: TensorType,
    shape: Vec<u32>,
    data: Vec<u8>,
}

type Named = Vec<(String, Tensor)>;

/// Keeps a trial run in a file of this folder, unless it is too large; such a run takes `cpu_ms`.
pub fn keep(
    dir: &Path,
    run: &DryRun,
    cpu_ms: Option<f64>,
    inputs: Named,
    outputs: Named,
) -> Result<(), PrepareError> {
    if inputs.iter().chain(&outputs).map(|(_, t)| t.data.len()).sum::<usize>() > KEPT_BYTES_MAX {
        return Ok(());
    }
    let kept = |named: Named| {
        named
            .into_iter()
            .map(|(name, Tensor { ty, shape, data })| KeptTensor { name, ty, shape, data })
            .collect()
    };
    let kept = Kept { run: run.clone(), cpu_ms, inputs: kept(inputs), outputs: kept(outputs) };
    let write = || {
        let bytes = postcard::to_allocvec(&kept).map_err(io::Error::other)?;
        std::fs::File::create(dir.join(TRIAL_FILE))?.write_all(&bytes)
    };
    write().map_err(|source| PrepareError::Io { action: "write a trial run", source })
}

impl Kept {
    pub fn read(path: &Path) -> Result<Kept, PrepareError> {
        let read = || postcard::from_bytes(&std::fs::read(path)?).map_err(io::Error::other);
        read().map_err(|source| PrepareError::Io { action: "read a trial run", source })
    }

    /// The inputs, and the outputs to which others are compared.
    pub fn into_tensors(self) -> (Named, Named) {
        let tensors = |kept: Vec<KeptTensor>| {
            kept.into_iter()
                .map(|KeptTensor { name, ty, shape, data }| (name, Tensor { ty, shape, data }))
                .collect()
        };
        (tensors(self.inputs), tensors(self.outputs))
    }
}

/// The first difference of outputs that is more than the tolerance.
pub fn difference(expected: &Named, got: &Named, tolerance: f64) -> Option<String> {
    if expected.len() != got.len() {
        return Some(format!("{} outputs instead of {}", got.len(), expected.len()));
    }
    expected.iter().zip(got).find_map(|((name, a), (_, b))| {
        let what = of_tensors(a, b, tolerance)?;
        Some(format!("output {name:?}: {what}"))
    })
}

fn of_tensors(a: &Tensor, b: &Tensor, tolerance: f64) -> Option<String> {
    if (a.ty, &a.shape) != (b.ty, &b.shape) {
        return Some(format!("{}{:?} and {}{:?}", a.ty, a.shape, b.ty, b.shape));
    }
    let Some((a, b)) = floats(a).zip(floats(b)) else {
        let at = a.data.iter().zip(&b.data).position(|(a, b)| a != b)?;
        return Some(format!("element {} differs", at / a.ty.size_bytes()));
    };
    let scale = a.iter().filter(|v| v.is_finite()).fold(0.0f64, |scale, v| scale.max(v.abs()));
    let is_close =
        |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * scale;
    let (at, (a, b)) = a.iter().zip(&b).enumerate().find(|(_, (a, b))| !is_close(**a, **b))?;
    Some(format!("element {at} is {a:e} and {b:e}, where the largest is {scale:e}"))
}

/// The elements of a tensor of floats; none of integers.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    fn each<const N: usize>(data: &[u8], of: impl Fn([u8; N]) -> f64) -> Option<Vec<f64>> {
        Some(data.as_chunks::<N>().0.iter().map(|b| of(*b)).collect())
    }
    let data = &tensor.data[..];
    match tensor.ty {
        TensorType::F32 => each(data, |b| f64::from(f32::from_le_bytes(b))),
        TensorType::F64 => each(data, f64::from_le_bytes),
        TensorType::F16 => each(data, |b| f16::from_le_bytes(b).to_f64()),
        TensorType::Bf16 => each(data, |b| bf16::from_le_bytes(b).to_f64()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::build::{f32s, i64s};

    fn differs(a: Tensor, b: Tensor) -> Option<String> {
        difference(&vec![("y".into(), a)], &vec![("y".into(), b)], TOLERANCE)
    }

    #[test]
    fn floats_may_differ_by_a_part_of_the_largest() {
        assert_eq!(differs(f32s(&[2], &[1000.0, 0.1]), f32s(&[2], &[999.5, 0.9])), None);
        let text = differs(f32s(&[2], &[1000.0, 0.0]), f32s(&[2], &[1000.0, 1.1])).expect("different");
        assert!(text.contains("\"y\"") && text.contains("element 1"), "{text}");
        assert_eq!(differs(f32s(&[1], &[0.0]), f32s(&[1], &[0.0])), None);
        assert!(differs(f32s(&[1], &[0.0]), f32s(&[1], &[1e-9])).is_some());
    }

    #[test]
    fn what_is_no_number_is_so_for_both() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert_eq!(differs(f32s(&[2], &[nan, infinite]), f32s(&[2], &[nan, infinite])), None);
        assert!(differs(f32s(&[1], &[nan]), f32s(&[1], &[0.0])).is_some());
        assert!(differs(f32s(&[1], &[infinite]), f32s(&[1], &[-infinite])).is_some());
        assert!(differs(f32s(&[2], &[1.0, infinite]), f32s(&[2], &[1.0, 3e38])).is_some());
    }

    #[test]
    fn integers_and_shapes_are_equal() {
        assert_eq!(differs(i64s(&[2], &[7, 8]), i64s(&[2], &[7, 8])), None);
        assert!(differs(i64s(&[2], &[7, 8]), i64s(&[2], &[7, 9])).expect("different").contains("element 1"));
        assert!(differs(i64s(&[2], &[7, 8]), i64s(&[1, 2], &[7, 8])).is_some());
        assert!(differs(i64s(&[2], &[7, 8]), f32s(&[2], &[7.0, 8.0])).is_some());
    }
}
