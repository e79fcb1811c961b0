//! The extents of one file: fields that are wrong are set right where the extent tree, the checksums, the
//! neighbours or the inode tell; what points at nothing becomes a hole, and is told of as lost.

mod place;

use butterfs_format::items::{Compression, InodeFlags, InodeItem};
use butterfs_format::{Key, Logical};

use super::evidence::Evidence;
use super::extent_record::{Body, Record};
use super::model::Extents;
use super::sums::sums_are_right;
use crate::store::Store;

/// What is known of the file and the filesystem.
pub struct File<'a> {
    /// Its number.
    pub ino: u64,
    /// Its item.
    pub item: Option<InodeItem>,
    /// What other trees say.
    pub evidence: &'a Evidence,
    /// Data is read through it.
    pub store: &'a Store,
    /// Holes need no items.
    pub no_holes: bool,
    /// Checksums are not looked at (the tree of relocated data knows none).
    pub ignore_sums: bool,
}

/// The extents as they must be.
pub struct Mended {
    /// Items by key; one that is the same as before is here too.
    pub items: Vec<(Key, Vec<u8>)>,
    /// In sum.
    pub extents: Extents,
    /// What was done: the stable name, and words.
    pub changes: Vec<(&'static str, String)>,
}

/// Mends the extents of a file. `items` are its EXTENT_DATA items with the generation of their leaves.
pub fn mend(file: &File<'_>, items: &[(Key, Vec<u8>, u64)]) -> Mended {
    let mut mender = Mender { file, records: Vec::new(), changes: Vec::new(), sector: sector(file) };
    for (key, data, generation) in items {
        mender.read(key, data, *generation);
    }
    mender.places();
    mender.order();
    mender.lengths();
    mender.kinds();
    mender.finish()
}

fn sector(file: &File<'_>) -> u64 {
    u64::from(file.store.geometry().sectorsize)
}

struct Mender<'a> {
    file: &'a File<'a>,
    records: Vec<Record>,
    changes: Vec<(&'static str, String)>,
    sector: u64,
}

impl Mender<'_> {
    fn tell(&mut self, offset: u64, words: String) {
        self.changes.push(("file-extent", format!("at {offset}: {words}")));
    }

    fn lose(&mut self, offset: u64, len: u64, words: &str) {
        self.changes.push(("file-extent-lost", format!("{len} bytes at {offset} are lost: {words}")));
    }

    fn read(&mut self, key: &Key, data: &[u8], leaf_generation: u64) {
        let Some((mut record, told)) = Record::read(key.offset, data, leaf_generation) else {
            self.lose(key.offset, 0, "its item is too short");
            return;
        };
        told.into_iter().for_each(|words| self.tell(key.offset, words));
        if !record.compression_is_known() {
            let found = self.compression_by_data(&record);
            let words = format!("compression {} is {found}", record.compression);
            record.compression = found as u8;
            self.tell(key.offset, words);
        }
        self.records.push(record);
    }

    /// Data that is as long on disk as in memory is not compressed; else its first bytes tell.
    fn compression_by_data(&self, record: &Record) -> Compression {
        let plain = match &record.body {
            Body::Inline(bytes) => bytes.len() as u64 == record.ram_bytes,
            Body::Extent(extent) => extent.disk_num_bytes == record.ram_bytes || extent.disk_bytenr == 0,
        };
        if plain { Compression::None } else { guess(&self.front(record)) }
    }

    fn front(&self, record: &Record) -> Vec<u8> {
        match &record.body {
            Body::Inline(bytes) => bytes.clone(),
            Body::Extent(extent) => {
                let mut bytes = vec![0; self.sector as usize];
                let read = self.file.store.volume().read(Logical(extent.disk_bytenr), &mut bytes);
                if read.is_ok() { bytes } else { Vec::new() }
            }
        }
    }

    /// Address, length on disk and the part of it, by what the extent tree says.
    fn places(&mut self) {
        let mut kept = Vec::new();
        for mut record in std::mem::take(&mut self.records) {
            if !self.aligned_in_file(&mut record) {
                let (at, len) = (record.offset, record.len_in_file());
                self.lose(at, len, "nothing tells where in the file they belong");
                continue;
            }
            let at = record.offset;
            match &record.body {
                Body::Inline(_) => self.inline(&mut record),
                Body::Extent(extent) if extent.disk_bytenr != 0 => {
                    if !self.place(&mut record) {
                        let len = record.len_in_file();
                        self.lose(at, len, "no data can be where it points");
                        record.make_hole();
                    }
                }
                Body::Extent(_) => self.hole(&mut record),
            }
            if record.len_in_file() > 0 {
                kept.push(record);
            }
        }
        kept.sort_by_key(|record| record.offset);
        kept.dedup_by_key(|record| record.offset);
        self.records = kept;
    }

