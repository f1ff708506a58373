//! `vesta invoke`: the body goes to stdout, what it took and cost to stderr.

use super::client::{ApiError, Client, Payload, Problem};
use super::config::Connection;
use super::exit::{Exit, Failure};
use super::output;
use super::target::Endpoint;
use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use ureq::Body;
use ureq::http::{HeaderMap, Method, Response};

#[derive(clap::Args)]
pub struct Args {
    /// The function, which version or alias of it, and the path that it sees
    #[arg(value_name = "NAME[@VERSION][/PATH]")]
    endpoint: Endpoint,
    /// The request's body: text, @FILE, or - for stdin
    #[arg(long, short)]
    data: Option<String>,
    /// The request's method [default: POST with a body, else GET]
    #[arg(long, short = 'X')]
    method: Option<Method>,
    /// A header of the request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    connection: Connection,
}

/// What is known of an invocation besides its body.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    pub status: u16,
    pub invocation: Option<String>,
    /// Decimal, in the currency of the host's price plan.
    pub cost: Option<String>,
    pub billed_cpu_us: Option<u64>,
    /// Wall-clock phases of `Server-Timing`, in milliseconds, in the header's order.
    pub timing: Vec<(String, f64)>,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let body = args.data.as_deref().map(read_data).transpose()?;
    let method = args.method.clone().unwrap_or(if body.is_some() { Method::POST } else { Method::GET });
    let mut headers = args.headers.clone();
    if let Some(body) = &body
        && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        headers.push(("content-type".into(), content_type(body).into()));
    }
    let response = send(&client, &args.endpoint, method, &headers, body)?;
    let printed = if json { print_json(&client, response) } else { print(&client, response) };
    printed.with_context(|| args.endpoint.target.to_string())
}

/// Sends a request to a function.
pub fn send(
    client: &Client,
    endpoint: &Endpoint,
    method: Method,
    headers: &[(String, String)],
    body: Option<Vec<u8>>,
) -> anyhow::Result<Response<Body>> {
    let url = format!("{}/{}{}", client.functions_url()?, endpoint.target, endpoint.path);
    url.parse::<ureq::http::Uri>()
        .map_err(|e| Failure::error(Exit::Usage, format!("{:?}: {e}", endpoint.path)))?;
    client.send(method, &url, headers, body.map_or(Payload::None, Payload::Bytes))
}

fn print(client: &Client, response: Response<Body>) -> anyhow::Result<()> {
    let (parts, mut body) = response.into_parts();
    let mut kept = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let mut reader = body.as_reader();
    let mut last = b'\n';
    loop {
        let n = reader.read(&mut piece).context("the response was cut off")?;
        if n == 0 {
            break;
        }
        output::bytes(&piece[..n])?;
        last = piece[n - 1];
        if kept.len() < 64 * 1024 {
            kept.extend_from_slice(&piece[..n]);
        }
    }
    if last != b'\n' && std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        output::line("")?;
    }
    let summary = summary(client, parts.status.as_u16(), &parts.headers);
    output::note(describe(&summary));
    end(&summary, &kept)
}

fn print_json(client: &Client, response: Response<Body>) -> anyhow::Result<()> {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    body.as_reader().read_to_end(&mut bytes).context("the response was cut off")?;
    let summary = summary(client, parts.status.as_u16(), &parts.headers);
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str())
            .and_modify(|v| *v = format!("{v}, {value}"))
            .or_insert(value.into_owned());
    }
    let timing: serde_json::Map<String, Value> =
        summary.timing.iter().map(|(name, ms)| (name.clone(), json!(ms))).collect();
    let mut object = serde_json::to_value(&summary)?;
    object["timing"] = timing.into();
    object["headers"] = json!(headers);
    match std::str::from_utf8(&bytes) {
        Ok(text) => object["body"] = text.into(),
        Err(_) => object["body_base64"] = data_encoding::BASE64.encode(&bytes).into(),
    }
    output::json(&object)?;
    end(&summary, &bytes)
}

/// A refusal of the platform has the exit code of its kind; a guest's own error status is a failure (1).
fn end(summary: &Summary, body: &[u8]) -> anyhow::Result<()> {
    if summary.status < 400 {
        return Ok(());
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    if problem.is_ours() {
        return Err(ApiError { status: summary.status, problem, hint: None }.into());
    }
    Err(Failure::error(Exit::Failure, format!("the function answered with status {}", summary.status)))
}

/// Reads what the platform says in the headers; of a body that was streamed, it is asked for afterwards.
pub fn summary(client: &Client, status: u16, headers: &HeaderMap) -> Summary {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
    let mut summary = Summary {
        status,
        invocation: text("vesta-invocation-id"),
        cost: text("vesta-cost"),
        billed_cpu_us: text("vesta-billed-cpu-us").and_then(|t| t.parse().ok()),
        timing: text("server-timing").map(|t| parse_timing(&t)).unwrap_or_default(),
    };
    if summary.cost.is_none()
        && let Some(id) =
            summary.invocation.as_ref().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()))
        && let Ok(record) = client.get(&format!("/invocations/{id}"))
    {
        summary.cost = record["charge"].as_str().map(str::to_string);
        summary.billed_cpu_us = record["billed_cpu_us"].as_u64();
        let phases = ["queue", "cold", "guest", "infer", "total"];
        let ms = |name: &str| record[format!("{name}_ns")].as_u64().map(|ns| (name.into(), ns as f64 / 1e6));
        summary.timing = phases.iter().filter_map(|name| ms(name)).collect();
    }
    summary
}

