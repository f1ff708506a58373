//! `vesta list`

use super::api::{self, FunctionSummary, short_time};
use super::client::Client;
use super::config::Connection;
use super::output;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let answer = Client::of(&args.connection)?.get("/functions")?;
    if json {
        return output::json(&answer);
    }
    let functions: Vec<FunctionSummary> = api::read(answer["functions"].clone())?;
    if functions.is_empty() {
        output::note("no functions yet; `vesta new NAME` makes one, `vesta deploy` uploads it");
        return Ok(());
    }
    let rows = functions.iter().map(|f| {
        vec![
            f.name.to_string(),
            f.live.map_or("-".into(), |v| v.to_string()),
            f.versions.to_string(),
            output::printable(&f.state),
            if f.public { "public" } else { "private" }.into(),
            short_time(&f.updated_at),
        ]
    });
    let header = ["FUNCTION", ">LIVE", ">VERSIONS", "STATE", "ACCESS", "UPDATED"];
    output::line(output::table(&header, rows.collect()))
}
