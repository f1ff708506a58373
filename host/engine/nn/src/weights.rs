//! Moves the weights out of a graph into a file beside it, so that loading maps them as they are: for the
//! default engine in the
//! types that it computes with, for others in their own.

use crate::onnx::*;
use crate::order::{Order, Place, constants};
use crate::{Lookup, WEIGHTS_FILE};
use bytes::Bytes;
use half::f16;
use std::io::{self, Write};

/// Smaller tensors stay in the graph: copying them costs less than naming a place in a file.
const INLINE_BYTES_MAX: u64 = 256;
/// A cache line, and the widest vector of any CPU.
const ALIGNMENT: u64 = 64;
/// Alignment of what is read otherwise than the rest: a page.
const PAGE: u64 = 4096;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Of these, the tables at the end of the file: a run looks up a few of their rows.
    pub table_bytes: u64,
    pub lookups: Vec<Lookup>,
}

/// Writes all large tensors of a graph that was checked, and of the graphs in it, one after another: first
/// what every run reads as a whole, in the order of its use, then the tables of rows.
pub fn take_weights(graph: &mut GraphProto, out: impl Write) -> io::Result<Written> {
    let order = Order::of(graph);
    let mut large = Vec::new();
    constants(graph, &mut |name, tensor| {
        let bytes = engine_bytes(tensor);
        if bytes > INLINE_BYTES_MAX {
            large.push((order.place(name, bytes), name.map(str::to_owned), tensor));
        }
    });
    take(large, &order, engine_data, out)
}

/// Writes all large initialisers of a graph that was checked, in their own types and in the same order.
/// Those of the graphs in it
/// stay where they are, as do constants.
pub fn take_initializers(graph: &mut GraphProto, out: impl Write) -> io::Result<Written> {
    let order = Order::of(graph);
    let mut large = Vec::new();
    for tensor in &mut graph.initializer {
        let bits = tensor.data_type.and_then(element_bits).unwrap_or(0);
        let bytes = elements_times(tensor, bits).div_ceil(8);
        if bytes > INLINE_BYTES_MAX {
            let name = tensor.name.clone();
            large.push((order.place(name.as_deref(), bytes), name, tensor));
        }
    }
    take(large, &order, own_data, out)
}

/// Tensors with their places in the file and the names that nodes know them by.
type Large<'a> = Vec<(Place, Option<String>, &'a mut TensorProto)>;

fn take(
    mut large: Large<'_>,
    order: &Order,
    data_of: fn(&TensorProto) -> Option<(i32, Bytes)>,
    out: impl Write,
) -> io::Result<Written> {
    large.sort_by_key(|(place, ..)| *place);
    let mut out = Blocks::new(out);
    let mut tables_from = None;
    let mut lookups = Vec::new();
    for (place, name, tensor) in large {
        let Some((data_type, data)) = data_of(tensor) else { continue };
        let alignment = if place.table && tables_from.is_none() { PAGE } else { ALIGNMENT };
        let offset = out.align(alignment)?;
        if place.table {
            tables_from.get_or_insert(offset);
            let rows = tensor.dims.first().map_or(1, |rows| rows.unsigned_abs().max(1));
            let row_bytes = data.len() as u64 / rows;
            let inputs = order.inputs_that_look_up(name.as_deref());
            lookups.extend(inputs.map(|input| Lookup { input: input.into(), offset, rows, row_bytes }));
        }
        out.write(&data)?;
        let entry =
            |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        *tensor = TensorProto {
            dims: std::mem::take(&mut tensor.dims),
            name: tensor.name.take(),
            data_type: Some(data_type),
            data_location: Some(EXTERNAL),
            external_data: vec![
                entry("location", WEIGHTS_FILE.into()),
                entry("offset", offset.to_string()),
                entry("length", data.len().to_string()),
            ],
            ..TensorProto::default()
        };
    }
    let bytes = out.finish()?;
    Ok(Written { bytes, table_bytes: tables_from.map_or(0, |from| bytes - from), lookups })
}

/// Writes in whole, aligned blocks of the size of a huge page: then the page cache may hold the file in huge
/// pages, and mapping 90 MB costs 0.4 ms instead of 10 (ext4, Linux 6.18).
struct Blocks<W> {
    out: W,
    block: Vec<u8>,
    written: u64,
}

const BLOCK: usize = 2 << 20;

impl<W: Write> Blocks<W> {
    fn new(out: W) -> Self {
        Self { out, block: Vec::with_capacity(BLOCK), written: 0 }
    }

    fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            data = later;
            if self.block.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Fills up with zeros; gives the offset that comes next.
    fn align(&mut self, alignment: u64) -> io::Result<u64> {
        let offset = self.written + self.block.len() as u64;
        let aligned = offset.next_multiple_of(alignment);
        self.write(&[0; PAGE as usize][..(aligned - offset) as usize])?;
        Ok(aligned)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.block)?;
        self.written += self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.out.flush()?;
        Ok(self.written)
    }
}

const FLOAT: i32 = 1;
const UINT8: i32 = 2;
const INT8: i32 = 3;
const INT32: i32 = 6;

/// The size of [`engine_data`], without making it.
fn engine_bytes(tensor: &TensorProto) -> u64 {
    let element = match tensor.data_type {
        Some(UINT8 | INT8) => 1,
        _ => 4,
    };
    elements_times(tensor, element)
}

fn elements_times(tensor: &TensorProto, size: u64) -> u64 {
    tensor.dims.iter().fold(size, |size, &dim| size.saturating_mul(u64::try_from(dim).unwrap_or(0)))
}

/// The element type of a tensor and its bytes, as they are. Types that the default engine lacks are taken
/// where the file has them as bytes, as all writers of large tensors do.
pub fn own_data(tensor: &TensorProto) -> Option<(i32, Bytes)> {
    let number = tensor.data_type?;
    if let Some(raw) = &tensor.raw_data {
        return Some((number, raw.clone()));
    }
    let element = Element::from_number(number)?;
    let typed = &tensor.int32_data;
    let data = match element {
        Element::Float => bytes_of(&tensor.float_data, |v| v.to_le_bytes()),
        Element::Double => bytes_of(&tensor.double_data, |v| v.to_le_bytes()),
        Element::Int64 => bytes_of(&tensor.int64_data, |v| v.to_le_bytes()),
        Element::Int32 => bytes_of(typed, |v| v.to_le_bytes()),
        Element::Float16 => bytes_of(typed, |v| (v as u16).to_le_bytes()),
        Element::Uint8 | Element::Int8 => bytes_of(typed, |v| [v as u8]),
        Element::Bool => bytes_of(typed, |v| [u8::from(v != 0)]),
    };
    Some((number, data))
}

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
