//! Tells a component from what it may be confused with, by its first eight bytes.

/// Why a file is not a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComponentError {
    #[error(
        "a core WebAssembly module, not a component; build it with `cargo build --target wasm32-wasip2 --release`"
    )]
    CoreModule,
    #[error("not a WebAssembly component: it does not begin with WebAssembly's magic bytes")]
    NotWasm,
    #[error("WebAssembly of an unknown version or layer")]
    UnknownLayer,
}

impl ComponentError {
    /// A stable name for use in an API.
    pub fn code(self) -> &'static str {
        match self {
            ComponentError::CoreModule => "core-module",
            ComponentError::NotWasm => "not-wasm",
            ComponentError::UnknownLayer => "unknown-wasm-layer",
        }
    }
}

/// Checks the first eight bytes of a file: the magic, the version (16 bits) and the layer (16 bits), of
/// which a component's is 1. Validation of the rest is the engine's.
pub fn check_header(first: &[u8]) -> Result<(), ComponentError> {
    match first {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(ComponentError::CoreModule),
        [0, b'a', b's', b'm', ..] => Err(ComponentError::UnknownLayer),
        _ => Err(ComponentError::NotWasm),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_component_layer_passes() {
        assert_eq!(check_header(b"\0asm\x0d\0\x01\0rest"), Ok(()));
        assert_eq!(check_header(b"\0asm\x01\0\0\0"), Err(ComponentError::CoreModule));
        assert_eq!(check_header(b"\0asm\x02\0\0\0"), Err(ComponentError::UnknownLayer));
        assert_eq!(check_header(b"\0asm"), Err(ComponentError::UnknownLayer));
        assert_eq!(check_header(b"\x7fELF...."), Err(ComponentError::NotWasm));
        assert_eq!(check_header(b""), Err(ComponentError::NotWasm));
    }
}
