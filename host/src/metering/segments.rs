//! The journal's files: one record a line ([`super::line`]). A segment is deleted once the ledger has all of
//! it.
//!
//! Segments are numbered without gaps, and a number is never used again. The ledger keeps the place of the
//! last record that it has taken; a segment is deleted once that place is in a later one.

use super::line;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use vesta_core::settlement::{Journaled, Position};

/// A segment is closed when it has grown to this many bytes.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Most bytes of lines and records that are set aside, in all files together. What comes after that is
/// counted and logged only.
const SET_ASIDE_BYTES_MAX: u64 = 16 << 20;
/// Files of what was set aside: damaged lines of a segment, and records that the ledger refused.
const UNREADABLE: &str = "unreadable";
const REFUSED: &str = "refused";

/// The open segment and those that still hold records which the ledger lacks.
pub(super) struct Segments {
    dir: PathBuf,
    current: u64,
    file: File,
    len: u64,
    /// Segments that have a file, the current one included.
    kept: BTreeSet<u64>,
    /// Numbers that something else is named by.
    taken: BTreeSet<u64>,
}

/// What an earlier run has left in the journal.
#[derive(Default)]
pub(super) struct Left {
    /// Records that the ledger lacks, in the order in which they were written.
    pub records: Vec<Journaled>,
    /// Lines that could not be read.
    pub lines_unreadable: u64,
    /// Segments that should be there and are not.
    pub segments_missing: u64,
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.jsonl"))
}

/// A new segment, whose name is on the disk too.
fn create(dir: &Path, number: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path(dir, number))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

/// The number of a segment, if this is the name of one.
fn number(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".jsonl")?;
    let number = digits.parse().ok().filter(|n| *n < u64::MAX)?;
    (digits == format!("{number:016}")).then_some(number)
}

/// What is not a segment, nor was set aside, is none of ours.
fn name_foreign(entry: &std::fs::DirEntry) {
    let path = entry.path();
    if !path.extension().is_some_and(|x| x == UNREADABLE || x == REFUSED) {
        tracing::warn!(path = %path.display(), "a foreign file in the folder of the usage journal is passed over");
    }
}

/// The numbers of the segments in a directory, and those that something else is named by: no segment gets
/// these.
fn find(dir: &Path) -> io::Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let (mut found, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let number = number(&entry.file_name());
        if let Some(number) = number
            && entry.file_type()?.is_file()
        {
            found.insert(number);
            continue;
        }
        taken.extend(number);
        name_foreign(&entry);
    }
    Ok((found, taken))
}

/// The first number after one that is not taken.
fn after(number: u64, taken: &BTreeSet<u64>) -> u64 {
    (number + 1..).find(|n| !taken.contains(n)).unwrap_or(u64::MAX)
}

impl Segments {
    /// Opens the directory with a new segment and gives back what earlier ones hold after `posted`, the place
    /// of the last record that the ledger has.
    pub fn open(dir: &Path, posted: Option<Position>) -> io::Result<(Segments, Left)> {
        std::fs::create_dir_all(dir)?;
        let (mut found, taken) = find(dir)?;
        if let Some(posted) = posted {
            let rest = found.split_off(&posted.segment);
            found.iter().for_each(|&number| remove(dir, number));
            found = rest;
        }
        let first = posted.map(|p| p.segment).or(found.first().copied());
        let mut left = Left { segments_missing: report_missing(first, &found, &taken), ..Left::default() };
        for &number in &found {
            let text = std::fs::read(path(dir, number))?;
            let begin = posted.filter(|p| p.segment == number).map_or(0, |p| p.bytes);
            let bad = read(number, &text, begin, &mut left.records);
            if !bad.is_empty() {
                left.lines_unreadable += bad.len() as u64;
                set_aside(dir, number, UNREADABLE, false, &bad.join(&b'\n'));
            }
        }
        // A number is never used again.
        let last = found.last().copied().max(posted.map(|p| p.segment));
        let current = match last {
            Some(last) => after(last, &taken),
            None if taken.contains(&0) => after(0, &taken),
            None => 0,
        };
        let file = create(dir, current)?;
        found.insert(current);
        Ok((Segments { dir: dir.into(), current, file, len: 0, kept: found, taken }, left))
    }

