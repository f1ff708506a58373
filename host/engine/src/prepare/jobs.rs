//! The folders into which preparing children write, one for each job.
//!
//! They lie beside the compiled code and the prepared models, on the same file system, so that a result is
//! moved into its place by a rename.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The directory of the folders.
pub(crate) struct JobFolders {
    dir: PathBuf,
    next: AtomicU64,
}

impl JobFolders {
    /// Makes the directory. What the jobs of an earlier process left in it is removed.
    pub fn open(dir: PathBuf) -> io::Result<JobFolders> {
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::create_dir_all(&dir)?;
        Ok(JobFolders { dir, next: AtomicU64::new(0) })
    }

    /// An empty folder for one job.
    pub fn create(&self) -> io::Result<JobFolder> {
        let path = self.dir.join(self.next.fetch_add(1, Relaxed).to_string());
        std::fs::create_dir(&path)?;
        Ok(JobFolder(path))
    }
}

/// The folder of one job. Dropping it removes it with what was not moved out of it.
pub(crate) struct JobFolder(PathBuf);

impl JobFolder {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for JobFolder {
    fn drop(&mut self) {
        // It may have been moved into its place. What cannot be removed now is removed at the next start.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path) -> usize {
        std::fs::read_dir(dir).expect("the directory").count()
    }

    #[test]
    fn what_a_job_leaves_is_removed_with_it_or_at_the_next_start() {
        let parent = tempfile::tempdir().expect("dir");
        let dir = parent.path().join("jobs");
        let folders = JobFolders::open(dir.clone()).expect("open");
        let (first, second) = (folders.create().expect("a folder"), folders.create().expect("a folder"));
        std::fs::write(first.path().join("half"), "done").expect("write");
        std::fs::write(second.path().join("whole"), "done").expect("write");
        drop(first);
        assert_eq!(entries(&dir), 1);
        // Its process is killed: nothing is dropped.
        std::mem::forget(second);
        assert_eq!(entries(&dir), 1);
        let folders = JobFolders::open(dir.clone()).expect("open");
        assert_eq!(entries(&dir), 0);
        assert_eq!(entries(folders.create().expect("a folder").path()), 0);
    }

    #[test]
    fn a_folder_that_was_moved_into_its_place_stays_there() {
        let parent = tempfile::tempdir().expect("dir");
        let folders = JobFolders::open(parent.path().join("jobs")).expect("open");
        let folder = folders.create().expect("a folder");
        std::fs::write(folder.path().join("whole"), "done").expect("write");
        let place = parent.path().join("place");
        std::fs::rename(folder.path(), &place).expect("rename");
        drop(folder);
        assert_eq!(entries(&place), 1);
    }
}
