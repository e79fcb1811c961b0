//! A filesystem with so many subvolumes and snapshots that its root tree has several leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::RootItem;
use butterfs_format::{ItemType, Logical, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use butterfs_testkit::crash::workload::CountingEnvironment;
use butterfs_testkit::damage::{SIZE, Subject};

/// The subvolume with more than one leaf.
pub const LARGE: TreeId = TreeId(256);
const SUBVOLUMES: usize = 60;

/// Subvolumes with a file each, one with many and a subvolume in it, and read-only snapshots of some.
pub fn many_subvolumes() -> Subject {
    const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &CountingEnvironment::new(0))).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(CountingEnvironment::new(1000))).unwrap();
    let write = |dir, name: &str, len: usize| {
        let id = fs.create(Place::new(dir, name.as_bytes()), &FILE).unwrap();
        fs.write(id, 0, &vec![len as u8; len]).unwrap();
    };
    let large = fs.create_subvolume(Place::new(fs.root(), b"large"), &SUBVOLUME).unwrap();
    assert_eq!(large, LARGE);
    for number in 0..200 {
        write(InodeId::top_of(large), &format!("a-file-with-a-longer-name-{number}"), 500 + number);
    }
    for number in 0..SUBVOLUMES {
        let parent = if number % 7 == 3 { InodeId::top_of(large) } else { fs.root() };
        let sub = fs.create_subvolume(Place::new(parent, format!("sub{number}").as_bytes()), &SUBVOLUME).unwrap();
        write(InodeId::top_of(sub), &format!("in{number}"), 5000 + number);
        if number % 10 == 1 {
            fs.snapshot(sub, Place::new(fs.root(), format!("snap{number}").as_bytes()), Access::ReadOnly).unwrap();
            write(InodeId::top_of(sub), &format!("later{number}"), 3000 + number);
        }
    }
    fs.snapshot(large, Place::new(fs.root(), b"copy"), Access::ReadWrite).unwrap();
    fs.sync().unwrap();
    // Each root item is in a leaf of an older commit, too.
    for number in 0..SUBVOLUMES {
        write(fs.root(), &format!("end{number}"), 100);
        fs.sync().unwrap();
    }
    let device = device.snapshot();
    let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
    Subject { device, volume }
}

/// The root items of a filesystem.
pub fn root_items(device: &MemDevice) -> BTreeMap<TreeId, RootItem> {
    let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
    let subject = Subject { device: device.snapshot(), volume };
    subject
        .blocks(subject.root_of(TreeId::ROOT))
        .iter()
        .filter(|block| block.is_leaf())
        .flat_map(root_items_in)
        .collect()
}

/// The root items of a leaf.
pub fn root_items_in(leaf: &TreeBlock) -> BTreeMap<TreeId, RootItem> {
    let slots = (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::ROOT_ITEM);
    slots.map(|slot| (TreeId(leaf.key(slot).objectid), RootItem::parse(leaf.data(slot)).unwrap())).collect()
}

/// Leaves of older root trees are wiped; `current` stay.
pub fn wipe_old_root_leaves(subject: &Subject, device: &MemDevice, current: &[TreeBlock]) {
    let root = subject.root_of(TreeId::ROOT);
    let kept = |at: u64| at == root.0 || current.iter().any(|leaf| leaf.bytenr().0 == at);
    for (start, chunk) in subject.volume.chunks() {
        for at in (start.0..start.0 + chunk.length()).step_by(16384).map(Logical) {
            let block = subject.volume.read_block(&butterfs_format::validate::Expected::at(at));
            if block.is_ok_and(|block| block.owner() == TreeId::ROOT) && !kept(at.0) {
                subject.places(at).iter().for_each(|place| device.write_at(*place, &[0; 16384]).unwrap());
            }
        }
    }
}
