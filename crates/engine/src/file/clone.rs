//! Clones: a range of a file that shares the extents of another range, in the same file or in another one of the
//! filesystem.
//!
//! # Invariants
//! * Offsets are sector boundaries. So is the length, but for a range that ends with the source and is not followed by
//!   anything in the destination.
//! * Each step is one change, bounded in items; an error in the middle leaves a prefix of the range cloned.
//! * Bytes in memory cannot be shared. Both files are written back first; what was written to the source between that
//!   and the locks is copied. So is an inline extent that cannot be the destination's only one.
//! * No extent becomes shared while the source has dirty bytes for which only space that it has was promised: these
//!   bytes would need other space then.
//! * Dirty bytes of the destination go only after the change that replaces what is below them.
//!
//! # Locking
//! `FileData::settle` of both files, then `Inode::range`, shared of the source and alone of the destination; each
//! pair in the order of [`InodeId`](crate::inode::InodeId), so that two opposite clones do not wait for each other.
//! The gate for each step.

use std::ops::Range;
use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

use butterfs_format::items::InodeFlags;

use super::extents::{InlineExtent, Stored, item_below};
use super::grow::dirty_last_sector;
use super::read::read_locked;
use super::sectors::{ceil, floor, lock, lock_alone, lock_shared, require_alive, sector_size};
use super::share::{self, Sharing, Target};
use super::write::{MAX_FILE_SIZE, read_sector, write_locked, wrote};
use super::writeback::writeback;
use crate::error::{Error, Result};
use crate::inode::{Inode, Shared};
use crate::tx::{Transaction, Wanted};

/// So many bytes are copied in one step at most.
const COPY_MAX: u64 = 256 << 10;
/// How often a small file is moved out of the tree again because somebody else put it back.
const TRIES: usize = 8;

/// A place in a file.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The file.
    pub inode: &'a Inode,
    /// Where in it, in bytes.
    pub offset: u64,
}

/// How much is cloned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneLen {
    /// All up to the source's end.
    ToEnd,
    /// So many bytes.
    Bytes(u64),
}

/// Makes a range of a file share the extents of another range; gives its length in bytes.
///
/// # Errors
/// [`Error::Invalid`] for ranges that cannot be shared: not aligned, past the source's end, overlapping, or of files
/// of which one has checksums and the other has none.
pub fn clone_range(shared: &Shared, source: Place<'_>, dest: Place<'_>, len: CloneLen) -> Result<u64> {
    shared.gate.check_writable()?;
    for _ in 0..TRIES {
        write_back(shared, source, dest)?;
        let _both = Both::lock(source.inode, dest.inode)?;
        let len = length(source, len)?;
        if len == 0 {
            return Ok(0);
        }
        let job = Job::new(shared, source, dest, len)?;
        job.check_clone()?;
        // The first step replaces what is there, unless it copies.
        let is_replaced = dest.offset == 0 && !source.inode.data.is_dirty();
        if is_replaced || !move_out_of_tree(shared, dest.inode)? {
            job.run(Purpose::Clone)?;
            return Ok(len);
        }
    }
    Err(Error::Busy("the destination changes all the time"))
}

/// Writes both files back: all of the source, so that no dirty bytes count on space that it has.
pub(super) fn write_back(shared: &Shared, source: Place<'_>, dest: Place<'_>) -> Result<()> {
    writeback(shared, source.inode, None)?;
    if source.inode.id == dest.inode.id { Ok(()) } else { writeback(shared, dest.inode, None) }
}

fn length(source: Place<'_>, len: CloneLen) -> Result<u64> {
    let size = lock(&source.inode.state).item.size.get();
    match len {
        CloneLen::Bytes(bytes) => Ok(bytes),
        CloneLen::ToEnd => size.checked_sub(source.offset).ok_or(Error::Invalid("the range starts past the end")),
    }
}

/// Makes an inline extent dirty, so that writeback gives it a sector: no other extent may stand beside it. Says
/// whether there is one.
fn move_out_of_tree(shared: &Shared, inode: &Inode) -> Result<bool> {
    if shared.gate.view(|tx| inline_extent(tx, inode))?.is_none() {
        return Ok(false);
    }
    let bytes = read_sector(shared, inode, 0)?;
    let fresh: u64 = inode.data.clean_parts(0..bytes.len() as u64).iter().map(|part| part.end - part.start).sum();
    // No promise of inline space: so it does not go back into the tree.
    let promise = shared.gate.reserve_data(Wanted { data: fresh, ..Wanted::default() })?;
    inode.data.make_dirty(&[], (0, &bytes), Some(promise));
    Ok(true)
}