    /// Whether the next append will also begin a new segment, which waits for the disk.
    pub fn is_full(&self) -> bool {
        self.len >= SEGMENT_BYTES
    }

    /// Appends lines and returns where they end. After an error nothing of them is left.
    pub fn append(&mut self, lines: &[u8], durable: bool) -> io::Result<Position> {
        if self.is_full()
            && let Err(error) = self.rotate()
        {
            // Only the file is larger than it should be.
            tracing::warn!(%error, "the usage journal goes on in its old segment");
        }
        let written =
            self.file.write_all(lines).and_then(|()| if durable { self.file.sync_data() } else { Ok(()) });
        if let Err(e) = written {
            // A torn line must not stand before later ones.
            self.file.set_len(self.len)?;
            return Err(e);
        }
        self.len += lines.len() as u64;
        Ok(Position { segment: self.current, bytes: self.len })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let next = after(self.current, &self.taken);
        self.file = create(&self.dir, next)?;
        self.current = next;
        self.len = 0;
        self.kept.insert(next);
        Ok(())
    }

    /// Whether there is room on the disk for another batch.
    pub fn probe(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&[b' '; 64 << 10]);
        self.file.set_len(self.len)?;
        result
    }

    /// The ledger has all records up to a place: earlier segments are deleted.
    pub fn posted(&mut self, place: Position) {
        let rest = self.kept.split_off(&place.segment.min(self.current));
        for number in std::mem::replace(&mut self.kept, rest) {
            remove(&self.dir, number);
        }
    }

    /// Keeps records that the ledger refused, one line each.
    pub fn keep_refused(&self, lines: &[u8]) {
        set_aside(&self.dir, 0, REFUSED, true, lines);
    }
}

fn remove(dir: &Path, number: u64) {
    if let Err(error) = std::fs::remove_file(path(dir, number)) {
        tracing::warn!(segment = number, %error, "a segment of the usage journal that the ledger has cannot be deleted");
    }
}

/// Says which segments are missing from `first` on, and how many. Numbers that are taken have no segment.
fn report_missing(first: Option<u64>, found: &BTreeSet<u64>, taken: &BTreeSet<u64>) -> u64 {
    let Some(mut next) = first else { return 0 };
    let mut missing = 0;
    // Where none is left, at least the one is missing that the ledger has taken a record from.
    let up_to = if found.is_empty() { Some(next + 1) } else { None };
    for number in found.iter().copied().chain(up_to) {
        let gap = number.saturating_sub(next) - taken.range(next.min(number)..number).count() as u64;
        if gap > 0 {
            tracing::error!(
                from = next,
                to = number - 1,
                "segments of the usage journal are missing: what they held and the ledger lacks is lost"
            );
            missing += gap;
        }
        next = number + 1;
    }
    missing
}

/// Reads a segment's records from a place on, and returns the lines that cannot be read. A last line that was
/// cut by a crash belongs to a response that never ended, and is dropped.
fn read<'t>(number: u64, text: &'t [u8], begin: u64, records: &mut Vec<Journaled>) -> Vec<&'t [u8]> {
    let mut bad = Vec::new();
    let mut at = usize::try_from(begin).unwrap_or(usize::MAX).min(text.len());
    for whole in text[at..].split_inclusive(|b| *b == b'\n') {
        let place = |bytes: usize| Position { segment: number, bytes: bytes as u64 };
        match line::decode(whole) {
            Ok(record) => records.push(Journaled { record, end: place(at + whole.len()) }),
            // A torn line has no end, and is no record.
            Err(_) if !whole.ends_with(b"\n") && line::split(whole).len() < 2 => {}
            Err(error) => {
                tracing::error!(segment = number, at, %error, "a line of the usage journal cannot be read; it is set aside");
                let line = whole.strip_suffix(b"\n").unwrap_or(whole);
                let mut end = at;
                for part in line::split(line) {
                    end += part.len();
                    // A part may begin with the damaged end of the line before.
                    let json = part.iter().position(|b| *b == b'{').map_or(part, |begin| &part[begin..]);
                    match line::decode(json) {
                        Ok(record) => records.push(Journaled { record, end: place(end) }),
                        Err(_) => bad.push(part),
                    }
                }
            }
        }
        at += whole.len();
    }
    bad
}

