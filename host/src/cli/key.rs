//! `vesta key`

use super::api::short_time;
use super::client::{Client, Payload};
use super::config::Connection;
use super::output;
use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::Method;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a key of the tenant and print it, once
    Create {
        #[command(flatten)]
        connection: Connection,
    },
    /// List the tenant's keys by their prefixes
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Revoke the key with a prefix
    Revoke {
        #[arg(value_parser = parse_prefix)]
        prefix: String,
        #[command(flatten)]
        connection: Connection,
    },
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    match &args.command {
        Command::Create { connection } => create(&Client::of(connection)?, json),
        Command::List { connection } => list(&Client::of(connection)?, json),
        Command::Revoke { prefix, connection } => revoke(&Client::of(connection)?, prefix, json),
    }
}

fn create(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.api(Method::POST, "/keys", Payload::Json(&json!({})))?;
    if json {
        return output::json(&answer);
    }
    output::note("the key is shown only now:");
    output::line(answer["key"].as_str().unwrap_or_default())
}

fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.get("/keys")?;
    if json {
        return output::json(&answer);
    }
    let text = |v: &Value| output::printable(v.as_str().unwrap_or("-"));
    let keys = answer["keys"].as_array().or(answer.as_array()).into_iter().flatten();
    let rows = keys.map(|k| vec![text(&k["prefix"]), text(&k["role"]), short_time(&text(&k["created_at"]))]);
    output::line(output::table(&["PREFIX", "ROLE", "CREATED"], rows.collect()))
}

fn revoke(client: &Client, prefix: &str, json: bool) -> anyhow::Result<()> {
    client.delete(&format!("/keys/{prefix}"))?;
    match json {
        true => output::json(&json!({ "revoked": prefix })),
        false => output::line(format!("key {prefix} is revoked")),
    }
}

/// A prefix goes into a URL as it is.
fn parse_prefix(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => Ok(text.to_string()),
        false => Err("a prefix consists of letters and digits; `vesta key list` shows them".into()),
    }
}
