//! What the kernel knows of a process.

use std::collections::BTreeMap;
use std::time::Duration;

/// A process, by its id.
#[derive(Clone, Copy)]
pub struct Process {
    id: u32,
}

/// CPU time of a process with its workers, and of each of their threads, at one moment.
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

    /// The processes in which a host runs models, spares included.
    pub fn workers(&self) -> Vec<Process> {
        let mut all = self.with_fork_server();
        all.retain(|p| p.is_called("vesta-inference"));
        all
    }

    /// The process that workers are forked from: the oldest of its name, which a worker has, too, until it
    /// gives itself its own.
    pub fn fork_server(&self) -> Option<Process> {
        let named = self.with_fork_server().into_iter().filter(|p| p.is_called("vesta-forks"));
        named
            .filter_map(|p| Some((p.started_at()?, p.id, p)))
            .min_by_key(|(at, id, _)| (*at, *id))
            .map(|p| p.2)
    }

    /// When it started, in ticks since the machine did; none where it has been reaped.
    fn started_at(&self) -> Option<u64> {
        let stat = self.try_read("stat")?;
        // The fields behind the name, which may contain anything, begin with the third.
        stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?.parse().ok()
    }

    fn is_called(&self, name: &str) -> bool {
        self.try_read("comm").is_some_and(|comm| comm.trim() == name)
    }

    /// [`Self::workers`], and [`Self::fork_server`].
    fn with_fork_server(&self) -> Vec<Process> {
        self.children("inference-worker")
    }

    /// Those of [`Self::workers`] that serve a model: they map its weights.
    pub fn busy_workers(&self) -> Vec<Process> {
        let mut workers = self.workers();
        workers.retain(|w| w.try_read("maps").is_some_and(|maps| maps.contains("weights.data")));
        workers
    }

    fn try_read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.id)).ok()
    }

    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.id);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// A field of the kernel's status; none where the process has been reaped.
    pub fn status(&self, field: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?;
        text.lines().find_map(|l| Some(l.strip_prefix(field)?.strip_prefix(':')?.trim().to_string()))
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        self.status("State").is_some_and(|state| !state.starts_with(['Z', 'X']))
    }

    /// Processes that it has started and not reaped, and whose command line has this argument.
    pub fn children(&self, argument: &str) -> Vec<Process> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id)).into_iter().flatten().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let lists: Vec<String> = lists.collect();
        let all =
            lists.iter().flat_map(|list| list.split(' ')).filter_map(|id| id.parse().ok()).map(Process::new);
        all.filter(|p| p.has_argument(argument)).collect()
    }

    fn has_argument(&self, argument: &str) -> bool {
        let command = std::fs::read(format!("/proc/{}/cmdline", self.id)).unwrap_or_default();
        command.split(|byte| *byte == 0).any(|a| a == argument.as_bytes())
    }

    /// Whether it or a worker maps a file whose path contains `needle`.
    pub fn maps(&self, needle: &str) -> bool {
        !self.mapped(needle).is_empty()
    }

    /// All paths that contain `needle` and that it or a worker maps.
    pub fn mapped(&self, needle: &str) -> Vec<String> {
        let mut paths = paths_of(&self.read("maps"), needle);
        paths.extend(
            self.with_fork_server()
                .iter()
                .filter_map(|w| w.try_read("maps"))
                .flat_map(|m| paths_of(&m, needle)),
        );
        paths
    }

    /// The paths that contain `needle` and that it maps itself, without its workers.
    pub fn mapped_here(&self, needle: &str) -> Vec<String> {
        paths_of(&self.read("maps"), needle)
    }

    /// A field of `smaps_rollup`, in bytes, of this process and its workers.
    fn rollup(&self, field: &str) -> u64 {
        let own = rollup_of(&self.read("smaps_rollup"), field);
        let own = own.unwrap_or_else(|| panic!("smaps_rollup has no {field}"));
        let workers = self.with_fork_server();
        own + workers.iter().filter_map(|w| rollup_of(&w.try_read("smaps_rollup")?, field)).sum::<u64>()
    }

    /// Bytes that only this process and its workers hold and that no file backs. (`Private_Dirty` would count
    /// pages of a file, too, that was written a moment ago and is not on the disk yet: the host's own program
    /// after it was linked.)
    pub fn private_bytes(&self) -> u64 {
        self.rollup("Pss_Anon")
    }

    /// Bytes that this process has written to and shares with no other, workers not included.
    pub fn private_dirty(&self) -> u64 {
        rollup_of(&self.read("smaps_rollup"), "Private_Dirty").expect("Private_Dirty")
    }

    /// The part of [`Self::private_bytes`] that is guests' linear memory.
    ///
    /// A pooled linear memory is accessible pages with the inaccessible rest of their 4 GiB right behind
    /// them; nothing else in the process reserves as much.
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

    /// Pages that it and its workers mapped on first touch up to now.
    pub fn page_faults(&self) -> u64 {
        const MINFLT: usize = 10;
        let workers = self.with_fork_server().iter().filter_map(|w| w.try_read("stat")).collect::<Vec<_>>();
        workers.iter().chain([&self.read("stat")]).map(|stat| field(stat, MINFLT)).sum()
    }

    /// Bytes that it and its workers had the disk read up to now.
    pub fn disk_bytes(&self) -> u64 {
        let of = |text: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
            line.and_then(|bytes| bytes.parse().ok()).expect("read_bytes")
        };
        of(&self.read("io"))
            + self
                .with_fork_server()
                .iter()
                .filter_map(|w| w.try_read("io"))
                .map(|text| of(&text))
                .sum::<u64>()
    }

    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.id)).expect("the process lives").count()
    }

    /// CPU time up to now of the process and of its workers, by the kernel's scheduler.
    pub fn cpu(&self) -> CpuMark {
        let mut mark = CpuMark { threads: self.threads_cpu(), whole: self.cpu_whole() };
        for worker in self.with_fork_server() {
            // One that has just ended is among the children that the kernel has added up. Only the fork
            // server has children of its own.
            let whole = |stat: String| ticks(&stat, OWN) + ticks(&stat, CHILDREN);
            let Some(whole) = worker.try_read("stat").map(whole) else { continue };
            let threads = worker.threads_cpu();
            // Finer than steps of 10 ms, where no thread has ended.
            mark.whole += whole.max(threads.values().map(|(_, time)| *time).sum());
            mark.threads.extend(threads);
        }
        mark
    }

    fn threads_cpu(&self) -> BTreeMap<u32, (String, Duration)> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.id)).into_iter().flatten().flatten() {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let id = task.file_name().to_string_lossy().parse::<u32>();
            let ns = stat.split(' ').next().and_then(|n| n.parse().ok());
            if let (Ok(id), Some(ns)) = (id, ns) {
                let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
                threads.insert(id, (name.trim_end().to_string(), Duration::from_nanos(ns)));
            }
        }
        threads
    }

    /// Of its threads and of the children that it has waited for.
    fn cpu_whole(&self) -> Duration {
        ticks(&self.read("stat"), OWN) + ticks(&self.read("stat"), CHILDREN)
    }
}

