//! Memory that the host and a worker share: a sealed memory file, mapped by each.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Tensors of one run. The other side may write to it at any time, so that nothing is borrowed from it but by
/// the worker, to which the host promises to leave it alone during a run.
pub struct SharedMemory(MmapRaw);

impl SharedMemory {
    /// Makes memory of `bytes`, whose size nobody can change any more, and the descriptor by which the other
    /// side maps it.
    pub fn create(bytes: u64) -> io::Result<(SharedMemory, OwnedFd)> {
        let file = sealed("vesta-tensors", bytes)?;
        let map = SharedMemory::map(&file, bytes)?;
        Ok((map, file))
    }

    /// Maps what the other side made.
    pub fn map(file: &OwnedFd, bytes: u64) -> io::Result<SharedMemory> {
        let len = usize::try_from(bytes).map_err(io::Error::other)?;
        MmapOptions::new().len(len).map_raw(file.as_raw_fd()).map(SharedMemory)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether a place lies within it.
    fn range(&self, offset: u64, bytes: u64) -> Option<usize> {
        let end = offset.checked_add(bytes)?;
        (end <= self.bytes()).then_some(offset as usize)
    }

    /// Copies bytes in; false where they do not fit.
    #[must_use]
    pub fn write(&mut self, offset: u64, from: &[u8]) -> bool {
        let Some(at) = self.range(offset, from.len() as u64) else { return false };
        // SAFETY: the range was checked, the file is sealed against shrinking, and the pages are plain bytes;
        // `from` cannot overlap, as nothing else in this process borrows from the mapping while `self` is
        // borrowed mutably.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), self.0.as_mut_ptr().add(at), from.len());
        }
        true
    }

    /// A copy of bytes; `None` where there are not as many.
    pub fn read(&self, offset: u64, bytes: u64) -> Option<Vec<u8>> {
        let at = self.range(offset, bytes)?;
        let mut copy = Vec::with_capacity(bytes as usize);
        // SAFETY: the range was checked and the file is sealed against shrinking. The other side may write
        // meanwhile: then these are bytes of which some are older than others, which they may be.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(self.0.as_ptr().add(at), copy.as_mut_ptr(), bytes as usize);
            copy.set_len(bytes as usize);
        }
        Some(copy)
    }

    /// For the worker: the bytes themselves.
    ///
    /// # Safety
    /// Nobody may write there meanwhile: the host leaves the memory alone during a run.
    #[allow(unsafe_code)]
    pub(super) unsafe fn slice(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let at = self.range(offset, bytes)?;
        // SAFETY: the range was checked; the caller answers for the rest.
        Some(unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(at), bytes as usize) })
    }

    /// For the worker: bytes to be written.
    ///
    /// # Safety
    /// As [`SharedMemory::slice`], and nobody may read there either.
    #[allow(unsafe_code)]
    pub(super) unsafe fn slice_mut(&mut self, offset: u64, bytes: u64) -> Option<&mut [u8]> {
        let at = self.range(offset, bytes)?;
        // SAFETY: as above.
        Some(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().add(at), bytes as usize) })
    }
}

/// A file in memory whose size is final.
pub fn sealed(name: &str, bytes: u64) -> io::Result<OwnedFd> {
    let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_same_bytes_and_neither_changes_the_size() {
        let (mut here, file) = SharedMemory::create(10_000).expect("created");
        let there = SharedMemory::map(&file, 10_000).expect("mapped");
        assert!(here.write(9_990, b"0123456789"));
        assert_eq!(there.read(9_990, 10).expect("within"), b"0123456789");
        assert!(!here.write(9_991, b"0123456789"));
        assert!(there.read(9_991, 10).is_none());
        assert!(there.read(u64::MAX, 10).is_none());
        assert!(ftruncate(&file, 1).is_err());
        assert!(ftruncate(&file, 20_000).is_err());
    }
}
