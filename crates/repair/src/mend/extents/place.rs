//! Where on disk a file extent lies: by its own word, the extent tree, checksums and the free space tree.

use butterfs_format::items::{Compression, InodeFlags, InodeItem};

use super::super::evidence::data_can_lie;
use super::super::extent_record::{Body, Record};
use super::super::sums::sums_are_right;
use super::Mender;

impl Mender<'_> {
    /// Sets the place of a regular extent right; says whether there is one.
    pub(super) fn place(&mut self, record: &mut Record) -> bool {
        let before = record.clone();
        let known = match self.own_word(record) {
            Word::Certain => true,
            // It is good until something contradicts it.
            Word::Likely if self.file.evidence.has_gaps() && !self.is_taken(record) => true,
            Word::Likely => self.by_back_reference(record) || !self.is_taken(record),
            Word::None => self.by_back_reference(record) || self.by_one_bit(record),
        };
        if !known && (!self.is_possible(record) || self.is_taken(record)) || !self.part(record) {
            return false;
        }
        if *record != before {
            let words = format!("{before} is {record}");
            self.tell(record.offset, words);
        }
        true
    }

    /// How far an extent is to be believed by itself.
    fn own_word(&self, record: &Record) -> Word {
        let evidence = self.file.evidence;
        let (Body::Extent(extent), Some((at, len, start))) = (&record.body, record.reference()) else {
            return Word::None;
        };
        if !self.is_possible(record) {
            return Word::None;
        }
        let plain = record.compression == Compression::None as u8;
        let sums = if plain { (at.saturating_add(extent.offset), extent.num_bytes) } else { (at, len) };
        let has_sums = !extent.prealloc && evidence.covered(sums.0, sums.1) == sums.1;
        let consistent = if plain { record.ram_bytes == len } else { has_sums };
        match evidence.extent_len(at) {
            Some(known) if known == len && evidence.agrees(self.file.ino, at, start) => Word::Certain,
            Some(known) if known == len => Word::Likely,
            // The extent tree may be what is wrong.
            Some(_) if consistent && evidence.agrees(self.file.ino, at, start) => Word::Certain,
            _ if consistent && has_sums => Word::Likely,
            None if evidence.has_gaps() && (!plain || consistent) => Word::Likely,
            _ => Word::None,
        }
    }

    /// The extent tree knows an extent that this file should refer to just here, and nothing does.
    fn by_back_reference(&self, record: &mut Record) -> bool {
        let evidence = self.file.evidence;
        let plain = record.compression == Compression::None as u8;
        let ram_bytes = record.ram_bytes;
        let Some((at, len, start)) = record.reference() else { return false };
        let Body::Extent(extent) = &mut record.body else { return false };
        if let Some(known) = evidence.extent_len(at).filter(|known| *known != len)
            && evidence.agrees(self.file.ino, at, start)
        {
            extent.disk_num_bytes = known;
            return true;
        }
        let own = Own { at, len, has_sums: !extent.prealloc && evidence.covered(at, len) == len };
        let mut found = evidence.unclaimed_of_file(self.file.ino, start);
        found.retain(|other| self.may_be_meant(&own, *other));
        let of_len =
            |at: &&u64| evidence.extent_len(**at).is_some_and(|known| known == len || plain && known == ram_bytes);
        let mut fitting = found.iter().filter(of_len);
        let chosen = match (fitting.next(), fitting.next(), &found[..]) {
            (Some(only), None, _) => Some(*only),
            (None, _, [only]) if evidence.extent_len(at).is_none() => Some(*only),
            _ => None,
        };
        let Some((at, len)) = chosen.and_then(|at| Some((at, evidence.extent_len(at)?))) else { return false };
        (extent.disk_bytenr, extent.disk_num_bytes) = (at, len);
        true
    }

    /// Whether an extent elsewhere can be the one that is meant. It is the extent item whose address is wrong if others
    /// lie there, or if just it lacks what the place that the file says has: checksums, or use by the free space tree.
    fn may_be_meant(&self, own: &Own, other: u64) -> bool {
        let evidence = self.file.evidence;
        let Some(len) = evidence.extent_len(other) else { return false };
        let lacks_sums = own.has_sums && evidence.covered(other, len) < len;
        let is_free = evidence.is_free(other, len) && !evidence.is_free(own.at, own.len);
        !evidence.is_taken(other, len) && !lacks_sums && !is_free
    }

    /// One bit of the address or the length is wrong, and an extent is exactly there without it: one that nothing else
    /// refers to, and whose checksums are right, or that has a back reference of this file where there are none.
    fn by_one_bit(&self, record: &mut Record) -> bool {
        let Some((_, _, start)) = record.reference() else { return false };
        let Body::Extent(extent) = &mut record.body else { return false };
        let evidence = self.file.evidence;
        let (at, len) = (extent.disk_bytenr, extent.disk_num_bytes);
        let own = Own { at, len, has_sums: !extent.prealloc && evidence.covered(at, len) == len };
        let addresses = (0..u64::BITS).map(|bit| (at ^ (1 << bit), len));
        let is_of_others = |at: u64| evidence.is_of_others(at, self.file.ino, start);
        let has_sums = !extent.prealloc && self.has_sums();
        let is_proven = |at: u64| match has_sums {
            true => sums_are_right(self.file.store, at, len),
            false => evidence.agrees(self.file.ino, at, start),
        };
        let is_there = |at: u64| {
            let fits = evidence.extent_len(at) == Some(len) && self.may_be_meant(&own, at);
            fits && !is_of_others(at) && is_proven(at)
        };
        let mut found = addresses.filter(|(at, _)| is_there(*at));
        match (found.next(), found.next()) {
            (Some(only), None) => {
                (extent.disk_bytenr, extent.disk_num_bytes) = only;
                true
            }
            _ => match evidence.extent_len(at) {
                Some(other) if other != len && !is_of_others(at) => {
                    extent.disk_num_bytes = other;
                    true
                }
                _ => false,
            },
        }
    }

    /// Whether written data of this file has checksums.
    fn has_sums(&self) -> bool {
        let without = |item: InodeItem| item.flags().contains(InodeFlags::NODATASUM);
        !self.file.ignore_sums && !self.file.item.is_some_and(without)
    }

    fn is_possible(&self, record: &Record) -> bool {
        let Body::Extent(extent) = &record.body else { return false };
        data_can_lie(self.file.store, extent.disk_bytenr, extent.disk_num_bytes)
    }

    fn is_taken(&self, record: &Record) -> bool {
        let Body::Extent(extent) = &record.body else { return false };
        self.file.evidence.is_taken(extent.disk_bytenr, extent.disk_num_bytes)
    }

    /// The part of the extent that the file has: inside it, by the back reference or as much as there is.
    fn part(&self, record: &mut Record) -> bool {
        let plain = record.compression == Compression::None as u8;
        let Some((at, _, start)) = record.reference() else { return true };
        let offsets = self.file.evidence.unclaimed_offsets(self.file.ino, at);
        let Body::Extent(extent) = &mut record.body else { return true };
        let aligned = |value: u64| value.is_multiple_of(self.sector);
        if plain && (!aligned(record.ram_bytes) || record.ram_bytes < extent.disk_num_bytes) {
            record.ram_bytes = extent.disk_num_bytes;
        }
        let whole = if plain { extent.disk_num_bytes } else { record.ram_bytes };
        let inside = |offset: u64, len: u64| offset.checked_add(len).is_some_and(|end| end <= whole);
        if !plain && (!aligned(record.ram_bytes) || record.ram_bytes == 0) {
            record.ram_bytes =
                extent.offset.saturating_add(extent.num_bytes).checked_next_multiple_of(self.sector).unwrap_or(0);
            return aligned(extent.offset) && aligned(extent.num_bytes) && extent.num_bytes > 0;
        }
        let good = |offset: u64, len: u64| aligned(offset) && aligned(len) && len > 0 && inside(offset, len);
        if good(extent.offset, extent.num_bytes) && self.file.evidence.agrees(self.file.ino, at, start) {
            return true;
        }
        let by_refs = offsets.iter().map(|start| record.offset.wrapping_sub(*start));
        let mut by_refs = by_refs.filter(|offset| good(*offset, extent.num_bytes));
        if let (Some(offset), None) = (by_refs.next(), by_refs.next()) {
            extent.offset = offset;
            return true;
        }
        if good(extent.offset, extent.num_bytes) {
            return true;
        }
        if aligned(extent.offset) && extent.offset < whole {
            extent.num_bytes = if aligned(extent.num_bytes) && extent.num_bytes > 0 {
                extent.num_bytes.min(whole - extent.offset)
            } else {
                whole - extent.offset
            };
            return true;
        }
        false
    }
}

/// Where a file says that an extent lies.
struct Own {
    at: u64,
    len: u64,
    has_sums: bool,
}

/// How far something is to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Others say the same.
    Certain,
    /// Nothing contradicts it.
    Likely,
    /// It cannot be so.
    None,
}
