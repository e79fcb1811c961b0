//! Files through mapped memory, and memory as O_DIRECT wants it.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::Outcome;
use super::side::{errno, hash, open, read_range};

#[allow(unsafe_code)]
pub(super) fn map(file: &File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: the file is this thread's own and nothing shortens it while it is mapped.
    unsafe { memmap2::MmapMut::map_mut(file) }
}

#[allow(unsafe_code)]
fn map_copy(file: &File) -> std::io::Result<memmap2::MmapMut> {
    // SAFETY: as in `map`.
    unsafe { memmap2::MmapOptions::new().map_copy(file) }
}

/// Writes into the file's mapped pages, inside its length; some of these are followed by msync.
pub(super) fn map_write(path: &Path, offset: u64, data: &[u8]) -> Outcome {
    let file = open(path, OFlags::RDWR)?;
    let length = regular_size(&file)?;
    if length == 0 {
        return Err(Errno::INVAL);
    }
    let mut pages = map(&file).map_err(errno)?;
    let start = offset as usize % length;
    let end = (start + data.len()).min(length);
    pages[start..end].copy_from_slice(&data[..end - start]);
    if data.first().is_some_and(|byte| byte & 1 == 0) {
        pages.flush().map_err(errno)?;
    }
    Ok(hash(&pages))
}

/// Writes into a private mapping, which must not reach the file.
pub(super) fn map_private(path: &Path, seed: u64) -> Outcome {
    let file = open(path, OFlags::RDWR)?;
    let length = regular_size(&file)?;
    if length == 0 {
        return Err(Errno::INVAL);
    }
    let mut pages = map_copy(&file).map_err(errno)?;
    let place = seed as usize % length;
    pages[place] = pages[place].wrapping_add(1);
    drop(pages);
    read_range(&file, 0, length)
}

fn regular_size(file: &File) -> Result<usize, Errno> {
    let stat = rustix::fs::fstat(file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::NODEV);
    }
    Ok(stat.st_size as usize)
}

/// A buffer whose bytes start at a page boundary, as O_DIRECT wants it.
#[derive(Debug)]
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// A zeroed buffer of `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        let memory = vec![0_u8; length + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, length }
    }

    /// The bytes.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}
