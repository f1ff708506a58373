//! Errors of the runtime as a developer reads them.

/// An error with its causes on one line, of bounded length.
pub(crate) fn one_line(e: &wasmtime::Error) -> String {
    let line = format!("{e:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(600).collect()
}
