//! Before a file grows: the sector that it ended in.
//!
//! # Invariants
//! * A file that grows is not kept inline any more.
//! * What was between the old end and the end of its sector reads as zeros afterwards. On a device there
//!   may be other bytes: the kernel clears them when the file grows, not always when it was cut.
//!
//! # Locking
//! The caller holds `Inode::range` alone.

use super::extents::{Stored, item_below};
use super::read::read_stored;
use super::sectors::{floor, lock, sector_size};
use super::write::{promise, read_sector};
use crate::error::Result;
use crate::inode::{Inode, Shared};

/// A sector's place in the file, and its bytes.
pub(super) type Sector = (u64, Vec<u8>);

/// Before a file grows to `new_size`: makes the sector dirty that must not stay as it is.
pub(super) fn dirty_last_sector(shared: &Shared, inode: &Inode, new_size: u64) -> Result<()> {
    if let Some((start, bytes)) = last_sector(shared, inode, new_size)? {
        let promise = promise(shared, inode, &inode.data.clean_parts(start..start + bytes.len() as u64))?;
        inode.data.make_dirty(&[], (start, &bytes), promise);
    }
    Ok(())
}

/// The sector that must be written anew when the file grows to `new_size`, as it is to be.
pub(super) fn last_sector(shared: &Shared, inode: &Inode, new_size: u64) -> Result<Option<Sector>> {
    let size = lock(&inode.state).item.size.get();
    if size == 0 || new_size <= size {
        return Ok(None);
    }
    match inline_sector(shared, inode, size)? {
        None => unclean_sector(shared, inode, size),
        first => Ok(first),
    }
}

/// The first sector's bytes, if they are kept inline or may become so.
fn inline_sector(shared: &Shared, inode: &Inode, size: u64) -> Result<Option<Sector>> {
    let sector = sector_size(shared);
    let most = sector.max(u64::from(shared.gate.volume().geometry().nodesize));
    if size > most || inode.data.clean_parts(0..sector).is_empty() {
        return Ok(None);
    }
    let in_flight = inode.data.next_in_memory(0) == Some(0);
    if in_flight || shared.gate.view(|tx| is_inline(tx, inode))? {
        return Ok(Some((0, read_sector(shared, inode, 0)?)));
    }
    Ok(None)
}

/// Whether the file's first bytes are kept inline.
fn is_inline(tx: &crate::tx::Transaction, inode: &Inode) -> Result<bool> {
    Ok(item_below(tx, inode.id, 1)?.is_some_and(|item| matches!(item.stored, Stored::Inline(_))))
}

/// The last sector with zeros past the end, if there is something else there on a device.
fn unclean_sector(shared: &Shared, inode: &Inode, size: u64) -> Result<Option<Sector>> {
    let sector = sector_size(shared);
    let start = floor(size, sector);
    let keep = (size - start) as usize;
    // What is in memory has zeros there.
    if keep == 0 || inode.data.next_in_memory(start) == Some(start) {
        return Ok(None);
    }
    let mut bytes = vec![0; sector as usize];
    read_stored(shared, inode, start, &mut bytes)?;
    let is_clean = bytes[keep..].iter().all(|byte| *byte == 0);
    bytes[keep..].fill(0);
    Ok((!is_clean).then_some((start, bytes)))
}
