//! `vesta delete`

use super::client::Client;
use super::config::Connection;
use super::exit::{Exit, Failure};
use super::output;
use super::target::{Selector, Target};
use anyhow::Context;
use serde_json::json;
use std::io::{BufRead, IsTerminal};

#[derive(clap::Args)]
pub struct Args {
    /// The function, or one version of it
    #[arg(value_name = "NAME[@VERSION]")]
    target: Target,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let name = &args.target.function;
    let path = match &args.target.selector {
        None => format!("/functions/{name}"),
        Some(Selector::Version(version)) => format!("/functions/{name}/versions/{version}"),
        Some(Selector::Alias(alias)) => format!("/functions/{name}/aliases/{alias}"),
    };
    if !args.yes {
        confirm(&args.target)?;
    }
    client.delete(&path).with_context(|| args.target.to_string())?;
    match json {
        true => output::json(&json!({ "deleted": args.target.to_string() })),
        false => output::line(format!("{} is deleted", args.target)),
    }
}

fn confirm(target: &Target) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::error(
            Exit::Usage,
            "stdin is not a terminal: say --yes to delete without being asked",
        ));
    }
    output::note(format!("delete {target}? Its usage records are kept. Type its name to confirm:"));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() == target.to_string() {
        true => Ok(()),
        false => Err(Failure::error(Exit::Failure, "not deleted")),
    }
}
