//! FIDEDUPERANGE.

use libc::c_int;
use zerocopy::FromZeros;

use crate::clone::{Token, offer, write_back};
use crate::errno::Result;
use crate::real;
use crate::wire::{self, ShareArgs};

/// So much is compared by one command.
const PIECE: u64 = 16 << 20;
/// `FILE_DEDUPE_RANGE_DIFFERS`.
const DIFFERS: i32 = 1;

/// `struct file_dedupe_range`, without its tail.
#[repr(C)]
pub struct Request {
    source_offset: u64,
    len: u64,
    count: u16,
    spare: [u16; 3],
}

/// `struct file_dedupe_range_info`.
#[repr(C)]
struct Dest {
    fd: i64,
    offset: u64,
    done: u64,
    status: i32,
    spare: u32,
}

/// Shares the range of a file with each of the others that has the same bytes.
///
/// # Safety
/// `request` is what FIDEDUPERANGE wants.
pub unsafe fn range(source: c_int, request: *mut Request) -> Result<c_int> {
    if !request.is_aligned() {
        return Err(libc::EINVAL);
    }
    // SAFETY: as the caller promises, there are so many structs behind the first, which is aligned, as they are then.
    let (head, dests) = unsafe {
        let head = request.read();
        let count = usize::from(head.count);
        (head, core::slice::from_raw_parts_mut(request.add(1).cast::<Dest>(), count))
    };
    let device = real::fstat(source)?.st_dev;
    let token = offer(source)?;
    for dest in dests {
        (dest.done, dest.status) = match one(&head, &token, device, dest) {
            Ok(Some(done)) => (done, 0),
            Ok(None) => (0, DIFFERS),
            Err(errno) => (0, -errno),
        };
    }
    Ok(0)
}

/// How many bytes are shared; `None` if they differ.
fn one(request: &Request, token: &Token, device: libc::dev_t, dest: &Dest) -> Result<Option<u64>> {
    let fd = c_int::try_from(dest.fd).map_err(|_| libc::EBADF)?;
    let found = real::fstat(fd)?;
    if found.st_dev != device {
        return Err(libc::EXDEV);
    }
    if found.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(if found.st_mode & libc::S_IFMT == libc::S_IFDIR { libc::EISDIR } else { libc::EINVAL });
    }
    write_back(fd)?;
    let mut done = 0;
    while done < request.len {
        let len = PIECE.min(request.len - done);
        let mut args = ShareArgs::new_zeroed();
        args.token = *token;
        args.source_offset = request.source_offset.checked_add(done).ok_or(libc::EINVAL)?.into();
        args.len = len.into();
        args.dest_offset = dest.offset.checked_add(done).ok_or(libc::EINVAL)?.into();
        real::flat_ioctl(fd, wire::DEDUPE, &mut args)?;
        if args.done.get() == 0 {
            return Ok(None);
        }
        done += len;
    }
    Ok(Some(done))
}
