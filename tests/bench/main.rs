//! Vesta measured against references, in one run on one machine; nothing here asserts a time.
//!
//! `just bench` runs everything; `just bench P3 P5` these alone; `just bench --quick` a little of everything,
//! to see that it works. It prints a table and writes below `target/bench`: `report.json`, `report.md` and
//! one plot a figure. BENCHMARKS.md says what each figure is. `just soak 30` is the soak (`soak.rs`).

mod bill;
mod cold_start;
mod density;
mod fastapi;
mod hello;
mod keepalive;
mod models;
mod onnx_runtime;
mod plot;
mod preemption;
mod reference;
mod report;
mod served;
mod soak;
mod stats;
mod tiers;
mod work;
mod workers;

use report::Line;
use std::process::ExitCode;
use std::time::Instant;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Whether it is only to be seen that everything works.
    pub quick: bool,
    /// Pairs of blocks.
    pub pairs: usize,
    /// Requests of a block of a cheap function, and of one that runs a model.
    pub hellos: usize,
    pub embeddings: usize,
}

const QUICK: Effort = Effort { quick: true, pairs: 2, hellos: 200, embeddings: 5 };
const LONG: Effort = Effort { quick: false, pairs: 30, hellos: 2_000, embeddings: 40 };

/// One measure and the figures that it gives; a figure `P5` may have further lines, `P5-start`.
struct Measure {
    ids: &'static [&'static str],
    run: fn(Effort) -> Vec<Line>,
}

const MEASURES: &[Measure] = &[
    Measure { ids: &["P1", "P2"], run: cold_start::measure },
    Measure { ids: &["P1b"], run: onnx_runtime::measure },
    Measure { ids: &["P3"], run: hello::measure },
    Measure { ids: &["P4"], run: served::measure },
    Measure { ids: &["Tiers"], run: tiers::measure },
    Measure { ids: &["P5"], run: density::deployed },
    Measure { ids: &["P5-warm"], run: density::warm },
    Measure { ids: &["P5-tenants"], run: density::tenants },
    Measure { ids: &["P6-hello"], run: bill::hello },
    Measure { ids: &["P6-minilm"], run: bill::minilm },
    Measure { ids: &["P6-kernel", "P6-busy"], run: bill::burns },
    Measure { ids: &["P7"], run: preemption::cost },
    Measure { ids: &["P7-yield"], run: preemption::yields },
    Measure { ids: &["P11-magika"], run: fastapi::magika },
    Measure { ids: &["P11-minilm"], run: fastapi::minilm },
    Measure { ids: &["P12-hop", "P12-start", "P12-memory"], run: workers::measure },
    Measure { ids: &["P16-hello", "P16-busy", "P16-infer"], run: work::measure },
    Measure { ids: &["P10"], run: keepalive::measure },
    Measure { ids: &["models-onnxruntime", "models-rten"], run: models::measure },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The references are this same program, in processes of their own.
    if let Some(role) = arguments.first().filter(|a| a.starts_with("reference-")) {
        reference::run(role, &arguments[1..]);
        return ExitCode::SUCCESS;
    }
    // Cargo adds an option of its own, `--bench`.
    let (options, wanted): (Vec<String>, Vec<String>) =
        arguments.into_iter().partition(|a| a.starts_with("--"));
    if wanted.first().is_some_and(|w| w == "soak") {
        return soak::run(wanted.get(1).map(String::as_str));
    }
    if options.iter().any(|o| o == "--publish") {
        report::publish().expect("publish the last run");
        return ExitCode::SUCCESS;
    }
    let unknown = wanted.iter().find(|w| !MEASURES.iter().any(|m| m.gives(w)));
    if let Some(unknown) = unknown {
        let known: Vec<_> = MEASURES.iter().flat_map(|m| m.ids).copied().collect();
        eprintln!("there is no {unknown}; there are: {}", known.join(" "));
        return ExitCode::FAILURE;
    }
    let effort = if options.iter().any(|o| o == "--quick") { QUICK } else { LONG };
    let chosen = MEASURES.iter().filter(|m| wanted.is_empty() || wanted.iter().any(|w| m.gives(w)));
    let lines: Vec<Line> = chosen.flat_map(|m| m.lines(effort)).collect();
    report::print(&lines);
    report::write(&lines);
    if lines.iter().any(Line::has_failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Measure {
    /// Whether `P5` or `p5-warm` asks for this measure.
    fn gives(&self, wanted: &str) -> bool {
        self.ids.iter().any(|id| {
            let head = id.get(..wanted.len()).unwrap_or_default();
            let rest = id.get(wanted.len()..).unwrap_or_default();
            head.eq_ignore_ascii_case(wanted) && (rest.is_empty() || rest.starts_with('-'))
        })
    }

    /// Runs it. What breaks in it costs the other measures nothing.
    fn lines(&self, effort: Effort) -> Vec<Line> {
        println!("\n== {}", self.ids.join(" "));
        let begun = Instant::now();
        let run = std::panic::catch_unwind(|| (self.run)(effort));
        let mut lines = run.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            self.ids.iter().map(|id| Line::failed(id, said)).collect()
        });
        for id in self.ids {
            if !lines.iter().any(|l| l.id.starts_with(id)) {
                lines.push(Line::skipped(id, "not measured; the reason is said above"));
            }
        }
        println!("   {:.1} s", begun.elapsed().as_secs_f64());
        lines
    }
}
