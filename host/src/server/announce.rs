//! What `vesta serve` tells whoever started it.

use crate::tenancy::FirstKeys;
use anyhow::{Context, Result};
use std::path::Path;

/// Where the host serves.
pub struct Urls {
    pub invoke: String,
    pub control: String,
}

/// Tells where the host serves; on a new data directory also the keys, this once.
pub fn announce(urls: &Urls, keys: Option<&FirstKeys>, data: &Path, ready_file: Option<&Path>) -> Result<()> {
    println!("invocations  {}/fn/{{tenant}}/{{function}}/", urls.invoke);
    println!("control API  {}/api/v1", urls.control);
    println!("data         {}", data.display());
    if let Some(keys) = keys {
        println!("\nNew data directory. These keys are shown once and stored only as hashes:");
        println!("operator key           {}", keys.operator);
        println!("key of tenant default  {}", keys.tenant);
        println!("\nvesta login --url {} --invoke-url {} --key <KEY>", urls.control, urls.invoke);
    }
    let Some(path) = ready_file else { return Ok(()) };
    let ready = serde_json::json!({
        "invoke": urls.invoke,
        "control": urls.control,
        "operator_key": keys.map(|k| &k.operator),
        "tenant_key": keys.map(|k| &k.tenant),
    });
    write_private(path, &ready.to_string()).with_context(|| format!("ready file {}", path.display()))
}

/// Appears as a whole, readable by its owner only.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?
        .write_all(text.as_bytes())?;
    std::fs::rename(temporary, path)
}
