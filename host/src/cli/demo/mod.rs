//! `vesta demo`: the whole way, from sources to a bill, on a host that is gone afterwards.

mod host;
mod images;

use super::client::Client;
use super::config::Settings;
use super::deploy::{Deployed, deploy};
use super::exit::{Exit, Failure};
use super::invoke::{self, Summary};
use super::{output, usage};
use crate::package::{BuildOptions, MANIFEST_FILE};
use anyhow::Context;
use host::Host;
use images::{Guess, Images};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use ureq::http::Method;

#[derive(clap::Args)]
pub struct Args {
    /// Leave the host running, and say how to talk to it
    #[arg(long)]
    keep: bool,
}

/// Held-out images that are classified, and the first of them, which is shown.
const IMAGES: usize = 50;
const FIRST: usize = 1;

/// One answer of a function.
struct Answer {
    body: String,
    summary: Summary,
}

/// Tells the story on stdout; with `--json` only its result is printed, at the end.
struct Story {
    json: bool,
}

impl Story {
    fn tell(&self, text: impl AsRef<str>) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { output::line(text) }
    }
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    let story = Story { json };
    let examples = examples()?;
    let images = Images::read(&examples.join("digits/test-images.json"))?;

    story.tell("== A host, on a data directory and ports of its own")?;
    let start = Instant::now();
    let host = Host::start()?;
    let client = Client::new(host.settings());
    let functions_url = client.functions_url()?;
    let urls = format!("functions {functions_url}/NAME, control API {}", client.settings.url);
    story.tell(format!("{urls}, ready in {}", output::duration_ms(elapsed_ms(start))))?;

    story.tell("\n== Two functions, built for wasm32-wasip2 and deployed")?;
    let options = BuildOptions { no_cargo: false, quiet: json };
    let mut deployed = Vec::new();
    for name in ["hello", "digits"] {
        let done = deploy(&client, &examples.join(name), vesta_core::id::LIVE, &options)?;
        story.tell(line_of(&done))?;
        deployed.push(done);
    }

    story.tell("\n== hello: the first request starts it, the next finds it warm")?;
    let hello = [hello(&client)?, hello(&client)?];
    story.tell(&hello[0].body)?;
    tell_timing(&story, &hello)?;

    story
        .tell(format!("\n== digits: an image that training never saw, labelled {}", images.labels[FIRST]))?;
    story.tell(images::art(&images.images[FIRST]))?;
    let mut digits = Vec::new();
    let mut right = 0;
    for (image, label) in images.images.iter().zip(&images.labels).skip(FIRST).take(IMAGES) {
        let answer = classify(&client, image)?;
        right += usize::from(Guess::read(&answer.body)?.digit == *label);
        digits.push(answer);
    }
    story.tell(Guess::read(&digits[0].body)?.describe())?;
    tell_timing(&story, &digits)?;
    story.tell(format!("{right} of {} images classified as labelled", digits.len()))?;

    story.tell("\n== The bill: the sum of the records, of which each cost above is one")?;
    let bill = client.get(&usage::query(None, None, &["function"]))?;
    story.tell(usage::describe(&bill, &["function"]))?;
    if json {
        output::json(&report(&deployed, &hello, &digits, right, bill))?;
    }
    match args.keep {
        true => keep(host, &client.settings),
        false => {
            host.stop()?;
            story.tell(format!(
                "\nThe host has drained and ended; all of it took {}.",
                output::duration_ms(elapsed_ms(begin))
            ))
        }
    }
}

/// The examples of the source tree that this binary was built from.
fn examples() -> anyhow::Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for name in ["hello", "digits"] {
        if !dir.join(name).join(MANIFEST_FILE).is_file() {
            let message = format!(
                "the examples are not at {}, where this program was built; run `cargo run -- demo` in a clone of the repository",
                dir.display()
            );
            return Err(Failure::error(Exit::NotFound, message));
        }
    }
    dir.canonicalize().context("the examples' folder")
}

fn hello(client: &Client) -> anyhow::Result<Answer> {
    ask(client, "hello/?name=Ada", Method::GET, None)
}

fn classify(client: &Client, image: &[u8]) -> anyhow::Result<Answer> {
    ask(client, "digits/", Method::POST, Some(images::request(image)))
}

fn ask(client: &Client, endpoint: &str, method: Method, body: Option<Value>) -> anyhow::Result<Answer> {
    let endpoint = endpoint.parse().map_err(|e: String| anyhow::anyhow!(e))?;
    let headers = [("content-type".to_string(), "application/json".to_string())];
    let headers = if body.is_some() { &headers[..] } else { &[] };
    let bytes = body.map(|b| b.to_string().into_bytes());
    let mut response = invoke::send(client, &endpoint, method, headers, bytes)?;
    if !response.status().is_success() {
        return Err(client.api_error(response).into());
    }
    let summary = invoke::summary(client, response.status().as_u16(), response.headers());
    Ok(Answer { body: response.body_mut().read_to_string()?, summary })
}

/// The first answer, which waited for the cold start, beside the last one.
fn tell_timing(story: &Story, answers: &[Answer]) -> anyhow::Result<()> {
    for (name, answer) in [("cold", answers.first()), ("warm", answers.last())] {
        if let Some(answer) = answer {
            story.tell(format!("{name}  {}", invoke::describe(&answer.summary)))?;
        }
    }
    Ok(())
}

fn line_of(d: &Deployed) -> String {
    let size = d.uploaded.iter().map(|b| b.size).sum();
    let name = format!("{} version {}", d.function, d.version);
    let [built, prepared] = [d.build_ms, d.prepare_ms].map(output::duration_ms);
    format!("{name:18} built in {built}, {} uploaded, compiled and checked in {prepared}", output::size(size))
}

fn report(deployed: &[Deployed], hello: &[Answer], digits: &[Answer], right: usize, bill: Value) -> Value {
    let ends = |answers: &[Answer]| {
        let one = |a: Option<&Answer>| a.map(|a| json!({ "body": a.body, "summary": a.summary }));
        json!({ "cold": one(answers.first()), "warm": one(answers.last()) })
    };
    json!({ "deployed": deployed, "hello": ends(hello), "digits": ends(digits),
        "images": digits.len(), "images_right": right, "usage": bill })
}

fn keep(host: Host, settings: &Settings) -> anyhow::Result<()> {
    let pid = host.pid();
    let folder = host.keep().unwrap_or_default();
    let [key, invoke_url] = [&settings.key, &settings.invoke_url].map(|t| t.as_deref().unwrap_or_default());
    output::note(format!(
        "\n== The host goes on, as process {pid}, with its data in {}\n\
         export VESTA_URL={} VESTA_INVOKE_URL={invoke_url} VESTA_KEY={key}\n\
         vesta list\n\
         curl -i -H \"Authorization: Bearer $VESTA_KEY\" $VESTA_INVOKE_URL/fn/default/hello/\n\
         kill {pid}    # ends it",
        folder.display(),
        settings.url,
    ));
    Ok(())
}

fn elapsed_ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
