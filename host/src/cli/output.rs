//! What goes to stdout and stderr. Writing to a closed stdout is an error that ends the command quietly.

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::io::{self, Write};

/// The reader of stdout went away.
#[derive(Debug, thiserror::Error)]
#[error("stdout is closed")]
pub struct StdoutClosed;

fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        other => Ok(other?),
    }
}

/// Writes bytes to stdout as they are.
pub fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Writes a line to stdout.
pub fn line(text: impl AsRef<str>) -> anyhow::Result<()> {
    bytes(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes a value to stdout as indented JSON.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Writes a line to stderr; nothing can be done where that fails.
pub fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// A table with a header; columns whose header begins with `>` are aligned to the right.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(header.iter().map(|h| h.trim_start_matches('>')).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row);
    }
    for (i, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(i).filter(|_| name.starts_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Names and values, one pair a line, the values under each other.
pub fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs.iter().map(|(name, value)| format!("{name:width$}  {value}").trim_end().to_string());
    lines.collect::<Vec<_>>().join("\n")
}

/// Nanoseconds in the unit that suits them: `850 ns`, `12.3 us`, `4.56 ms`, `7.89 s`.
pub fn duration_ns(ns: u64) -> String {
    // For display only: three figures are shown.
    let ns_f = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", ns_f / 1e6),
        _ => format!("{:.2} s", ns_f / 1e9),
    }
}

/// The same of whole milliseconds.
pub fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ => duration_ns(ms.saturating_mul(1_000_000)),
    }
}

/// A size for people: `1.50 MiB`.
pub fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// `1 blob`, `2 blobs`.
pub fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// A whole number with a space between thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Keeps control characters of others (a guest's logs, a server's messages) away from the terminal.
pub fn printable(text: &str) -> String {
    let escape = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars().map(|c| if escape(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_a_unit_that_suits_them() {
        assert_eq!(duration_ns(850), "850 ns");
        assert_eq!(duration_ns(12_340), "12.3 us");
        assert_eq!(duration_ns(4_560_000), "4.56 ms");
        assert_eq!(duration_ns(7_890_000_000), "7.89 s");
        assert_eq!(duration_ms(40), "40 ms");
        assert_eq!(duration_ms(1_500), "1.50 s");
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
    }

    #[test]
    fn a_table_has_its_header_and_rows() {
        let text = table(&["NAME", ">N"], vec![vec!["a".into(), "1".into()], vec!["bb".into(), "22".into()]]);
        assert!(text.contains("NAME") && !text.contains('>'), "{text}");
        let row = text.lines().find(|l| l.contains(" a ")).expect("the row");
        assert!(row.contains(" 1 "), "{row}");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[31mb\n"), "a\\u{1b}[31mb\n");
    }

    #[test]
    fn pairs_are_aligned() {
        assert_eq!(
            pairs(&[("a", "1".into()), ("long", "2".into()), ("x", "".into())]),
            "a     1\nlong  2\nx"
        );
    }
}
