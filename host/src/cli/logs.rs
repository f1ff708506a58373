//! `vesta logs`

use super::api::short_time;
use super::client::{Client, Payload};
use super::config::Connection;
use super::output;
use anyhow::Context;
use serde::Deserialize;
use std::io::{BufRead, BufReader, Read};
use ureq::http::Method;
use vesta_core::FunctionName;

#[derive(clap::Args)]
pub struct Args {
    /// The function
    #[arg(value_name = "NAME")]
    function: FunctionName,
    /// Go on and show lines as they are written
    #[arg(long, short)]
    follow: bool,
    /// How many of the latest lines to begin with
    #[arg(long, default_value_t = 100, value_name = "LINES")]
    limit: u32,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    time: String,
    #[serde(default)]
    level: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    invocation: Option<String>,
    #[serde(default)]
    fields: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Longest line that is read, in bytes; the host keeps 8 KiB of a guest's.
const LINE_LEN_MAX: u64 = 1 << 20;

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let path = format!("/functions/{}/logs?follow={}&limit={}", args.function, args.follow, args.limit);
    let response =
        client.api_response(Method::GET, &path, Payload::None).with_context(|| args.function.to_string())?;
    let mut reader = BufReader::new(response.into_body().into_reader());
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = reader.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line);
        if n.context("the host ended the stream of logs")? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        match text.trim_end() {
            "" => {}
            text if json => output::line(text)?,
            text => output::line(describe(text))?,
        }
    }
}

fn describe(line: &str) -> String {
    let Ok(parsed) = serde_json::from_str::<Line>(line) else { return output::printable(line) };
    let mut text = format!("{} {:5} {}", short_time(&parsed.time), parsed.level, parsed.message);
    for (name, value) in parsed.fields.iter().flatten() {
        text.push_str(&format!(" {name}={value}"));
    }
    if let Some(id) = parsed.invocation {
        text.push_str(&format!(" [{id}]"));
    }
    output::printable(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_time_level_message_fields_and_invocation() {
        let line = r#"{"time":"2026-01-02T03:04:05.6Z","level":"info","message":"hi","invocation":"01J","fields":{"n":1}}"#;
        assert_eq!(describe(line), "2026-01-02 03:04:05Z info  hi n=1 [01J]");
        assert_eq!(describe("not \x1bjson"), "not \\u{1b}json");
    }
}
