//! One step of a clone: items of the source, put into the destination with references of their own.
//!
//! # Invariants
//! * A step reads and puts in at most `PARTS` items, and takes out `DROPS`; everything is looked at before the first
//!   change.
//! * Offset and lengths of an extent, compressed or not, stay those of the source: only the part and the key differ.
//!
//! # Locking
//! The caller holds what [`mod@super::clone`] says; the gate is taken here.

use std::ops::{ControlFlow, Range};

use butterfs_format::Logical;
use butterfs_format::items::{InodeFlags, InodeItem};

use super::extents::{
    DataExtent, HoleStyle, InlineExtent, Stored, corrupt, drop_range, fill_gaps, insert_item, put_inline, scan,
};
use super::sectors::{ceil, intersect, len, sector_size};
use super::update::{Progress, count, update_file};
use super::write::touch;
use crate::error::Result;
use crate::inode::item::bump_sequence;
use crate::inode::{Inode, InodeId, Shared};
use crate::tx::{Need, Transaction};

/// One change puts in so many items at most.
const PARTS: usize = 12;
/// And takes out so many.
const DROPS: usize = 16;
/// Items of a step: these, those cut at both ends, and the inode's.
const ITEMS: u32 = (PARTS + DROPS + 3) as u32;
/// Items for an inline extent in place of another.
const INLINE_ITEMS: u32 = 4;

/// What sharing means for the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It gets other bytes.
    Changes,
    /// It only takes less space.
    Saves,
}

/// Where extents go.
pub(super) struct Target<'a> {
    /// The file.
    pub inode: &'a Inode,
    /// Where the whole range begins in the source.
    pub from: u64,
    /// Where it begins here.
    pub to: u64,
    /// Where its last byte ends here.
    pub end: u64,
    /// What this means.
    pub sharing: Sharing,
}

impl Target<'_> {
    /// The place that belongs to one of the source's range.
    pub fn of(&self, source: u64) -> u64 {
        self.to + (source - self.from)
    }
}

/// A part of an extent, and where it lies in the source.
struct Part {
    start: u64,
    extent: DataExtent,
}

/// Shares the beginning of a range of the source (whole sectors, nothing of it in memory), in one change; gives the
/// part that is done.
pub(super) fn share(shared: &Shared, source: &Inode, range: Range<u64>, target: &Target<'_>) -> Result<Range<u64>> {
    let (style, sector) = (HoleStyle::of(shared), sector_size(shared));
    update_file(shared, target.inode, Need::Items(ITEMS), |tx, id, item| {
        let (mut parts, found_to) = parts(tx, source.id, &range)?;
        let end = bounded(tx, id, target.of(range.start)..target.of(found_to))?;
        let source_end = target.from + (end - target.to);
        cut(&mut parts, source_end);
        let place = target.of(range.start)..end;
        let removed = drop_range(tx, id, place.clone())?;
        let mut added = 0;
        for part in &parts {
            added += put(tx, id, target.of(part.start), &part.extent)?;
        }
        count(item, (added, removed));
        finish(shared, item, &parts, target, end);
        fill_gaps(tx, id, place.start..end.min(ceil(item.size.get(), sector)).max(place.start), style)?;
        Ok((Progress { written: end, ..Progress::default() }, range.start..source_end))
    })
}

/// What else changes in the inode.
fn finish(shared: &Shared, item: &mut InodeItem, parts: &[Part], target: &Target<'_>, end: u64) {
    if parts.iter().any(|part| part.extent.prealloc) {
        item.flags = (item.flags() | InodeFlags::PREALLOC).bits().into();
    }
    match target.sharing {
        Sharing::Changes => {
            item.size = item.size.get().max(end.min(target.end)).into();
            touch(shared, item);
        }
        Sharing::Saves => bump_sequence(item),
    }
}

/// The extents in the beginning of a range, holes left out, and how far that reaches.
fn parts(tx: &Transaction, id: InodeId, range: &Range<u64>) -> Result<(Vec<Part>, u64)> {
    let sector = u64::from(tx.geometry().sectorsize);
    let most = tx.affordable(PARTS);
    let (mut parts, mut seen, mut covered, mut end, mut wrong) = (Vec::new(), 0, range.start, range.end, None);
    scan(tx, id, range, |item| {
        if seen == most {
            end = item.start;
            return ControlFlow::Break(());
        }
        let whole = item.start..item.end(sector);
        let Stored::Data(extent) = item.stored else {
            wrong = Some((whole.start, "inline extent is longer than a sector"));
            return ControlFlow::Break(());
        };
        if seen > 0 && whole.start < covered {
            wrong = Some((whole.start, "file extent overlaps the one before it"));
            return ControlFlow::Break(());
        }
        seen += 1;
        covered = whole.end;
        let part = intersect(&whole, range);
        if !extent.is_hole() {
            parts.push(Part { start: part.start, extent: extent.part(part.start - whole.start, len(&part)) });
        }
        ControlFlow::Continue(())
    })?;
    if let Some((start, problem)) = wrong {
        return Err(corrupt(id, start, problem));
    }
    for part in &parts {
        let (at, len) = (Logical(part.extent.disk_bytenr), part.extent.disk_num_bytes);
        if !tx.has_data_extent(at, len)? {
            return Err(corrupt(
                id,
                part.start,
                format!("extent at logical {at} length {len} is not in the extent tree"),
            ));
        }
    }
    Ok((parts, end))
}

/// How far a range of the destination reaches when only so many items are taken out.
fn bounded(tx: &Transaction, id: InodeId, range: Range<u64>) -> Result<u64> {
    let most = tx.affordable(DROPS);
    let (mut seen, mut end) = (0, range.end);
    scan(tx, id, &range, |item| {
        if seen == most {
            end = item.start;
            return ControlFlow::Break(());
        }
        seen += 1;
        ControlFlow::Continue(())
    })?;
    Ok(end)
}

/// Leaves out what lies behind an end.
fn cut(parts: &mut Vec<Part>, end: u64) {
    parts.retain(|part| part.start < end);
    if let Some(last) = parts.last_mut() {
        last.extent.num_bytes = last.extent.num_bytes.min(end - last.start);
    }
}

/// Puts a shared extent in where nothing is; gives the bytes that it counts.
fn put(tx: &mut Transaction, id: InodeId, start: u64, extent: &DataExtent) -> Result<u64> {
    let (at, back_ref) = (Logical(extent.disk_bytenr), extent.back_ref(id, start));
    tx.add_data_ref(at, extent.disk_num_bytes, back_ref)?;
    insert_item(tx, id, start, extent)
}

/// Makes a copy of an inline extent all that a file has, unless the file has other extents.
pub(super) fn put_inline_alone(shared: &Shared, inode: &Inode, inline: &InlineExtent) -> Result<bool> {
    if !shared.gate.view(|tx| has_room_for_inline(tx, inode.id))? {
        return Ok(false);
    }
    let sector = sector_size(shared);
    update_file(shared, inode, Need::Items(INLINE_ITEMS), |tx, id, item| {
        let removed = drop_range(tx, id, 0..sector)?;
        let added = put_inline(tx, id, inline)?;
        count(item, (added, removed));
        item.size = item.size.get().max(inline.ram_bytes).into();
        touch(shared, item);
        Ok((Progress { written: inline.ram_bytes, ..Progress::default() }, true))
    })
}

/// Whether a file has no extents, or an inline one.
fn has_room_for_inline(tx: &Transaction, id: InodeId) -> Result<bool> {
    let mut free = true;
    scan(tx, id, &(0..u64::MAX), |item| {
        free = matches!(item.stored, Stored::Inline(_));
        if free { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(free)
}
