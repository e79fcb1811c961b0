//! A regular file that is being made.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use super::attributes::{self, Attributes, Lost, Policy, Subject};

/// A new file. What is not written is a hole.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    /// Where the data ends so far.
    end: u64,
}

impl NewFile {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { file: fd.into(), end: 0 }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// As the system's.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.end = self.end.max(offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    /// Gives the file its length and attributes, after all data.
    ///
    /// # Errors
    /// As the system's; attributes that cannot be set for a known reason are in the result.
    pub fn finish(self, len: u64, attributes: &Attributes, policy: Policy) -> io::Result<Lost> {
        if len != self.end {
            self.file.set_len(len)?;
        }
        attributes::set(&Subject::Open(self.file.as_fd()), attributes, policy)
    }
}
