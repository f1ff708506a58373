//! The sample inputs of a manifest as tensors.

use crate::{Port, PrepareError, Signature, Tensor, TensorType};
use half::f16;
use vesta_core::sample::Sample;

/// A tensor for each input that has a sample, in the order of the signature.
pub fn tensors(signature: &Signature, samples: &[Sample]) -> Result<Vec<Option<Tensor>>, PrepareError> {
    let mut tensors = vec![None; signature.inputs.len()];
    for sample in samples {
        let refuse = |reason| PrepareError::Sample { input: sample.input.clone(), reason };
        let Some(index) = signature.inputs.iter().position(|p| p.name == sample.input) else {
            let known: Vec<_> = signature.inputs.iter().map(|p| format!("{:?}", p.name)).collect();
            return Err(refuse(format!("there is no such input; the model's are {}", known.join(", "))));
        };
        tensors[index] = Some(tensor(&signature.inputs[index], sample).map_err(refuse)?);
    }
    Ok(tensors)
}

fn tensor(port: &Port, sample: &Sample) -> Result<Tensor, String> {
    if !port.accepts(&sample.shape) {
        return Err(format!("its shape must be {}, not {:?}", port.shape_text(), sample.shape));
    }
    let tensor = match &sample.values {
        None => filled(port.ty, sample.shape.clone(), sample.fill.unwrap_or(0.0))?,
        Some(values) => {
            let mut data = Vec::with_capacity(values.len() * port.ty.size_bytes());
            for value in values {
                data.extend(element(port.ty, *value)?);
            }
            Tensor { ty: port.ty, shape: sample.shape.clone(), data }
        }
    };
    // The manifest was checked, but not by this process.
    tensor.check().map_err(|e| e.to_string())?;
    Ok(tensor)
}

/// A tensor whose elements are all the same.
pub fn filled(ty: TensorType, shape: Vec<u32>, value: f64) -> Result<Tensor, String> {
    let element = element(ty, value)?;
    let mut tensor = Tensor { ty, shape, data: Vec::new() };
    let count =
        tensor.elements().and_then(|n| usize::try_from(n).ok()).ok_or("it is larger than any memory")?;
    // Zeros are not touched until they are read.
    tensor.data =
        if value == 0.0 { vec![0; count.saturating_mul(element.len())] } else { element.repeat(count) };
    Ok(tensor)
}

/// One number in the element type of an input, little-endian.
fn element(ty: TensorType, value: f64) -> Result<Vec<u8>, String> {
    let whole = |min: f64, max: f64| match value.fract() == 0.0 && (min..=max).contains(&value) {
        true => Ok(value),
        false => Err(format!("{value} is not a whole number from {min} to {max}; the input is {ty}")),
    };
    let finite = |is: bool| match is {
        true => Ok(()),
        false => Err(format!("{value} is more than {ty} holds")),
    };
    Ok(match ty {
        TensorType::Bool => vec![whole(0.0, 1.0)? as u8],
        TensorType::I8 => (whole(-128.0, 127.0)? as i8).to_le_bytes().into(),
        TensorType::U8 => vec![whole(0.0, 255.0)? as u8],
        // The engine computes with 32-bit integers.
        TensorType::I32 => (whole(f64::from(i32::MIN), f64::from(i32::MAX))? as i32).to_le_bytes().into(),
        TensorType::I64 => (whole(f64::from(i32::MIN), f64::from(i32::MAX))? as i64).to_le_bytes().into(),
        TensorType::F16 => {
            let value = f16::from_f64(value);
            finite(value.is_finite())?;
            value.to_le_bytes().into()
        }
        TensorType::Bf16 => {
            let value = half::bf16::from_f64(value);
            finite(value.is_finite())?;
            value.to_le_bytes().into()
        }
        TensorType::F32 => {
            let value = value as f32;
            finite(value.is_finite())?;
            value.to_le_bytes().into()
        }
        TensorType::F64 => value.to_le_bytes().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let port = |name: &str, ty, shape: &[Option<u32>]| Port {
            name: name.into(),
            ty,
            shape: shape.to_vec(),
            ranked: true,
        };
        let inputs = vec![
            port("x", TensorType::F32, &[None, Some(2)]),
            port("ids", TensorType::I64, &[None]),
            port("mask", TensorType::Bool, &[Some(1)]),
        ];
        Signature { inputs, outputs: Vec::new() }
    }

    #[test]
    fn a_number_that_the_type_does_not_hold_is_refused() {
        for (ty, value) in [(TensorType::F16, 1e6), (TensorType::Bf16, 1e39), (TensorType::F32, 1e300)] {
            assert!(filled(ty, vec![1], value).is_err(), "{ty}");
            assert!(filled(ty, vec![1], -1.5).is_ok(), "{ty}");
        }
    }

    fn sample(input: &str, shape: &[u32], values: &[f64]) -> Sample {
        Sample { input: input.into(), shape: shape.to_vec(), values: Some(values.to_vec()), fill: None }
    }

    #[test]
    fn values_and_fills_become_tensors_of_the_inputs_types() {
        let filled = Sample { fill: Some(3.0), ..sample("ids", &[2], &[]) };
        let filled = Sample { values: None, ..filled };
        let made = tensors(&signature(), &[filled, sample("x", &[1, 2], &[0.5, -1.0])]).expect("tensors");
        let [Some(x), Some(ids), None] = &made[..] else { panic!("{made:?}") };
        assert_eq!((x.ty, &x.shape[..]), (TensorType::F32, &[1, 2][..]));
        assert_eq!(x.data, [0.5f32, -1.0].map(f32::to_le_bytes).concat());
        assert_eq!(ids.data, [3i64, 3].map(i64::to_le_bytes).concat());
    }

    #[test]
    fn a_sample_that_does_not_fit_is_refused_with_its_input() {
        for (sample, wanted) in [
            (
                sample("y", &[1], &[1.0]),
                "\"y\": there is no such input; the model's are \"x\", \"ids\", \"mask\"",
            ),
            (sample("x", &[2], &[1.0, 2.0]), "\"x\": its shape must be [?, 2], not [2]"),
            (sample("x", &[1, 3], &[0.0; 3]), "\"x\": its shape must be [?, 2], not [1, 3]"),
            (
                sample("ids", &[1], &[0.5]),
                "\"ids\": 0.5 is not a whole number from -2147483648 to 2147483647",
            ),
            (sample("ids", &[1], &[3e9]), "the input is i64"),
            (
                sample("mask", &[1], &[2.0]),
                "\"mask\": 2 is not a whole number from 0 to 1; the input is bool",
            ),
            (sample("x", &[2, 2], &[0.0]), "\"x\": f32[2, 2] takes 16 bytes"),
        ] {
            let error = tensors(&signature(), &[sample]).expect_err("refused");
            assert_eq!(error.code(), "bad-sample");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