/// The file's inline extent.
pub(super) fn inline_extent(tx: &Transaction, inode: &Inode) -> Result<Option<InlineExtent>> {
    Ok(item_below(tx, inode.id, 1)?.and_then(|item| match item.stored {
        Stored::Inline(inline) => Some(inline),
        Stored::Data(_) => None,
    }))
}

/// Two files, perhaps one and the same, whose extents stay as they are for others.
pub(super) struct Both<'a> {
    _settled: (MutexGuard<'a, ()>, Option<MutexGuard<'a, ()>>),
    _source: Option<RwLockReadGuard<'a, ()>>,
    _dest: RwLockWriteGuard<'a, ()>,
}

impl<'a> Both<'a> {
    /// Waits until nothing is in flight, and keeps it so.
    pub fn lock(source: &'a Inode, dest: &'a Inode) -> Result<Self> {
        let source_first = source.id < dest.id;
        let two = source.id != dest.id;
        let (first, second) = if source_first { (source, dest) } else { (dest, source) };
        let first = first.data.settle();
        let second = two.then(|| second.data.settle());
        let early = source_first.then(|| lock_shared(&source.range));
        let dest_range = lock_alone(&dest.range);
        let source_range = if two { early.or_else(|| Some(lock_shared(&source.range))) } else { None };
        require_alive(source)?;
        require_alive(dest)?;
        Ok(Self { _settled: (first, second), _source: source_range, _dest: dest_range })
    }
}

/// What a destination gets its extents for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To have the source's bytes.
    Clone,
    /// It has the same bytes, and is to use less space: what cannot be shared stays.
    Dedupe,
}

/// Ranges of two files that are locked.
pub(super) struct Job<'a> {
    shared: &'a Shared,
    source: Place<'a>,
    dest: Place<'a>,
    len: u64,
    sector: u64,
}

impl<'a> Job<'a> {
    /// The ranges, if they may share extents at all.
    pub fn new(shared: &'a Shared, source: Place<'a>, dest: Place<'a>, len: u64) -> Result<Self> {
        let sector = sector_size(shared);
        if !source.offset.is_multiple_of(sector) || !dest.offset.is_multiple_of(sector) {
            return Err(Error::Invalid("offsets that are not multiples of the sector size"));
        }
        let source_end = source.offset.checked_add(len).ok_or(Error::Invalid("the range is too long"))?;
        if source_end > lock(&source.inode.state).item.size.get() {
            return Err(Error::Invalid("the range goes past the source's end"));
        }
        let dest_end = dest.offset.checked_add(len).filter(|end| *end <= MAX_FILE_SIZE);
        // As in the kernel, no EFBIG.
        let dest_end = dest_end.ok_or(Error::Invalid("the range goes past the end of the largest file"))?;
        let sums = |place: Place<'_>| lock(&place.inode.state).item.flags().contains(InodeFlags::NODATASUM);
        if sums(source) != sums(dest) {
            return Err(Error::Invalid("one file has checksums and the other has none"));
        }
        let overlap = source.offset < ceil(dest_end, sector) && dest.offset < ceil(source_end, sector);
        if source.inode.id == dest.inode.id && overlap {
            return Err(Error::Invalid("the ranges overlap"));
        }
        Ok(Self { shared, source, dest, len, sector })
    }

    /// A part of a sector may end with the source, where nothing follows in the destination.
    fn check_clone(&self) -> Result<()> {
        let follows = self.dest.offset + self.len < lock(&self.dest.inode.state).item.size.get();
        if self.len.is_multiple_of(self.sector) || (self.ends_with_source() && !follows) {
            return Ok(());
        }
        Err(Error::Invalid("a length that is not a multiple of the sector size"))
    }

