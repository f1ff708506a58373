//! `vesta login`

use super::client::{Client, INVOKE_URL};
use super::config::{ConfigFile, Connection, checked_url};
use super::exit::{Exit, Failure};
use super::output;
use serde_json::json;
use std::io::{BufRead, IsTerminal};

#[derive(clap::Args)]
pub struct Args {
    /// URL of the control API; goes before --url
    #[arg(value_name = "URL")]
    to: Option<String>,
    /// Read the key from stdin, so that it shows neither in the shell's history nor in the process list
    #[arg(long)]
    key_stdin: bool,
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let mut connection = args.connection.clone();
    if let Some(url) = &args.to {
        connection.url = Some(checked_url(url)?);
    }
    if args.key_stdin || connection.key.is_none() {
        connection.key = Some(read_key(args.key_stdin)?);
    }
    let client = Client::new(connection.settings()?);
    let who = client.whoami()?;
    let settings = &client.settings;
    // What the configuration file said may be of another host.
    let told = connection.invoke_url.as_ref().or(who.invoke_url.as_ref()).or(settings.invoke_url.as_ref());
    let invoke_url = checked_url(told.map_or(INVOKE_URL, String::as_str))?;
    let path = ConfigFile::path()?;
    let file = ConfigFile {
        url: Some(settings.url.clone()),
        invoke_url: Some(invoke_url.clone()),
        key: settings.key.clone(),
    };
    file.save(&path)?;
    if json {
        let shown = path.display().to_string();
        return output::json(&json!({ "url": settings.url, "invoke_url": invoke_url, "role": who.role,
            "tenant": who.tenant, "config": shown }));
    }
    let whom = who.tenant.map_or("the operator".to_string(), |t| format!("tenant {t}"));
    output::line(format!(
        "logged in to {} as {}; kept in {}",
        settings.url,
        output::printable(&whom),
        path.display()
    ))
}

fn read_key(stdin: bool) -> anyhow::Result<String> {
    if !stdin && !std::io::stdin().is_terminal() {
        return Err(Failure::error(Exit::Usage, "no key: give --key, --key-stdin or VESTA_KEY"));
    }
    if !stdin {
        output::note("API key (vk_...):");
    }
    let mut key = String::new();
    std::io::stdin().lock().read_line(&mut key)?;
    match key.trim() {
        "" => Err(Failure::error(Exit::Usage, "no key was given")),
        key => Ok(key.to_string()),
    }
}
