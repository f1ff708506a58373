//! Weights of 8 bits that a model makes floats of by Cast and Mul: made once, at deploy. The engine would
//! make them at each run; a MiniLM whose weights are stored so took four times as long.

use super::attributes::{bytes_of, floats_of};
use super::build::FLOAT;
use crate::onnx::*;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};

/// No more is made than this, in bytes: what is left over is computed at each run, as before.
const BYTES_MAX: u64 = 1 << 30;

/// Puts a weight in the place of each product of a weight of 8 bits, as floats, and its scales. Gives the
/// number of these.
/// Each float is the one that a run would compute, and there are as many as there were bytes.
pub fn make(graph: &mut GraphProto) -> usize {
    let reads = reads(graph);
    let once = |name: &str| reads.get(name) == Some(&1);
    let weights: HashMap<&str, usize> =
        graph.initializer.iter().enumerate().filter_map(|(i, t)| Some((t.name.as_deref()?, i))).collect();
    // By its output: a Cast's place among the nodes, and its weight's among the weights.
    let mut casts = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        let ([input], [output]) = (&node.input[..], &node.output[..]) else { continue };
        let is_cast = node.is("Cast") && node.int("to") == Some(FLOAT);
        if let Some(weight) = weights.get(input.as_str()).filter(|_| is_cast && once(input) && once(output)) {
            casts.insert(output.clone(), (index, *weight));
        }
    }
    let mut left = BYTES_MAX;
    let (mut made, mut gone) = (Vec::new(), HashSet::new());
    for (index, node) in graph.node.iter().enumerate().filter(|(_, node)| node.is("Mul")) {
        let ([a, b], [output]) = (&node.input[..], &node.output[..]) else { continue };
        let cast =
            [(a, b), (b, a)].into_iter().find_map(|(a, b)| Some((casts.get(a)?, weights.get(b.as_str())?)));
        let Some(((cast, weight), scales)) = cast else { continue };
        let Some(tensor) =
            product(&graph.initializer[*weight], &graph.initializer[*scales], output, &mut left)
        else {
            continue;
        };
        made.push((*weight, tensor));
        gone.extend([*cast, index]);
    }
    let count = made.len();
    for (weight, tensor) in made {
        graph.initializer[weight] = tensor;
    }
    let mut index = 0..;
    graph.node.retain(|_| index.next().is_none_or(|index| !gone.contains(&index)));
    count
}

/// How often each value is read, by nodes and as an output.
fn reads(graph: &GraphProto) -> HashMap<String, usize> {
    fn count(graph: &GraphProto, reads: &mut HashMap<String, usize>) {
        let outputs = graph.output.iter().filter_map(|output| output.name.as_ref());
        for name in outputs.chain(graph.node.iter().flat_map(|node| &node.input)) {
            *reads.entry(name.clone()).or_default() += 1;
        }
        for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
            attribute.g.iter().chain(&attribute.graphs).for_each(|inner| count(inner, reads));
        }
    }
    let mut all = HashMap::new();
    count(graph, &mut all);
    all
}

/// The product of 8-bit integers, as floats, and scales that have no more dimensions and in each as many
/// elements or one.
fn product(bytes: &TensorProto, scales: &TensorProto, name: &str, left: &mut u64) -> Option<TensorProto> {
    if scales.data_type != Some(FLOAT as i32) || scales.dims.len() > bytes.dims.len() {
        return None;
    }
    let missing = bytes.dims.len() - scales.dims.len();
    // How far apart the scales of neighbours are, in each dimension.
    let mut steps = vec![0; bytes.dims.len()];
    let mut step = 1;
    for ((size, of), wide) in steps[missing..].iter_mut().zip(&scales.dims).zip(&bytes.dims[missing..]).rev()
    {
        if *of != 1 && of != wide {
            return None;
        }
        *size = if *of == 1 { 0 } else { step };
        step *= usize::try_from(*of).ok()?;
    }
    let (bytes_of_them, scales) = (bytes_of(bytes)?, floats_of(scales)?);
    *left = left.checked_sub(4 * bytes_of_them.len() as u64)?;
    let mut data = Vec::with_capacity(4 * bytes_of_them.len());
    let mut place = vec![0; bytes.dims.len()];
    let mut scale = 0;
    for byte in bytes_of_them {
        data.extend((f32::from(byte) * scales.get(scale)?).to_le_bytes());
        for ((place, size), step) in place.iter_mut().zip(&bytes.dims).zip(&steps).rev() {
            *place += 1;
            scale += step;
            if *place < *size {
                break;
            }
            scale -= step * *place as usize;
            *place = 0;
        }
    }
    Some(TensorProto {
        name: Some(name.to_owned()),
        dims: bytes.dims.clone(),
        data_type: Some(FLOAT as i32),
        raw_data: Some(Bytes::from(data)),
        ..TensorProto::default()
    })
}
