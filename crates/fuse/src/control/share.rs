//! Files that share extents: reflinks and deduplication on a mount of Butterfs.
//!
//! Through an ioctl the kernel neither writes its pages back nor drops them, so both is done here.

use super::wire::{self, ShareArgs};
use butterfs_os::flat_ioctl::flat_ioctl;
use rustix::fs::{Advice, fadvise, fdatasync, fstat, ftruncate};
use std::io;
use std::os::fd::BorrowedFd;
use zerocopy::{FromZeros, IntoBytes};

/// So much is compared by one call.
const DEDUPE_PIECE: u64 = 16 << 20;

/// A range of one file, and where it goes in another, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedRange {
    /// Where it begins in the source.
    pub source: u64,
    /// How long it is.
    pub len: u64,
    /// Where it begins in the destination.
    pub dest: u64,
}

impl SharedRange {
    /// Cut into pieces of at most `most` bytes.
    fn pieces(self, most: u64) -> impl Iterator<Item = Self> {
        (0..self.len).step_by(most as usize).map(move |skip| Self {
            source: self.source.saturating_add(skip),
            len: most.min(self.len - skip),
            dest: self.dest.saturating_add(skip),
        })
    }
}

/// What a deduplication came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deduped {
    /// All is shared.
    Shared,
    /// The bytes differ, in the 16 MiB from this offset in the source on or later. What is before that is shared.
    Differs(u64),
}

/// A file that others shall share the extents of.
#[derive(Clone, Copy, Debug)]
pub struct Offered([u8; 16]);

/// Offers a file, which must be on a mount of Butterfs and readable.
pub fn offer(source: BorrowedFd<'_>) -> io::Result<Offered> {
    fdatasync(source)?;
    let mut token = [0; 16];
    flat_ioctl(source, wire::OFFER, &mut token)?;
    Ok(Offered(token))
}

/// Makes a range of `dest` share the extents of an offered file on the same mount. A destination that is too short
/// grows.
pub fn reflink(source: Offered, dest: BorrowedFd<'_>, range: SharedRange) -> io::Result<()> {
    fdatasync(dest)?;
    let end = range.dest.checked_add(range.len).ok_or(rustix::io::Errno::FBIG)?;
    let mut rest = range;
    while rest.len > 0 {
        // The daemon says how much it did: so a file is not locked for long.
        let done = run(dest, wire::CLONE, source, rest)?;
        if done == 0 || done > rest.len {
            return Err(io::ErrorKind::InvalidData.into());
        }
        rest = SharedRange { source: rest.source + done, len: rest.len - done, dest: rest.dest + done };
    }
    if fstat(dest)?.st_size.cast_unsigned() < end {
        // It is as long as that now, but the kernel believes its own size.
        ftruncate(dest, end)?;
    }
    Ok(fadvise(dest, 0, None, Advice::DontNeed)?)
}

/// Makes a range of `dest` share the extents of an offered file if both have the same bytes there.
pub fn dedupe(source: Offered, dest: BorrowedFd<'_>, range: SharedRange) -> io::Result<Deduped> {
    fdatasync(dest)?;
    for piece in range.pieces(DEDUPE_PIECE) {
        if run(dest, wire::DEDUPE, source, piece)? == 0 {
            return Ok(Deduped::Differs(piece.source));
        }
    }
    Ok(Deduped::Shared)
}

fn run(dest: BorrowedFd<'_>, command: u32, source: Offered, range: SharedRange) -> io::Result<u64> {
    let mut args = ShareArgs::new_zeroed();
    args.token = source.0;
    (args.source_offset, args.len, args.dest_offset) = (range.source.into(), range.len.into(), range.dest.into());
    flat_ioctl(dest, command, args.as_mut_bytes())?;
    Ok(args.done.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_range() {
        let range = SharedRange { source: 4096, len: 10_000, dest: 0 };
        let pieces: Vec<_> = range.pieces(4096).map(|piece| (piece.source, piece.len, piece.dest)).collect();
        assert_eq!(pieces, [(4096, 4096, 0), (8192, 4096, 4096), (12_288, 1808, 8192)]);
    }
}
