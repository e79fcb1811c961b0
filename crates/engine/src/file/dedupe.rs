//! Deduplication: ranges with the same bytes are made to share extents.
//!
//! # Invariants
//! * The bytes are compared while both files are locked: what is shared is the same.
//! * Content, size and times stay as they are; an error in the middle only leaves less space saved.
//!
//! # Locking
//! That of [`mod@super::clone`]; both ranges are read with the locks held.

use super::clone::{Both, Job, Place, Purpose, write_back};
use crate::error::Result;
use crate::inode::Shared;

/// So many bytes are compared at a time.
const PIECE: u64 = 256 << 10;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedupe {
    /// The bytes are the same, and share extents.
    Shared,
    /// They are not, and nothing changed.
    Differs,
}

/// Makes a range of a file share the extents of another range, if both have the same bytes.
///
/// # Errors
/// As [`clone_range`](super::clone_range), but for a length that is not a multiple of the sector size; besides, both ranges must lie within their files.
pub fn dedupe_range(shared: &Shared, source: Place<'_>, dest: Place<'_>, len: u64) -> Result<Dedupe> {
    shared.gate.check_writable()?;
    write_back(shared, source, dest)?;
    let _both = Both::lock(source.inode, dest.inode)?;
    let mut job = Job::new(shared, source, dest, len)?;
    job.shorten_to_dedupe()?;
    if !are_same(&job, len)? {
        return Ok(Dedupe::Differs);
    }
    job.run(Purpose::Dedupe)?;
    Ok(Dedupe::Shared)
}

fn are_same(job: &Job<'_>, len: u64) -> Result<bool> {
    let (mut source, mut dest) = (vec![0; PIECE.min(len) as usize], vec![0; PIECE.min(len) as usize]);
    let mut at = 0;
    while at < len {
        let piece = (len - at).min(PIECE) as usize;
        job.read_both(at, &mut source[..piece], &mut dest[..piece])?;
        if source[..piece] != dest[..piece] {
            return Ok(false);
        }
        at += piece as u64;
    }
    Ok(true)
}
