//! `vesta build`

use super::output;
use crate::package::{self, BuildOptions, Package, archive};
use anyhow::Context;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The function's folder, with its vesta.toml
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Write the package as one file, to upload it later or elsewhere
    #[arg(long, short, value_name = "FILE.vesta")]
    output: Option<PathBuf>,
    /// Take the component that is there, without running cargo
    #[arg(long)]
    no_build: bool,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let options = BuildOptions { no_cargo: args.no_build, quiet: json };
    let package = package::build(&args.dir, &options)?;
    if let Some(path) = &args.output {
        write_archive(&package, path).with_context(|| format!("{}", path.display()))?;
    }
    if json {
        let written = args.output.as_ref().map(|p| p.display().to_string());
        return output::json(&serde_json::json!({ "manifest": package.manifest, "output": written }));
    }
    output::line(describe(&package))?;
    match &args.output {
        Some(path) => output::line(format!("written to {}", path.display())),
        None => Ok(()),
    }
}

/// Writes the file whole or not at all.
fn write_archive(package: &Package, path: &Path) -> anyhow::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(permissions()).tempfile_in(dir)?;
    archive::write(package, std::io::BufWriter::new(file.as_file_mut()))?;
    file.persist(path)?;
    Ok(())
}

/// What the user's umask leaves of the usual mode: a package holds no secret.
fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// The package's blobs as a table.
pub fn describe(package: &Package) -> String {
    let manifest = &package.manifest;
    let mut rows = vec![row("component", &manifest.component)];
    rows.extend(manifest.models.iter().map(|m| row(&format!("model {}", m.name), &m.blob)));
    let total = manifest.blobs().iter().map(|b| b.size).sum();
    let table = output::table(&["BLOB", ">SIZE", "DIGEST"], rows);
    let blobs = output::plural(manifest.blobs().len(), "blob");
    format!("{}: {blobs}, {}\n{table}", manifest.name, output::size(total))
}

fn row(name: &str, blob: &vesta_core::manifest::BlobRef) -> Vec<String> {
    vec![output::printable(name), output::size(blob.size), blob.digest.to_string()]
}