    /// Puts an extent whose file offset is impossible where the extent tree says; says whether it is aligned.
    fn aligned_in_file(&mut self, record: &mut Record) -> bool {
        if record.offset.is_multiple_of(self.sector) {
            return true;
        }
        let Body::Extent(extent) = &record.body else { return false };
        let starts = self.file.evidence.unclaimed_offsets(self.file.ino, extent.disk_bytenr);
        let [start] = starts[..] else { return false };
        let right = start.wrapping_add(extent.offset);
        let words = format!("belongs to offset {right}, by its back reference");
        self.tell(record.offset, words);
        record.offset = right;
        right.is_multiple_of(self.sector)
    }

    fn inline(&mut self, record: &mut Record) {
        let Body::Inline(bytes) = &record.body else { return };
        let len = bytes.len() as u64;
        if record.compression == Compression::None as u8 && record.ram_bytes != len {
            let words = format!("ram_bytes {} to {len}", record.ram_bytes);
            record.ram_bytes = len;
            self.tell(record.offset, words);
        } else if record.compression != Compression::None as u8 {
            self.inline_compressed(record);
        }
        if record.offset != 0 {
            self.tell(record.offset, "inline data belongs to the beginning".into());
            record.offset = 0;
        }
    }

    /// The decompressed length, if the item's is impossible.
    fn inline_compressed(&mut self, record: &mut Record) {
        let size = self.file.item.map(|item| item.size.get()).filter(|size| (1..=self.sector).contains(size));
        let possible = (1..=self.sector).contains(&record.ram_bytes);
        if let Some(size) = size.filter(|_| !possible) {
            let words = format!("ram_bytes {} to the file's size {size}", record.ram_bytes);
            record.ram_bytes = size;
            self.tell(record.offset, words);
        }
    }

    fn hole(&mut self, record: &mut Record) {
        if record.hole_is_odd(self.sector) {
            self.tell(record.offset, "a hole with odd fields".into());
            record.make_hole();
        }
    }

    /// No extent reaches into the next one.
    fn order(&mut self) {
        let starts: Vec<u64> = self.records.iter().skip(1).map(|record| record.offset).collect();
        for (index, next) in starts.into_iter().enumerate() {
            let record = &self.records[index];
            let (at, end) = (record.offset, record.end(self.sector));
            if end <= next || matches!(record.body, Body::Inline(_)) && next >= self.sector {
                continue;
            }
            let words = format!("reaches to {end}, into the next at {next}: cut");
            if matches!(record.body, Body::Inline(_)) {
                continue;
            }
            self.records[index].cut(next - at);
            self.tell(at, words);
        }
        // Inline data and an extent cannot share the first sector: the younger one stays.
        let sector = self.sector;
        let overlaps = |pair: &[Record]| matches!(pair, [first, second, ..] if matches!(first.body, Body::Inline(_)) && second.offset < sector);
        while overlaps(&self.records) {
            let older = usize::from(self.records[0].generation >= self.records[1].generation);
            let gone = self.records.remove(older);
            self.lose(gone.offset, gone.len_in_file(), "it overlaps a younger extent");
        }
    }

    /// An extent that is shorter or longer than the inode's count of bytes wants, by just a hole beside it.
    fn lengths(&mut self) {
        let Some(item) = self.file.item else { return };
        let (sum, want) = (self.bytes(), item.nbytes.get());
        let size = item.size.get().checked_next_multiple_of(self.sector).unwrap_or(u64::MAX);
        if sum == want || !sum.abs_diff(want).is_multiple_of(self.sector) {
            return;
        }
        if sum < want {
            let missing = want - sum;
            let gap = |index: usize| {
                let next = self.records.get(index + 1).map_or(size, |next| next.offset);
                next.saturating_sub(self.records[index].end(self.sector))
            };
            let grows = |index: &usize| gap(*index) == missing && self.records[*index].can_grow(missing);
            let mut fitting = (0..self.records.len()).filter(grows);
            if let (Some(index), None) = (fitting.next(), fitting.next()) {
                let words = format!("{missing} bytes longer: so many are in no extent, and nbytes counts them");
                let at = self.records[index].offset;
                self.records[index].grow(missing);
                self.tell(at, words);
            }
        } else if let Some(last) = self.records.last_mut()
            && last.end(self.sector) == size.saturating_add(sum - want)
            && last.len_in_file() > sum - want
        {
            let at = last.offset;
            last.cut(last.len_in_file() - (sum - want));
            self.tell(at, format!("{} bytes shorter: nbytes and size say so", sum - want));
        }
    }

