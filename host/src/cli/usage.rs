//! `vesta usage`: amounts of money stand as the API gives them.

use super::client::Client;
use super::config::Connection;
use super::output;
use jiff::civil::Date;
use serde_json::Value;

#[derive(clap::Args)]
pub struct Args {
    /// First day, UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: Option<Date>,
    /// Last day, UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<Date>,
    /// What the rows are: one or both
    #[arg(long, value_delimiter = ',', default_value = "function")]
    by: Vec<By>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    Function,
    Day,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            By::Function => "function",
            By::Day => "day",
        }
    }
}

pub fn run(args: &Args, json: bool) -> anyhow::Result<()> {
    let client = Client::of(&args.connection)?;
    let mut by = args.by.clone();
    by.sort_by_key(|b| b.name() != "function");
    by.dedup();
    let names: Vec<&str> = by.iter().map(|b| b.name()).collect();
    let answer = client.get(&query(args.from, args.to, &names))?;
    match json {
        true => output::json(&answer),
        false => output::line(describe(&answer, &names)),
    }
}

/// The path of a usage query.
pub fn query(from: Option<Date>, to: Option<Date>, by: &[&str]) -> String {
    let mut path = format!("/usage?by={}", by.join(","));
    for (name, day) in [("from", from), ("to", to)] {
        path.extend(day.map(|d| format!("&{name}={d}")));
    }
    path
}

/// The answer as a table, with the total as its last row.
pub fn describe(answer: &Value, by: &[&str]) -> String {
    let currency = answer["currency"].as_str().unwrap_or_default();
    let charge = format!(">CHARGE ({currency})");
    let mut header: Vec<&str> = by.iter().map(|b| if *b == "day" { "DAY" } else { "FUNCTION" }).collect();
    header.extend([">CALLS", ">GUEST CPU", ">MODEL CPU", ">COLD CPU", ">GB-s", ">IN", ">OUT"]);
    header.push(&charge);
    let rows = answer["rows"].as_array().into_iter().flatten();
    let mut table: Vec<Vec<String>> =
        rows.map(|row| cells(row, by.iter().map(|b| text(&row[*b])).collect())).collect();
    let mut first = vec!["total".to_string()];
    first.resize(by.len().max(1), String::new());
    table.push(cells(&answer["total"], first));
    output::printable(&output::table(&header, table))
}

fn cells(row: &Value, mut cells: Vec<String>) -> Vec<String> {
    let n = |name: &str| row[name].as_u64().unwrap_or(0);
    cells.push(output::count(n("invocations")));
    for name in ["guest_cpu_ns", "inference_cpu_ns", "cold_start_cpu_ns"] {
        cells.push(output::duration_ns(n(name)));
    }
    cells.push(nine_decimals(&text(&row["memory_gb_s"])));
    cells.push(output::size(n("bytes_in")));
    cells.push(output::size(n("bytes_out")));
    cells.push(text(&row["charge"]));
    cells
}

/// Cut for the table; `--json` has it all.
fn nine_decimals(decimal: &str) -> String {
    let end = decimal.find('.').map_or(decimal.len(), |point| (point + 10).min(decimal.len()));
    decimal.get(..end).unwrap_or(decimal).to_string()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_total_stand_under_one_header_and_money_is_untouched() {
        let row = |name: &str| {
            serde_json::json!({"function": name, "invocations": 1200, "guest_cpu_ns": 1_500_000, "inference_cpu_ns": 0,
                "cold_start_cpu_ns": 0, "memory_gb_s": "0.010000000999", "bytes_in": 1, "bytes_out": 2048,
                "charge": "0.000000000123456789"})
        };
        let answer = serde_json::json!({"currency": "USD", "rows": [row("hello")], "total": row("x")});
        let text = describe(&answer, &["function"]);
        for wanted in [
            "CHARGE (USD)",
            "hello",
            "1 200",
            "1.50 ms",
            "0.000000000123456789",
            " 0.010000000 ",
            "total",
            "2.00 KiB",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }

    #[test]
    fn the_query_names_days_and_rows() {
        let day = jiff::civil::date(2026, 3, 4);
        assert_eq!(query(Some(day), None, &["function", "day"]), "/usage?by=function,day&from=2026-03-04");
    }
}
