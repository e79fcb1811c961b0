//! Devices and device extents, as the chunks say.

use std::collections::BTreeMap;

use butterfs_check::{Kind, Place};
use butterfs_engine::tree;
use butterfs_format::ids::objectid;
use butterfs_format::items::{BlockGroupFlags, Chunk, DevExtent, DevItem, read_exact};
use butterfs_format::key::DiskKey;
use butterfs_format::superblock::{SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2, SYS_CHUNK_ARRAY_SIZE};
use butterfs_format::{DevId, ItemType, Key, Logical, TreeId};
use zerocopy::IntoBytes;

use crate::error::{Error, Result};
use crate::plan::Step;
use crate::store::Store;
use crate::workspace::Workspace;

/// Device extents by device and offset.
type DeviceExtents = BTreeMap<(u64, u64), DevExtent>;

/// Sets device extents, device items and the superblock's totals right.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let wanted = wanted(&workspace.store)?;
    let mut steps = device_tree(workspace, &wanted)?;
    steps.extend(device_items(&mut workspace.store, &wanted)?);
    steps.extend(totals(workspace));
    steps.extend(system_chunks(workspace)?);
    Ok(steps)
}

fn wanted(store: &Store) -> Result<DeviceExtents> {
    let mut wanted = DeviceExtents::new();
    for (start, chunk) in store.volume().chunks() {
        let length = butterfs_volume::stripe_length(start, &chunk)?;
        for stripe in &chunk.stripes {
            let extent = DevExtent {
                chunk_tree: TreeId::CHUNK.0.into(),
                chunk_objectid: objectid::FIRST_CHUNK_TREE.into(),
                chunk_offset: start.0.into(),
                length: length.into(),
                chunk_tree_uuid: store.volume().chunk_tree_uuid(),
            };
            wanted.insert((stripe.devid.get(), stripe.offset.get()), extent);
        }
    }
    Ok(wanted)
}

fn key((devid, offset): (u64, u64)) -> Key {
    Key::new(devid, ItemType::DEV_EXTENT, offset)
}

fn device_tree(workspace: &mut Workspace, wanted: &DeviceExtents) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if !workspace.survey.is_whole(TreeId::DEV) {
        workspace.store.renew_tree(TreeId::DEV)?;
        steps.push(Step::new("device-extent", Place::tree(TreeId::DEV), "cannot be read; made anew from the chunks"));
    }
    let store = &mut workspace.store;
    let (mut found, mut foreign) = (DeviceExtents::new(), Vec::new());
    let mut cursor = store.cursor(TreeId::DEV, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        match (key.item_type, read_exact::<DevExtent>(data)) {
            (ItemType::DEV_EXTENT, Ok(extent)) => drop(found.insert((key.objectid, key.offset), extent)),
            (ItemType::PERSISTENT_ITEM | ItemType::TEMPORARY_ITEM | ItemType::DEV_REPLACE, _) => {}
            _ => foreign.push(key),
        }
        cursor.advance()?;
    }
    for key in foreign {
        tree::remove(store, TreeId::DEV, &key)?;
        steps.push(Step::new("device-extent", Place::item(TreeId::DEV, &key), "does not belong here; removed"));
    }
    for at in found.keys().filter(|at| !wanted.contains_key(at)) {
        tree::remove(store, TreeId::DEV, &key(*at))?;
        let place = Place::device_extent(at.0, at.1);
        steps.push(Step::new("device-extent", place, "there is no such chunk; removed"));
    }
    for (at, extent) in wanted {
        let same = |found: &DevExtent| {
            (found.chunk_tree, found.chunk_objectid, found.chunk_offset, found.length)
                == (extent.chunk_tree, extent.chunk_objectid, extent.chunk_offset, extent.length)
        };
        if !found.get(at).is_some_and(same) {
            tree::put(store, TreeId::DEV, &key(*at), extent.as_bytes())?;
            let action = format!("{} bytes of chunk {}: set as the chunk says", extent.length, extent.chunk_offset);
            steps.push(Step::new("device-extent", Place::device_extent(at.0, at.1), action));
        }
    }
    Ok(steps)
}

