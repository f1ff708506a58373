//! What was measured: as a table on the screen, as `report.json`, as Markdown, and as one plot a line.

use crate::plot;
use crate::stats::{quantile, spread};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// One figure with its target, or why there is none.
pub struct Line {
    pub id: &'static str,
    pub what: String,
    /// One sample of each block, in the order in which they were measured.
    pub samples: Vec<f64>,
    /// Which quantile of the samples is the figure: the median unless said otherwise.
    quantile: f64,
    /// Samples of the same against itself.
    same: Vec<f64>,
    /// The bound, if there is one: at most this where `at_most`, else at least.
    pub target: Option<f64>,
    pub at_most: bool,
    /// Nothing for a ratio.
    pub unit: &'static str,
    /// What others reach, and where the target comes from.
    anchor: String,
    missing: Option<Missing>,
}

enum Missing {
    Skipped(String),
    Failed(String),
}

impl Line {
    /// From the figures of the single blocks.
    pub fn of(
        id: &'static str,
        what: impl Into<String>,
        samples: &[f64],
        target: f64,
        at_most: bool,
    ) -> Line {
        Line {
            id,
            what: what.into(),
            samples: samples.to_vec(),
            quantile: 0.5,
            same: Vec::new(),
            target: Some(target),
            at_most,
            unit: "",
            anchor: String::new(),
            missing: None,
        }
    }

    /// A figure without a target.
    pub fn info(id: &'static str, what: impl Into<String>, samples: &[f64]) -> Line {
        Line { target: None, ..Line::of(id, what, samples, f64::NAN, true) }
    }

    /// Something that this machine lacks is needed for it.
    pub fn skipped(id: &'static str, why: impl Into<String>) -> Line {
        let why = why.into();
        println!("SKIPPED {id}: {why}");
        Line { missing: Some(Missing::Skipped(why)), ..Line::info(id, "", &[]) }
    }

    pub fn failed(id: &'static str, why: impl Into<String>) -> Line {
        let why = why.into();
        println!("FAILED {id}: {why}");
        Line { missing: Some(Missing::Failed(why)), ..Line::info(id, "", &[]) }
    }

    pub fn unit(self, unit: &'static str) -> Line {
        Line { unit, ..self }
    }

    pub fn anchor(self, anchor: impl Into<String>) -> Line {
        Line { anchor: anchor.into(), ..self }
    }

    /// Takes another quantile than the median for the figure.
    pub fn at(self, quantile: f64) -> Line {
        Line { quantile, ..self }
    }

    /// The A/A run that belongs to it.
    pub fn same(self, samples: &[f64]) -> Line {
        Line { same: samples.to_vec(), ..self }
    }

    pub fn figure(&self) -> f64 {
        quantile(&self.samples, self.quantile)
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.missing, Some(Missing::Failed(_)))
            || (self.missing.is_none() && !self.figure().is_finite())
    }

    fn met(&self) -> Option<bool> {
        let (figure, target) = (self.figure(), self.target?);
        let met = if self.at_most { figure <= target } else { figure >= target };
        self.missing.is_none().then_some(met)
    }

    fn state(&self) -> &'static str {
        match &self.missing {
            Some(Missing::Skipped(_)) => "skipped",
            _ if self.has_failed() => "FAILED",
            _ => self.met().map_or("-", |met| if met { "yes" } else { "no" }),
        }
    }

    /// The figure, its spread, the A/A run's spread, and the target, each as a reader wants it; empty where
    /// there is none.
    fn columns(&self) -> [String; 4] {
        let percent = |samples: &[f64]| match samples.len() {
            0 | 1 => String::new(),
            _ => format!("{:.1} %", spread(samples) * 100.0),
        };
        let target = self.target.filter(|t| t.is_finite());
        let sign = if self.at_most { "≤" } else { "≥" };
        match self.missing {
            Some(_) => Default::default(),
            None => [
                number(self.figure(), self.unit),
                percent(&self.samples),
                percent(&self.same),
                target.map_or(String::new(), |t| format!("{sign} {}", number(t, self.unit))),
            ],
        }
    }

    fn said(&self) -> &str {
        match &self.missing {
            Some(Missing::Skipped(why) | Missing::Failed(why)) => why,
            None => &self.what,
        }
    }

    fn json(&self) -> Value {
        let state = match &self.missing {
            Some(Missing::Skipped(_)) => "skipped",
            _ if self.has_failed() => "failed",
            _ => "measured",
        };
        let finite = |x: f64| x.is_finite().then_some(x);
        json!({
            "id": self.id, "what": self.what, "ratio": finite(self.figure()),
            "spread": finite(spread(&self.samples)), "target": self.target, "met": self.met(),
            "state": state, "unit": self.unit, "quantile": self.quantile, "at_most": self.at_most,
            "same_spread": finite(spread(&self.same)), "anchor": self.anchor,
            "why": self.missing.is_some().then(|| self.said()), "samples": self.samples,
        })
    }
}

