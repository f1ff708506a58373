use std::fmt;

use crate::ElementType;
use crate::nn::signatures;

/// What a model takes and gives, in the order of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// What [`Model::run`](crate::Model::run) must be given.
    pub inputs: Vec<Port>,
    /// What it gives.
    pub outputs: Vec<Port>,
}

/// An input or an output of a model. As text: `ids i64[?, 128]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Port {
    /// Its name in the model.
    pub name: String,
    /// The type of its elements.
    pub element_type: ElementType,
    /// The sizes of its dimensions, outermost first; None for one that may differ from run to run. Empty
    /// for a
    /// scalar, and None if the model leaves open how many dimensions there are.
    pub shape: Option<Vec<Option<usize>>>,
}

impl Signature {
    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|port| port.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&Port> {
        self.outputs.iter().find(|port| port.name == name)
    }
}

impl Port {
    /// Whether a tensor of this shape fits.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        let Some(dimensions) = &self.shape else { return true };
        dimensions.len() == shape.len()
            && dimensions.iter().zip(shape).all(|(stated, size)| stated.is_none_or(|stated| stated == *size))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.element_type)?;
        let Some(dimensions) = &self.shape else { return f.write_str(" of any shape") };
        let size = |size: &Option<usize>| size.map_or_else(|| "?".into(), |size| size.to_string());
        write!(f, "[{}]", dimensions.iter().map(size).collect::<Vec<_>>().join(", "))
    }
}

impl From<signatures::Signature> for Signature {
    fn from(signature: signatures::Signature) -> Signature {
        let ports = |ports: Vec<signatures::Port>| ports.into_iter().map(Port::from).collect();
        Signature { inputs: ports(signature.inputs), outputs: ports(signature.outputs) }
    }
}

impl From<signatures::Port> for Port {
    fn from(port: signatures::Port) -> Port {
        let sizes = |sizes: Vec<Option<u32>>| sizes.into_iter().map(|s| s.map(|s| s as usize)).collect();
        Port { name: port.name, element_type: port.ty.into(), shape: port.dimensions.map(sizes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(dimensions: Option<Vec<Option<u32>>>) -> Port {
        signatures::Port { name: "x".into(), ty: crate::nn::tensors::ElementType::I8, dimensions }.into()
    }

    #[test]
    fn a_port_says_what_fits() {
        let batch = port(Some(vec![None, Some(3)]));
        assert_eq!(batch.to_string(), "x i8[?, 3]");
        assert!(batch.accepts(&[7, 3]) && !batch.accepts(&[7, 4]) && !batch.accepts(&[3]));
        let scalar = port(Some(vec![]));
        assert_eq!(scalar.to_string(), "x i8[]");
        assert!(scalar.accepts(&[]) && !scalar.accepts(&[1]));
        let unranked = port(None);
        assert_eq!(unranked.to_string(), "x i8 of any shape");
        assert!(unranked.accepts(&[]) && unranked.accepts(&[1, 2, 3]));
    }
}
