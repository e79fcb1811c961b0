//! Devices that were written apart: which of them have the newest commit, and which have one of their own.
//!
//! Every commit puts its blocks on all devices before the first superblock. So a device whose superblock is one commit
//! behind took part in the newest one if a power cut came between two superblocks, and then it has the newest roots; or it
//! was away, and then it has none of them, or the newest commit names it ([`crate::absent`]; ours, degraded, commits twice
//! at least, as its new roots may lie on other devices altogether). And of two devices with the same generation, either
//! both have the same roots, byte for byte, or each was written without the other.
//!
//! # Invariants
//! * Nothing is written, and at most a few blocks of each device are read.

use std::sync::atomic::Ordering;

use butterfs_format::items::{Chunk, Stripe};
use butterfs_format::superblock::RootBackup;
use butterfs_format::{Generation, Logical, Superblock, TreeBlock, TreeId};
use zerocopy::IntoBytes;

use crate::absent::{is_named, without_names};
use crate::error::{Error, Result};
use crate::member::Role;
use crate::open::each_system_chunk;
use crate::volume::Volume;

/// What a device has of the newest roots.
enum Part {
    /// A root, as others have it.
    Same,
    /// Another root of the same generation.
    Other,
    /// Other bytes where roots should be.
    Missed,
    /// No root lies on it.
    Unknown,
}

/// Looks at the superblocks of members by their places; notes who missed the newest commit.
///
/// # Errors
/// If two devices have changes that the respective other lacks.
pub(crate) fn examine(volume: &Volume, newest: &Superblock, superblocks: &[Superblock]) -> Result<()> {
    let own: Vec<&Superblock> = superblocks.iter().filter(|sb| sb.block_fsid() == newest.block_fsid()).collect();
    if own.len() < 2 {
        return Ok(());
    }
    for sb in own {
        let Some(place) = volume.member(sb.dev_item.devid.get().into()) else { continue };
        let part = part_of(volume, place, newest);
        if !is_ancestor(sb, newest)
            || !has_same_chunks(volume, sb)
            || sb.generation == newest.generation && matches!(part, Part::Other)
        {
            return Err(apart(volume, place));
        }
        let lacks_roots = !matches!(part, Part::Same | Part::Unknown);
        let is_named = is_named(newest, sb.dev_item.devid.get().into());
        let missed = sb.generation < newest.generation && (lacks_roots || is_named);
        volume.members[place].missed.store(missed, Ordering::Release);
    }
    Ok(())
}

/// Whether the newest superblock is this one, or tells of it as an earlier one, as far as it remembers.
pub(crate) fn is_ancestor(sb: &Superblock, newest: &Superblock) -> bool {
    if sb.generation == newest.generation {
        let roots = |sb: &Superblock| (sb.root, sb.chunk_root, sb.chunk_root_generation, sb.bytes_used, sb.num_devices);
        let chunks =
            |sb: &Superblock| sb.sys_chunk_array.get(..sb.sys_chunk_array_size.get() as usize).map(<[u8]>::to_vec);
        return roots(sb) == roots(newest) && chunks(sb) == chunks(newest);
    }
    remembered(sb, newest).is_none_or(|is_same| is_same)
}

/// Whether the newest superblock tells of this earlier one.
pub(crate) fn is_remembered(sb: &Superblock, newest: &Superblock) -> bool {
    remembered(sb, newest) == Some(true)
}

/// Whether it tells of the same roots; `None` if it does not go back that far.
fn remembered(sb: &Superblock, newest: &Superblock) -> Option<bool> {
    let same = |backup: &&RootBackup| backup.tree_root_gen == sb.generation;
    let backups = newest.super_roots.iter().find(same).zip(sb.super_roots.iter().find(same));
    backups.map(|(theirs, own)| without_names(theirs).as_bytes() == without_names(own).as_bytes())
}

/// Whether those of its system chunks that there still are lie where it says. Halves that did the same have the same roots, byte for
/// byte; where each put its chunks is all that tells them apart.
///
/// An address is given to another chunk when the one with the highest address is removed. So another chunk says nothing if
/// that of the older superblock has a stripe on a device that has the newest commit: chunks are made on devices that are there,
/// so both came from the filesystem that made it. A chunk on none of those is from a half that was written apart, or the address of
/// one that was made before was used again; nothing on the devices tells which. So that is refused, and the words say how to
/// go on.
fn has_same_chunks(volume: &Volume, sb: &Superblock) -> bool {
    let places = |chunk: &Chunk| -> Vec<(u64, u64)> {
        chunk.stripes.iter().map(|stripe| (stripe.devid.get(), stripe.offset.get())).collect()
    };
    let now = |start| volume.chunk_containing(start).filter(|(found, _)| *found == start);
    let mut same = true;
    let looked = each_system_chunk(sb, |start, chunk| {
        let is_same = now(start).is_none_or(|(_, now)| places(&now) == places(&chunk));
        same &= is_same || is_on_current(volume, &chunk);
        Ok(())
    });
    looked.is_err() || same
}

