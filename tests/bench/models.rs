//! Real models of package registries (`models.toml`): the CPU time of a run on Vesta's engines over that of
//! ONNX Runtime alone, in Python, on one thread, with the same inputs, warm. All are bound to one core and
//! take turns. `models.md` has a row a model; the figures are geometric means over all models.

pub mod list;
mod role;

pub use role::reference;

use crate::Effort;
use crate::onnx_runtime::python_with;
use crate::reference::{Partner, role as this_as};
use crate::report::{self, Line};
use crate::stats::{interleaved, median, median_of, ratios};
use list::Entry;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use vesta_nn::{INFO_FILE, ONNX_RUNTIME_ENVIRONMENT, parse_info};
use vesta_tests::cores::{self, Side};
use vesta_tests::in_root;

/// CPU time of a block, in nanoseconds.
const BLOCK_NS: f64 = 100e6;
/// Pairs of blocks.
const ROUNDS: usize = 5;

/// What is measured against ONNX Runtime alone.
#[derive(Clone, Copy, PartialEq)]
enum Variant {
    OnnxRuntime,
    Mapped,
    Packed,
}

const VARIANTS: [(Variant, &str); 3] = [
    (Variant::OnnxRuntime, "onnxruntime"),
    (Variant::Mapped, "rten-mapped"),
    (Variant::Packed, "rten-packed"),
];

/// A model's figures.
struct Row {
    name: String,
    what: String,
    /// Of ONNX Runtime alone, in milliseconds.
    alone_ms: f64,
    /// For each variant the ratios of the rounds, or why there are none.
    ratios: [Result<Vec<f64>, String>; 3],
    /// Whether the trial at deploy has found that packing pays.
    packs: bool,
}

impl Row {
    fn of(&self, variant: Variant) -> Option<&[f64]> {
        self.ratios[variant as usize].as_deref().ok()
    }

    /// On the embedded engine as a busy function runs it.
    fn busy(&self) -> Option<&[f64]> {
        let packed = self.of(Variant::Packed).filter(|_| self.packs);
        packed.or(self.of(Variant::Mapped))
    }
}

pub fn measure(effort: Effort) -> Vec<Line> {
    let skipped = |why: &str| ["models-onnxruntime", "models-rten"].map(|id| Line::skipped(id, why)).into();
    let Some(python) = python_with("numpy, onnxruntime") else {
        return skipped("no Python with onnxruntime and numpy: `just bench-setup` makes one");
    };
    let mut entries = list::read();
    entries.retain(|entry| entry.file.exists());
    if effort.quick {
        entries.truncate(2);
    }
    if entries.is_empty() {
        return skipped("no models in target/bench/models: `just bench-setup` fetches them");
    }
    let library = vesta_tests::onnx_runtime();
    let rows: Vec<Row> =
        entries.iter().map(|entry| row(entry, effort, &python, library.as_deref())).collect();
    std::fs::write(report::path("models.md"), table(&rows)).expect("write models.md");
    lines(&rows)
}

fn row(entry: &Entry, effort: Effort, python: &Path, library: Option<&Path>) -> Row {
    let dir = tempfile::tempdir().expect("a directory");
    let inputs = list::write_inputs(dir.path(), &entry.tensors());
    let mut alone = Command::new(python);
    alone.arg(in_root("tests/bench/onnx-runtime-loop.py")).arg(&entry.file).arg(&inputs);
    let mut alone = cores::on(Side::Server, || Partner::start(alone));
    alone.ask("2");
    let once = alone.ask("3") / 3.0;
    let (block_ns, rounds) = if effort.quick { (BLOCK_NS / 5.0, 1) } else { (BLOCK_NS, ROUNDS) };
    let runs = (block_ns / once).clamp(1.0, 2_000.0).round();

    let embedded = prepare(entry, "rten", None, &dir.path().join("rten"));
    let packs = embedded.as_ref().is_ok_and(|dir| has_packed_form(dir));
    let fast = match library {
        Some(_) => prepare(entry, "onnxruntime", library, &dir.path().join("onnxruntime")),
        None => Err("no ONNX Runtime in target/engines-of-tests".into()),
    };
    let mut partners = VARIANTS.map(|(variant, name)| {
        let prepared = if variant == Variant::OnnxRuntime { &fast } else { &embedded };
        let mut command = child(name, library);
        command.arg(prepared.as_ref().map_err(Clone::clone)?).arg(&inputs);
        let mut partner = cores::on(Side::Server, || Partner::start(command));
        // The first runs are no figure.
        partner.try_ask("2").map(|_| partner).ok_or_else(|| "its loop ended".to_string())
    });

    let mut all = blocks(&mut alone, &mut partners, runs, rounds).into_iter();
    let base = all.next().expect("ONNX Runtime alone");
    let ratios = partners.each_ref().map(|partner| {
        partner.as_ref().map_err(Clone::clone)?;
        Ok(ratios(&all.next().expect("a variant"), &base))
    });
    let row = Row {
        name: entry.name.clone(),
        what: entry.what.clone(),
        alone_ms: median_of(&base) / 1e6,
        ratios,
        packs,
    };
    println!("{}", markdown(&row));
    row
}