/// Fields of `stat`: `utime` and `stime`, then the same of children that were waited for.
const OWN: [usize; 2] = [14, 15];
const CHILDREN: [usize; 2] = [16, 17];

/// The sum of two fields of `stat`, in steps of 10 ms.
fn ticks(stat: &str, fields: [usize; 2]) -> Duration {
    Duration::from_millis(fields.map(|n| field(stat, n)).iter().sum::<u64>() * 10)
}

/// A field of `stat`. The name, in brackets, may have spaces; the first after it is field 3.
fn field(stat: &str, n: usize) -> u64 {
    let after_name = stat.rsplit_once(')').expect("stat names the command").1;
    after_name.split_whitespace().nth(n - 3).and_then(|n| n.parse().ok()).expect("a number")
}

/// The paths in `maps` that contain `needle`.
fn paths_of(maps: &str, needle: &str) -> Vec<String> {
    let paths = maps.lines().filter_map(|l| l.split_once('/').map(|(_, p)| format!("/{p}")));
    let mut paths: Vec<_> = paths.filter(|p| p.contains(needle)).collect();
    paths.dedup();
    paths
}

/// A field of `smaps_rollup`, in bytes.
fn rollup_of(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
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

    /// CPU time since an earlier mark of the threads whose name begins with `name`, as far as they still
    /// live.
    pub fn of_threads(&self, earlier: &CpuMark, name: &str) -> Duration {
        let before = |id| earlier.threads.get(id).map_or(Duration::ZERO, |(_, time)| *time);
        let named = self.threads.iter().filter(|(_, (n, _))| n.starts_with(name));
        named.map(|(id, (_, time))| time.saturating_sub(before(id))).sum()
    }
}
