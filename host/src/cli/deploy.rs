//! `vesta deploy`: build, send the manifest, send only the blobs that the host lacks, and wait until it is
//! ready.

use super::api::{self, Deployment, DeploymentState, ModelSignature, VersionInfo};
use super::client::{ApiError, Client, Payload};
use super::config::Connection;
use super::exit::{Exit, Failure};
use super::{output, progress};
use crate::package::{self, ArchiveLimits, BuildOptions, Package, archive};
use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use ureq::http::Method;
use vesta_core::id::{AliasName, LIVE};
use vesta_core::manifest::BlobRef;

#[derive(clap::Args)]
pub struct Args {
    /// The function's folder, or a package in one file
    #[arg(default_value = ".", value_name = "DIR|FILE.vesta")]
    source: PathBuf,
    /// The alias that moves to the new version
    #[arg(long, default_value = LIVE)]
    alias: AliasName,
    /// Take the component that is there, without running cargo
    #[arg(long)]
    no_build: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What a deployment did; times in milliseconds.
#[derive(Debug, Serialize)]
pub struct Deployed {
    pub function: String,
    pub version: u32,
    pub alias: String,
    pub url: String,
    pub uploaded: Vec<BlobRef>,
    pub reused: Vec<BlobRef>,
    pub steps: Vec<StepDone>,
    pub models: Vec<ModelSignature>,
    pub build_ms: u64,
    pub upload_ms: u64,
    pub prepare_ms: u64,
}

/// A step of the host's preparation.
#[derive(Debug, Serialize)]
pub struct StepDone {
    pub name: String,
    pub ms: u64,
}

/// Longest wait for the host's preparation; the host's own bound is shorter.
const PREPARE_MAX: Duration = Duration::from_secs(30 * 60);

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let options = BuildOptions { no_cargo: args.no_build, quiet: json };
    let deployed = deploy(&client, &args.source, args.alias.as_str(), &options)?;
    match json {
        true => output::json(&deployed),
        false => output::line(describe(&deployed)),
    }
}

/// Deploys a folder or a package in one file.
pub fn deploy(
    client: &Client,
    source: &Path,
    alias: &str,
    options: &BuildOptions,
) -> anyhow::Result<Deployed> {
    // Before the build: a wrong key should not cost a compilation.
    let functions_url = client.functions_url()?;
    let start = Instant::now();
    let unpacked;
    let package = if source.is_file() {
        unpacked = tempfile::tempdir().context("a temporary folder")?;
        let file = BufReader::new(File::open(source)?);
        let limits = ArchiveLimits::default();
        archive::unpack(file, &limits, unpacked.path()).with_context(|| format!("{}", source.display()))?
    } else {
        package::build(source, options)?
    };
    let build_ms = elapsed_ms(start);

    let start = Instant::now();
    let manifest = serde_json::to_value(&package.manifest)?;
    let created = client.api(Method::POST, "/deployments", Payload::Json(&manifest))?;
    let created: Deployment = api::read(created)?;
    for blob in &created.missing {
        upload(client, &created.id, &package, blob)?;
    }
    let upload_ms = elapsed_ms(start);

    let start = Instant::now();
    let commit = format!("/deployments/{}/commit", created.id);
    client.api(Method::POST, &commit, Payload::Json(&json!({ "alias": alias })))?;
    let ready = wait(client, &created.id)?;
    let prepare_ms = elapsed_ms(start);
    let sent = |b: &&BlobRef| created.missing.iter().any(|m| m.digest == b.digest);
    let (uploaded, reused): (Vec<_>, Vec<_>) = package.manifest.blobs().into_iter().partition(sent);
    let name = &package.manifest.name;
    let version = ready.version.context("the host named no version")?;
    Ok(Deployed {
        function: name.to_string(),
        version,
        alias: alias.to_string(),
        url: match alias {
            LIVE => format!("{functions_url}/{name}/"),
            alias => format!("{functions_url}/{name}@{alias}/"),
        },
        uploaded: uploaded.into_iter().cloned().collect(),
        reused: reused.into_iter().cloned().collect(),
        steps: ready.steps.into_iter().map(|s| StepDone { name: s.name, ms: s.ms.unwrap_or(0) }).collect(),
        models: signatures(client, &package, version),
        build_ms,
        upload_ms,
        prepare_ms,
    })
}