/// Three digits that matter, and the unit.
fn number(value: f64, unit: &str) -> String {
    let decimals = (2 - value.abs().max(1e-9).log10().floor() as i32).clamp(0, 5) as usize;
    let text = format!("{value:.decimals$}");
    if unit.is_empty() { text } else { format!("{text} {unit}") }
}

pub fn print(lines: &[Line]) {
    println!(
        "\n{:<24} {:>16} {:>9} {:>9} {:>16}  {:<7}  what",
        "id", "figure", "spread", "A/A", "target", "met"
    );
    for line in lines {
        let [figure, spread, same, target] = line.columns();
        println!(
            "{:<24} {figure:>16} {spread:>9} {same:>9} {target:>16}  {:<7}  {}",
            line.id,
            line.state(),
            line.said()
        );
        if !line.anchor.is_empty() && line.missing.is_none() {
            println!("{:<90}anchor: {}", "", line.anchor);
        }
    }
}

/// Below `target/bench`.
pub fn path(name: &str) -> PathBuf {
    let dir = vesta_tests::in_root("target/bench");
    std::fs::create_dir_all(&dir).expect("create target/bench");
    dir.join(name)
}

pub fn write(lines: &[Line]) {
    let report: Vec<_> = lines.iter().map(Line::json).collect();
    let text = serde_json::to_string_pretty(&report).expect("plain values");
    std::fs::write(path("report.json"), text).expect("write report.json");
    std::fs::write(path("report.md"), markdown(lines)).expect("write report.md");
    for line in lines.iter().filter(|l| l.missing.is_none() && !l.has_failed()) {
        plot::line(line, &path(&plot::file_name(line.id)));
    }
    println!("\nwritten to target/bench: report.json, report.md, one SVG a figure");
}

/// Puts the table of the last run into BENCHMARKS.md, with that of the models where they were measured, and
/// its plots beside the benchmarks.
pub fn publish() -> std::io::Result<()> {
    let document = vesta_tests::in_root("BENCHMARKS.md");
    let mut text = std::fs::read_to_string(&document)?;
    text = with_table(&text, "figures", &std::fs::read_to_string(path("report.md"))?)?;
    if let Ok(models) = std::fs::read_to_string(path("models.md")) {
        text = with_table(&text, "models", &models)?;
    }
    std::fs::write(&document, text)?;
    let plots = vesta_tests::in_root("tests/bench/plots");
    std::fs::create_dir_all(&plots)?;
    for entry in std::fs::read_dir(path(""))? {
        let plot = entry?.path();
        if let (Some("svg"), Some(name)) = (plot.extension().and_then(|e| e.to_str()), plot.file_name()) {
            std::fs::copy(&plot, plots.join(name))?;
        }
    }
    Ok(())
}

/// The document with another table between the marks of that name.
fn with_table(text: &str, name: &str, table: &str) -> std::io::Result<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
    let marks = text.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let (head, tail) =
        marks.ok_or_else(|| std::io::Error::other(format!("BENCHMARKS.md lacks the marks of {name}")))?;
    Ok(format!("{head}{begin}{table}{end}{tail}"))
}

/// What the figures were taken on.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.split_once(':'));
        line.map(|(_, value)| value.trim().to_string())
    };
    json!({
        "cpu": field(&cpu, "model name"), "cores": vesta_tests::cores::count(),
        "memory": field(&memory, "MemTotal"), "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

/// The same as a sentence.
pub fn measured_on() -> String {
    let machine = machine();
    let said = |name: &str| machine[name].as_str().unwrap_or("unknown").to_string();
    format!(
        "Measured on {} cores ({}), {} of memory, Linux {}.\n\n",
        machine["cores"],
        said("cpu"),
        said("memory"),
        said("kernel")
    )
}

fn markdown(lines: &[Line]) -> String {
    let mut text = measured_on();
    text += "| | What | Figure | Spread | A/A | Target | Met | Anchor |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for line in lines {
        let [figure, spread, same, target] = line.columns();
        let cell = |text: &str| text.replace('|', "\\|");
        let (what, state, anchor) = (cell(line.said()), line.state(), cell(&line.anchor));
        let _ = writeln!(
            text,
            "| {} | {what} | {figure} | {spread} | {same} | {target} | {state} | {anchor} |",
            line.id
        );
    }
    text
}
