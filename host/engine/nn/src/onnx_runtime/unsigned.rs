//! Products of unsigned and signed 8-bit integers. On a processor without VNNI the library adds two of them
//! in 16 bits, which saturate. So the signed factor is written as an unsigned one: its numbers and its zero
//! point are larger by 128, and the products are the same. (The library has an option for that,
//! `session.x64quantprecision`; it makes convolutions of two signed factors fail, and misses some products.)

use super::rewrites::constant;
use crate::PrepareError;
use crate::edit::{Editor, int_attribute};
use crate::facts::Facts;
use crate::onnx::*;
use crate::table::Place;
use crate::weights::own_data;
use std::collections::HashMap;

/// The operator, its domain, and the numbers of its inputs with the first factor and its zero point, and the
/// second and its zero point.
const PRODUCTS: [(&str, &str, [usize; 4]); 9] = [
    ("ConvInteger", "", [0, 2, 1, 3]),
    ("MatMulInteger", "", [0, 2, 1, 3]),
    ("QLinearConv", "", [0, 2, 3, 5]),
    ("QLinearMatMul", "", [0, 2, 3, 5]),
    // It makes unsigned numbers of its first factor, a float.
    ("DynamicQuantizeMatMul", "com.microsoft", [0, 0, 1, 3]),
    ("MatMulIntegerToFloat", "com.microsoft", [0, 4, 1, 5]),
    ("QAttention", "com.microsoft", [0, 6, 1, 7]),
    ("QGemm", "com.microsoft", [0, 2, 3, 5]),
    ("QLinearConv", "com.microsoft", [0, 2, 3, 5]),
];

const UINT8: i64 = 2;
const INT32: i64 = 6;
/// What an unsigned number is larger by.
const SHIFT: i64 = 128;

/// The weights of a graph that were written as unsigned ones.
pub struct Unsigned {
    /// Signed weights of the graph by name, while they are not written anew.
    signed: HashMap<String, TensorProto>,
    written: HashMap<String, TensorProto>,
}

impl Unsigned {
    pub fn of(graph: &GraphProto) -> Unsigned {
        let is_signed = |t: &&TensorProto| t.data_type.and_then(Element::from_number) == Some(Element::Int8);
        let named = |t: &TensorProto| (t.name.clone().unwrap_or_default(), t.clone());
        let signed = graph.initializer.iter().filter(is_signed).map(named).collect();
        Unsigned { signed, written: HashMap::new() }
    }

    /// Adds the weights that were written to the graph.
    pub fn finish(self, graph: &mut GraphProto) {
        graph.initializer.extend(self.written.into_values());
    }

    /// The node with unsigned factors, if it has a signed one.
    ///
    /// # Errors
    /// A product whose second factor may be signed, as far as is known at deploy.
    pub fn rewrite(
        &mut self,
        editor: &mut Editor,
        mut node: NodeProto,
        facts: &Facts,
    ) -> Result<NodeProto, PrepareError> {
        let element = |i: usize| facts.input(&node, i).and_then(|f| f.element);
        if node.is("DequantizeLinear") {
            // Of a weight, with which the library may form a product.
            let is_weight = facts.input(&node, 0).is_some_and(|f| f.constant);
            if is_weight && element(0) == Some(Element::Int8) {
                self.shift(editor, &mut node, 0, 2, facts);
            }
            return Ok(node);
        }
        let is =
            |(op, domain, _): &&(&str, &str, [usize; 4])| node.op() == *op && node.op_domain() == *domain;
        let refuse = || {
            let place = Place { node: &node, label: node.label().to_owned() };
            Err(place.refuse(
                "its factors may be unsigned and signed numbers, whose products are not right on every processor",
            ))
        };
        if (node.op(), node.op_domain()) == ("DynamicQuantizeLSTM", "com.microsoft") {
            let is_unsigned = [1, 2].iter().all(|i| element(*i) == Some(Element::Uint8));
            return if is_unsigned { Ok(node) } else { refuse() };
        }
        let Some((_, _, [first, first_zero, second, zero])) = PRODUCTS.iter().find(is) else {
            return Ok(node);
        };
        // A zero point is of the type of its factor.
        let first = element(*first).or_else(|| element(*first_zero));
        match (first, element(*second).or_else(|| element(*zero))) {
            (_, Some(Element::Uint8)) => Ok(node),
            // The library computes these with wider numbers.
            (Some(Element::Int8), Some(Element::Int8)) => Ok(node),
            (_, Some(Element::Int8)) => {
                self.shift(editor, &mut node, *second, *zero, facts);
                Ok(node)
            }
            _ => refuse(),
        }
    }

    /// Makes a factor and its zero point unsigned.
    fn shift(
        &mut self,
        editor: &mut Editor,
        node: &mut NodeProto,
        factor: usize,
        zero: usize,
        facts: &Facts,
    ) {
        let of = node.clone();
        node.input[factor] = self.unsigned(editor, &of, &of.input[factor]);
        if node.input.len() <= zero {
            node.input.resize(zero + 1, String::new());
        }
        if !node.input[zero].is_empty() {
            node.input[zero] = self.unsigned(editor, &of, &of.input[zero]);
            return;
        }
        let name = editor.fresh(&of.output[0], "zero");
        let is_by_channel = node.is("DequantizeLinear") && facts.rank(&of, 1) != Some(0);
        if is_by_channel {
            let shape = editor.fresh(&of.output[0], "scales");
            editor.add(&of, "Shape", &[&of.input[1]], &[&shape], vec![]);
            let tensor = TensorProto {
                dims: vec![1],
                data_type: Some(UINT8 as i32),
                raw_data: Some(vec![SHIFT as u8].into()),
                ..TensorProto::default()
            };
            let value = AttributeProto {
                name: Some("value".into()),
                t: Some(tensor),
                r#type: Some(ATTRIBUTE_TENSOR),
                ..AttributeProto::default()
            };
            editor.add(&of, "ConstantOfShape", &[&shape], &[&name], vec![value]);
        } else {
            constant(editor, &of, &name, &[], Element::Uint8, SHIFT);
        }
        node.input[zero] = name;
    }

    /// The name of the same numbers, each larger by 128.
    fn unsigned(&mut self, editor: &mut Editor, of: &NodeProto, name: &str) -> String {
        if let Some(written) = self.written.get(name) {
            return written.name.clone().unwrap_or_default();
        }
        let new = editor.fresh(name, "unsigned");
        let stored = self.signed.get(name).and_then(|tensor| Some((tensor, own_data(tensor)?.1)));
        if let Some((tensor, data)) = stored {
            let data: Vec<u8> = data.iter().map(|byte| byte ^ SHIFT as u8).collect();
            let tensor = TensorProto {
                name: Some(new.clone()),
                dims: tensor.dims.clone(),
                data_type: Some(UINT8 as i32),
                raw_data: Some(data.into()),
                ..TensorProto::default()
            };
            self.written.insert(name.to_owned(), tensor);
            return new;
        }
        let [wide, shift, sum] = ["wide", "shift", "sum"].map(|part| editor.fresh(&new, part));
        editor.add(of, "Cast", &[name], &[&wide], vec![int_attribute("to", INT32)]);
        constant(editor, of, &shift, &[], Element::Int32, SHIFT);
        editor.add(of, "Add", &[&wide, &shift], &[&sum], vec![]);
        editor.add(of, "Cast", &[&sum], &[&new], vec![int_attribute("to", UINT8)]);
        new
    }
}
