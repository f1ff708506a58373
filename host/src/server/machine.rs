//! What memory this process may use, as the machine and its control groups say.

use std::path::Path;

/// The machine's memory or the least limit of the process's control groups, whichever is smaller, in bytes.
pub fn memory_bytes() -> Option<u64> {
    let total = machine(&read(Path::new("/proc/meminfo"))?);
    let groups =
        limit(Path::new("/sys/fs/cgroup"), &read(Path::new("/proc/self/cgroup")).unwrap_or_default());
    total.into_iter().chain(groups).min()
}

/// The size of the disk that a folder lies on, in bytes.
pub fn disk_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_blocks.checked_mul(disk.f_frsize)
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn machine(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least limit on the way from the process's group to the root: version 2 (`0::/path`) or 1
/// (`4:memory:/path`).
fn limit(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| least(root, line)).min()
}

fn least(root: &Path, line: &str) -> Option<u64> {
    let (_, line) = line.split_once(':')?;
    let (controllers, path) = line.split_once(':')?;
    let (root, file) = match controllers {
        "" => (root.to_path_buf(), "memory.max"),
        c if c.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    // In a container the path may be that outside of it: then the root is the process's own.
    let within = Path::new(path.trim_start_matches('/')).ancestors();
    let limits = within.filter_map(|group| read(&root.join(group).join(file))?.trim().parse::<u64>().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("dir");
        for (path, text) in of {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            std::fs::write(path, text).expect("file");
        }
        dir
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let dir = files(&[
            ("memory.max", "max\n"),
            ("a/memory.max", "4096\n"),
            ("a/b/memory.max", "8192\n"),
            ("c/memory.max", "1\n"),
        ]);
        assert_eq!(limit(dir.path(), "0::/a/b\n"), Some(4096));
        assert_eq!(limit(dir.path(), "0::/\n"), None);
        assert_eq!(limit(dir.path(), "0::/../elsewhere\n"), None);
        assert_eq!(limit(dir.path(), ""), None);
    }

    #[test]
    fn the_first_version_of_control_groups_counts_too() {
        let dir = files(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.limit_in_bytes", "4096\n"),
        ]);
        assert_eq!(limit(dir.path(), "5:cpu,cpuacct:/x\n4:memory:/a\n"), Some(4096));
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(machine("MemTotal:       24689764 kB\nMemFree: 1 kB\n"), Some(24_689_764 << 10));
        assert_eq!(machine("nothing"), None);
        assert!(memory_bytes() > Some(1 << 20));
    }
}
