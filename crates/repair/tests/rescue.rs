//! Each rescue on a filesystem that needs it: it works afterwards, the checker is content, and what was overwritten
//! can be brought back byte for byte.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;

use butterfs_check::{Options as CheckOptions, Report, check, superblock_copy};
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::ids::objectid;
use butterfs_format::items::{DevItem, RootItem, read_exact};
use butterfs_format::superblock::{CompatRo, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_repair::rescue::SpaceCache;
use butterfs_repair::{Devices, Options, Plan, Rescue, Verdict, apply, rescue, undo};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};
use zerocopy::IntoBytes;

const SIZE: u64 = 300 << 20;
const FILES: usize = 60;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };

fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(devices(device), OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

fn content(number: usize) -> Vec<u8> {
    vec![number as u8 + 1; 3000 + 500 * number]
}

fn name(number: usize) -> Vec<u8> {
    format!("file {number}").into_bytes()
}

fn made(options: &MakeOptions) -> Arc<MemDevice> {
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), options).unwrap();
    let fs = open(&device);
    for number in 0..FILES {
        let id = fs.create(Place::new(fs.root(), &name(number)), &FILE).unwrap();
        fs.write(id, 0, &content(number)).unwrap();
    }
    fs.sync().unwrap();
    drop(fs);
    device
}

fn usual() -> MakeOptions {
    MakeOptions::new(SIZE, &SystemEnvironment)
}

fn good() -> Arc<MemDevice> {
    made(&usual())
}

fn devices(device: &Arc<MemDevice>) -> Devices {
    vec![device.clone()]
}

fn plan(device: &Arc<MemDevice>, what: Rescue) -> butterfs_repair::Result<Plan> {
    rescue(&devices(device), what, &Options::default())
}

fn judge(device: &Arc<MemDevice>) -> Report {
    let volume = Volume::open(devices(device), OpenMode::ReadOnly).unwrap();
    check(&volume, &CheckOptions { data_csums: true, devices: devices(device), ..CheckOptions::default() })
}

fn assert_whole(device: &Arc<MemDevice>) {
    let report = judge(device);
    assert!(report.is_clean(), "{report}");
    let fs = open(&Arc::new(device.snapshot()));
    for number in 0..FILES {
        let id = fs.lookup(Place::new(fs.root(), &name(number))).unwrap();
        let want = content(number);
        let mut bytes = vec![0; want.len() + 1];
        let read = fs.read(id, 0, &mut bytes).unwrap();
        assert_eq!(bytes[..read], want, "file {number}");
    }
}

fn bytes(device: &MemDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.len() as usize];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Plans and applies; checks that the plan wrote nothing and can be undone.
fn carry_out(device: &Arc<MemDevice>, what: Rescue) -> Plan {
    let before = bytes(device);
    let plan = plan(device, what).unwrap();
    assert!(bytes(device) == before, "a plan writes nothing");
    assert!(matches!(plan.verdict, Verdict::Repaired | Verdict::Better), "{plan}\n{}", plan.after);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("undo");
    let copy = Arc::new(device.snapshot());
    let fsid = superblock_copy(&*copy, 0).map(|sb| sb.fsid).unwrap_or_default();
    apply(&plan, &devices(&copy), &file, fsid).unwrap();
    assert!(bytes(&copy) != before, "something was done");
    undo(&file, &devices(&copy)).unwrap();
    assert!(bytes(&copy) == before, "undo brings every byte back");
    apply(&plan, &devices(device), &dir.path().join("second"), fsid).unwrap();
    plan
}

fn assert_nothing_to_do(device: &Arc<MemDevice>, what: Rescue) {
    let plan = plan(device, what).unwrap();
    assert_eq!(plan.verdict, Verdict::NothingToDo, "{plan}");
    assert!(plan.changes.iter().all(Vec::is_empty));
}

fn superblock(device: &MemDevice, copy: usize) -> Superblock {
    superblock_copy(device, copy).unwrap()
}

fn change_superblock(device: &MemDevice, copy: usize, change: impl FnOnce(&mut Superblock)) {
    let mut sb = superblock(device, copy);
    change(&mut sb);
    let offset = SUPERBLOCK_OFFSETS[copy];
    device.write_at(offset, &sb.to_bytes_at(offset)).unwrap();
}

