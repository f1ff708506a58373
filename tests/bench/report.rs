//! The table and the file.

use serde_json::json;

/// One measured ratio.
pub struct Line {
    pub id: &'static str,
    pub what: String,
    pub ratio: f64,
    pub spread: f64,
    /// The bound: at most this where `at_most`, else at least.
    pub target: f64,
    pub at_most: bool,
}

impl Line {
    /// From the ratios of the single pairs.
    pub fn of(id: &'static str, what: impl Into<String>, ratios: &[f64], target: f64, at_most: bool) -> Line {
        let mut sorted = ratios.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
        let spread = (at(0.75) - at(0.25)) / 2.0 / at(0.5);
        Line { id, what: what.into(), ratio: at(0.5), spread, target, at_most }
    }

    fn met(&self) -> bool {
        if self.at_most { self.ratio <= self.target } else { self.ratio >= self.target }
    }
}

pub fn print(lines: &[Line]) {
    println!("\n{:<16} {:>8} {:>8} {:>9}  met  what", "id", "ratio", "spread", "target");
    for line in lines {
        let sign = if line.at_most { "<=" } else { ">=" };
        println!(
            "{:<16} {:>8.3} {:>7.1}% {:>2} {:>6.2}  {:<3}  {}",
            line.id,
            line.ratio,
            line.spread * 100.0,
            sign,
            line.target,
            if line.met() { "yes" } else { "no" },
            line.what
        );
    }
}

pub fn write(lines: &[Line]) {
    let report: Vec<_> = lines
        .iter()
        .map(|l| {
            json!({ "id": l.id, "what": l.what, "ratio": l.ratio, "spread": l.spread, "target": l.target, "met": l.met() })
        })
        .collect();
    let path = vesta_tests::in_root("target/bench/report.json");
    std::fs::create_dir_all(path.parent().expect("has a parent")).expect("create target/bench");
    std::fs::write(&path, serde_json::to_string_pretty(&report).expect("plain values"))
        .expect("write the report");
    println!("\nwritten to target/bench/report.json");
}
