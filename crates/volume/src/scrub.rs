//! What a scrub needs of the devices: what lies where on each, in the order of its addresses, read and written there.
//!
//! # Invariants
//! * Nothing is written where a superblock lies, nor to a device that is not written.
//!
//! # Locking
//! As [`crate::read`]; superblocks are looked at with the member's `seen` held, so never while they are written.

use std::ops::Range;
use std::sync::atomic::Ordering;

use butterfs_format::items::{STRIPE_LEN, Stripe};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{DevId, Logical, Superblock};

use crate::error::{Error, Result};
use crate::map::{Mapped, touches_superblock};
use crate::member::{Member, Role, Seen};
use crate::parity::{self, Part, Recipe};
use crate::stats::Fault;
use crate::superblock::{Copy, read_copy};
use crate::volume::Volume;

/// What a chunk has on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceExtent {
    /// Where it begins on the device.
    pub physical: u64,
    /// How long it is there.
    pub length: u64,
    /// The chunk.
    pub chunk: Logical,
    /// Which of the chunk's stripes it is.
    pub stripe: usize,
}

/// What a stretch of a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The bytes from this address on.
    Bytes(Logical),
    /// The parity of a row.
    Parity(Parity),
}

/// Which parity, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parity {
    /// The first byte of the row's data.
    pub row: Logical,
    /// Data stripes of the row.
    pub columns: u64,
    /// Whether it is P or Q.
    pub kind: ParityKind,
}

/// The two kinds of parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityKind {
    /// The exclusive or of the data.
    P,
    /// The weighted sum of the data.
    Q,
}

/// Where a row's parity lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityPlace {
    /// Whether it is P or Q.
    pub kind: ParityKind,
    /// The device.
    pub devid: DevId,
    /// Where it begins there.
    pub physical: u64,
}

/// A stretch of a device that holds bytes which follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPart {
    /// Where it begins on the device.
    pub physical: u64,
    /// How long it is.
    pub len: u64,
    /// What it holds.
    pub held: Held,
}

impl Volume {
    /// What the chunks have on a device, in the order of its addresses.
    pub fn device_extents(&self, devid: DevId) -> Vec<DeviceExtent> {
        let map = self.map();
        let mut extents: Vec<DeviceExtent> = map.iter().flat_map(|mapped| extents_of(mapped, devid)).collect();
        drop(map);
        extents.sort_unstable_by_key(|extent| extent.physical);
        extents
    }

    /// What a range of a device extent holds, in the order of the device's addresses; nothing if the chunk is not there
    /// any more. The range begins at a multiple of 64 KiB, as an offset in the extent.
    pub fn stored_parts(&self, extent: &DeviceExtent, range: Range<u64>) -> Vec<StoredPart> {
        let map = self.map();
        let Some(mapped) = map.find(extent.chunk).filter(|mapped| mapped.start == extent.chunk) else {
            return Vec::new();
        };
        let there = mapped.chunk.stripes.get(extent.stripe).is_some_and(|s| s.offset.get() == extent.physical);
        if there { parts_of(mapped, extent, &range) } else { Vec::new() }
    }

    /// What the chunk of a device extent has on each of its devices, in the order of its stripes; nothing if it has no
    /// parity, or is not there any more.
    pub fn row_extents(&self, extent: &DeviceExtent) -> Vec<(DevId, DeviceExtent)> {
        let map = self.map();
        let Some(mapped) = map.find(extent.chunk).filter(|mapped| mapped.start == extent.chunk) else {
            return Vec::new();
        };
        if !mapped.grid.has_parity() {
            return Vec::new();
        }
        let stripes = mapped.chunk.stripes.iter().enumerate();
        stripes.map(|(stripe, at)| (DevId(at.devid.get()), extent_of(mapped, stripe, at))).collect()
    }

    /// Whether what a device holds is what it is to hold: it can be read, and is not being brought up to date.
    pub fn is_source(&self, devid: DevId) -> bool {
        self.member(devid).is_some_and(|index| {
            let member = &self.members[index];
            member.is_there() && !member.is_catching_up()
        })
    }

    /// Whether a device can be read: it is there, and did not fail for good.
    pub fn is_readable(&self, devid: DevId) -> bool {
        self.member(devid).is_some_and(|index| {
            let member = &self.members[index];
            member.is_there()
        })
    }

