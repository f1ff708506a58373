//! A line of the journal: a record as JSON with a checksum as its last field, `{…,"crc32":"0123abcd"}`.
//!
//! The checksum is the CRC-32 of all bytes of the line before `,"crc32"`. A host that does not know it reads
//! past it.

use std::io::Write;
use vesta_core::UsageRecord;

const MARK: &[u8] = b",\"crc32\":\"";
/// `,"crc32":"0123abcd"}`.
const TAIL: usize = MARK.len() + 8 + 2;

/// Why a line is not a record.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its checksum is missing")]
    NoChecksum,
    #[error("it is not a record: {0}")]
    Json(#[from] serde_json::Error),
}

/// Appends a record's line, its end included.
pub fn encode(record: &UsageRecord, lines: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let begin = lines.len();
    if let Err(error) = serde_json::to_writer(&mut *lines, record) {
        lines.truncate(begin);
        return Err(error);
    }
    // The closing brace comes after the checksum.
    lines.pop();
    let crc = crc32fast::hash(&lines[begin..]);
    lines.extend_from_slice(MARK);
    // Writing into memory cannot fail.
    let _ = lines.write_fmt(format_args!("{crc:08x}\"}}\n"));
    Ok(())
}

/// Reads a line, with or without its end. A line without a checksum is read if it is of a host from before
/// checksums: of a record without a price plan.
pub fn decode(line: &[u8]) -> Result<UsageRecord, LineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if let Some((body, crc)) = checked_part(line) {
        if crc32fast::hash(body) != crc {
            return Err(LineError::Checksum);
        }
        return Ok(serde_json::from_slice(line)?);
    }
    let record: UsageRecord = serde_json::from_slice(line)?;
    if record.price_plan.is_some() { Err(LineError::NoChecksum) } else { Ok(record) }
}

/// The part of a line that the checksum at its end is of, and the checksum.
fn checked_part(line: &[u8]) -> Option<(&[u8], u32)> {
    let (body, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
    let hex = tail.strip_prefix(MARK)?.strip_suffix(b"\"}")?;
    let hex = hex.iter().all(u8::is_ascii_hexdigit).then_some(hex)?;
    Some((body, u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?))
}

/// Splits what should be one line after each checksum in it: where the end of a line is damaged, two stand in
/// one. Each part but the first begins with what was the end of the line before.
pub fn split(line: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), line);
    while let Some(at) = rest.windows(MARK.len()).position(|w| w == MARK) {
        let end = (at + TAIL).min(rest.len());
        let (part, after) = rest.split_at(end);
        parts.push(part);
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::testing::record;
    use std::hint::black_box;
    use std::time::Instant;

    #[test]
    fn every_flipped_bit_of_a_line_is_noticed() {
        let record = record(7);
        let mut line = Vec::new();
        encode(&record, &mut line).expect("encode");
        assert_eq!(decode(&line).expect("decode"), record);
        for bit in 0..(line.len() - 1) * 8 {
            let mut damaged = line.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // The case of a digit of the checksum says nothing: both are read.
            let same = damaged.eq_ignore_ascii_case(&line) && decode(&damaged).is_ok_and(|r| r == record);
            assert!(same || decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn lines_of_before_are_read_and_two_lines_in_one_are_told_apart() {
        let old = UsageRecord { price_plan: None, ..record(7) };
        assert_eq!(decode(&serde_json::to_vec(&old).expect("JSON")).expect("decode"), old);
        let unchecked = serde_json::to_vec(&record(7)).expect("JSON");
        assert!(matches!(decode(&unchecked), Err(LineError::NoChecksum)));
        let mut joined = Vec::new();
        encode(&record(1), &mut joined).expect("encode");
        let end = joined.len() - 1;
        encode(&record(2), &mut joined).expect("encode");
        joined[end] ^= 1;
        let parts = split(&joined[..joined.len() - 1]);
        assert_eq!(parts.len(), 2);
        assert_eq!(decode(parts[0]).expect("decode"), record(1));
        assert_eq!(decode(&parts[1][1..]).expect("decode"), record(2));
    }

    #[test]
    fn a_checksum_costs_little_beside_its_line() {
        let record = record(7);
        let mut line = Vec::new();
        // The least of several rounds: others use the machine.
        let mut least = |checked: bool| {
            let rounds = (0..20).map(|_| {
                let begin = Instant::now();
                for _ in 0..5_000 {
                    line.clear();
                    if checked {
                        encode(black_box(&record), &mut line).expect("encode");
                    } else {
                        serde_json::to_writer(&mut line, black_box(&record)).expect("encode");
                        line.push(b'\n');
                    }
                    black_box(&line);
                }
                begin.elapsed().as_secs_f64() / 5_000.0 * 1e6
            });
            rounds.fold(f64::MAX, f64::min)
        };
        let (plain, checked) = (least(false), least(true));
        println!("a line: {plain:.3} us, with its checksum {checked:.3} us: {:.3} us more", checked - plain);
        assert!(checked - plain < 0.3, "{checked} and {plain}");
    }
}
