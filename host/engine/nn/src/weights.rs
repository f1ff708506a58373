//! Moves the weights out of a graph into a file beside it, in the types that the engine computes with, so that loading maps them as they are.

use crate::WEIGHTS_FILE;
use crate::onnx::*;
use bytes::Bytes;
use half::f16;
use std::io::{self, Write};

/// Smaller tensors stay in the graph: copying them costs less than naming a place in a file.
const INLINE_BYTES_MAX: u64 = 256;
/// A cache line, and the widest vector of any CPU.
const ALIGNMENT: u64 = 64;
const PADDING: [u8; ALIGNMENT as usize] = [0; ALIGNMENT as usize];

/// Writes weights one after another.
pub struct WeightsWriter<W> {
    out: W,
    offset: u64,
}

impl<W: Write> WeightsWriter<W> {
    pub fn new(out: W) -> Self {
        Self { out, offset: 0 }
    }

    /// The file, and its size in bytes.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.out.flush()?;
        Ok((self.out, self.offset))
    }

    /// Moves all large tensors of a graph that was checked, and of the graphs in it.
    pub fn take_graph(&mut self, graph: &mut GraphProto) -> io::Result<()> {
        for tensor in &mut graph.initializer {
            self.take(tensor)?;
        }
        for node in &mut graph.node {
            let constant = node.is("Constant");
            for attribute in &mut node.attribute {
                if let (true, Some(tensor)) = (constant, &mut attribute.t) {
                    self.take(tensor)?;
                }
                for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    self.take_graph(graph)?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, tensor: &mut TensorProto) -> io::Result<()> {
        let Some((data_type, data)) = engine_data(tensor) else { return Ok(()) };
        if data.len() as u64 <= INLINE_BYTES_MAX {
            return Ok(());
        }
        let padding = self.offset.next_multiple_of(ALIGNMENT) - self.offset;
        self.out.write_all(&PADDING[..padding as usize])?;
        self.offset += padding;
        self.out.write_all(&data)?;
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        *tensor = TensorProto {
            dims: std::mem::take(&mut tensor.dims),
            name: tensor.name.take(),
            data_type: Some(data_type),
            data_location: Some(EXTERNAL),
            external_data: vec![
                entry("location", WEIGHTS_FILE.into()),
                entry("offset", self.offset.to_string()),
                entry("length", data.len().to_string()),
            ],
            ..TensorProto::default()
        };
        self.offset += data.len() as u64;
        Ok(())
    }
}

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;

/// The element type and bytes with which the engine computes. It keeps 64-bit integers and booleans as 32-bit
/// integers, and all floats as 32-bit ones: converted here once, they need not be copied at each load.
fn engine_data(tensor: &TensorProto) -> Option<(i32, Bytes)> {
    let raw = tensor.raw_data.as_ref();
    let typed = &tensor.int32_data;
    Some(match Element::from_number(tensor.data_type?)? {
        Element::Float => {
            (FLOAT, raw.cloned().unwrap_or_else(|| bytes_of(&tensor.float_data, |v| v.to_le_bytes())))
        }
        Element::Int32 => (INT32, raw.cloned().unwrap_or_else(|| bytes_of(typed, |v| v.to_le_bytes()))),
        Element::Uint8 => (UINT8, raw.cloned().unwrap_or_else(|| bytes_of(typed, |v| [v as u8]))),
        Element::Int8 => (INT8, raw.cloned().unwrap_or_else(|| bytes_of(typed, |v| [v as i8 as u8]))),
        Element::Bool => {
            let of = |v: bool| i32::from(v).to_le_bytes();
            (INT32, raw.map_or_else(|| bytes_of(typed, |v| of(v != 0)), |r| bytes_of(r, |v| of(v != 0))))
        }
        Element::Int64 => {
            let of = |v: i64| clamp(v).to_le_bytes();
            (
                INT32,
                match raw {
                    Some(raw) => bytes_of(raw.as_chunks::<8>().0, |c| of(i64::from_le_bytes(c))),
                    None => bytes_of(&tensor.int64_data, of),
                },
            )
        }
        Element::Double => {
            let of = |v: f64| (v as f32).to_le_bytes();
            (
                FLOAT,
                match raw {
                    Some(raw) => bytes_of(raw.as_chunks::<8>().0, |c| of(f64::from_le_bytes(c))),
                    None => bytes_of(&tensor.double_data, of),
                },
            )
        }
        Element::Float16 => {
            let of = |bits: u16| f16::from_bits(bits).to_f32().to_le_bytes();
            (
                FLOAT,
                match raw {
                    Some(raw) => bytes_of(raw.as_chunks::<2>().0, |c| of(u16::from_le_bytes(c))),
                    None => bytes_of(typed, |v| of(v as u16)),
                },
            )
        }
    })
}

/// The engine's own rule for 64-bit integers in a graph.
fn clamp(value: i64) -> i32 {
    value.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

fn bytes_of<T: Copy, const N: usize>(values: &[T], of: impl Fn(T) -> [u8; N]) -> Bytes {
    let mut out = Vec::with_capacity(values.len() * N);
    for &value in values {
        out.extend_from_slice(&of(value));
    }
    out.into()
}