fn wipe_superblock(device: &MemDevice, copy: usize) {
    device.write_at(SUPERBLOCK_OFFSETS[copy], &[0; SUPERBLOCK_SIZE]).unwrap();
}

/// Changes a tree block in all copies, with a checksum that is right.
fn change_block(device: &Arc<MemDevice>, at: Logical, change: impl FnOnce(&mut TreeBlock)) {
    let volume = Volume::open(devices(device), OpenMode::ReadWrite).unwrap();
    let mut block = volume.read_block(&Expected::at(at)).unwrap();
    change(&mut block);
    let csum = volume.geometry().csum_type.compute_block(block.bytes());
    block.header_mut().csum = csum;
    volume.write(at, block.bytes()).unwrap();
}

/// Destroys every copy of a block.
fn lose(device: &Arc<MemDevice>, at: Logical) {
    let volume = Volume::open(devices(device), OpenMode::ReadWrite).unwrap();
    volume.write(at, &vec![0; volume.geometry().nodesize as usize]).unwrap();
}

fn root_of(device: &Arc<MemDevice>, tree: TreeId) -> Logical {
    let volume = Volume::open(devices(device), OpenMode::ReadOnly).unwrap();
    let root = volume.read_block(&Expected::at(volume.superblock().root())).unwrap();
    assert!(root.is_leaf(), "a root tree of one leaf");
    let is_it = |slot: &usize| root.key(*slot).objectid == tree.0 && root.key(*slot).item_type == ItemType::ROOT_ITEM;
    let slot = (0..root.len()).find(is_it).unwrap();
    RootItem::parse(root.data(slot)).unwrap().bytenr()
}

/// The last leaf of a tree.
fn last_leaf(device: &Arc<MemDevice>, tree: TreeId) -> TreeBlock {
    let mut at = root_of(device, tree);
    let volume = Volume::open(devices(device), OpenMode::ReadOnly).unwrap();
    loop {
        let block = volume.read_block(&Expected::at(at)).unwrap();
        if block.is_leaf() {
            return block;
        }
        at = Logical(block.ptr(block.len() - 1).blockptr.get());
    }
}

#[test]
fn a_bad_first_superblock_is_replaced_by_the_second() {
    let device = good();
    wipe_superblock(&device, 0);
    let plan = carry_out(&device, Rescue::Superblocks);
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(superblock(&device, 0).generation, superblock(&device, 1).generation);
    assert_whole(&device);
}

#[test]
fn a_bad_and_an_older_copy_are_replaced_by_the_first() {
    let device = good();
    wipe_superblock(&device, 1);
    carry_out(&device, Rescue::Superblocks);
    change_superblock(&device, 1, |sb| {
        sb.generation = (sb.generation.get() - 1).into();
        sb.chunk_root_generation = 1.into();
    });
    let plan = carry_out(&device, Rescue::Superblocks);
    assert!(plan.to_string().contains("is of generation"), "{plan}");
    assert_eq!(superblock(&device, 0).generation, superblock(&device, 1).generation);
    assert_nothing_to_do(&device, Rescue::Superblocks);
}

#[test]
fn without_a_good_superblock_nothing_can_be_recovered() {
    let device = good();
    wipe_superblock(&device, 0);
    wipe_superblock(&device, 1);
    let error = plan(&device, Rescue::Superblocks).unwrap_err();
    assert!(error.to_string().contains("no valid superblock"), "{error}");
}

#[test]
fn the_log_is_forgotten() {
    let device = good();
    let fs = open(&device);
    let id = fs.lookup(Place::new(fs.root(), &name(0))).unwrap();
    fs.write(id, 0, b"newer").unwrap();
    fs.fsync(id).unwrap();
    let cut = Arc::new(device.snapshot());
    drop(fs);
    assert_ne!(superblock(&cut, 0).log_root.get(), 0, "fsync left a log");
    carry_out(&cut, Rescue::ZeroLog);
    for copy in 0..2 {
        assert_eq!(superblock(&cut, copy).log_root.get(), 0);
    }
    assert_whole(&cut);
    assert_nothing_to_do(&cut, Rescue::ZeroLog);
}

