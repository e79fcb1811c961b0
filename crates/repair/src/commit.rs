//! Committing a round into the overlay: blocks, then superblocks with a new generation.

use butterfs_check::{Devices, Finding, Kind, Place, Report, Severity, superblock_copy};
use butterfs_engine::tree::{TreeReader, TreeWriter};
use butterfs_engine::tx::seal::write_blocks;
use butterfs_format::superblock::{RootBackup, SUPERBLOCK_OFFSETS};
use butterfs_format::validate::Expected;
use butterfs_format::{Superblock, TreeId};
use butterfs_volume::{BlockDevice, OpenMode, Volume};
use zerocopy::FromZeros;

use crate::error::Result;
use crate::plan::Step;
use crate::store::Store;
use crate::workspace::Workspace;

/// Makes the volume openable for writing: a first superblock that is bad is replaced by the newest good copy, and
/// totals by the sums of the devices.
///
/// # Errors
/// If no superblock is good, or a device fails.
pub fn prepare_superblocks(devices: &Devices, report: &Report) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for device in devices {
        if superblock_copy(&**device, 0).is_ok() {
            continue;
        }
        let copies = (1..SUPERBLOCK_OFFSETS.len()).filter_map(|index| superblock_copy(&**device, index).ok());
        if let Some(good) = copies.max_by_key(|sb| sb.generation.get()) {
            write_superblock(&**device, SUPERBLOCK_OFFSETS[0], &good)?;
            let action = format!("is bad; replaced by the copy at {} of generation {}", good.bytenr, good.generation);
            steps.push(Step::new("superblock", Place::superblock_copy(device.name(), SUPERBLOCK_OFFSETS[0]), action));
        }
    }
    let is_copy = |finding: &&Finding| {
        let kinds = [Kind::Superblock, Kind::SuperblockMirror];
        kinds.contains(&finding.kind) && finding.severity == Severity::Error && finding.place.device.is_some()
    };
    for finding in report.findings.iter().filter(is_copy).filter(|f| f.place.offset != Some(SUPERBLOCK_OFFSETS[0])) {
        let action = format!("{}; written again", finding.problem);
        steps.push(Step::new("superblock", finding.place.clone(), action));
    }
    steps.extend(raise_total(devices)?);
    Ok(steps)
}

/// A volume whose superblock says less than its devices have cannot be opened for writing.
fn raise_total(devices: &Devices) -> Result<Option<Step>> {
    let volume = Volume::open(devices.clone(), OpenMode::ReadOnly)?;
    let total = volume.dev_items().iter().fold(0u64, |sum, item| sum.saturating_add(item.total_bytes.get()));
    let said = volume.superblock().total_bytes.get();
    if said >= total {
        return Ok(None);
    }
    for device in devices {
        let mut sb = superblock_copy(&**device, 0)?;
        sb.total_bytes = total.into();
        write_superblock(&**device, SUPERBLOCK_OFFSETS[0], &sb)?;
    }
    let action = format!("total_bytes is {said}, set to {total}");
    Ok(Some(Step::new("superblock", Place::superblock(), action)))
}

/// Writes a superblock to one of its places on a device.
pub(crate) fn write_superblock(device: &dyn BlockDevice, offset: u64, sb: &Superblock) -> Result<()> {
    let written = device.write_at(offset, &sb.to_bytes_at(offset));
    written.map_err(|source| butterfs_volume::Error::Device { name: device.name(), devid: None, source }.into())
}

/// Writes all that is new to the overlay.
///
/// # Errors
/// If a block breaks a rule of the format: it was damaged, and nothing mended it.
pub fn commit(workspace: &mut Workspace) -> Result<()> {
    let store = &mut workspace.store;
    write_blocks(store.dirty(), store.generation(), store.volume())?;
    heal_copies(store)?;
    set_roots(store)?;
    store.volume().flush()?;
    store.volume().write_superblocks(&store.superblock)?;
    store.volume().flush()?;
    Ok(())
}

/// Good bytes over bad copies.
fn heal_copies(store: &Store) -> Result<()> {
    for at in store.bad_copies().into_keys() {
        // One that was copied since is not used any more; it does no harm to heal it.
        if let Ok(block) = store.read(&Expected::at(at)) {
            store.volume().write(at, block.bytes())?;
        }
    }
    Ok(())
}

fn set_roots(store: &mut Store) -> Result<()> {
    let (root, chunk) = (store.root(TreeId::ROOT)?, store.root(TreeId::CHUNK)?);
    let generation = store.generation();
    let uuid_was_current = store.superblock.uuid_tree_generation == store.superblock.generation;
    let backup = root_backup(store);
    let sb = &mut store.superblock;
    sb.generation = generation.0.into();
    (sb.root, sb.root_level) = (root.bytenr.0.into(), root.level);
    (sb.chunk_root, sb.chunk_root_level) = (chunk.bytenr.0.into(), chunk.level);
    sb.chunk_root_generation = chunk.generation.0.into();
    sb.root_dir_objectid = TreeId::ROOT_TREE_DIR.0.into();
    if uuid_was_current {
        sb.uuid_tree_generation = sb.generation;
    }
    sb.super_roots[(generation.0 % 4) as usize] = backup;
    Ok(())
}

/// The backup of this commit's roots; a tree that does not exist is zeros in it.
fn root_backup(store: &Store) -> RootBackup {
    let mut backup = RootBackup::new_zeroed();
    let root = |tree| {
        let root = store.root(tree).ok();
        root.map_or((0.into(), 0.into(), 0), |root| (root.bytenr.0.into(), root.generation.0.into(), root.level))
    };
    (backup.tree_root, backup.tree_root_gen, backup.tree_root_level) = root(TreeId::ROOT);
    (backup.chunk_root, backup.chunk_root_gen, backup.chunk_root_level) = root(TreeId::CHUNK);
    (backup.extent_root, backup.extent_root_gen, backup.extent_root_level) = root(TreeId::EXTENT);
    (backup.fs_root, backup.fs_root_gen, backup.fs_root_level) = root(TreeId::FS);
    (backup.dev_root, backup.dev_root_gen, backup.dev_root_level) = root(TreeId::DEV);
    (backup.csum_root, backup.csum_root_gen, backup.csum_root_level) = root(TreeId::CSUM);
    backup.total_bytes = store.superblock.total_bytes;
    backup.bytes_used = store.superblock.bytes_used;
    backup.num_devices = store.superblock.num_devices;
    backup
}