/// Whether a part of a chunk lies on a device that has the newest commit.
fn is_on_current(volume: &Volume, chunk: &Chunk) -> bool {
    let is_current = |stripe: &Stripe| {
        let member = volume.member(stripe.devid.get().into()).map(|place| &volume.members[place]);
        member.is_some_and(|member| member.id.uuid == stripe.dev_uuid && member.role() == Role::Current)
    };
    chunk.stripes.iter().any(is_current)
}

/// The roots that the newest commit wrote.
fn newest_roots(sb: &Superblock) -> Vec<Logical> {
    let generation = sb.generation;
    let mut roots = vec![(sb.root, generation), (sb.chunk_root, sb.chunk_root_generation)];
    if let Some(backup) = sb.super_roots.iter().find(|backup| backup.tree_root_gen == generation) {
        roots.extend([
            (backup.extent_root, backup.extent_root_gen),
            (backup.fs_root, backup.fs_root_gen),
            (backup.dev_root, backup.dev_root_gen),
            (backup.csum_root, backup.csum_root_gen),
        ]);
    }
    let newest = roots.into_iter().filter(|(at, written)| *written == generation && at.get() != 0);
    newest.map(|(at, _)| Logical(at.get())).collect()
}

fn part_of(volume: &Volume, place: usize, newest: &Superblock) -> Part {
    let mut part = Part::Unknown;
    for at in newest_roots(newest) {
        let copies = copies(volume, at);
        let is_root = |bytes: &Vec<u8>| is_block(volume, bytes, at, newest.generation.get());
        let mut own = copies.iter().filter(|(member, _)| *member == place).map(|(_, bytes)| bytes);
        let Some(mine) = own.next() else { continue };
        if !is_root(mine) {
            part = Part::Missed;
            continue;
        }
        let differs = |other: &Vec<u8>| is_root(other) && other != mine;
        let others = copies.iter().filter(|(member, _)| *member != place);
        if others.map(|(_, bytes)| bytes).any(differs) {
            return Part::Other;
        }
        return Part::Same;
    }
    part
}

/// What devices hold of a tree block; those that fail are left out.
fn copies(volume: &Volume, at: Logical) -> Vec<(usize, Vec<u8>)> {
    let nodesize = volume.geometry().nodesize as usize;
    let pieces = volume.map().stored(at, nodesize).unwrap_or_default();
    let read = |piece: crate::map::Piece| {
        let mut bytes = vec![0; nodesize];
        // A block lies in one stripe.
        let whole = piece.in_buf == (0..nodesize);
        let member = &volume.members[piece.place.member];
        (whole && member.device.read_at(piece.place.physical, &mut bytes).is_ok())
            .then_some((piece.place.member, bytes))
    };
    pieces.into_iter().filter_map(read).collect()
}

/// Whether this is a block of a commit. One of a log has the generation of the commit that ends the log, which may put its
/// own in that place.
fn is_block(volume: &Volume, bytes: &[u8], at: Logical, generation: u64) -> bool {
    let whole = volume.geometry().csum_type.matches_block(bytes);
    let block = TreeBlock::from_bytes(bytes.to_vec());
    let is_log = block.owner() == TreeId::TREE_LOG;
    whole && block.bytenr() == at && block.generation() == Generation(generation) && !is_log
}

/// The error for a member that has commits of its own.
pub(crate) fn apart(volume: &Volume, place: usize) -> Error {
    let name = volume.members[place].device.name();
    let others: Vec<String> = volume
        .members
        .iter()
        .enumerate()
        .filter(|(other, member)| *other != place && member.is_written())
        .map(|(_, member)| member.device.name())
        .collect();
    Error::Unsupported(format!(
        "{name} and {} were written apart: each has changes that the other lacks; mount each alone, read-only and degraded, \
         copy what is needed of one, wipe it (wipefs), and go on with the other",
        others.join(", ")
    ))
}
