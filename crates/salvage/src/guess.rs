//! What a superblock would say, where there is none: from the tree blocks themselves.

use std::collections::HashMap;

use butterfs_format::block::{BlockHeader, HEADER_SIZE, MAX_LEVEL, MIXED_BACKREF_REV};
use butterfs_format::superblock::{Incompat, MAGIC, SUPERBLOCK_OFFSETS};
use butterfs_format::validate::Geometry;
use butterfs_format::{ChecksumType, Generation, Superblock, TreeId};
use zerocopy::{FromBytes, FromZeros};

use crate::Devices;
use crate::chunks::Truth;
use crate::scan::{Blocks, Name, whole, windows};

/// Blocks that must agree before they are believed; all, if there are fewer.
const ENOUGH: usize = 32;
/// The unit in which blocks are looked for: the smallest sector that there is.
const SECTOR: usize = 4096;
/// The sizes of tree blocks, the usual one first.
const NODE_SIZES: [usize; 5] = [16 << 10, 4 << 10, 32 << 10, 64 << 10, 8 << 10];

/// What most tree blocks on the devices have in common.
pub fn geometry(devices: &Devices) -> Option<Geometry> {
    let mut votes: HashMap<([u8; 16], usize, u16), usize> = HashMap::new();
    let (mut bytes, mut count) = (Vec::new(), 0);
    for window in windows(devices, SECTOR as u64, &whole(devices)) {
        let device = &*devices[window.device];
        let end = (window.range.end + NODE_SIZES[3] as u64).min(device.len());
        bytes.resize((end - window.range.start) as usize, 0);
        if device.read_at(window.range.start, &mut bytes).is_err() {
            continue;
        }
        for at in (0..(window.range.end - window.range.start) as usize).step_by(SECTOR) {
            if let Some((fsid, nodesize, csum_type)) = bytes.get(at..).and_then(recognise) {
                *votes.entry((fsid, nodesize, csum_type as u16)).or_default() += 1;
                count += 1;
            }
        }
        if count >= ENOUGH {
            break;
        }
    }
    let ((fsid, nodesize, csum_type), _) = votes.into_iter().max_by_key(|(_, votes)| *votes)?;
    Some(Geometry {
        nodesize: nodesize as u32,
        sectorsize: SECTOR as u32,
        csum_type: ChecksumType::from_number(csum_type)?,
        fsid,
        seeds: [None; Geometry::MAX_SEEDS],
    })
}

/// A tree block's UUID, size and checksum, if there is one at the front of these bytes.
fn recognise(bytes: &[u8]) -> Option<([u8; 16], usize, ChecksumType)> {
    let header = BlockHeader::ref_from_bytes(bytes.get(..HEADER_SIZE)?).ok()?;
    let plausible = header.level < MAX_LEVEL
        && header.flags.get() & MIXED_BACKREF_REV != 0
        && header.bytenr.get() != 0
        && header.bytenr.get().is_multiple_of(SECTOR as u64)
        && header.fsid != [0; 16]
        && header.nritems.get() < NODE_SIZES[3] as u32;
    if !plausible {
        return None;
    }
    let sizes = NODE_SIZES.into_iter().filter_map(|size| Some((size, bytes.get(..size)?)));
    let pairs = sizes.flat_map(|(size, block)| ChecksumType::ALL.map(|csum_type| (size, block, csum_type)));
    let mut fits = pairs.filter(|(_, block, csum_type)| csum_type.matches_block(block));
    fits.next().map(|(size, _, csum_type)| (header.fsid, size, csum_type))
}

/// The roots of the newest version of a tree: each commit that changes a tree writes its root anew, above all else that
/// it writes of it. There are several if it did so more than once; allocation goes up, so the last is probably the
/// highest, and comes first.
pub fn newest_roots(blocks: &Blocks, owner: TreeId, newest: Generation) -> Vec<(Name, u8)> {
    let own = || blocks.iter().filter(|((_, generation), found)| found.owner == owner && *generation <= newest);
    let rank = |name: Name, level: u8| (name.1, level);
    let best = own().map(|(name, found)| rank(name, found.level)).max();
    let all = own().filter(|(name, found)| Some(rank(*name, found.level)) == best);
    let mut roots: Vec<_> = all.map(|(name, found)| (name, found.level)).collect();
    roots.sort_by_key(|(name, _)| std::cmp::Reverse(name.0));
    roots
}

fn newest_root(blocks: &Blocks, owner: TreeId) -> Option<(Name, u8)> {
    newest_roots(blocks, owner, Generation(u64::MAX)).into_iter().next()
}

/// A superblock with what the blocks say. Features are not known, and not needed for reading.
pub fn superblock(blocks: &Blocks, truth: &Truth) -> Superblock {
    let mut sb = Superblock::new_zeroed();
    let geometry = blocks.geometry();
    let any = truth.chunks.values().next();
    (sb.magic, sb.fsid, sb.bytenr) = (MAGIC, geometry.fsid, SUPERBLOCK_OFFSETS[0].into());
    sb.nodesize = geometry.nodesize.into();
    sb.sectorsize = any.map_or(geometry.sectorsize.into(), |chunk| chunk.header.sector_size);
    sb.csum_type = (geometry.csum_type as u16).into();
    sb.incompat_flags = Incompat::MIXED_BACKREF.bits().into();
    // Where no root tree block is of the newest generation, that of it is lost.
    let newest = blocks.iter().map(|((_, generation), _)| generation).max().unwrap_or_default();
    // Without any root tree block the address is one that nothing has.
    let nothing = u64::from(sb.sectorsize.get());
    let root = newest_root(blocks, TreeId::ROOT);
    sb.generation = newest.0.into();
    sb.root = root.map_or(nothing, |((at, _), _)| at.0).into();
    sb.root_level = root.map_or(0, |(_, level)| level);
    let chunk_root = newest_root(blocks, TreeId::CHUNK);
    sb.chunk_root = chunk_root.map_or(nothing, |((at, _), _)| at.0).into();
    sb.chunk_root_level = chunk_root.map_or(0, |(_, level)| level);
    sb.chunk_root_generation =
        chunk_root.map_or(0, |((_, generation), _)| generation.0).min(sb.generation.get()).into();
    sb.num_devices = (truth.devices.len().max(1) as u64).into();
    let total: u64 = truth.devices.values().fold(0, |sum, item| sum.saturating_add(item.total_bytes.get()));
    sb.total_bytes = total.max(1).into();
    // One entry; who opens with chunks that are given does not look at it.
    sb.sys_chunk_array_size = 97.into();
    sb
}
