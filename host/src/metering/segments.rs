//! The journal's files: one record a line, as JSON. A segment is deleted once the ledger has all of it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use vesta_core::UsageRecord;

/// A segment is closed when it has grown to this many bytes.
const SEGMENT_BYTES: u64 = 4 << 20;

/// The open segment and those that still hold records which the ledger lacks.
pub(super) struct Segments {
    dir: PathBuf,
    current: u64,
    file: File,
    len: u64,
    /// Records that the ledger lacks, by segment.
    unposted: BTreeMap<u64, u64>,
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.jsonl"))
}

/// The number of a segment, if this is the name of one.
fn number(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".jsonl")?;
    let number = digits.parse().ok().filter(|n| *n < u64::MAX)?;
    (digits == format!("{number:016}")).then_some(number)
}

/// What is not a segment, nor was set aside as unreadable, is none of ours.
fn name_foreign(entry: &std::fs::DirEntry) {
    let path = entry.path();
    if path.extension() != Some(OsStr::new("unreadable")) {
        tracing::warn!(path = %path.display(), "a foreign file in the folder of the usage journal is passed over");
    }
}

/// A new segment, whose name is on the disk too.
fn create(dir: &Path, number: u64) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path(dir, number))?;
    File::open(dir)?.sync_all()?;
    Ok(file)
}

impl Segments {
    /// Opens the directory with a new segment and gives back what earlier ones hold, with their numbers.
    ///
    /// A last line that was cut by a crash belongs to a response that never ended, and is dropped.
    pub fn open(dir: &Path) -> io::Result<(Segments, Vec<(u64, UsageRecord)>)> {
        std::fs::create_dir_all(dir)?;
        let (mut found, mut current) = (Vec::new(), 0);
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let number = number(&entry.file_name());
            current = number.map_or(current, |n| current.max(n + 1));
            match number {
                Some(number) if entry.file_type()?.is_file() => found.push(number),
                _ => name_foreign(&entry),
            }
        }
        found.sort_unstable();
        let mut records = Vec::new();
        let mut unposted = BTreeMap::new();
        for &number in &found {
            let text = std::fs::read(path(dir, number))?;
            let before = records.len();
            for line in text.split_inclusive(|b| *b == b'\n').filter(|l| l.ends_with(b"\n")) {
                match serde_json::from_slice(line) {
                    Ok(record) => records.push((number, record)),
                    Err(error) => {
                        tracing::error!(segment = number, %error, "an unreadable line of the usage journal is set aside");
                        std::fs::write(dir.join(format!("{number:016}.unreadable")), &text)?;
                    }
                }
            }
            unposted.insert(number, (records.len() - before) as u64);
        }
        let file = create(dir, current)?;
        unposted.insert(current, 0);
        let mut segments = Segments { dir: dir.into(), current, file, len: 0, unposted };
        segments.collect();
        Ok((segments, records))
    }

    /// Whether the next append will also begin a new segment, which waits for the disk.
    pub fn is_full(&self) -> bool {
        self.len >= SEGMENT_BYTES
    }

    /// Appends lines of `records` records and returns the segment's number. After an error nothing of them is left.
    pub fn append(&mut self, lines: &[u8], records: u64, durable: bool) -> io::Result<u64> {
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
        *self.unposted.entry(self.current).or_default() += records;
        Ok(self.current)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let next = self.current + 1;
        self.file = create(&self.dir, next)?;
        self.current = next;
        self.len = 0;
        self.unposted.insert(next, 0);
        Ok(())
    }

    /// Whether there is room on the disk for another batch.
    pub fn probe(&mut self) -> io::Result<()> {
        let result = self.file.write_all(&[b' '; 64 << 10]);
        self.file.set_len(self.len)?;
        result
    }

    /// The ledger has `n` more records of a segment.
    pub fn posted(&mut self, number: u64, n: u64) {
        if let Some(left) = self.unposted.get_mut(&number) {
            *left = left.saturating_sub(n);
        }
        self.collect();
    }

    fn collect(&mut self) {
        let current = self.current;
        let dir = &self.dir;
        self.unposted.retain(|&number, left| {
            let done = *left == 0 && number != current;
            if done {
                let _ = std::fs::remove_file(path(dir, number));
            }
            !done
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        std::fs::create_dir(dir.path().join("0000000000000007.jsonl")).expect("folder");
        std::os::unix::fs::symlink("nowhere", dir.path().join("0000000000000008.jsonl")).expect("link");
        let (segments, left) = Segments::open(dir.path()).expect("open");
        // No segment is given a name that is taken.
        assert_eq!((segments.current, left.len()), (9, 0));
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
        crate::mutate::each(&[lines.as_bytes()], |bytes| {
            for file in std::fs::read_dir(dir.path()).expect("dir") {
                std::fs::remove_file(file.expect("file").path()).expect("removed");
            }
            std::fs::write(path(dir.path(), 7), bytes).expect("written");
            let (segments, left) = Segments::open(dir.path()).expect("open");
            assert!(segments.current == 8 && left.len() <= bytes.len());
        });
    }
}
