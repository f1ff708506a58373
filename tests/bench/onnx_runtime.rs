//! P1b: a request to a scaled-to-zero `text-embed` until its answer, over a program that reads the original
//! .onnx with ONNX Runtime and runs it once, both on one thread. The program is Python's (`just bench-setup`
//! brings it); its start and its imports are not counted.

use crate::Effort;
use crate::reference::MiniLm;
use crate::report::Line;
use crate::served;
use crate::stats::{interleaved, median_of, ratios, same};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;
use vesta_tests::{PATIENCE, in_root, wait_for};

pub fn measure(effort: Effort) -> Vec<Line> {
    let Some(python) = python_with("numpy, onnxruntime") else {
        return vec![Line::skipped(
            "P1b",
            "no Python with onnxruntime and numpy: `just bench-setup` makes one",
        )];
    };
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let host = served::host(60);
    let mut cold = || {
        wait_for("text-embed to be cold", PATIENCE, || {
            let json = host.control().get("/api/v1/functions/text-embed").expect(200).json();
            (json["state"] == "cold").then_some(())
        });
        let begun = Instant::now();
        let reply = host.data().post("/fn/default/text-embed/", &minilm.body()).expect(200);
        let ms = begun.elapsed().as_secs_f64() * 1e3;
        assert!(reply.timing("cold").is_some_and(|ms| ms > 0.0), "it was warm: {reply:?}");
        ms
    };
    let mut program = || {
        let mut command = Command::new(&python);
        command.arg(in_root("tests/bench/onnx-runtime.py"));
        command.arg(in_root("examples/text-embed/models/minilm.onnx")).arg(&minilm.tokens);
        let out = command.output().expect("run Python");
        let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "the program failed:\n{errors}");
        said.trim().parse::<f64>().expect("a number of nanoseconds") / 1e6
    };
    let all = interleaved(effort.pairs.div_ceil(2), &mut [&mut cold, &mut program]);
    let (ours, theirs) = (&all[0], &all[1]);
    let (cold, program) = (median_of(ours), median_of(theirs));
    println!(
        "text-embed cold: {cold:.1} ms; ONNX Runtime from the file to the answer: {program:.1} ms (medians)"
    );
    let what = "cold request of text-embed / reading the .onnx with ONNX Runtime and running it once";
    vec![
        Line::of("P1b", what, &ratios(ours, theirs), 0.3, true)
            .same(&same(ours))
            .anchor("ONNX Runtime 265 to 370 ms on the machine where Vesta was begun"),
    ]
}

/// A Python that has these modules: the one of `just bench-setup`, or the machine's own.
pub fn python_with(modules: &str) -> Option<PathBuf> {
    let all = [in_root("target/bench/venv/bin/python"), "python3".into()];
    all.into_iter().find(|python| {
        let check = Command::new(python).args(["-c", &format!("import {modules}")]).output();
        check.is_ok_and(|out| out.status.success())
    })
}
