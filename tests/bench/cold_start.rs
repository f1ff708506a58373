//! A request to a scaled-to-zero `text-embed` until its answer.
//!
//! P1, with its files in the page cache: over a program that maps the same prepared model and runs it once
//! (the program's own start is not counted). P2, with none of them there: over a program that reads the same
//! bytes one after another, plus an inference of a model that is warm.

use crate::reference::{self, MiniLm};
use crate::report::Line;
use crate::{Effort, served};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;
use vesta_tests::process::Process;
use vesta_tests::{Host, PATIENCE, wait_for};

/// Runs of the model in the reference of P2; the first, which maps its weights, is a small part of their
/// mean.
const WARM_RUNS: &str = "20";

pub fn measure(effort: Effort) -> Vec<Line> {
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let host = served::host(60);
    let function = Function { host: &host, minilm: &minilm };
    function.answer();
    let mut lines = in_page_cache(&function, effort.pairs * 4);
    lines.push(from_disk(&function, effort.pairs * 2));
    lines
}

struct Function<'a> {
    host: &'a Host,
    minilm: &'a MiniLm,
}

/// One cold request, in milliseconds.
struct Answer {
    whole: f64,
    start: f64,
}

impl Function<'_> {
    fn wait_until_cold(&self) {
        wait_for("text-embed to be cold", PATIENCE, || {
            let json = self.host.control().get("/api/v1/functions/text-embed").expect(200).json();
            let cache = self.host.data_dir().join("cache").display().to_string();
            (json["state"] == "cold" && !self.host.process().maps(&cache)).then_some(())
        });
    }

    fn answer(&self) -> Answer {
        self.wait_until_cold();
        self.answer_now()
    }

    fn answer_now(&self) -> Answer {
        let begun = Instant::now();
        let reply = self.host.data().post("/fn/default/text-embed/", &self.minilm.body()).expect(200);
        let whole = begun.elapsed().as_secs_f64() * 1e3;
        let start = reply.timing("cold").unwrap_or(0.0);
        assert!(start > 0.0, "it was warm: {reply:?}");
        Answer { whole, start }
    }

    /// The files that a cold start reads.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.host.data_dir().join("cache")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("the cache").flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        assert!(found.iter().any(|p| p.ends_with("weights.data")), "{found:?}");
        found
    }
}

fn in_page_cache(function: &Function, blocks: usize) -> Vec<Line> {
    let bare = || {
        let arguments = [function.minilm.prepared(), &function.minilm.tokens];
        reference::ask("reference-cold", &arguments) / 1e6
    };
    bare();
    let (mut ours, mut theirs, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..blocks {
        let (a1, b1, b2, a2) = (function.answer(), bare(), bare(), function.answer());
        ours.extend([a1.whole, a2.whole]);
        theirs.extend([b1, b2]);
        starts.extend([a1.start, a2.start]);
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
    let at = |values: &mut Vec<f64>, q: f64| {
        values.sort_by(f64::total_cmp);
        values[((values.len() - 1) as f64 * q).round() as usize]
    };
    println!("text-embed cold, files in the page cache, ms at p50 / p99 of {} requests:", ours.len());
    for (what, values) in [
        ("until its answer", &mut ours),
        ("until it was warm", &mut starts),
        ("the bare program", &mut theirs),
    ] {
        println!("  {what}: {:.2} / {:.2}", at(values, 0.5), at(values, 0.99));
    }
    let p99 = [at(&mut ours, 0.99) / at(&mut theirs, 0.99)];
    vec![
        Line::of("P1", "cold request of text-embed / map and run once", &ratios, 1.15, true),
        Line::of("P1-p99", "the same at the 99th percentile", &p99, 1.3, true),
    ]
}

fn from_disk(function: &Function, blocks: usize) -> Line {
    let files = function.files();
    let names: Vec<&str> = files.iter().map(|p| p.to_str().expect("a plain path")).collect();
    let bytes: u64 = files.iter().map(|p| p.metadata().expect("metadata").len()).sum();
    let evict = || files.iter().for_each(|path| evict(path));
    let measured = || {
        function.wait_until_cold();
        evict();
        let before = function.host.process().disk_bytes();
        let whole = function.answer_now().whole;
        (whole, function.host.process().disk_bytes() - before)
    };
    // Of tables only some rows are read until the answer.
    let enough = bytes / 3;
    let ours = || {
        let (whole, read) = measured();
        assert!(read > enough, "only {read} of {bytes} bytes came from disk");
        whole
    };
    let (_, read) = measured();
    if read <= enough {
        let why =
            format!("the files do not leave the page cache here: {read} of {bytes} bytes came from disk");
        return Line::skipped("P2", why);
    }
    let read = || {
        function.wait_until_cold();
        evict();
        reference::ask("reference-read", &names) / 1e6
    };
    let runs: f64 = WARM_RUNS.parse().expect("a number");
    let warm = || {
        let arguments = [function.minilm.prepared(), &function.minilm.tokens, WARM_RUNS];
        reference::ask("reference-loop", &arguments) / 1e6 / runs
    };
    let (mut ratios, mut parts) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
    for _ in 0..blocks {
        let (a1, read1, warm, read2, a2) = (ours(), read(), warm(), read(), ours());
        ratios.push((a1 + a2) / (read1 + read2 + 2.0 * warm));
        for (of, value) in parts.iter_mut().zip([(a1 + a2) / 2.0, (read1 + read2) / 2.0, warm]) {
            of.push(value);
        }
    }
    let [ours, read, warm] = parts.map(|mut values| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    });
    println!(
        "text-embed cold, no file in the page cache: {ours:.2} ms; reading {:.1} MB: {read:.2} ms; warm inference: {warm:.2} ms (medians)",
        bytes as f64 / 1e6
    );
    Line::of("P2", "the same from disk / read one after another + warm inference", &ratios, 1.0, true)
}

/// Takes a file out of the page cache. Nobody may have it mapped.
fn evict(path: &Path) {
    let file = File::open(path).expect("open");
    file.sync_all().expect("on disk: only then it can be dropped");
    fadvise(&file, 0, None, Advice::DontNeed).expect("advice is taken");
}

/// The reference of P2: reads files one after another, and prints the nanoseconds.
pub fn read_files(paths: &[String]) {
    let mut buffer = vec![1; 1 << 20];
    let this = Process::new(std::process::id());
    let (before, begun) = (this.disk_bytes(), Instant::now());
    let mut bytes = 0;
    for path in paths {
        let mut file = File::open(path).expect("open");
        loop {
            match file.read(&mut buffer).expect("read") {
                0 => break,
                n => bytes += n as u64,
            }
        }
    }
    println!("{}", begun.elapsed().as_nanos());
    let read = this.disk_bytes() - before;
    assert!(read > bytes / 10 * 9, "only {read} of {bytes} bytes came from disk");
}
