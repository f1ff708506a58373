//! `vesta rollback`: the alias `live` moves back; nothing is built or copied.

use super::api::{self, FunctionDetail};
use super::client::{Client, Payload};
use super::config::Connection;
use super::exit::{Exit, Failure};
use super::output;
use anyhow::Context;
use serde_json::json;
use ureq::http::Method;
use vesta_core::FunctionName;
use vesta_core::id::LIVE;

#[derive(clap::Args)]
pub struct Args {
    /// The function
    #[arg(value_name = "NAME")]
    function: FunctionName,
    /// The version that becomes live [default: the one before the live one]
    #[arg(long, value_name = "VERSION")]
    to: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let name = &args.function;
    let function = api::function(&client, name)?;
    let version = match args.to {
        Some(version) => version,
        None => previous(&function).ok_or_else(|| {
            Failure::error(Exit::Refused, format!("{name} has no version before the live one"))
        })?,
    };
    let path = format!("/functions/{name}/aliases/{LIVE}");
    client
        .api(Method::PUT, &path, Payload::Json(&json!({ "version": version })))
        .with_context(|| name.to_string())?;
    match json {
        true => output::json(
            &json!({ "function": name, "alias": LIVE, "version": version, "before": function.live }),
        ),
        false => {
            let before = function.live.map_or(String::new(), |v| format!(" (before: {v})"));
            output::line(format!("{name} version {version} is live{before}"))
        }
    }
}

fn previous(function: &FunctionDetail) -> Option<u32> {
    let live = function.live?;
    function.versions.iter().map(|v| v.version).filter(|v| *v < live).max()
}
