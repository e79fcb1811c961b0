//! FICLONE and FICLONERANGE.
//!
//! A command on one file cannot name another, so the source is offered, and the offer's token goes with the command.
//! The kernel neither writes its pages back for these commands nor drops them nor hears of the new size: all of that
//! is done here.

use libc::{c_int, off_t};
use zerocopy::{FromZeros, IntoBytes};

use crate::errno::{Result, check};
use crate::real;
use crate::wire::{self, ShareArgs};

/// `struct file_clone_range`.
#[repr(C)]
pub struct Range {
    source: i64,
    source_offset: u64,
    len: u64,
    dest_offset: u64,
}

/// What names a file that others may share the extents of.
pub type Token = [u8; 16];

/// Writes back what the kernel holds of a file, and offers it.
pub fn offer(fd: c_int) -> Result<Token> {
    let mut token = Token::default();
    write_back(fd)?;
    real::flat_ioctl(fd, wire::OFFER, &mut token)?;
    Ok(token)
}

/// Has the kernel write back its pages of a file, without making them durable.
pub fn write_back(fd: c_int) -> Result<()> {
    let all = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes numbers only.
    check(unsafe { libc::sync_file_range(fd, 0, 0, all) }).map(drop)
}

/// Shares all of a file.
pub fn whole(dest: c_int, source: c_int) -> Result<c_int> {
    range(dest, &Range { source: source.into(), source_offset: 0, len: 0, dest_offset: 0 })
}

/// Shares a part of a file; up to its end if the length is 0.
pub fn range(dest: c_int, range: &Range) -> Result<c_int> {
    let source = c_int::try_from(range.source).map_err(|_| libc::EBADF)?;
    require_mode(source, libc::O_WRONLY)?;
    require_mode(dest, libc::O_RDONLY)?;
    let size = |fd| real::fstat(fd).map(|found| found.st_size as u64);
    let len = match range.len {
        0 => size(source)?.saturating_sub(range.source_offset),
        len => len,
    };
    if len == 0 {
        return Ok(0);
    }
    let end = range.dest_offset.checked_add(len).ok_or(libc::EINVAL)?;
    let token = offer(source)?;
    write_back(dest)?;
    share(dest, &token, range, len)?;
    if size(dest)? < end {
        // It is as long as that now, but the kernel believes its own size.
        truncate(dest, end)?;
    }
    // SAFETY: takes numbers only.
    unsafe { libc::posix_fadvise(dest, 0, 0, libc::POSIX_FADV_DONTNEED) };
    Ok(0)
}

fn share(dest: c_int, token: &Token, range: &Range, len: u64) -> Result<()> {
    let mut done = 0;
    while done < len {
        let mut args = ShareArgs::new_zeroed();
        args.token.copy_from_slice(token.as_bytes());
        args.source_offset = (range.source_offset + done).into();
        args.len = (len - done).into();
        args.dest_offset = (range.dest_offset + done).into();
        real::flat_ioctl(dest, wire::CLONE, &mut args)?;
        // The daemon says how much it did: so a file is not locked for long.
        match args.done.get() {
            0 => return Err(libc::EIO),
            step => done += step,
        }
    }
    Ok(())
}

/// Fails for a descriptor that is open in no other way than `only`.
fn require_mode(fd: c_int, only: c_int) -> Result<()> {
    // SAFETY: F_GETFL takes no argument.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    if flags & libc::O_ACCMODE == only { Err(libc::EBADF) } else { Ok(()) }
}

fn truncate(fd: c_int, size: u64) -> Result<()> {
    let size = off_t::try_from(size).map_err(|_| libc::EFBIG)?;
    // SAFETY: takes numbers only.
    check(unsafe { libc::ftruncate(fd, size) }).map(drop)
}
