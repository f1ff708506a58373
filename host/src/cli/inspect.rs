//! `vesta inspect`

use super::api::{self, VersionInfo, short_time};
use super::client::Client;
use super::config::Connection;
use super::exit::{Exit, Failure};
use super::output;
use super::target::{Selector, Target};
use crate::package::units::{format_duration_ms, format_size};
use anyhow::Context;

#[derive(clap::Args)]
pub struct Args {
    /// The function, and which version of it (else all are listed, and the live one is described)
    #[arg(value_name = "NAME[@VERSION]")]
    target: Target,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let name = &args.target.function;
    if json && args.target.selector.is_none() {
        return output::json(&client.get(&format!("/functions/{name}")).with_context(|| name.to_string())?);
    }
    let function = api::function(&client, name)?;
    let version = match &args.target.selector {
        Some(Selector::Version(version)) => Some(*version),
        Some(Selector::Alias(alias)) => Some(
            *function
                .aliases
                .get(alias.as_str())
                .ok_or_else(|| Failure::error(Exit::NotFound, format!("{name} has no alias {alias}")))?,
        ),
        None => function.live,
    };
    if let (true, Some(version)) = (json, version) {
        return output::json(&client.get(&format!("/functions/{name}/versions/{version}"))?);
    }
    if args.target.selector.is_none() {
        output::line(format!("{name}: {}", output::printable(&function.state)))?;
        let rows = function.versions.iter().map(|v| version_row(v, &function.aliases)).collect();
        output::line(output::table(&[">VERSION", "ALIASES", "CREATED", ">SIZE", ">MODELS"], rows))?;
    }
    let Some(version) = version else { return Ok(()) };
    match function.versions.iter().find(|v| v.version == version) {
        Some(info) => output::line(describe(info)),
        None => Err(Failure::error(Exit::NotFound, format!("{name} has no version {version}"))),
    }
}

fn version_row(v: &VersionInfo, aliases: &std::collections::BTreeMap<String, u32>) -> Vec<String> {
    let here = aliases.iter().filter(|(_, version)| **version == v.version).map(|(alias, _)| alias.as_str());
    vec![
        v.version.to_string(),
        here.collect::<Vec<_>>().join(", "),
        short_time(&v.created_at),
        output::size(v.manifest.blobs().iter().map(|b| b.size).sum()),
        v.manifest.models.len().to_string(),
    ]
}

fn describe(v: &VersionInfo) -> String {
    let m = &v.manifest;
    let l = &m.limits;
    let or_none = |items: Vec<String>| if items.is_empty() { "none".into() } else { items.join(", ") };
    let mut pairs = vec![
        ("version", v.version.to_string()),
        ("created", short_time(&v.created_at)),
        ("access", if m.public { "public" } else { "private" }.to_string()),
        ("component", format!("{} {}", m.component.digest, output::size(m.component.size))),
        (
            "initialised",
            if m.snapshot { "at deploy, if it asks for that" } else { "in each instance" }.to_string(),
        ),
        ("memory", format_size(l.memory_bytes)),
        ("cpu, wall", format!("{}, {}", format_duration_ms(l.cpu_ms), format_duration_ms(l.wall_ms))),
        (
            "bodies",
            format!(
                "request {}, response {}",
                format_size(l.request_body_bytes),
                format_size(l.response_body_bytes)
            ),
        ),
        ("concurrency", l.concurrency.to_string()),
        (
            "kept warm",
            format!("{}, at least {}", format_duration_ms(m.scaling.keep_alive_ms), m.scaling.minimum),
        ),
        (
            "instances",
            match m.scaling.reuse {
                1 => "a fresh one for each request".into(),
                most => format!("each serves up to {most} requests"),
            },
        ),
        ("outbound", or_none(m.outbound.clone())),
        // Values may be secret; `--json` shows them.
        ("variables", or_none(m.variables.keys().cloned().collect())),
    ];
    for model in &m.models {
        let signature = v.models.iter().find(|s| s.name == model.name).map(|s| format!("; {}", s.describe()));
        let name = output::printable(&model.name);
        let size = output::size(model.blob.size);
        pairs.push(("model", format!("{name}: {size}{}", signature.unwrap_or_default())));
    }
    output::pairs(&pairs)
}
