//! `vesta inspect`

use super::api::{self, Standing, VersionInfo, short_time};
use super::client::Client;
use super::config::Connection;
use super::exit::{Exit, Failure};
use super::output;
use super::target::{Selector, Target};
use crate::package::units::{format_duration_ms, format_size};
use anyhow::Context;
use vesta_core::keepalive::Reason;

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
        for version in &function.damaged_versions {
            output::line(format!("version {version} is damaged: the host cannot read it from its database"))?;
        }
    }
    if let (None, Some(standing)) = (&args.target.selector, &function.standing) {
        output::line(stands(standing))?;
    }
    let Some(version) = version else { return Ok(()) };
    match function.versions.iter().find(|v| v.version == version) {
        Some(info) => output::line(describe(info)),
        None => Err(Failure::error(Exit::NotFound, format!("{name} has no version {version}"))),
    }
}

/// What the live version holds on the host, why, until when, and at what cost.
fn stands(s: &Standing) -> String {
    let ms = |ns: u64| format!("{:.1} ms", ns as f64 / 1e6);
    let mut pairs = Vec::new();
    if s.resident_bytes > 0 {
        pairs.push((
            "in memory",
            format!("{}, {} running or waiting", output::size(s.resident_bytes), s.invocations),
        ));
    }
    pairs.push(("kept", kept(s)));
    if let Some(cold) = &s.cold_start {
        let mut parts =
            vec![format!("{} for code, {}", ms(cold.code.wall_ns), output::size(cold.code.mapped_bytes))];
        for model in &cold.models {
            let shared = if model.shared { ", shared" } else { "" };
            let (name, size) = (output::printable(&model.name), output::size(model.mapped_bytes));
            parts.push(format!("{} for model {name}, {size}{shared}", ms(model.wall_ns)));
        }
        parts.extend(cold.instance_ns.map(|ns| format!("{} for the first instance", ms(ns))));
        pairs.push(("cold start", format!("{}: {}", ms(cold.wall_ns), parts.join("; "))));
    }
    if let Some(refused) = &s.refused {
        let wait = format_duration_ms(refused.retry_after_ms);
        pairs
            .push(("cannot start", format!("{}; tried again in {wait}", output::printable(&refused.reason))));
    }
    for aside in &s.models_set_aside {
        let (model, reason) = (output::printable(&aside.model), output::printable(&aside.reason));
        let wait = format_duration_ms(aside.retry_after_ms);
        pairs.push(("set aside", format!("model {model}: {reason}; tried again in {wait}")));
    }
    output::pairs(&pairs)
}

fn kept(s: &Standing) -> String {
    let k = &s.keep_alive;
    // Whole seconds say enough of anything longer.
    let time = |ms: u64| format_duration_ms(if ms < 10_000 { ms } else { ms / 1_000 * 1_000 });
    if s.kept_by_minimum {
        return "always (scaling.minimum)".into();
    }
    let Some(age) = k.age_ms else { return "not at all: nobody has asked for it".into() };
    let until = format!("{} after its last request, which was {} ago", time(k.kept_until_ms), time(age));
    let worth = format!(
        "keeping it saves {:.1e} ms of cold start per MB and second, memory costs {:.1e} ({:.1} ms, {:.1} MB)",
        k.index, k.price, k.cold_ms, k.resident_mb
    );
    match (k.reason, k.prewarm_at_ms, k.prewarmed_until_ms) {
        (Reason::Fixed, ..) => format!("{until}: scaling.keep_alive"),
        (_, Some(from), Some(to)) => {
            format!("{until}, and again from {} to {}: {worth}", time(from), time(to))
        }
        _ => format!("{until}: {worth}"),
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
            format!(
                "{}, at least {}",
                m.scaling
                    .keep_alive_ms
                    .map_or("as long as it is worth its memory".into(), format_duration_ms),
                m.scaling.minimum
            ),
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
    if !m.models.is_empty() {
        let memory = format_size(l.model_memory_bytes);
        let cpu = format_duration_ms(l.inference_ms);
        pairs.push(("inference", format!("memory {memory} beyond the weights, cpu {cpu} a run")));
    }
    for model in &m.models {
        let signature = v.models.iter().find(|s| s.name == model.name).map(|s| format!("; {}", s.describe()));
        let name = output::printable(&model.name);
        let mut text = format!("{name}: {}", output::size(model.blob.size));
        if model.threads > 1 {
            text += &format!(", {} threads", model.threads);
        }
        if model.batch.max > 1 && model.batch.wait_ms > 0 {
            text += &format!(", waits {} ms to be merged", model.batch.wait_ms);
        }
        if !model.samples.is_empty() {
            text += &format!(", tried with samples of {} inputs", model.samples.len());
        }
        pairs.push(("model", text + &signature.unwrap_or_default()));
    }
    pairs.extend(api::model_notes(&v.models));
    output::pairs(&pairs)
}