#[test]
fn a_log_can_be_forgotten_though_no_tree_can_be_read() {
    let device = good();
    change_superblock(&device, 0, |sb| {
        sb.log_root = (1u64 << 22).into();
        sb.chunk_root = (1u64 << 50).into();
    });
    carry_out(&device, Rescue::ZeroLog);
    assert_eq!(superblock(&device, 0).log_root.get(), 0);
}

#[test]
fn odd_device_sizes_are_aligned() {
    let device = good();
    let odd = SIZE - 1000;
    change_block(&device, Logical(superblock(&device, 0).chunk_root.get()), |leaf| {
        let slot = leaf.search(&Key::new(objectid::DEV_ITEMS, ItemType::DEV_ITEM, 1)).unwrap();
        let mut item: DevItem = read_exact(leaf.data(slot)).unwrap();
        item.total_bytes = odd.into();
        leaf.data_mut(slot).copy_from_slice(item.as_bytes());
    });
    let plan = carry_out(&device, Rescue::DeviceSize);
    assert_eq!(plan.steps.iter().filter(|step| step.name == "device-size").count(), 2, "{plan}");
    assert_eq!(superblock(&device, 0).total_bytes.get(), odd / 4096 * 4096);
    assert_eq!(superblock(&device, 0).dev_item.total_bytes.get(), odd / 4096 * 4096);
    assert_whole(&device);
    assert_nothing_to_do(&device, Rescue::DeviceSize);
}

/// The front of a device, on a shorter one.
fn shortened(device: &MemDevice, len: u64) -> Arc<MemDevice> {
    let short = MemDevice::new(len);
    let mut front = bytes(device);
    front.truncate(len as usize);
    short.write_at(0, &front).unwrap();
    Arc::new(short)
}

#[test]
fn a_device_that_shrank_where_nothing_is_fits_again() {
    let short = shortened(&good(), SIZE - (8 << 20));
    assert!(Volume::open(devices(&short), OpenMode::ReadOnly).is_err());
    carry_out(&short, Rescue::DeviceSize);
    assert_whole(&short);
}

#[test]
fn a_device_that_shrank_where_a_chunk_is_is_refused() {
    let short = shortened(&good(), 40 << 20);
    let error = plan(&short, Rescue::DeviceSize).unwrap_err();
    assert!(error.to_string().contains("a part of the device is missing"), "{error}");
}

#[test]
fn the_free_space_tree_is_removed() {
    let mut options = usual();
    options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
    let device = made(&options);
    carry_out(&device, Rescue::ClearSpaceCache(SpaceCache::V2));
    let wanted = CompatRo::FREE_SPACE_TREE | CompatRo::FREE_SPACE_TREE_VALID;
    assert!(!superblock(&device, 0).compat_ro().intersects(wanted));
    assert!(judge(&device).is_clean());
    assert_nothing_to_do(&device, Rescue::ClearSpaceCache(SpaceCache::V2));
}

#[test]
fn beside_a_block_group_tree_the_free_space_tree_is_made_anew() {
    let mut options = usual();
    options.compat_ro |= CompatRo::BLOCK_GROUP_TREE;
    let device = made(&options);
    carry_out(&device, Rescue::ClearSpaceCache(SpaceCache::V2));
    assert!(superblock(&device, 0).compat_ro().contains(CompatRo::FREE_SPACE_TREE_VALID));
    assert_whole(&device);
}

#[test]
fn the_old_space_cache_is_removed() {
    let device = good();
    for copy in 0..2 {
        change_superblock(&device, copy, |sb| sb.cache_generation = sb.generation);
    }
    carry_out(&device, Rescue::ClearSpaceCache(SpaceCache::V1));
    assert_eq!(superblock(&device, 0).cache_generation.get(), u64::MAX);
    assert_whole(&device);
}

#[test]
fn the_uuid_tree_is_removed() {
    let device = good();
    carry_out(&device, Rescue::ClearUuidTree);
    assert_eq!(superblock(&device, 0).uuid_tree_generation.get(), 0);
    assert_whole(&device);
    assert_nothing_to_do(&device, Rescue::ClearUuidTree);
}