/// Keeps bytes in a file beside the segments, whole or after what it holds, as far as there is room for such
/// files.
fn set_aside(dir: &Path, number: u64, kind: &str, append: bool, bytes: &[u8]) {
    let mine = |e: &std::fs::DirEntry| {
        let extension = e.path().extension().map(|x| x == UNREADABLE || x == REFUSED);
        extension.unwrap_or(false)
    };
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten().filter(mine);
    let held: u64 = files.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum();
    if held + bytes.len() as u64 > SET_ASIDE_BYTES_MAX {
        tracing::error!(
            bytes = bytes.len(),
            "no room beside the usage journal for what is set aside; it is dropped"
        );
        return;
    }
    let mut options = OpenOptions::new();
    options.create(true).write(true).append(append).truncate(!append);
    let file = options.open(dir.join(format!("{number:016}.{kind}")));
    if let Err(error) = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.write_all(b"\n"))) {
        tracing::error!(%error, "what is set aside of the usage journal cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::testing::record as record_of;

    fn write(segments: &mut Segments, n: std::ops::Range<u64>) -> Vec<Position> {
        n.map(|n| {
            let mut line = Vec::new();
            line::encode(&record_of(n), &mut line).expect("encode");
            segments.append(&line, false).expect("append")
        })
        .collect()
    }

    fn ids(left: &Left) -> Vec<u64> {
        let attos = |j: &Journaled| u64::try_from(j.record.charge.attos()).expect("small");
        left.records.iter().map(attos).collect()
    }

    fn change(dir: &Path, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
        let path = path(dir, number);
        let mut text = std::fs::read(&path).expect("read");
        change(&mut text);
        std::fs::write(path, text).expect("write");
    }

    #[test]
    fn a_flipped_bit_costs_its_line_alone_wherever_it_is() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut segments, _) = Segments::open(dir.path(), None).expect("open");
        let ends = write(&mut segments, 0..3);
        let whole = std::fs::read(path(dir.path(), 0)).expect("read");
        let begin = usize::try_from(ends[0].bytes).expect("small");
        let end = usize::try_from(ends[1].bytes).expect("small");
        // In the second line, its end included.
        for at in begin..end {
            change(dir.path(), 0, |text| {
                text.clone_from(&whole);
                text[at] ^= 1 << (at % 8);
            });
            let mut records = Vec::new();
            let text = std::fs::read(path(dir.path(), 0)).expect("read");
            let bad = read(0, &text, 0, &mut records);
            let left = Left { records, ..Left::default() };
            let expected: &[u64] = if bad.is_empty() { &[0, 1, 2] } else { &[0, 2] };
            assert_eq!(ids(&left), expected, "byte {at}: {}", String::from_utf8_lossy(&text[begin..end]));
            // The end of the line and the case of its checksum are no part of the record.
            assert!(!bad.is_empty() || at > end - 12, "byte {at} went unnoticed");
            // What the ledger has is known by its place in spite of the damage.
            for (n, place) in left.records.iter().enumerate() {
                let mut rest = Vec::new();
                read(0, &text, place.end.bytes, &mut rest);
                assert_eq!(rest, left.records[n + 1..]);
            }
        }
        let (_, left) = Segments::open(dir.path(), None).expect("open");
        assert!(left.lines_unreadable <= 1 && left.segments_missing == 0);
    }

    #[test]
    fn what_was_posted_is_not_read_again_and_numbers_are_never_used_twice() {
        let dir = tempfile::tempdir().expect("dir");
        let (mut segments, left) = Segments::open(dir.path(), None).expect("open");
        assert!(left.records.is_empty() && left.segments_missing == 0);
        let ends = write(&mut segments, 0..5);
        let (mut segments, left) = Segments::open(dir.path(), Some(ends[2])).expect("open");
        assert_eq!(ids(&left), [3, 4]);
        let later = write(&mut segments, 5..7);
        assert_eq!(later[0].segment, 1);
        segments.posted(later[0]);
        assert_eq!(find(dir.path()).expect("find").0, [1].into());
        // The folder is lost: the ledger's place is not forgotten, and the loss is noticed.
        std::fs::remove_dir_all(dir.path()).expect("remove");
        let (mut segments, left) = Segments::open(dir.path(), Some(later[0])).expect("open");
        assert_eq!((ids(&left), left.segments_missing), (vec![], 1));
        assert_eq!(write(&mut segments, 7..8)[0].segment, 2);
    }

    #[test]
    fn a_segment_that_is_missing_is_noticed_and_an_empty_one_is_not_missing() {
        let dir = tempfile::tempdir().expect("dir");
        let mut place = None;
        for n in 0..4 {
            let (mut segments, left) = Segments::open(dir.path(), None).expect("open");
            assert_eq!(left.segments_missing, 0);
            if n != 1 {
                place = place.or(write(&mut segments, n..n + 1).pop());
            }
        }
        std::fs::remove_file(path(dir.path(), 2)).expect("remove");
        for posted in [None, place] {
            let (_, left) = Segments::open(dir.path(), posted).expect("open");
            assert_eq!(left.segments_missing, 1);
            assert_eq!(ids(&left), if posted.is_none() { vec![0, 3] } else { vec![3] });
        }
    }

    #[test]
    fn foreign_files_are_passed_over_and_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let foreign = [
            "5.jsonl",
            "+000000000000005.jsonl",
            "00000000000000005.jsonl",
            "18446744073709551615.jsonl",
            "notes.txt",
            "notes.jsonl",
        ];
        for name in foreign {
            std::fs::write(dir.path().join(name), "not a record\n").expect("file");
        }
        std::fs::create_dir(dir.path().join("0000000000000000.jsonl")).expect("folder");
        std::os::unix::fs::symlink("nowhere", dir.path().join("0000000000000002.jsonl")).expect("link");
        // No segment is given a name that is taken, and none is missing for that.
        for expected in [1, 3, 4] {
            let (segments, left) = Segments::open(dir.path(), None).expect("open");
            assert_eq!((segments.current, left.records.len(), left.segments_missing), (expected, 0, 0));
        }
        for name in foreign {
            assert!(dir.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn a_segment_that_was_changed_at_random_costs_its_bad_lines() {
        let record = r#"{"id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","tenant":"t","function":"f","version":1,"started_unix_ns":0,"outcome":"ok",
            "status":200,"cold":false,"inferences":0}"#;
        let lines = format!("{}\n", record.replace("\n            ", "")).repeat(3);
        let dir = tempfile::tempdir().expect("dir");
        let mut checked = Vec::new();
        let records: Vec<_> = (0..3).map(record_of).collect();
        records.iter().for_each(|record| line::encode(record, &mut checked).expect("encode"));
        crate::mutate::each(&[lines.as_bytes(), &checked], |bytes| {
            for file in std::fs::read_dir(dir.path()).expect("dir") {
                std::fs::remove_file(file.expect("file").path()).expect("removed");
            }
            std::fs::write(path(dir.path(), 7), bytes).expect("written");
            let (segments, left) = Segments::open(dir.path(), None).expect("open");
            assert!(segments.current == 8 && left.records.len() <= bytes.len());
            assert!(left.records.is_sorted_by_key(|r| r.end), "places grow");
            // What a checksum is of is as it was written.
            let with_plan = left.records.into_iter().filter(|r| r.record.price_plan.is_some());
            with_plan.for_each(|r| assert!(records.contains(&r.record), "{r:?}"));
        });
    }
}
