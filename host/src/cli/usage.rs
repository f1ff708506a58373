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
    let answer = whole(&client, &query(args.from, args.to, &names))?;
    if answer["complete"] == false {
        let as_of = answer["as_of"].as_str().map(super::api::short_time).unwrap_or_default();
        output::note(format!(
            "the host's ledger lags behind: invocations that ended after {as_of} may be missing"
        ));
    }
    match json {
        true => output::json(&answer),
        false => output::line(describe(&answer, &names)),
    }
}

/// All pages of an answer in one: the first with the rows of all.
fn whole(client: &Client, path: &str) -> anyhow::Result<Value> {
    let mut answer = client.get(path)?;
    while let Some(next) = answer["next"].as_str() {
        let mut page = client.get(&format!("{path}&cursor={next}"))?;
        answer["next"] = page["next"].take();
        let rows = page["rows"].as_array_mut().map(std::mem::take).unwrap_or_default();
        if let Some(all) = answer["rows"].as_array_mut() {
            all.extend(rows);
        }
    }
    if let Some(fields) = answer.as_object_mut() {
        fields.remove("next");
    }
    Ok(answer)
}

/// The path of a usage query.
pub fn query(from: Option<Date>, to: Option<Date>, by: &[&str]) -> String {
    let mut path = format!("/usage?by={}", by.join(","));
    for (name, day) in [("from", from), ("to", to)] {
        path.extend(day.map(|d| format!("&{name}={d}")));
    }
    path
}

/// The answer as a table, with the total of each currency as its last rows.
pub fn describe(answer: &Value, by: &[&str]) -> String {
    let in_force = text(&answer["currency"]);
    let totals: Vec<&Value> = answer["totals"].as_array().into_iter().flatten().collect();
    // One currency stands in the header; more have a column of their own.
    let several = totals.iter().any(|total| text(&total["currency"]) != in_force);
    let charge = if several { ">CHARGE".into() } else { format!(">CHARGE ({in_force})") };
    let mut header: Vec<&str> = by.iter().map(|b| if *b == "day" { "DAY" } else { "FUNCTION" }).collect();
    header.extend([
        ">CALLS",
        ">GUEST CPU",
        ">MODEL CPU",
        ">COLD CPU",
        ">HOST CPU",
        ">DEPLOY CPU",
        ">GB-s",
        ">IN",
        ">OUT",
    ]);
    header.push(&charge);
    header.extend(several.then_some("CURRENCY"));
    let cells = |row: &Value, first: Vec<String>| {
        let mut cells = cells(row, first);
        cells.extend(several.then(|| row["currency"].as_str().unwrap_or(&in_force).to_string()));
        cells
    };
    let rows = answer["rows"].as_array().into_iter().flatten();
    let mut table: Vec<Vec<String>> =
        rows.map(|row| cells(row, by.iter().map(|b| name(row, b)).collect())).collect();
    let mut first = vec!["total".to_string()];
    first.resize(by.len().max(1), String::new());
    if several {
        table.extend(totals.iter().map(|total| cells(total, first.clone())));
    } else {
        table.push(cells(&answer["total"], first));
    }
    output::printable(&output::table(&header, table))
}

/// What a row is called; a month by its year and number.
fn name(row: &Value, by: &str) -> String {
    let name = text(&row[by]);
    let month = by == "day" && row["period"] == "month";
    if month { name.get(..7).unwrap_or(&name).to_string() } else { name }
}

fn cells(row: &Value, mut cells: Vec<String>) -> Vec<String> {
    let n = |name: &str| row[name].as_u64().unwrap_or(0);
    cells.push(output::count(n("invocations")));
    for name in ["guest_cpu_ns", "inference_cpu_ns", "cold_start_cpu_ns"] {
        cells.push(output::duration_ns(n(name)));
    }
    cells.push(output::duration_ns(n("outbound_cpu_ns") + n("handler_cpu_ns")));
    cells.push(output::duration_ns(n("deploy_cpu_ns")));
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
    fn a_month_is_called_by_its_number() {
        let row = |period: &str| serde_json::json!({ "day": "2024-02-01", "period": period });
        assert_eq!(
            (name(&row("month"), "day"), name(&row("day"), "day")),
            ("2024-02".into(), "2024-02-01".into())
        );
    }

    #[test]
    fn several_currencies_have_a_column_and_a_total_each() {
        let row = |currency: &str, charge: &str| serde_json::json!({"function": "f", "currency": currency, "charge": charge});
        let (euros, dollars) = (row("EUR", "1.5"), row("USD", "2.5"));
        let answer = serde_json::json!({"currency": "EUR", "rows": [euros, dollars], "total": euros, "totals": [euros, dollars]});
        let text = describe(&answer, &["function"]);
        for (wanted, times) in [("CURRENCY", 1), ("EUR", 2), ("USD", 2), ("1.5", 2), ("2.5", 2), ("total", 2)]
        {
            assert_eq!(text.matches(wanted).count(), times, "{wanted} in\n{text}");
        }
        assert!(!text.contains("CHARGE ("), "{text}");
    }

    #[test]
    fn the_query_names_days_and_rows() {
        let day = jiff::civil::date(2026, 3, 4);
        assert_eq!(query(Some(day), None, &["function", "day"]), "/usage?by=function,day&from=2026-03-04");
    }
}
