//! The inputs of a run, as a caller names them.

use crate::{Port, RunError, Signature, TensorView};

/// Puts inputs into the order of the signature, of which each is given once.
pub fn sorted<'t>(
    signature: &Signature,
    inputs: &[(&str, TensorView<'t>)],
) -> Result<Vec<TensorView<'t>>, RunError> {
    let mut sorted: Vec<Option<TensorView<'t>>> = vec![None; signature.inputs.len()];
    for (name, tensor) in inputs {
        let Some(index) = signature.inputs.iter().position(|p| p.name == *name) else {
            let known = names(&signature.inputs);
            return Err(RunError::UnknownInput { name: (*name).to_owned(), known });
        };
        if sorted[index].replace(*tensor).is_some() {
            return Err(RunError::InputTwice { name: (*name).to_owned() });
        }
    }
    let missing = |port: &Port| RunError::MissingInput { name: port.name.clone() };
    sorted.into_iter().zip(&signature.inputs).map(|(t, port)| t.ok_or_else(|| missing(port))).collect()
}

fn names(ports: &[Port]) -> String {
    ports.iter().map(|p| format!("{:?}", p.name)).collect::<Vec<_>>().join(", ")
}
