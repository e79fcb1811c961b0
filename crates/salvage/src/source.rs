//! What files are read from: devices as one address space, opened whatever is wrong with superblock and chunk tree,
//! and beside it all tree blocks that lie on them, looked for when one is wanted that cannot be read.
//!
//! # Locking
//! The search runs once; who wants a block meanwhile waits for it.

use std::sync::{Arc, OnceLock};

use butterfs_format::items::DevItem;
use butterfs_format::superblock::Incompat;
use butterfs_format::validate::item::check_item;
use butterfs_format::validate::{Checksum, Expected, Geometry, check_structure};
use butterfs_format::{Generation, Key, Logical, Superblock, TreeBlock};
use butterfs_volume::{
    BadChunks, Error as VolumeError, Missing, OpenMode, OpenOptions, Volume, stripe_length, superblock_copy,
    with_superblock,
};

use crate::chunks::{self, Truth};
use crate::error::{Error, Result};
use crate::padded::padded;
use crate::replayed::Replayed;
use crate::scan::{Blocks, Part};
use crate::{Devices, assign, guess};

/// Features that change what tree blocks and file items mean.
const FOREIGN: [(Incompat, &str); 2] =
    [(Incompat::EXTENT_TREE_V2, "extent-tree-v2"), (Incompat::REMAP_TREE, "remap-tree")];

/// Which superblock to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Begin {
    /// The first that is good; without any, from the tree blocks.
    #[default]
    Usual,
    /// This copy: 0, 1 or 2.
    Copy(usize),
}

/// A tree block, and which of its items break their rules.
#[derive(Debug)]
pub struct Block {
    /// The block.
    pub block: TreeBlock,
    /// Slots of a leaf that must not be looked at, in order.
    pub bad: Vec<usize>,
}

impl Block {
    /// The items that can be used.
    pub fn items(&self) -> impl Iterator<Item = (Key, &[u8])> {
        let good = (0..self.block.len()).filter(|slot| self.block.is_leaf() && self.bad.binary_search(slot).is_err());
        good.map(|slot| (self.block.key(slot), self.block.data(slot)))
    }
}

/// A filesystem to be read.
pub struct Source {
    devices: Devices,
    volume: Arc<Volume>,
    superblock: Superblock,
    blocks: OnceLock<Blocks>,
    replayed: Option<Box<dyn Replayed>>,
    /// How it was opened, where not in the usual way.
    pub notes: Vec<String>,
}

impl Source {
    /// Opens the devices.
    ///
    /// # Errors
    /// If there is no trace of a filesystem, or it is none that can be read.
    pub fn open(devices: &Devices, begin: Begin) -> Result<Self> {
        let shown = show(devices, begin)?;
        let usual = OpenOptions { missing: Missing::Accept, ..OpenOptions::new(OpenMode::ReadOnly) };
        let options = OpenOptions { bad_chunks: BadChunks::LeaveOut, ..usual };
        let mut source = match Volume::open_with(shown.clone(), &options) {
            Ok(volume) => Self::new(shown, volume),
            Err(error @ (VolumeError::Unsupported(_) | VolumeError::Busy(_))) => return Err(error.into()),
            Err(error) => Self::rebuild(&shown, &options, error)?,
        };
        let missing = source.volume.missing_devices();
        if !missing.is_empty() {
            source
                .notes
                .push(format!("{}; what other devices make up for is read", VolumeError::MissingDevices(missing)));
        }
        source.note_features()?;
        Ok(source)
    }

    fn new(devices: Devices, volume: Volume) -> Self {
        let superblock = volume.superblock();
        Self {
            devices,
            volume: Arc::new(volume),
            superblock,
            blocks: OnceLock::new(),
            replayed: None,
            notes: Vec::new(),
        }
    }