    /// Reads where something lies on a device; the device's word is taken, not that of a cache.
    ///
    /// # Errors
    /// Those of the device; they are counted.
    pub fn read_device(&self, devid: DevId, physical: u64, buf: &mut [u8]) -> Result<()> {
        self.known(devid)?.read_at(physical, buf)
    }

    /// Says that a range of a device will be read soon, and that it is to come from the device.
    pub fn prefetch_device(&self, devid: DevId, physical: u64, len: u64) {
        if let Some(index) = self.member(devid) {
            self.members[index].device.forget(physical, len);
            self.members[index].device.prefetch(physical, len);
        }
    }

    /// Counts a bad copy for a device.
    pub fn note_corruption(&self, devid: DevId) {
        self.note(devid, Fault::Corruption);
    }

    /// Counts a tree block of another generation for a device.
    pub fn note_stale(&self, devid: DevId) {
        self.note(devid, Fault::Generation);
    }

    fn note(&self, devid: DevId, fault: Fault) {
        if let Some(index) = self.member(devid) {
            self.members[index].counters.note(fault);
        }
    }

    /// Writes good bytes over bad ones, and reads them back.
    ///
    /// # Errors
    /// If the device is not written, or something else is there, or it fails.
    pub fn repair_device(&self, devid: DevId, physical: u64, bytes: &[u8]) -> Result<()> {
        let member = self.known(devid)?;
        let refused = |why: &str| Err(Error::NotWritable(format!("{} offset {physical}: {why}", member.device.name())));
        if !self.repairs.load(Ordering::Relaxed) || !member.is_written() {
            return refused("not written");
        }
        if touches_superblock(physical, bytes.len() as u64) {
            return refused("a superblock is there");
        }
        self.check_unchanged()?;
        member.write_at(physical, bytes)?;
        let mut back = vec![0; bytes.len()];
        member.device.forget(physical, bytes.len() as u64);
        member.read_at(physical, &mut back)?;
        if back == bytes { Ok(()) } else { refused("the device does not keep what is written") }
    }

    /// Both parities of a row's columns, or P alone; everything has the same length.
    pub fn row_parity(columns: &[&[u8]], p: &mut [u8], q: Option<&mut [u8]>) {
        parity::compute(columns, p, q);
    }

    /// The parity of a row's columns, all of the same length.
    pub fn parity_of(kind: ParityKind, columns: &[Vec<u8>]) -> Vec<u8> {
        let columns: Vec<&[u8]> = columns.iter().map(Vec::as_slice).collect();
        let none = vec![0; columns.first().map_or(0, |column| column.len())];
        let (mut p, mut q) = (none.clone(), none);
        match kind {
            ParityKind::P => {
                parity::compute(&columns, &mut p, None);
                p
            }
            ParityKind::Q => {
                parity::compute(&columns, &mut p, Some(&mut q));
                q
            }
        }
    }

    /// What a column holds where all others and a parity are as given: what is in its place among the columns does not matter.
    pub fn column_of(kind: ParityKind, parity: &[u8], columns: &[Vec<u8>], number: u64) -> Vec<u8> {
        let recipe = match kind {
            ParityKind::P => Recipe::WithP,
            ParityKind::Q => Recipe::WithQ,
        };
        let mut column = vec![0; parity.len()];
        for (part, factor) in parity::terms(recipe, number, columns.len() as u64) {
            let term = if let Part::Data(other) = part { &columns[other as usize] } else { parity };
            parity::add_scaled(&mut column, term, factor);
        }
        column
    }

    /// Where the parity of the row at an address lies, P before Q; nowhere if it has none.
    pub fn parity_places(&self, row: Logical) -> Vec<ParityPlace> {
        let map = self.map();
        let Some(mapped) = map.find(row).filter(|mapped| mapped.grid.has_parity()) else { return Vec::new() };
        let number = (row.0 - mapped.start.0) / (mapped.grid.columns * STRIPE_LEN);
        let parts = [(ParityKind::P, Part::P), (ParityKind::Q, Part::Q)].into_iter().take(mapped.grid.parity());
        let place = |(kind, part)| {
            let place = mapped.part_place(number, part, 0);
            ParityPlace { kind, devid: self.members[place.member].devid(), physical: place.physical }
        };
        parts.map(place).collect()
    }

