//! A regular file that is being made.
//!
//! # Invariants
//! * What it is to replace stays untouched until it is whole; it lies beside that under a hidden name.
//! * A file that is not finished, for whatever reason, is removed again.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::AtFlags;

use super::attributes::{self, Attributes, Lost, Policy, Subject};

/// A new file. What is not written is a hole.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    /// Where the data ends so far.
    end: u64,
    /// The directory that it is in.
    dir: OwnedFd,
    /// The name it has; none once it is finished.
    name: Option<CString>,
    /// The name it gets when it is whole, if that is another.
    replaces: Option<CString>,
}

impl NewFile {
    pub(super) fn new(fd: OwnedFd, dir: OwnedFd, name: CString, replaces: Option<CString>) -> Self {
        Self { file: fd.into(), end: 0, dir, name: Some(name), replaces }
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

    /// Gives the file its length, after all data.
    ///
    /// # Errors
    /// As the system's.
    pub fn set_len(&mut self, len: u64) -> io::Result<()> {
        if len != self.end {
            self.file.set_len(len)?;
        }
        Ok(())
    }

    /// Sets its attributes, after all data.
    ///
    /// # Errors
    /// As the system's; attributes that cannot be set for a known reason are in the result.
    pub fn set_attributes(&self, attributes: &Attributes, policy: Policy) -> io::Result<Lost> {
        attributes::set(&Subject::Open(self.file.as_fd()), attributes, policy)
    }

    /// The file is whole: it stays, and what it replaces goes.
    ///
    /// # Errors
    /// As the system's; then what it was to replace is still there.
    pub fn keep(mut self) -> io::Result<()> {
        if let (Some(name), Some(replaces)) = (&self.name, &self.replaces) {
            rustix::fs::renameat(&self.dir, &**name, &self.dir, &**replaces)?;
        }
        self.name = None;
        Ok(())
    }

    /// Gives the file its length and attributes, and keeps it.
    ///
    /// # Errors
    /// As the system's; then there is no such file.
    pub fn finish(mut self, len: u64, attributes: &Attributes, policy: Policy) -> io::Result<Lost> {
        self.set_len(len)?;
        let lost = self.set_attributes(attributes, policy)?;
        self.keep()?;
        Ok(lost)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // It stays if it cannot be removed; that it is not whole is told by who made it.
            let _ = rustix::fs::unlinkat(&self.dir, &**name, AtFlags::empty());
        }
    }
}
