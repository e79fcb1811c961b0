//! Which root tree to begin with: that of the last commit, or of an older one.
//!
//! An older one is found among the backups in the superblock, or else by looking at every tree block that
//! there is: its blocks may still be there, since space is not used again at once.
//!
//! # Bounds
//! A search reads all metadata once, a piece at a time.

use std::sync::Arc;

use butterfs_format::items::{BlockGroupFlags, RootItem};
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::Volume;

use super::Rescue;
use super::open::OpenOptions;
use crate::error::{Error, Result};
use crate::tree::TreeReader;
use crate::tx::{BadGroups, Gate, GateSettings, Transaction};

/// Bytes that a search reads at once; a multiple of every size of block.
const PIECE: u64 = 1 << 20;

/// Trees that a filesystem cannot be read without.
const NEEDED: [TreeId; 1] = [TreeId::FS];
/// Trees that it can be read without, when that is asked for.
const USEFUL: [TreeId; 3] = [TreeId::EXTENT, TreeId::DEV, TreeId::CSUM];

/// Opens the trees that were asked for; gives the superblock that leads to them, too.
pub(super) fn open(volume: &Arc<Volume>, options: &OpenOptions, settings: GateSettings) -> Result<(Gate, Superblock)> {
    let current = volume.superblock();
    if let Some(generation) = options.generation {
        return open_generation(volume, options, settings, generation);
    }
    let failed = match open_at(volume, options, settings, &current) {
        Ok(gate) => return Ok((gate, current)),
        Err(error) => error,
    };
    if !options.rescue.contains(Rescue::USE_BACKUP_ROOT) {
        return Err(failed);
    }
    for old in current.backups() {
        if let Ok(gate) = open_at(volume, options, settings, &old) {
            tracing::warn!(generation = %old.generation(), error = %failed, "using an older root tree");
            return Ok((gate, old));
        }
    }
    Err(failed)
}

/// Opens the trees of one commit, whatever became of them.
fn open_generation(
    volume: &Arc<Volume>,
    options: &OpenOptions,
    settings: GateSettings,
    generation: Generation,
) -> Result<(Gate, Superblock)> {
    let current = volume.superblock();
    let known = std::iter::once(current).chain(current.backups()).filter(|sb| sb.generation() == generation);
    let mut failed = Error::Unsupported(format!("no root tree of generation {generation} was found"));
    for sb in known.chain(search(volume, generation)?) {
        match open_at(volume, options, settings, &sb) {
            Ok(gate) => return Ok((gate, sb)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn open_at(volume: &Arc<Volume>, options: &OpenOptions, settings: GateSettings, sb: &Superblock) -> Result<Gate> {
    let lenient = options.rescue.contains(Rescue::IGNORE_BAD_ROOTS);
    // Chunks come and go: an older root tree does not know all that there are now.
    let older = sb.generation() != volume.superblock().generation();
    let bad_groups = if lenient || older { BadGroups::TakeAsFull } else { BadGroups::Refuse };
    let gate = Gate::open_at(volume.clone(), settings, sb, bad_groups)?;
    if options.rescue.contains(Rescue::USE_BACKUP_ROOT) || older {
        gate.view(|tx| require(tx, &NEEDED))?;
        if !lenient {
            gate.view(|tx| require(tx, &USEFUL))?;
        }
    }
    Ok(gate)
}

/// Fails unless these trees have roots that can be read.
fn require(tx: &Transaction, trees: &[TreeId]) -> Result<()> {
    trees.iter().try_for_each(|tree| tx.block(*tree, &tx.root(*tree)?.into()).map(drop))
}

/// Superblocks for all root trees of a generation that can be found. The highest blocks come first.
fn search(volume: &Volume, generation: Generation) -> Result<Vec<Superblock>> {
    let mut found: Vec<TreeBlock> = Vec::new();
    for (start, chunk) in volume.chunks() {
        if chunk.flags().contains(BlockGroupFlags::METADATA) {
            search_chunk(volume, start, chunk.length(), generation, &mut found)?;
        }
    }
    found.sort_by_key(|block| std::cmp::Reverse(block.level()));
    // A lower block is a part of the tree unless it is all of it: then it has the first root item.
    let top = found.first().map(TreeBlock::level);
    let current = volume.superblock();
    let superblock = |block: TreeBlock| {
        let mut old = current;
        (old.root, old.root_level) = (block.bytenr().0.into(), block.level());
        old.generation = generation.0.into();
        old.log_root = 0.into();
        old
    };
    Ok(found.into_iter().filter(|block| Some(block.level()) == top).map(superblock).collect())
}

fn search_chunk(
    volume: &Volume,
    start: Logical,
    len: u64,
    generation: Generation,
    found: &mut Vec<TreeBlock>,
) -> Result<()> {
    let nodesize = volume.geometry().nodesize as usize;
    let mut at = 0;
    while at < len {
        let mut bytes = vec![0; PIECE.min(len - at) as usize];
        let base = Logical(start.0 + at);
        at += bytes.len() as u64;
        if let Err(error) = volume.read(base, &mut bytes) {
            tracing::warn!(logical = %base, %error, "part of the metadata cannot be searched");
            continue;
        }
        for (number, block) in bytes.chunks_exact(nodesize).enumerate() {
            let bytenr = Logical(base.0 + (number * nodesize) as u64);
            let block = TreeBlock::from_bytes(block.to_vec());
            if block.bytenr() != bytenr || block.generation() != generation || block.owner() != TreeId::ROOT {
                continue;
            }
            let owner = Some(TreeId::ROOT);
            let expected = Expected { generation: Some(generation), owner, ..Expected::at(bytenr) };
            if let Ok(block) = volume.read_block(&expected)
                && begins_the_tree(&block)
            {
                found.push(block);
            }
        }
    }
    Ok(())
}

/// The root tree begins with the root item of the extent tree.
fn begins_the_tree(block: &TreeBlock) -> bool {
    let key = block.key(0);
    if key.objectid != TreeId::EXTENT.0 || key.item_type != ItemType::ROOT_ITEM {
        return false;
    }
    !block.is_leaf() || RootItem::parse(block.data(0)).is_ok()
}
