//! Ratios against references that are measured in the same run, interleaved block by block (A B B A).
//!
//! `cargo bench --profile dev --bench ratios [-- --quick]` prints a table and writes `target/bench/report.json`: a list
//! of `{id, what, ratio, spread, target, met}`. `spread` is half the distance between the quartiles of the blocks' ratios,
//! over their median. Nothing here asserts a time.

mod cold_start;
mod hello;
mod keepalive;
mod reference;
mod report;
mod served;

use report::Line;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Pairs of blocks.
    pub pairs: usize,
    /// Requests of a block of a cheap function, and of one that runs a model.
    pub hellos: usize,
    pub embeddings: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The references are this same program, in processes of their own.
    if let Some(role) = arguments.first().filter(|a| a.starts_with("reference-")) {
        return reference::run(role, &arguments[1..]);
    }
    let effort = if arguments.iter().any(|a| a == "--quick") {
        Effort { pairs: 2, hellos: 300, embeddings: 10 }
    } else {
        Effort { pairs: 15, hellos: 2_000, embeddings: 60 }
    };
    let mut lines: Vec<Line> = Vec::new();
    lines.extend(hello::measure(effort));
    lines.extend(cold_start::measure(effort));
    lines.extend(served::measure(effort));
    lines.extend(keepalive::measure(effort));
    report::print(&lines);
    report::write(&lines);
}
