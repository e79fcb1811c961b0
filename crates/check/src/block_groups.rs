//! Block groups against chunks, against the extents in them, and against the superblock.

use butterfs_format::TreeId;
use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, BlockGroupItem};
use butterfs_format::superblock::CompatRo;

use crate::chunks::Chunks;
use crate::context::Context;
use crate::extent_tree::{BlockGroups, MAX_TOLD, extents_within};
use crate::finding::{Kind, Place};
use crate::references::Extent;

/// Compares block groups with chunks, with the extents in them, and with the superblock.
pub(crate) fn check(context: &mut Context<'_>, groups: &BlockGroups, chunks: &Chunks) {
    match_chunks(context, groups, chunks);
    let mut total = 0u64;
    for (start, (len, item)) in groups {
        let used = used_within(context, *start, *len, item);
        total = total.saturating_add(item.used.get());
        if used != item.used.get() {
            let problem = format!("used is {}, its extents take {used}", item.used);
            context.error(Kind::Usage, Place::block_group(*start), problem);
        }
    }
    let super_used = context.superblock().bytes_used.get();
    if super_used != total {
        context.error(
            Kind::Usage,
            Place::superblock(),
            format!("bytes_used is {super_used}, the block groups use {total}"),
        );
    }
    outside_extents(context, groups);
    if context.has_ro(CompatRo::BLOCK_GROUP_TREE) && groups.is_empty() {
        context.error(Kind::BlockGroup, Place::tree(TreeId::BLOCK_GROUP), "there are no block groups");
    }
}

fn match_chunks(context: &mut Context<'_>, groups: &BlockGroups, chunks: &Chunks) {
    for (start, (len, item)) in groups {
        let place = Place::block_group(*start);
        match chunks.chunks.get(start) {
            None => context.error(Kind::BlockGroup, place.clone(), "there is no such chunk"),
            Some(chunk) => {
                if chunk.length() != *len {
                    let problem = format!("{len} bytes long, the chunk {}", chunk.length());
                    context.error(Kind::BlockGroup, place.clone(), problem);
                }
                if chunk.flags() != item.flags() {
                    let problem = format!("type {}, the chunk's is {}", item.flags(), chunk.flags());
                    context.error(Kind::BlockGroup, place.clone(), problem);
                }
            }
        }
        if item.chunk_objectid.get() != objectid::FIRST_CHUNK_TREE {
            context.error(Kind::BlockGroup, place.clone(), format!("chunk object is {}", item.chunk_objectid));
        }
    }
    for start in chunks.chunks.keys().filter(|start| !groups.contains_key(start)) {
        context.error(Kind::BlockGroup, Place::chunk(*start), "there is no block group for it");
    }
}

/// The bytes that extents take from a block group; each must be of its type and end within.
fn used_within(context: &mut Context<'_>, start: u64, len: u64, item: &BlockGroupItem) -> u64 {
    let end = start.saturating_add(len);
    let (mut used, mut problems) = (0u64, Vec::new());
    extents_within(context, start..end, &mut |extent| {
        used = used.saturating_add(extent.len);
        if problems.len() > MAX_TOLD {
            return;
        }
        if extent.end() > end {
            problems.push((extent.bytenr, format!("ends at {}, past its block group's end {end}", extent.end())));
        }
        if !fits(extent, item.flags()) {
            problems.push((extent.bytenr, format!("lies in a block group of type {}", item.flags())));
        }
    });
    for (bytenr, problem) in problems {
        context.error(Kind::Extent, Place::extent(bytenr), problem);
    }
    used
}

fn fits(extent: &Extent, flags: BlockGroupFlags) -> bool {
    let want = match (extent.is_data(), extent.of_chunk_tree) {
        (true, _) => BlockGroupFlags::DATA,
        (false, true) => BlockGroupFlags::SYSTEM,
        (false, false) => BlockGroupFlags::METADATA,
    };
    extent.opaque || flags.intersects(want)
}

/// Extents between the block groups.
fn outside_extents(context: &mut Context<'_>, groups: &BlockGroups) {
    let mut found = Vec::new();
    let mut keep = |bytenr| {
        if found.len() < MAX_TOLD {
            found.push(bytenr);
        }
    };
    let mut at = 0;
    for (start, (len, _)) in groups {
        if at < *start {
            extents_within(context, at..*start, &mut |extent| keep(extent.bytenr));
        }
        at = at.max(start.saturating_add(*len));
    }
    extents_within(context, at..u64::MAX, &mut |extent| keep(extent.bytenr));
    for bytenr in found {
        context.error(Kind::Extent, Place::extent(bytenr), "lies in no block group");
    }
}
