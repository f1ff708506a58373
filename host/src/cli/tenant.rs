//! `vesta tenant`

use super::api::short_time;
use super::client::{Client, Payload};
use super::config::Connection;
use super::output;
use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::Method;
use vesta_core::TenantName;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create a tenant and print its first key, once
    Create {
        name: TenantName,
        #[command(flatten)]
        connection: Connection,
    },
    /// List tenants
    List {
        #[command(flatten)]
        connection: Connection,
    },
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    match &args.command {
        Command::Create { name, connection } => create(&Client::of(connection)?, name, json),
        Command::List { connection } => list(&Client::of(connection)?, json),
    }
}

fn create(client: &Client, name: &TenantName, json: bool) -> anyhow::Result<()> {
    let answer = client.api(Method::POST, "/tenants", Payload::Json(&json!({ "name": name })))?;
    if json {
        return output::json(&answer);
    }
    output::note(format!("tenant {name} is created; its key is shown only now:"));
    output::line(answer["key"].as_str().unwrap_or_default())
}

fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.get("/tenants")?;
    if json {
        return output::json(&answer);
    }
    let text = |v: &Value| output::printable(v.as_str().unwrap_or("-"));
    let tenants = answer["tenants"].as_array().or(answer.as_array()).into_iter().flatten();
    let rows = tenants.map(|t| vec![text(&t["name"]), short_time(&text(&t["created_at"]))]);
    output::line(output::table(&["TENANT", "CREATED"], rows.collect()))
}
