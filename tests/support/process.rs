//! What the kernel knows of a process.

use std::collections::BTreeMap;
use std::time::Duration;

/// A process, by its id.
#[derive(Clone, Copy)]
pub struct Process {
    id: u32,
}

/// CPU time of a process and of each of its threads at one moment.
#[derive(Debug, Clone)]
pub struct CpuMark {
    /// By thread id: its name and its time.
    threads: BTreeMap<u32, (String, Duration)>,
    /// Of all threads that ever ran, in steps of 10 ms.
    whole: Duration,
}

impl Process {
    pub fn new(id: u32) -> Self {
        Self { id }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.id);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Whether a file whose path contains `needle` is mapped.
    pub fn maps(&self, needle: &str) -> bool {
        self.read("maps").lines().any(|l| l.contains(needle))
    }

    /// All mapped paths that contain `needle`.
    pub fn mapped(&self, needle: &str) -> Vec<String> {
        let text = self.read("maps");
        let mut paths: Vec<_> =
            text.lines().filter_map(|l| l.split_once('/').map(|(_, p)| format!("/{p}"))).collect();
        paths.retain(|p| p.contains(needle));
        paths.dedup();
        paths
    }

    fn rollup(&self, field: &str) -> u64 {
        let text = self.read("smaps_rollup");
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")).and_then(|n| n.trim().parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("smaps_rollup has no {field}")) * 1024
    }

    /// Bytes that only this process holds and that no file backs. (`Private_Dirty` would count pages of a file, too, that
    /// was written a moment ago and is not on the disk yet: the host's own program after it was linked.)
    pub fn private_bytes(&self) -> u64 {
        self.rollup("Anonymous")
    }

    /// The part of [`Self::private_bytes`] that is guests' linear memory.
    ///
    /// A pooled linear memory is accessible pages with the inaccessible rest of their 4 GiB right behind them; nothing
    /// else in the process reserves as much.
    pub fn linear_memory_bytes(&self) -> u64 {
        const RESERVED_MIN: u64 = 1 << 30;
        let (mut total, mut run, mut run_end) = (0, 0, 0);
        for mapping in mappings(&self.read("smaps")) {
            if mapping.begin != run_end {
                run = 0;
            }
            if mapping.accessible {
                run += mapping.private_dirty;
            } else {
                if mapping.end - mapping.begin >= RESERVED_MIN {
                    total += run;
                }
                run = 0;
            }
            run_end = mapping.end;
        }
        total
    }

    /// Open files, sockets and everything else that has a descriptor.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id)).expect("the process lives").count()
    }

    /// Resident bytes, each shared page counted in part.
    pub fn pss_bytes(&self) -> u64 {
        self.rollup("Pss")
    }

    /// Pages that were mapped on first touch up to now.
    pub fn page_faults(&self) -> u64 {
        let stat = self.read("stat");
        // The name, in brackets, may have spaces; `minflt` is the tenth field in all.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        fields.split_whitespace().nth(7).and_then(|n| n.parse().ok()).expect("minflt")
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.id)).expect("the process lives").count()
    }

    /// CPU time up to now, by the kernel's scheduler.
    pub fn cpu(&self) -> CpuMark {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id)).expect("the process lives").flatten()
        {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let id = task.file_name().to_string_lossy().parse::<u32>();
            let ns = stat.split(' ').next().and_then(|n| n.parse().ok());
            if let (Ok(id), Some(ns)) = (id, ns) {
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                threads.insert(id, (name.trim_end().to_string(), Duration::from_nanos(ns)));
            }
        }
        CpuMark { threads, whole: self.cpu_whole() }
    }

    fn cpu_whole(&self) -> Duration {
        let stat = self.read("stat");
        let after_name = stat.rsplit_once(')').expect("stat names the command").1;
        // utime and stime are fields 14 and 15; the first after the name is field 3.
        let ticks = |n: usize| after_name.split_whitespace().nth(n - 3).and_then(|t| t.parse::<u64>().ok());
        let ticks = ticks(14).expect("utime") + ticks(15).expect("stime");
        Duration::from_millis(ticks * 10)
    }
}

/// One line of `maps`, with what `smaps` says of it.
struct Mapping {
    begin: u64,
    end: u64,
    accessible: bool,
    private_dirty: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        if let Some((begin, end)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let accessible = !second.starts_with("---");
            all.push(Mapping { begin: address(begin), end: address(end), accessible, private_dirty: 0 });
        } else if first == "Private_Dirty:"
            && let Some(mapping) = all.last_mut()
        {
            mapping.private_dirty = second.parse::<u64>().expect("a number of kB") * 1024;
        }
    }
    all
}

/// What a process total in steps of 10 ms may be above the truth between two marks.
const STEPS: Duration = Duration::from_millis(20);

impl CpuMark {
    /// CPU time since an earlier mark: by the scheduler's nanoseconds while no thread ended in between,
    /// and otherwise by the process's total, which includes threads that are gone.
    pub fn since(&self, earlier: &CpuMark) -> Duration {
        let whole = self.whole.saturating_sub(earlier.whole);
        if !earlier.threads.keys().all(|id| self.threads.contains_key(id)) {
            return whole;
        }
        let fine = self.of_threads(earlier, "");
        // A thread that began and ended in between shows only in the total.
        fine.max(whole.saturating_sub(STEPS))
    }

    /// CPU time since an earlier mark of the threads whose name begins with `name`, as far as they still live.
    pub fn of_threads(&self, earlier: &CpuMark, name: &str) -> Duration {
        let before = |id| earlier.threads.get(id).map_or(Duration::ZERO, |(_, time)| *time);
        let named = self.threads.iter().filter(|(_, (n, _))| n.starts_with(name));
        named.map(|(id, (_, time))| time.saturating_sub(before(id))).sum()
    }
}
