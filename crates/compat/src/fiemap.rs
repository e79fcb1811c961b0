//! FIEMAP: as many extents as the caller has room for, a page of the daemon's at a time.

use libc::c_int;
use zerocopy::FromZeros;

use crate::clone::write_back;
use crate::errno::Result;
use crate::real;
use crate::wire::{self, FIEMAP_LAST, FiemapExtent, FiemapHeader, FiemapPage};

/// Maps a file.
///
/// # Safety
/// `request` is what FIEMAP wants.
pub unsafe fn map(fd: c_int, request: *mut FiemapHeader) -> Result<c_int> {
    // SAFETY: as the caller promises; the struct has no alignment of its own.
    let asked = unsafe { request.read() };
    write_back(fd)?;
    let end = asked.start.get().saturating_add(asked.len.get());
    let mut page = FiemapPage::new_zeroed();
    let (mut start, mut mapped) = (asked.start.get(), 0_u32);
    loop {
        let room = asked.count.get().saturating_sub(mapped).min(page.extents.len() as u32);
        page.header = FiemapHeader {
            start: start.into(),
            len: end.saturating_sub(start).into(),
            flags: asked.flags,
            mapped: 0.into(),
            count: room.into(),
            spare: 0.into(),
        };
        let result = real::flat_ioctl(fd, wire::FIEMAP, &mut page);
        if result == Err(libc::EBADR) {
            // As the kernel: which of the flags are not known. The daemon knows none besides its own.
            let unknown = asked.flags.get() & !wire::FIEMAP_FLAGS;
            // SAFETY: as above.
            unsafe { (*request).flags = unknown.into() };
        }
        result?;
        let got = page.header.mapped.get();
        if asked.count.get() == 0 {
            mapped = got;
            break;
        }
        let Some(found) = page.extents.get(..got as usize) else { return Err(libc::EIO) };
        let Some(last) = found.last() else { break };
        // SAFETY: the caller has room for `count` extents behind the header, and `mapped + got` are no more.
        unsafe {
            let place = request.add(1).cast::<FiemapExtent>().add(mapped as usize);
            core::ptr::copy_nonoverlapping(found.as_ptr(), place, found.len());
        }
        mapped += got;
        start = last.logical.get().saturating_add(last.len.get());
        if mapped >= asked.count.get() || last.flags.get() & FIEMAP_LAST != 0 || start >= end {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { (*request).mapped = mapped.into() };
    Ok(0)
}
