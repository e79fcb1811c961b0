//! The checks of a tree block: after each read and before each write, by one function.
//!
//! [`check_block`] looks at the block as a whole (checksum, address, UUID, generation, level, owner,
//! counts, key order, item bounds) and then, in a leaf, at each item by its own rules
//! ([`item::check_item`]). What it passes can be read by the views of this crate without error.

pub mod item;

use crate::block::{ITEM_HEADER_SIZE, MAX_LEVEL, TreeBlock};
use crate::checksum::ChecksumType;
use crate::error::{Corruption, Result};
use crate::ids::{Generation, Logical, TreeId};
use crate::key::Key;

/// What is known of a filesystem's blocks before any is read.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Size of a tree block, in bytes.
    pub nodesize: u32,
    /// Size of a sector, in bytes.
    pub sectorsize: u32,
    /// The checksum algorithm.
    pub csum_type: ChecksumType,
    /// The UUID that tree blocks carry.
    pub fsid: [u8; 16],
    /// Those that blocks of seed filesystems carry, which this one grew from.
    pub seeds: [Option<[u8; 16]>; Self::MAX_SEEDS],
}

impl Geometry {
    /// The longest chain of seeds that is understood.
    pub const MAX_SEEDS: usize = 8;

    /// Makes the UUID of a seed's blocks known; the filesystem's own is known already.
    ///
    /// # Errors
    /// If there are more seeds than are understood.
    pub fn add_seed(&mut self, fsid: [u8; 16]) -> std::result::Result<(), String> {
        if self.knows(&fsid) {
            return Ok(());
        }
        let place = self.seeds.iter_mut().find(|seed| seed.is_none());
        let place = place.ok_or_else(|| format!("more than {} seeds", Self::MAX_SEEDS))?;
        *place = Some(fsid);
        Ok(())
    }

    /// Whether tree blocks may carry this UUID.
    fn knows(&self, fsid: &[u8; 16]) -> bool {
        self.fsid == *fsid || self.seeds.iter().flatten().any(|seed| seed == fsid)
    }

    /// The geometry that a superblock describes.
    pub fn of(sb: &crate::Superblock) -> Self {
        Self {
            nodesize: sb.nodesize.get(),
            sectorsize: sb.sectorsize.get(),
            csum_type: sb.checksum_type(),
            fsid: sb.block_fsid(),
            seeds: [None; Self::MAX_SEEDS],
        }
    }
}

/// What the pointer that led to a block says of it.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The block's address.
    pub bytenr: Logical,
    /// The block's level, if known.
    pub level: Option<u8>,
    /// The block's generation, if known.
    pub generation: Option<Generation>,
    /// The block's first key, if known.
    pub first_key: Option<Key>,
    /// The tree, where blocks can belong to one tree only; `None` for subvolumes, whose blocks keep
    /// the owner they were made for.
    pub owner: Option<TreeId>,
}

impl Expected {
    /// Only the address is known.
    pub fn at(bytenr: Logical) -> Self {
        Self { bytenr, level: None, generation: None, first_key: None, owner: None }
    }
}

/// Whether the checksum is to be verified; a block that was made in memory has none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The block was read.
    Verify,
    /// The block is in memory and gets its checksum later.
    Skip,
}

/// Checks a block whole.
///
/// # Errors
/// The first rule that is broken, with the block's address and, in a leaf, slot and key.
pub fn check_block(block: &TreeBlock, geometry: &Geometry, expected: &Expected, checksum: Checksum) -> Result<()> {
    check_structure(block, geometry, expected, checksum)?;
    if block.is_leaf() { check_items(block, geometry) } else { Ok(()) }
}

/// Checks a block, but not the content of its items: for those who can use the good items of a leaf
/// that has bad ones too.
///
/// # Errors
/// The first rule that is broken, with the block's address and, in a leaf, slot and key.
pub fn check_structure(block: &TreeBlock, geometry: &Geometry, expected: &Expected, checksum: Checksum) -> Result<()> {
    check_header(block, geometry, expected, checksum)
        .map_err(|problem| Corruption::new(format!("tree block {}", expected.bytenr), problem))?;
    if block.is_leaf() { check_leaf(block, geometry) } else { check_node(block, geometry) }
}

type Check = std::result::Result<(), String>;

/// `Ok` if the rule holds, else the problem.
pub(crate) fn require(holds: bool, problem: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(problem()) }
}

