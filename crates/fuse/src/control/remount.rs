//! Other options for a mount.

use std::io;
use std::os::fd::BorrowedFd;

use butterfs_os::flat_ioctl::flat_ioctl;
use zerocopy::{FromZeros, IntoBytes};

use super::wire::{self, RemountArgs};

/// Gives a mount these options in addition to those it has; what the server cannot do it says in words.
///
/// # Errors
/// If the mount cannot be asked. `Ok(Some(text))` if it refuses.
pub fn remount(file: BorrowedFd<'_>, options: &str) -> io::Result<Option<String>> {
    let mut args = RemountArgs::new_zeroed();
    let text = options.as_bytes();
    if text.len() >= args.text.len() || text.contains(&0) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    args.text[..text.len()].copy_from_slice(text);
    flat_ioctl(file, wire::REMOUNT, args.as_mut_bytes())?;
    let answer = wire::name_in(&args.text).ok_or(io::ErrorKind::InvalidData)?;
    Ok((!answer.is_empty()).then(|| String::from_utf8_lossy(answer).into_owned()))
}