fn upload(client: &Client, id: &str, package: &Package, blob: &BlobRef) -> anyhow::Result<()> {
    let path =
        package.blobs.get(&blob.digest).context("the host asks for a blob that is not in the package")?;
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bar = progress::upload(&name, blob.size);
    let mut content = progress::Counted { inner: BufReader::with_capacity(256 * 1024, file), bar };
    let url = format!("/deployments/{id}/blobs/{}", blob.digest);
    let sent = client.api(Method::PUT, &url, Payload::Stream(&mut content, blob.size));
    content.bar.finish_and_clear();
    sent.map(|_| ())
}

/// Asks until the host has prepared the version, or says why it can't.
fn wait(client: &Client, id: &str) -> anyhow::Result<Deployment> {
    let spinner = progress::spinner("preparing");
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let deployment: Deployment = api::read(client.get(&format!("/deployments/{id}"))?)?;
        match deployment.state {
            DeploymentState::Ready => {
                spinner.finish_and_clear();
                return Ok(deployment);
            }
            DeploymentState::Failed => {
                spinner.finish_and_clear();
                let problem = deployment.error.unwrap_or_default();
                let status = problem.status.unwrap_or(422);
                return Err(ApiError { status, problem, hint: None }.into());
            }
            _ if start.elapsed() > PREPARE_MAX => {
                return Err(Failure::error(Exit::Failure, "the host is still preparing after 30 minutes"));
            }
            _ => {}
        }
        if let Some(step) = deployment.steps.iter().find(|s| s.state == "running") {
            spinner.set_message(output::printable(&step.name));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

/// For information only: without them the deployment is as good.
fn signatures(client: &Client, package: &Package, version: u32) -> Vec<ModelSignature> {
    if package.manifest.models.is_empty() {
        return Vec::new();
    }
    let path = format!("/functions/{}/versions/{version}", package.manifest.name);
    let info = client.get(&path).ok().and_then(|v| serde_json::from_value::<VersionInfo>(v).ok());
    info.map(|v| v.models).unwrap_or_default()
}

fn elapsed_ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn describe(d: &Deployed) -> String {
    let total = |blobs: &[BlobRef]| output::size(blobs.iter().map(|b| b.size).sum());
    let blobs = |blobs: &[BlobRef]| format!("{}, {}", output::plural(blobs.len(), "blob"), total(blobs));
    let mut uploaded = match d.uploaded.is_empty() {
        true => "nothing".to_string(),
        false => format!("{}, in {}", blobs(&d.uploaded), output::duration_ms(d.upload_ms)),
    };
    if !d.reused.is_empty() {
        uploaded.push_str(&format!(" (there already: {})", blobs(&d.reused)));
    }
    let steps: Vec<String> = d
        .steps
        .iter()
        .map(|s| format!("{} {}", output::printable(&s.name), output::duration_ms(s.ms)))
        .collect();
    let mut prepared = format!("in {}", output::duration_ms(d.prepare_ms));
    if !steps.is_empty() {
        prepared.push_str(&format!(": {}", steps.join(", ")));
    }
    let mut pairs = vec![
        ("url", d.url.clone()),
        ("built", format!("in {}", output::duration_ms(d.build_ms))),
        ("uploaded", uploaded),
        ("prepared", prepared),
    ];
    pairs.extend(
        d.models.iter().map(|m| ("model", format!("{}: {}", output::printable(&m.name), m.describe()))),
    );
    pairs.extend(api::model_notes(&d.models));
    format!("{} version {} is {}\n{}", d.function, d.version, d.alias, output::pairs(&pairs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vesta_core::Digest;

    #[test]
    fn what_was_done_is_told_in_a_few_lines() {
        let blob = |n| BlobRef { digest: Digest::from_bytes([n; 32]), size: 1 << 20 };
        let text = describe(&Deployed {
            function: "digits".into(),
            version: 2,
            alias: "live".into(),
            url: "http://h/fn/default/digits/".into(),
            uploaded: vec![blob(1)],
            reused: vec![blob(2), blob(3)],
            steps: [("compile", 600), ("model digits", 40)]
                .map(|(name, ms)| StepDone { name: name.into(), ms })
                .into(),
            models: Vec::new(),
            build_ms: 1200,
            upload_ms: 12,
            prepare_ms: 650,
        });
        assert!(text.starts_with("digits version 2 is live\n"), "{text}");
        assert!(text.contains("1 blob, 1.00 MiB, in 12 ms (there already: 2 blobs, 2.00 MiB)"), "{text}");
        assert!(text.contains("in 650 ms: compile 600 ms, model digits 40 ms"), "{text}");
    }
}
