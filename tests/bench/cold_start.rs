//! A request to a scaled-to-zero `text-embed` until its answer, over a program that maps the same prepared model and
//! runs it once. Files are in the page cache; the program's own start is not counted.

use crate::reference::{self, MiniLm};
use crate::report::Line;
use crate::{Effort, served};
use std::time::Instant;
use vesta_tests::{PATIENCE, wait_for};

pub fn measure(effort: Effort) -> Vec<Line> {
    let Some(minilm) = MiniLm::find() else { return Vec::new() };
    let host = served::host(60);
    let cold = || {
        wait_for("text-embed to be cold", PATIENCE, || {
            let json = host.control().get("/api/v1/functions/text-embed").expect(200).json();
            (json["state"] == "cold").then_some(())
        });
        let begun = Instant::now();
        let reply = host.data().post("/fn/default/text-embed/", &minilm.body()).expect(200);
        let whole = begun.elapsed().as_secs_f64();
        assert!(reply.timing("cold").is_some_and(|ms| ms > 0.0), "it was warm: {reply:?}");
        (whole, reply.timing("cold").unwrap_or(0.0))
    };
    let bare = || reference::ask("reference-cold", &[minilm.prepared(), &minilm.tokens]) / 1e9;
    cold();
    bare();

    let (mut ratios, mut wholes, mut bares, mut starts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..effort.pairs {
        let ((a1, s1), b1, b2, (a2, s2)) = (cold(), bare(), bare(), cold());
        ratios.extend([a1 / b1, a2 / b2]);
        wholes.extend([a1, a2]);
        bares.extend([b1, b2]);
        starts.extend([s1, s2]);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "text-embed cold: {:.2} ms, of which {:.2} ms until it was warm; the bare program: {:.2} ms (medians)",
        median(&mut wholes) * 1e3,
        median(&mut starts),
        median(&mut bares) * 1e3
    );
    vec![Line::of("P1", "cold request of text-embed / map and run once", &ratios, 1.5, true)]
}