    /// Opens without superblock or chunk tree: with what the tree blocks say.
    fn rebuild(devices: &Devices, options: &OpenOptions, why: VolumeError) -> Result<Self> {
        let known = devices.iter().map(|device| any_superblock(&**device)).collect::<Vec<_>>();
        let newest = known.iter().flatten().max_by_key(|sb| sb.generation.get()).copied();
        let geometry = newest.as_ref().map(Geometry::of).or_else(|| guess::geometry(devices));
        let Some(geometry) = geometry else { return Err(why.into()) };
        let bound = newest.map_or(Generation(u64::MAX), |sb| sb.generation());
        let blocks = Blocks::scan(devices, &geometry, bound);
        let (truth, sb) = describe(&blocks, newest, &known);
        if truth.chunks.is_empty() {
            return Err(why.into());
        }
        let (shown, left_out) = name_devices(devices, (&blocks, &truth, &sb), &known);
        if shown.is_empty() {
            let text = "cannot tell which devices of the filesystem these are";
            return Err(Error::Unknown(format!("{}: {text}", left_out.join(", "))));
        }
        let chunks: Vec<_> = truth.chunks.iter().map(|(start, chunk)| (Logical(*start), chunk.clone())).collect();
        let items: Vec<_> = truth.devices.values().copied().collect();
        let volume = Volume::open_with_chunks(shown.clone(), options, blocks.chunk_tree_uuid, &chunks, &items)?;
        let mut source = Self::new(shown, volume);
        let what = if newest.is_some() { "the chunk tree" } else { "superblock and chunk tree" };
        source.notes.push(format!("{why}"));
        source.notes.push(format!("{what} replaced by what {} tree blocks on the devices say", blocks.iter().count()));
        for name in left_out {
            source.notes.push(format!("{name}: left out: cannot tell which device of the filesystem it is"));
        }
        let _ = source.blocks.set(blocks);
        Ok(source)
    }

    fn note_features(&mut self) -> Result<()> {
        let incompat = self.superblock.incompat();
        if let Some((_, name)) = FOREIGN.iter().find(|(bit, _)| incompat.contains(*bit)) {
            return Err(
                VolumeError::Unsupported(format!("the filesystem uses {name}, which is not supported yet")).into()
            );
        }
        for bit in unknown_bits(incompat.difference(Incompat::all()).bits()) {
            let text =
                format!("unknown incompat feature, bit {bit} ({:#x}): what it changes is not understood", 1u64 << bit);
            self.notes.push(text);
        }
        Ok(())
    }

    /// With what the replay of its log changed.
    pub fn with_replayed(self, replayed: Box<dyn Replayed>) -> Self {
        Self { replayed: Some(replayed), ..self }
    }

    /// With one more thing to be told.
    pub fn with_note(mut self, note: String) -> Self {
        self.notes.push(note);
        self
    }

    /// What the replay of its log changed.
    pub fn replayed(&self) -> Option<&dyn Replayed> {
        self.replayed.as_deref()
    }

    /// The address space.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// The superblock, as it is or as it was made up.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What is known of tree blocks and sectors.
    pub fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }

    /// Every tree block that is where tree blocks may be. The first call looks for them.
    pub fn blocks(&self) -> &Blocks {
        self.blocks.get_or_init(|| {
            let parts = self.metadata_parts();
            Blocks::scan_parts(&self.devices, &self.geometry(), Generation(u64::MAX), &parts)
        })
    }

    /// The parts of the devices where chunks for metadata lie.
    fn metadata_parts(&self) -> Vec<Part> {
        use butterfs_format::items::BlockGroupFlags as Flags;
        let numbers: Vec<_> = self.devices.iter().map(|device| superblock_copy(&**device, 0).ok()).collect();
        let place = |devid: u64| numbers.iter().position(|sb| sb.is_some_and(|sb| sb.dev_item.devid.get() == devid));
        let mut parts = Vec::new();
        for (start, chunk) in self.volume.chunks() {
            if !chunk.flags().intersects(Flags::METADATA | Flags::SYSTEM) {
                continue;
            }
            let Ok(length) = stripe_length(start, &chunk) else { continue };
            for stripe in &chunk.stripes {
                let offset = stripe.offset.get();
                let Some(device) = place(stripe.devid.get()) else { continue };
                parts.push(Part { device, range: offset..offset.saturating_add(length) });
            }
        }
        parts.sort_by_key(|part| (part.device, part.range.start));
        parts
    }

    /// Reads a tree block: any copy that is right in all; else any whose checksum is right and which is well formed;
    /// else the same block wherever it lies.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(&self, expected: &Expected) -> std::result::Result<Block, String> {
        if let Some(block) = self.read_replayed(expected) {
            return Ok(self.judged(block));
        }
        let failed = match self.volume.read_block(expected) {
            Ok(block) => return Ok(Block { block, bad: Vec::new() }),
            Err(error) => error.to_string(),
        };
        let ways = self.volume.copies(expected.bytenr).unwrap_or(0);
        let lenient = (0..ways).find_map(|way| self.read_way(expected, way));
        let elsewhere = || self.blocks().read((expected.bytenr, expected.generation?)).filter(|b| fits(b, expected));
        lenient.or_else(elsewhere).map(|block| self.judged(block)).ok_or(failed)
    }

    fn read_replayed(&self, expected: &Expected) -> Option<TreeBlock> {
        let generation = expected.generation.filter(|generation| *generation > self.superblock.generation())?;
        let block = self.replayed()?.block((expected.bytenr, generation), expected.level?)?;
        fits(&block, expected).then_some(block)
    }

    fn read_way(&self, expected: &Expected, way: usize) -> Option<TreeBlock> {
        let mut bytes = vec![0; self.geometry().nodesize as usize];
        self.volume.read_copy(expected.bytenr, &mut bytes, way).ok()?;
        let block = TreeBlock::from_bytes(bytes);
        check_structure(&block, &self.geometry(), expected, Checksum::Verify).is_ok().then_some(block)
    }

    /// A block as it was found, with its bad items.
    pub fn judged(&self, block: TreeBlock) -> Block {
        let geometry = self.geometry();
        let slots = if block.is_leaf() { 0..block.len() } else { 0..0 };
        let bad = slots.filter(|slot| check_item(&block, *slot, &geometry).is_err()).collect();
        Block { block, bad }
    }
}