    /// Both ranges must be there. As in the kernel, a part of a sector that is not the end of both stays as it is.
    pub fn shorten_to_dedupe(&mut self) -> Result<()> {
        let size = lock(&self.dest.inode.state).item.size.get();
        let end = self.dest.offset + self.len;
        if end > size {
            return Err(Error::Invalid("the range goes past the end of the file"));
        }
        if !(self.ends_with_source() && end == size) {
            self.len = floor(self.len, self.sector);
        }
        Ok(())
    }

    fn ends_with_source(&self) -> bool {
        self.source.offset + self.len == lock(&self.source.inode.state).item.size.get()
    }

    /// The bytes of both, from `skip` on, as long as the shorter buffer.
    pub fn read_both(&self, skip: u64, source: &mut [u8], dest: &mut [u8]) -> Result<()> {
        read_locked(self.shared, self.source.inode, self.source.offset + skip, source)?;
        read_locked(self.shared, self.dest.inode, self.dest.offset + skip, dest)?;
        Ok(())
    }

    /// Shares what can be shared, and, in a clone, copies the rest.
    pub fn run(&self, purpose: Purpose) -> Result<()> {
        // What begins in the destination's last sector replaces that.
        if self.dest.offset >= ceil(lock(&self.dest.inode.state).item.size.get(), self.sector) {
            dirty_last_sector(self.shared, self.dest.inode, self.dest.offset + self.len)?;
        }
        let end = ceil(self.source.offset + self.len, self.sector);
        let mut at = self.source.offset;
        while at < end {
            at = self.step(at..end, purpose)?;
        }
        Ok(())
    }

    /// Does something about the beginning of what is left (in the source); gives where the rest begins.
    fn step(&self, rest: Range<u64>, purpose: Purpose) -> Result<u64> {
        let data = &self.source.inode.data;
        let in_memory = data.in_memory_until(rest.start);
        if in_memory > rest.start {
            return self.copy(rest.start..in_memory.min(rest.end), purpose);
        }
        let on_disk = rest.start..data.next_in_memory(rest.start).map_or(rest.end, |next| next.min(rest.end));
        if data.counts_on_own_space() {
            return self.copy(on_disk, purpose);
        }
        if rest.start == 0
            && let Some(inline) = self.shared.gate.view(|tx| inline_extent(tx, self.source.inode))?
        {
            return self.inline(&inline, purpose);
        }
        let target = self.target(purpose);
        let done = share::share(self.shared, self.source.inode, on_disk, &target)?;
        self.dest.inode.data.discard(target.of(done.start)..target.of(done.end));
        Ok(done.end)
    }

    fn target(&self, purpose: Purpose) -> Target<'a> {
        let sharing = match purpose {
            Purpose::Clone => Sharing::Changes,
            Purpose::Dedupe => Sharing::Saves,
        };
        let end = self.dest.offset + self.len;
        Target { inode: self.dest.inode, from: self.source.offset, to: self.dest.offset, end, sharing }
    }

    /// An inline extent stays one if it is all that the destination then has.
    fn inline(&self, inline: &InlineExtent, purpose: Purpose) -> Result<u64> {
        if purpose == Purpose::Dedupe {
            return Ok(self.sector);
        }
        let size = lock(&self.dest.inode.state).item.size.get();
        let is_all = self.dest.offset == 0 && size <= self.len && inline.ram_bytes == self.len;
        if !is_all || !share::put_inline_alone(self.shared, self.dest.inode, inline)? {
            return self.copy(0..self.sector, purpose);
        }
        self.dest.inode.data.discard(0..self.sector);
        Ok(self.sector)
    }

    /// Makes bytes of the source (whole sectors) dirty in the destination; gives where they end in the source.
    fn copy(&self, part: Range<u64>, purpose: Purpose) -> Result<u64> {
        if purpose == Purpose::Dedupe {
            return Ok(part.end);
        }
        let end = part.end.min(floor(part.start + COPY_MAX, self.sector));
        let mut bytes = vec![0; (end - part.start) as usize];
        // Past the source's end there are zeros.
        read_locked(self.shared, self.source.inode, part.start, &mut bytes)?;
        let target = self.target(purpose);
        write_locked(self.shared, self.dest.inode, target.of(part.start), &bytes)?;
        wrote(self.shared, &mut lock(&self.dest.inode.state), target.of(end).min(target.end));
        Ok(end)
    }
}