/// The metrics of a `Server-Timing` header that have a duration.
fn parse_timing(text: &str) -> Vec<(String, f64)> {
    let metric = |part: &str| {
        let mut parameters = part.split(';').map(str::trim);
        let name = parameters.next()?.to_string();
        let ms = parameters.find_map(|p| p.strip_prefix("dur="))?.parse().ok()?;
        Some((name, ms))
    };
    text.split(',').filter_map(|part| metric(part.trim())).collect()
}

/// One line: `200 · guest 1.2 ms, total 1.3 ms · 1180 us CPU · cost 0.00... · 01J...`.
pub fn describe(summary: &Summary) -> String {
    let mut parts = vec![summary.status.to_string()];
    let timing: Vec<String> = summary
        .timing
        .iter()
        .filter(|(_, ms)| *ms > 0.0)
        .map(|(name, ms)| format!("{name} {}", milliseconds(*ms)))
        .collect();
    if !timing.is_empty() {
        parts.push(timing.join(", "));
    }
    parts.extend(summary.billed_cpu_us.map(|us| format!("billed {} us of CPU", output::count(us))));
    parts.extend(summary.cost.as_ref().map(|cost| format!("cost {cost}")));
    parts.extend(summary.invocation.as_ref().map(|id| format!("invocation {id}")));
    output::printable(&parts.join(" | "))
}

/// About three figures.
fn milliseconds(ms: f64) -> String {
    match ms {
        0.0..10.0 => format!("{ms:.2} ms"),
        10.0..1_000.0 => format!("{ms:.1} ms"),
        _ => format!("{:.2} s", ms / 1_000.0),
    }
}

fn read_data(data: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match data.strip_prefix('@') {
        _ if data == "-" => drop(std::io::stdin().lock().read_to_end(&mut bytes).context("stdin")?),
        Some(file) => bytes = std::fs::read(file).with_context(|| file.to_string())?,
        None => bytes = data.as_bytes().to_vec(),
    }
    Ok(bytes)
}

fn content_type(body: &[u8]) -> &'static str {
    match std::str::from_utf8(body) {
        Ok(_) if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => "application/json",
        Ok(_) => "text/plain; charset=utf-8",
        Err(_) => "application/octet-stream",
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    name.parse::<ureq::http::HeaderName>().map_err(|e| e.to_string())?;
    value.parse::<ureq::http::HeaderValue>().map_err(|e| e.to_string())?;
    Ok((name.to_string(), value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_are_read_from_server_timing() {
        let timing = parse_timing("queue;dur=0.01, cold;dur=2.5, cache;desc=\"hit\", guest;desc=x;dur=1");
        assert_eq!(timing, [("queue".into(), 0.01), ("cold".into(), 2.5), ("guest".into(), 1.0)]);
        assert!(parse_timing("").is_empty());
    }

    #[test]
    fn the_content_type_is_what_the_body_looks_like() {
        assert_eq!(content_type(b"{\"a\":1}"), "application/json");
        assert_eq!(content_type(b"hello"), "text/plain; charset=utf-8");
        assert_eq!(content_type(&[0xff, 0xd8]), "application/octet-stream");
    }

    #[test]
    fn headers_are_a_name_and_a_value() {
        assert_eq!(parse_header("X-A: b:c"), Ok(("X-A".into(), "b:c".into())));
        for bad in ["x", "a b: c", "x: a\nb", ": v"] {
            assert!(parse_header(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_platforms_refusals_and_the_guests_errors_end_differently() {
        let ended = |status, body: &[u8]| end(&Summary { status, ..Summary::default() }, body);
        assert!(ended(200, b"").is_ok());
        let ours =
            ended(401, br#"{"type":"urn:vesta:problem:no-key","title":"No key"}"#).expect_err("an error");
        assert!(ours.downcast_ref::<ApiError>().is_some());
        let theirs = ended(401, b"{}").expect_err("an error");
        assert_eq!(theirs.downcast_ref::<Failure>().map(|f| f.exit), Some(Exit::Failure));
    }
}
