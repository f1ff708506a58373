//! magika's labels, laid out by build.rs.

use serde::Serialize;

/// A content type, as the package describes it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Kind {
    pub label: &'static str,
    pub mime_type: &'static str,
    pub group: &'static str,
    pub description: &'static str,
    pub is_text: bool,
}

/// One of the model's outputs.
pub struct Label {
    /// The model's name for it.
    pub name: &'static str,
    /// What it is reported as.
    pub kind: Kind,
    /// The score that it needs.
    pub threshold: f64,
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));