fn device_items(store: &mut Store, wanted: &DeviceExtents) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let sector = u64::from(store.geometry().sectorsize);
    for item in store.volume().dev_items() {
        let extents = wanted.range((item.devid.get(), 0)..=(item.devid.get(), u64::MAX));
        let used: u64 = extents.map(|(_, extent)| extent.length.get()).sum();
        let total = item.total_bytes.get() / sector * sector;
        let fsid = store.geometry().fsid;
        let right = DevItem { bytes_used: used.into(), total_bytes: total.into(), fsid, ..item };
        if right == item {
            continue;
        }
        let key = Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, item.devid.get());
        tree::put(store, TreeId::CHUNK, &key, right.as_bytes())?;
        store.volume().set_dev_item(right);
        let action = format!(
            "bytes_used {} of {}: set to {used} of {total}, as its extents say",
            item.bytes_used, item.total_bytes
        );
        steps.push(Step::new("device", Place::device(item.devid.get()), action));
    }
    Ok(steps)
}

/// What superblocks say of devices.
fn totals(workspace: &mut Workspace) -> Vec<Step> {
    let mut steps = Vec::new();
    let store = &mut workspace.store;
    let items = store.volume().dev_items();
    let total: u64 = items.iter().map(|item| item.total_bytes.get()).sum();
    let sb = &mut store.superblock;
    if let Some(own) = items.iter().find(|item| item.devid == sb.dev_item.devid) {
        sb.dev_item = *own;
    }
    // A dump keeps the sum of devices that it does not have.
    let is_dump = sb.flags.get() & (SUPER_FLAG_METADUMP_V2 | SUPER_FLAG_METADUMP) != 0;
    if sb.num_devices.get() != items.len() as u64 {
        let action = format!("num_devices is {}, set to {}", sb.num_devices, items.len());
        sb.num_devices = (items.len() as u64).into();
        steps.push(Step::new("superblock", Place::superblock(), action));
    }
    if sb.total_bytes.get() < total || sb.total_bytes.get() > total && !is_dump {
        let action = format!("total_bytes is {}, set to {total}", sb.total_bytes);
        sb.total_bytes = total.into();
        steps.push(Step::new("superblock", Place::superblock(), action));
    }
    if sb.root_dir_objectid.get() != TreeId::ROOT_TREE_DIR.0 {
        let action = format!("root_dir_objectid is {}, set to 6", sb.root_dir_objectid);
        steps.push(Step::new("superblock", Place::superblock(), action));
    }
    if steps.is_empty() && own_items_differ(workspace) {
        let action = "device items in superblocks are set as the chunk tree has them";
        steps.push(Step::new("superblock", Place::superblock(), action));
    }
    steps
}

/// The check compares the device items in superblocks with those of the chunk tree.
fn own_items_differ(workspace: &Workspace) -> bool {
    let devices = workspace.store.volume().dev_items();
    let known = |devid: DevId| devices.iter().any(|item| item.devid.get() == devid.0);
    let findings = workspace.report.findings.iter();
    findings
        .filter(|finding| finding.kind == Kind::Device)
        .any(|finding| finding.place.devid.is_some_and(known) && finding.problem.contains("superblock"))
}

/// The superblock's array of system chunks.
fn system_chunks(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let chunks = workspace.store.volume().chunks();
    let system: Vec<&(Logical, Chunk)> =
        chunks.iter().filter(|(_, chunk)| chunk.flags().contains(BlockGroupFlags::SYSTEM)).collect();
    let wrong = workspace
        .report
        .findings
        .iter()
        .any(|finding| finding.kind == Kind::Chunk && finding.problem.contains("superblock's array"));
    if !wrong {
        return Ok(Vec::new());
    }
    let mut array = Vec::new();
    for (start, chunk) in system {
        let key = Key::new(objectid::FIRST_CHUNK_TREE, ItemType::CHUNK_ITEM, start.0);
        array.extend_from_slice(DiskKey::from(key).as_bytes());
        array.extend_from_slice(&chunk.pack());
    }
    if array.len() > SYS_CHUNK_ARRAY_SIZE {
        return Err(Error::Refused("the system chunks do not fit into the superblock".into()));
    }
    let sb = &mut workspace.store.superblock;
    sb.sys_chunk_array_size = (array.len() as u32).into();
    sb.sys_chunk_array.fill(0);
    sb.sys_chunk_array[..array.len()].copy_from_slice(&array);
    Ok(vec![Step::new("superblock", Place::superblock(), "the array of system chunks is set as the chunk tree has it")])
}