/// Whether a block that was found by its name is what the pointer says.
fn fits(block: &TreeBlock, expected: &Expected) -> bool {
    let first = expected.first_key.is_none_or(|key| block.is_empty() || block.key(0) == key);
    first && expected.level.is_none_or(|level| block.level() == level)
}

/// The numbers of the bits that are set.
fn unknown_bits(bits: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| bits & (1 << bit) != 0)
}

/// The devices with the superblock that was asked for, as long as their superblocks say.
fn show(devices: &Devices, begin: Begin) -> Result<Devices> {
    let mut shown = Devices::new();
    for device in devices {
        let device = match begin {
            Begin::Usual => device.clone(),
            Begin::Copy(copy) => with_superblock(device.clone(), &superblock_copy(&**device, copy)?),
        };
        let wanted = any_superblock(&*device).map_or(0, |sb| sb.dev_item.total_bytes.get());
        shown.push(padded(device, wanted));
    }
    Ok(shown)
}

/// The first good superblock of a device.
fn any_superblock(device: &dyn butterfs_volume::BlockDevice) -> Option<Superblock> {
    (0..3).find_map(|copy| superblock_copy(device, copy).ok())
}

/// Chunks and superblock as the blocks have them.
fn describe(blocks: &Blocks, newest: Option<Superblock>, known: &[Option<Superblock>]) -> (Truth, Superblock) {
    let Some(sb) = newest else {
        let truth = chunks::guess(blocks);
        let sb = guess::superblock(blocks, &truth);
        return (truth, sb);
    };
    let own: Vec<DevItem> = known.iter().flatten().map(|sb| sb.dev_item).collect();
    let truth = chunks::find(blocks, &sb, &own).ok().filter(|truth| !truth.chunks.is_empty());
    (truth.unwrap_or_else(|| chunks::guess(blocks)), sb)
}

/// The devices with superblocks that say which they are; and the names of those of which it cannot be told.
fn name_devices(
    devices: &Devices,
    (blocks, truth, sb): (&Blocks, &Truth, &Superblock),
    known: &[Option<Superblock>],
) -> (Devices, Vec<String>) {
    let own: Vec<Option<DevItem>> = known.iter().map(|sb| sb.map(|sb| sb.dev_item)).collect();
    let found = assign::device_items(blocks, truth, devices, &own);
    let (mut shown, mut left_out) = (Devices::new(), Vec::new());
    for (number, device) in devices.iter().enumerate() {
        match own[number].or_else(|| found.get(&number).copied()) {
            Some(item) => {
                let device = padded(device.clone(), item.total_bytes.get());
                shown.push(with_superblock(device, &with_item(*sb, item)));
            }
            None => left_out.push(device.name()),
        }
    }
    (shown, left_out)
}

/// A superblock as it would lie on the device of this item.
fn with_item(mut sb: Superblock, mut item: DevItem) -> Superblock {
    item.fsid = sb.block_fsid();
    sb.dev_item = item;
    sb
}