    /// Written or only preallocated, by the checksums.
    fn kinds(&mut self) {
        let Some(item) = self.file.item.filter(|_| !self.file.ignore_sums) else { return };
        let (without, prealloc) =
            (item.flags().contains(InodeFlags::NODATASUM), item.flags().contains(InodeFlags::PREALLOC));
        let mut told = Vec::new();
        for record in &mut self.records {
            let plain = record.compression == Compression::None as u8;
            let Body::Extent(extent) = &mut record.body else { continue };
            if extent.disk_bytenr == 0 || without || !plain {
                continue;
            }
            let start = extent.disk_bytenr.saturating_add(extent.offset);
            let covered = self.file.evidence.covered(start, extent.num_bytes);
            let is_written = self.file.evidence.is_written(extent.disk_bytenr);
            if extent.prealloc && covered == extent.num_bytes && !is_written {
                // Checksums that are wrong themselves may lie anywhere.
                if sums_are_right(self.file.store, start, extent.num_bytes) {
                    extent.prealloc = false;
                    told.push((
                        record.offset,
                        "it has checksums, which are right: it is written, not preallocated".to_owned(),
                    ));
                }
            } else if !extent.prealloc && covered == 0 && prealloc && is_zero(self.file.store, start, extent.num_bytes)
            {
                extent.prealloc = true;
                told.push((record.offset, "it is zeros without checksums: it is preallocated, not written".to_owned()));
            }
        }
        told.into_iter().for_each(|(at, words)| self.tell(at, words));
    }

    fn bytes(&self) -> u64 {
        self.records.iter().map(Record::bytes).sum()
    }

    fn finish(mut self) -> Mended {
        let is_file = self.file.item.is_some_and(|item| item.mode.get() & 0o170_000 == 0o100_000);
        if !self.file.no_holes && is_file {
            self.fill_holes();
        }
        let mut extents = Extents { bytes: self.bytes(), count: self.records.len() as u64, ..Extents::default() };
        extents.end = self.records.last().map_or(0, |record| record.end(self.sector));
        for record in &self.records {
            self.sum_up(record, &mut extents);
        }
        let key = |offset| Key::new(self.file.ino, butterfs_format::ItemType::EXTENT_DATA, offset);
        let keep = |record: &&Record| !record.is_hole() || !self.file.no_holes || !record.was_lost;
        let items = self.records.iter().filter(keep).map(|record| (key(record.offset), record.pack())).collect();
        Mended { items, extents, changes: self.changes }
    }

    fn sum_up(&self, record: &Record, extents: &mut Extents) {
        let compressed = record.compression != Compression::None as u8;
        match &record.body {
            Body::Inline(_) => extents.inline = Some(record.ram_bytes),
            Body::Extent(extent) if extent.disk_bytenr != 0 && !extent.prealloc => {
                let (start, len) = if compressed {
                    (extent.disk_bytenr, extent.disk_num_bytes)
                } else {
                    (extent.disk_bytenr.saturating_add(extent.offset), extent.num_bytes)
                };
                let without = self.file.item.is_some_and(|item| item.flags().contains(InodeFlags::NODATASUM));
                let covered = self.file.evidence.covered(start, len);
                extents.without_sums |= covered < len;
                extents.needs_sums |= !self.file.ignore_sums && without && (compressed || covered > 0);
            }
            Body::Extent(_) => {}
        }
    }

    fn fill_holes(&mut self) {
        let size = self.file.item.map_or(0, |item| item.size.get());
        let size = size.checked_next_multiple_of(self.sector).unwrap_or(0);
        let (mut at, mut filled) = (0, Vec::new());
        for record in std::mem::take(&mut self.records) {
            if record.offset > at && at < size {
                filled.push(Record::hole(at, record.offset.min(size.max(record.offset)) - at));
            }
            at = at.max(record.end(self.sector));
            filled.push(record);
        }
        if at < size {
            filled.push(Record::hole(at, size - at));
        }
        for hole in filled.iter().filter(|record| record.is_new) {
            let words = format!("a hole of {} bytes had no item", hole.len_in_file());
            self.changes.push(("file-hole", format!("at {}: {words}", hole.offset)));
        }
        self.records = filled;
    }
}

/// What the first bytes of compressed data say.
fn guess(front: &[u8]) -> Compression {
    match front {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Compression::Zlib,
        _ => Compression::Lzo,
    }
}

/// Whether nothing but zeros lies in a range: then written and preallocated read alike. Checksums can be lost, so
/// that there are none says nothing by itself.
fn is_zero(store: &Store, start: u64, len: u64) -> bool {
    const PIECE: u64 = 1 << 20;
    let mut buffer = Vec::new();
    (0..len).step_by(PIECE as usize).all(|at| {
        buffer.resize(PIECE.min(len - at) as usize, 0);
        let read = store.volume().read(Logical(start.saturating_add(at)), &mut buffer);
        read.is_ok() && buffer.iter().all(|byte| *byte == 0)
    })
}