fn check_header(block: &TreeBlock, geometry: &Geometry, expected: &Expected, checksum: Checksum) -> Check {
    let header = block.header();
    require(block.bytes().len() == geometry.nodesize as usize, || {
        format!("block of {} bytes, nodesize is {}", block.bytes().len(), geometry.nodesize)
    })?;
    if checksum == Checksum::Verify {
        require(geometry.csum_type.matches_block(block.bytes()), || {
            format!("{} checksum does not match", geometry.csum_type)
        })?;
    }
    require(block.bytenr() == expected.bytenr, || format!("header says address {}", header.bytenr))?;
    require(geometry.knows(&header.fsid), || "header has another fsid".into())?;
    require(header.level < MAX_LEVEL, || format!("level {} is above 7", header.level))?;
    check_count(block, geometry)?;
    check_pointer(block, expected)
}

/// Whether a block that is whole is the one that a pointer means.
///
/// # Errors
/// What the pointer says otherwise.
pub fn check_pointer(block: &TreeBlock, expected: &Expected) -> std::result::Result<(), String> {
    let header = block.header();
    if let Some(level) = expected.level {
        require(header.level == level, || format!("level is {}, parent wants {level}", header.level))?;
    }
    if let Some(generation) = expected.generation {
        require(block.generation() == generation, || {
            format!("generation is {}, parent wants {generation}", header.generation)
        })?;
    }
    if let Some(owner) = expected.owner {
        require(block.owner() == owner, || format!("owner is {}, want {owner}", header.owner))?;
    }
    match expected.first_key {
        Some(key) if !block.is_empty() => {
            require(block.key(0) == key, || format!("first key is {}, parent wants {key}", block.key(0)))
        }
        _ => Ok(()),
    }
}

fn check_count(block: &TreeBlock, geometry: &Geometry) -> Check {
    let (len, nodesize) = (block.len(), geometry.nodesize as usize);
    if block.is_leaf() {
        let most = TreeBlock::leaf_capacity(nodesize) / ITEM_HEADER_SIZE;
        require(len <= most, || format!("{len} items, at most {most} fit"))?;
        // Only trees that may be empty may have an empty (root) leaf.
        let may_be_empty = !matches!(
            block.owner(),
            TreeId::ROOT | TreeId::CHUNK | TreeId::DEV | TreeId::FS | TreeId::DATA_RELOC | TreeId::EXTENT
        );
        require(len > 0 || may_be_empty, || format!("empty leaf in tree {}", block.owner()))
    } else {
        let most = TreeBlock::node_capacity(nodesize);
        require((1..=most).contains(&len), || format!("{len} pointers, want 1 to {most}"))
    }
}

fn check_node(block: &TreeBlock, geometry: &Geometry) -> Result<()> {
    for slot in 0..block.len() {
        let ptr = block.ptr(slot);
        let at = ptr.blockptr.get();
        let fault = require(at != 0 && at.is_multiple_of(u64::from(geometry.sectorsize)), || {
            format!("pointer to {at} is zero or not aligned")
        })
        .and_then(|()| {
            require(ptr.generation.get() <= block.generation().0, || {
                format!("child generation {} is above the node's {}", ptr.generation, block.generation())
            })
        })
        .and_then(|()| check_order(block, slot));
        fault.map_err(|problem| corrupt_slot(block, slot, problem))?;
    }
    Ok(())
}

fn check_order(block: &TreeBlock, slot: usize) -> Check {
    require(slot == 0 || block.key(slot - 1) < block.key(slot), || {
        format!("key is not above the one before, {}", block.key(slot - 1))
    })
}

fn check_leaf(block: &TreeBlock, geometry: &Geometry) -> Result<()> {
    check_item_bounds(block, geometry)?;
    (0..block.len()).try_for_each(|slot| check_order(block, slot).map_err(|problem| corrupt_slot(block, slot, problem)))
}

fn check_items(block: &TreeBlock, geometry: &Geometry) -> Result<()> {
    (0..block.len()).try_for_each(|slot| {
        item::check_item(block, slot, geometry).map_err(|problem| corrupt_slot(block, slot, problem))
    })
}

/// Item data must lie back to back from the block's end down, clear of the item headers.
fn check_item_bounds(block: &TreeBlock, geometry: &Geometry) -> Result<()> {
    let mut end = TreeBlock::leaf_capacity(geometry.nodesize as usize) as u64;
    let headers_end = (block.len() * ITEM_HEADER_SIZE) as u64;
    for slot in 0..block.len() {
        let item = block.item(slot);
        let (offset, size) = (u64::from(item.offset.get()), u64::from(item.size.get()));
        require(offset + size == end, || format!("item data ends at {}, want {end}", offset + size))
            .and_then(|()| {
                require(offset >= headers_end, || format!("item data at {offset} overlaps the item headers"))
            })
            .map_err(|problem| corrupt_slot(block, slot, problem))?;
        end = offset;
    }
    Ok(())
}

fn corrupt_slot(block: &TreeBlock, slot: usize, problem: String) -> Corruption {
    Corruption::new(
        format!("tree block {} of tree {} slot {slot} key {}", block.bytenr(), block.owner(), block.key(slot)),
        problem,
    )
}
