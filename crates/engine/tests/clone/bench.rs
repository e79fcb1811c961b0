//! A filesystem in memory, and what of its files is looked at.

use std::ops::Range;
use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{self, CloneLen, MappedExtent, MappedKind};
use butterfs_engine::filesystem::{FileOffset, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::InodeItem;
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_volume::{MemDevice, OpenMode, Volume};

pub const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
pub const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
pub const K: u64 = 1024;
pub const SECTOR: u64 = 4 * K;

/// A filesystem in memory; judged when it is dropped by [`Bench::judge`].
pub struct Bench {
    pub device: Arc<MemDevice>,
    pub fs: Filesystem,
}

pub fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

pub fn judge(device: &Arc<MemDevice>, what: &str) {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options { data_csums: true, devices: vec![device.clone()], ..Default::default() };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.worst().is_none(), "{what}: {report}");
}

impl Bench {
    pub fn new() -> Self {
        Self::made(|_| {})
    }

    /// With hole items.
    pub fn explicit_holes() -> Self {
        Self::made(|options| {
            options.incompat.remove(Incompat::NO_HOLES);
            options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
        })
    }

    pub fn made(change: impl FnOnce(&mut MakeOptions)) -> Self {
        let device = Arc::new(MemDevice::new(1 << 30));
        let mut options = MakeOptions::new(1 << 30, &SystemEnvironment);
        change(&mut options);
        mkfs::make(device.clone(), &options).unwrap();
        let fs = open(&device);
        Self { device, fs }
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> InodeId {
        let id = self.fs.create(Place::new(self.fs.root(), name.as_bytes()), &FILE).unwrap();
        assert_eq!(self.fs.write(id, 0, bytes).unwrap(), bytes.len());
        id
    }

    pub fn clone(&self, from: (InodeId, u64), to: (InodeId, u64), len: CloneLen) -> Result<u64, Error> {
        self.fs.clone_range(at(from), at(to), len)
    }

    pub fn clone_bytes(&self, from: (InodeId, u64), to: (InodeId, u64), len: u64) -> Result<u64, Error> {
        self.clone(from, to, CloneLen::Bytes(len))
    }

    pub fn bytes(&self, id: InodeId) -> Vec<u8> {
        read(&self.fs, id)
    }

    pub fn item(&self, id: InodeId) -> InodeItem {
        self.fs.attributes(id).unwrap().item
    }

    pub fn map(&self, id: InodeId, range: Range<u64>) -> Vec<MappedExtent> {
        self.fs.shared().gate.view(|tx| file::map(tx, id, range)).unwrap()
    }

    /// Address on disk of each part that is written.
    pub fn addresses(&self, id: InodeId, range: Range<u64>) -> Vec<(u64, u64)> {
        let written = |extent: &MappedExtent| match &extent.kind {
            MappedKind::Regular(data) => Some((data.disk_bytenr + data.offset, data.num_bytes)),
            _ => None,
        };
        self.map(id, range).iter().filter_map(written).collect()
    }

    pub fn data_used(&self) -> u64 {
        self.fs.sync().unwrap();
        self.fs.sync().unwrap();
        self.fs.shared().gate.space().data.used
    }

    /// Commits, has everything checked, and opens it again.
    pub fn judge(self) -> Self {
        self.fs.sync().unwrap();
        drop(self.fs);
        judge(&self.device, "after a sync");
        let fs = open(&self.device);
        Self { device: self.device, fs }
    }
}

pub fn at((id, offset): (InodeId, u64)) -> FileOffset {
    FileOffset { id, offset }
}

pub fn read(fs: &Filesystem, id: InodeId) -> Vec<u8> {
    let mut bytes = vec![0; fs.attributes(id).unwrap().item.size.get() as usize];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

/// Bytes that tell their place.
pub fn pattern(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|at| ((at / 97 + at / 4096 * 31 + seed * 57) % 255 + 1) as u8).collect()
}