/// The figures of ONNX Runtime alone and of each partner that is there, in nanoseconds a run.
fn blocks(
    alone: &mut Partner,
    partners: &mut [Result<Partner, String>],
    runs: f64,
    rounds: usize,
) -> Vec<Vec<[f64; 2]>> {
    fn block(partner: &mut Partner, runs: f64) -> impl FnMut() -> f64 {
        let line = runs.to_string();
        move || partner.ask(&line) / runs
    }
    let all = std::iter::once(alone).chain(partners.iter_mut().flatten());
    let mut blocks: Vec<_> = all.map(|partner| block(partner, runs)).collect();
    let mut blocks: Vec<_> = blocks.iter_mut().map(|block| block as &mut dyn FnMut() -> f64).collect();
    interleaved(rounds, &mut blocks)
}

/// This program as a child that runs models.
fn child(engine: &str, library: Option<&Path>) -> Command {
    let mut command = this_as("reference-model");
    let (variable, value) = ONNX_RUNTIME_ENVIRONMENT;
    command.env(variable, value).arg(engine).arg(library.unwrap_or(Path::new("")));
    command
}

/// Prepares a model as a deployment does, in a process of its own. The folder, or why it was refused.
fn prepare(entry: &Entry, engine: &str, library: Option<&Path>, out: &Path) -> Result<PathBuf, String> {
    std::fs::create_dir(out).expect("create");
    let mut command = this_as("reference-prepare");
    let (variable, value) = ONNX_RUNTIME_ENVIRONMENT;
    command.env(variable, value).arg(engine).arg(library.unwrap_or(Path::new("")));
    command.arg(&entry.file).arg(out).arg(entry.samples()).stderr(Stdio::null());
    let output = command.output().expect("start the reference");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match (said.as_str(), output.status.success()) {
        ("", true) => Ok(out.to_owned()),
        ("", false) => Err(format!("the preparation ended with {}", output.status)),
        _ => Err(said),
    }
}

fn has_packed_form(prepared: &Path) -> bool {
    let file = std::fs::File::open(prepared.join(INFO_FILE)).expect("a description");
    parse_info(&file).expect("a description").packed.is_some()
}

fn lines(rows: &[Row]) -> Vec<Line> {
    let mut lines = Vec::new();
    let fast: Vec<&[f64]> = rows.iter().filter_map(|row| row.of(Variant::OnnxRuntime)).collect();
    let what = |on: &str, of: &[&[f64]]| {
        let (known, all) = (of.len(), rows.len());
        format!(
            "CPU of a run {on} / ONNX Runtime alone, one thread: geometric mean of {known} of {all} models"
        )
    };
    if fast.is_empty() {
        lines.push(Line::skipped("models-onnxruntime", "no ONNX Runtime in target/engines-of-tests"));
    } else {
        let line = what("on ONNX Runtime in Vesta", &fast);
        lines.push(Line::of("models-onnxruntime", line, &means(&fast), 1.03, true));
        let worst = rows.iter().filter_map(|row| Some((median(row.of(Variant::OnnxRuntime)?), row)));
        let (_, worst) = worst.max_by(|a, b| a.0.total_cmp(&b.0)).expect("a model");
        let samples = worst.of(Variant::OnnxRuntime).unwrap_or_default();
        let line = format!("the same of the worst model, {}", worst.name);
        lines.push(Line::of("models-onnxruntime-worst", line, samples, 1.03, true));
    }
    let busy: Vec<&[f64]> = rows.iter().filter_map(Row::busy).collect();
    let mapped: Vec<&[f64]> = rows.iter().filter_map(|row| row.of(Variant::Mapped)).collect();
    let line = what("on the embedded engine, packed where that pays,", &busy);
    lines.push(Line::of("models-rten", line, &means(&busy), 1.25, true));
    let line = what("on the embedded engine, mapped,", &mapped);
    lines.push(Line::info("models-rten-mapped", line, &means(&mapped)));
    lines
}

/// The geometric mean over all models, for each round.
fn means(all: &[&[f64]]) -> Vec<f64> {
    let rounds = all.iter().map(|ratios| ratios.len()).min().unwrap_or(0);
    let mean = |round: usize| {
        let sum: f64 = all.iter().map(|ratios| ratios[round].ln()).sum();
        (sum / all.len() as f64).exp()
    };
    (0..rounds).map(mean).collect()
}

fn table(rows: &[Row]) -> String {
    let mut text = report::measured_on();
    text +=
        "| Model | What it is | ONNX Runtime alone | ONNX Runtime in Vesta | rten, mapped | rten, packed |\n";
    text += "| --- | --- | --- | --- | --- | --- |\n";
    for row in rows {
        let _ = writeln!(text, "{}", markdown(row));
    }
    text
}

fn markdown(row: &Row) -> String {
    let mut text = format!("| {} | {} | {:.2} ms |", row.name, row.what, row.alone_ms);
    for ((variant, _), ratios) in VARIANTS.iter().zip(&row.ratios) {
        let cell = match ratios {
            Ok(ratios) if *variant == Variant::Packed && row.packs => format!("**{:.2}**", median(ratios)),
            Ok(ratios) => format!("{:.2}", median(ratios)),
            // It is said once.
            Err(_) if *variant == Variant::Packed => String::new(),
            Err(why) => format!("refused: {}", why.replace(['|', '\n'], " ")),
        };
        let _ = write!(text, " {cell} |");
    }
    text
}
