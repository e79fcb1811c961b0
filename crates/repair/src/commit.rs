//! Committing a round into the overlay: blocks, then superblocks with a new generation.

use butterfs_check::{Devices, Finding, Kind, Place, Report, Severity, open_failure, superblock_copy};
use butterfs_engine::tree::{TreeReader, TreeWriter};
use butterfs_engine::tx::Tops;
use butterfs_engine::tx::seal::write_blocks;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::validate::Expected;
use butterfs_format::{Superblock, TreeId};
use butterfs_volume::{BlockDevice, OpenMode, Volume};

use crate::error::{Error, Result};
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

/// To open a volume nothing is read but superblocks and the chunk tree: repair begins where that tree ends.
fn unopenable(error: butterfs_volume::Error) -> Error {
    let finding = open_failure(&error).filter(|finding| [Kind::Chunk, Kind::TreeBlock].contains(&finding.kind));
    match finding {
        Some(finding) => Error::Refused(format!(
            "the chunk tree cannot be read ({}), and without it nothing can be found; bring it back with butterfs \
             rescue chunk-recover, then check again",
            finding.problem
        )),
        None => error.into(),
    }
}

/// A volume whose superblock says less than its devices have cannot be opened for writing.
fn raise_total(devices: &Devices) -> Result<Option<Step>> {
    let volume = Volume::open(devices.clone(), OpenMode::ReadOnly).map_err(unopenable)?;
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
    let known = |tree| store.root(tree).ok();
    let tops = Tops {
        root: store.root(TreeId::ROOT)?,
        chunk: store.root(TreeId::CHUNK)?,
        extent: known(TreeId::EXTENT),
        fs: known(TreeId::FS),
        dev: known(TreeId::DEV),
        csum: known(TreeId::CSUM),
    };
    let generation = store.generation();
    store.superblock.root_dir_objectid = TreeId::ROOT_TREE_DIR.0.into();
    tops.enter(&mut store.superblock, generation);
    Ok(())
}