#[test]
fn the_inode_number_cache_is_removed() {
    const ITEMS: [(Key, &[u8]); 2] = [
        (Key::new(objectid::FREE_INO, ItemType::INODE_ITEM, 0), &[0; 160]),
        (Key::new(objectid::FREE_SPACE, ItemType(0), 0), &[0; 16]),
    ];
    let device = made(&MakeOptions { nodesize: 65536, ..usual() });
    let mut items = ITEMS;
    items.sort_by_key(|(key, _)| *key);
    change_block(&device, last_leaf(&device, TreeId::FS).bytenr(), |leaf| {
        items.iter().for_each(|(key, data)| leaf.insert_item(leaf.len(), key, data));
    });
    let plan = carry_out(&device, Rescue::ClearInodeCache);
    assert!(plan.to_string().contains("2 items of the inode number cache"), "{plan}");
    let leaf = last_leaf(&device, TreeId::FS);
    assert!(leaf.key(leaf.len() - 1).objectid < objectid::FREE_INO);
    assert_whole(&device);
}

#[test]
fn a_lost_chunk_tree_is_made_anew() {
    for options in [usual(), MakeOptions { nodesize: 4096, ..usual() }] {
        let device = made(&options);
        lose(&device, Logical(superblock(&device, 0).chunk_root.get()));
        assert!(Volume::open(devices(&device), OpenMode::ReadOnly).is_err());
        let plan = carry_out(&device, Rescue::Chunks);
        assert_eq!(plan.steps[0].name, "chunk-tree");
        assert_whole(&device);
    }
}

#[test]
fn a_wrong_system_chunk_array_is_made_anew() {
    let device = good();
    for copy in 0..2 {
        // The first stripe's offset: after key, header and device number.
        change_superblock(&device, copy, |sb| sb.sys_chunk_array[17 + 48 + 8 + 2] ^= 0x10);
    }
    assert!(Volume::open(devices(&device), OpenMode::ReadOnly).is_err());
    carry_out(&device, Rescue::Chunks);
    assert_whole(&device);
}

#[test]
fn readable_chunks_are_left_alone() {
    assert_nothing_to_do(&good(), Rescue::Chunks);
}

#[test]
fn without_block_groups_chunks_are_not_guessed() {
    let device = good();
    lose(&device, root_of(&device, TreeId::BLOCK_GROUP));
    lose(&device, Logical(superblock(&device, 0).chunk_root.get()));
    let error = plan(&device, Rescue::Chunks).unwrap_err();
    assert!(error.to_string().contains("block group items were not found"), "{error}");
}

/// Changes the item of the first chunk for data, in the chunk tree of one leaf.
fn change_data_chunk(device: &Arc<MemDevice>, change: impl FnOnce(&mut TreeBlock, usize)) {
    change_block(device, Logical(superblock(device, 0).chunk_root.get()), |leaf| {
        let is_data = |slot: &usize| leaf.key(*slot).item_type == ItemType::CHUNK_ITEM && leaf.data(*slot)[24] & 1 != 0;
        let slot = (0..leaf.len()).find(is_data).unwrap();
        change(leaf, slot);
    });
}

#[test]
fn a_chunk_item_that_cannot_be_parsed_is_made_anew_and_costs_no_data() {
    let device = good();
    // The number of stripes becomes three, with one stripe in the item.
    change_data_chunk(&device, |leaf, slot| leaf.data_mut(slot)[44] ^= 2);
    carry_out(&device, Rescue::Chunks);
    assert_whole(&device);
}

#[test]
fn a_chunk_item_that_is_missing_is_made_anew_and_costs_no_data() {
    let device = good();
    change_data_chunk(&device, |leaf, slot| leaf.remove_items(slot..slot + 1));
    carry_out(&device, Rescue::Chunks);
    assert_whole(&device);
}

/// Device extents, block groups, file extents and checksums all tell of the chunk: a repair that cannot make it
/// anew must not take the data away.
#[test]
fn a_repair_does_not_give_up_the_data_of_a_chunk_that_lost_its_item() {
    let device = good();
    change_data_chunk(&device, |leaf, slot| leaf.remove_items(slot..slot + 1));
    let plan = butterfs_repair::plan(&devices(&device), &Options::default());
    let lost = plan.iter().flat_map(|plan| &plan.steps).filter(|step| step.name == "file-extent-lost").count();
    assert_eq!(lost, 0, "file extents that are given up");
}