    /// What is wrong with each superblock copy of a device: its offset, and words. A first one that is damaged is
    /// known to be so from then on, and so the next commit writes it anew.
    ///
    /// # Errors
    /// If there is no such device.
    pub fn bad_superblocks(&self, devid: DevId) -> Result<Vec<(u64, String)>> {
        let member = self.known(devid)?;
        let mut seen = member.seen();
        let newest = match *seen {
            Seen::Valid { generation, .. } => generation,
            Seen::Unknown | Seen::Invalid => self.superblock().generation.get(),
        };
        let mut bad = Vec::new();
        for offset in SUPERBLOCK_OFFSETS {
            if offset + SUPERBLOCK_SIZE as u64 > member.device.len().min(member.item().total_bytes.get()) {
                continue;
            }
            member.device.forget(offset, SUPERBLOCK_SIZE as u64);
            let copy = read_copy(&*member.device, offset);
            let is_damaged = matches!(copy, Copy::Bad(_));
            let Some(problem) = self.problem_of(member, newest, copy) else { continue };
            if offset == SUPERBLOCK_OFFSETS[0] && is_damaged && !self.is_read_only() {
                *seen = Seen::Invalid;
            }
            member.counters.note(Fault::Corruption);
            bad.push((offset, problem));
        }
        Ok(bad)
    }

    fn problem_of(&self, member: &Member, generation: u64, copy: Copy) -> Option<String> {
        match copy {
            Copy::Unread(None) => None,
            Copy::Unread(Some(error)) => Some(error.to_string()),
            Copy::Foreign => Some("no superblock is there".into()),
            Copy::Bad(corruption) => Some(corruption.problem),
            Copy::Good(sb) => self.disagreement(member, generation, &sb),
        }
    }

    fn disagreement(&self, member: &Member, generation: u64, sb: &Superblock) -> Option<String> {
        if sb.block_fsid() != self.geometry_ref().fsid && member.role() != Role::Seed {
            return Some("it is of another filesystem".into());
        }
        if DevId(sb.dev_item.devid.get()) != member.devid() || sb.dev_item.uuid != member.id.uuid {
            return Some(format!("it is of device {}", sb.dev_item.devid));
        }
        let is_old = sb.generation.get() != generation && member.role() != Role::Seed;
        is_old.then(|| format!("generation {}, should be {generation}", sb.generation))
    }

    fn known(&self, devid: DevId) -> Result<&Member> {
        let unknown = || Error::Unsupported(format!("there is no device {devid}"));
        self.member(devid).map(|index| &self.members[index]).ok_or_else(unknown)
    }
}

fn extents_of(mapped: &Mapped, devid: DevId) -> Vec<DeviceExtent> {
    let stripes = mapped.chunk.stripes.iter().enumerate().filter(|(_, stripe)| DevId(stripe.devid.get()) == devid);
    stripes.map(|(stripe, at)| extent_of(mapped, stripe, at)).collect()
}

fn extent_of(mapped: &Mapped, stripe: usize, at: &Stripe) -> DeviceExtent {
    let length = mapped.grid.stripe_length(mapped.chunk.length());
    DeviceExtent { physical: at.offset.get(), length, chunk: mapped.start, stripe }
}

fn parts_of(mapped: &Mapped, extent: &DeviceExtent, range: &Range<u64>) -> Vec<StoredPart> {
    let end = range.end.min(extent.length);
    if mapped.grid.is_straight() {
        let held = Held::Bytes(Logical(mapped.start.0 + range.start));
        let part = StoredPart { physical: extent.physical + range.start, len: end.saturating_sub(range.start), held };
        return if part.len > 0 { vec![part] } else { Vec::new() };
    }
    let rows = range.start / STRIPE_LEN..end.div_ceil(STRIPE_LEN);
    rows.filter_map(|row| part_of_row(mapped, extent, row)).collect()
}

fn part_of_row(mapped: &Mapped, extent: &DeviceExtent, row: u64) -> Option<StoredPart> {
    let (grid, physical) = (&mapped.grid, extent.physical + row * STRIPE_LEN);
    let first = row * grid.columns * STRIPE_LEN;
    let left = |column: u64| mapped.chunk.length().saturating_sub(first + column * STRIPE_LEN).min(STRIPE_LEN);
    let at = |column: u64| Logical(mapped.start.0 + first + column * STRIPE_LEN);
    let part = match grid.part_of(row, extent.stripe) {
        Part::Data(column) => StoredPart { physical, len: left(column), held: Held::Bytes(at(column)) },
        parity => {
            let kind = if parity == Part::P { ParityKind::P } else { ParityKind::Q };
            let held = Held::Parity(Parity { row: at(0), columns: grid.columns, kind });
            StoredPart { physical, len: STRIPE_LEN, held }
        }
    };
    (part.len > 0).then_some(part)
}
