//! The operations, done to both sides.

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::{COMPRESSION_PROPERTY, CloneLen, CompressRule, DataRule, Dedupe, SizeMode};
use butterfs_engine::filesystem::{
    Access, FileOffset, Filesystem, Flow, Leave, NewInode, NewKind, OpenOptions, RenameOptions, Replace,
    SubvolumeChoice,
};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::relocate::{GroupFilter, Room};
use butterfs_engine::tx::Trim;
use butterfs_format::items::{BlockGroupFlags, InodeFlags};
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_format::{ChecksumType, TreeId};
use butterfs_testkit::random::Random;
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::model::{File, Model, Node};

/// What the filesystem is like.
#[derive(Clone, Copy)]
pub struct Shape {
    pub nodesize: u32,
    pub sectorsize: u32,
    pub csum_type: ChecksumType,
    pub without: &'static str,
    pub compress: CompressRule,
    pub data: DataRule,
}

impl Default for Shape {
    fn default() -> Self {
        let (compress, data) = (CompressRule::Asked, DataRule::Usual);
        Self { nodesize: 16384, sectorsize: 4096, csum_type: ChecksumType::Crc32c, without: "", compress, data }
    }
}

/// A subvolume beside the one that is worked in, and what it must hold.
pub(super) struct Snapshot {
    /// Its name in the top level; empty for the top level itself.
    pub name: Vec<u8>,
    pub tree: TreeId,
    pub model: Model,
    pub access: Access,
}

/// One run.
///
/// # Invariants
/// * `model` is what the subvolume `top` holds, which is writable, and whose name is `name`.
pub struct Exercise {
    device: Arc<MemDevice>,
    pub(super) shape: Shape,
    pub(super) fs: Filesystem,
    pub(super) model: Model,
    pub(super) top: InodeId,
    pub(super) name: Vec<u8>,
    pub(super) snapshots: Vec<Snapshot>,
    names: usize,
    random: Random,
    seed: u64,
}

fn open(device: &Arc<MemDevice>, subvolume: SubvolumeChoice, shape: &Shape) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let (compress, new_data) = (shape.compress, shape.data);
    let options = OpenOptions { subvolume, compress, new_data, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

pub(super) const NEW_FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };

impl Exercise {
    pub fn new(seed: u64, shape: Shape) -> Self {
        let device = Arc::new(MemDevice::new(2 << 30));
        let mut options = MakeOptions::new(2 << 30, &SystemEnvironment);
        (options.nodesize, options.sectorsize) = (shape.nodesize, shape.sectorsize);
        options.csum_type = shape.csum_type;
        match shape.without {
            "block-group-tree" => options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE),
            "free-space-tree" => options.compat_ro = CompatRo::empty(),
            "no-holes" => {
                options.incompat.remove(Incompat::NO_HOLES);
                options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
            }
            "skinny-metadata" => options.incompat.remove(Incompat::SKINNY_METADATA),
            "extref" => options.incompat.remove(Incompat::EXTENDED_IREF),
            "block groups of their own" => {
                options.incompat |= Incompat::MIXED_GROUPS;
                (options.nodesize, options.data_profile) = (shape.sectorsize, options.metadata_profile);
            }
            _ => {}
        }
        mkfs::make(device.clone(), &options).unwrap();
        let fs = open(&device, SubvolumeChoice::Default, &shape);
        let (model, random, top) = (Model::default(), Random::new(seed), fs.root());
        let (name, snapshots, names) = (Vec::new(), Vec::new(), 0);
        Self { device, shape, fs, model, top, name, snapshots, names, random, seed }
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.random.below(limit.max(1) as u64) as usize
    }

    /// Does so many operations, with commits and fresh opens in between, and checks.
    pub fn run(mut self, operations: usize) {
        for step in 0..operations {
            self.operation();
            if self.below(100) == 0 {
                self.fs.sync().unwrap();
                self.judge(step);
            }
            if self.below(400) == 0 {
                self.reopen(step);
            }
        }
        self.reopen(operations);
    }

    /// Commits, opens anew and compares everything.
    fn reopen(&mut self, step: usize) {
        self.fs.sync().unwrap();
        while self.fs.clean_once(50).unwrap() {}
        self.fs.sync().unwrap();
        self.judge(step);
        self.fs = open(&self.device, SubvolumeChoice::Default, &self.shape);
        self.compare(self.top, &self.model.root.clone(), &self.model, step);
        for snapshot in &self.snapshots {
            let top = InodeId { tree: snapshot.tree, ino: butterfs_format::Ino::ROOT_DIR };
            self.compare(top, &snapshot.model.root, &snapshot.model, step);
        }
    }

    /// The checker finds nothing.
    fn judge(&self, step: usize) {
        let snapshot = Arc::new(self.device.snapshot());
        let volume = Volume::open(vec![snapshot.clone()], OpenMode::ReadOnly).unwrap();
        let options =
            butterfs_check::Options { data_csums: true, devices: vec![snapshot], ..butterfs_check::Options::default() };
        let report = butterfs_check::check(&volume, &options);
        assert!(report.worst().is_none(), "seed {} step {step}:\n{report}", self.seed);
    }

    fn compare(&self, dir: InodeId, expected: &BTreeMap<Vec<u8>, Node>, model: &Model, step: usize) {
        let mut listed = BTreeMap::new();
        self.fs
            .read_dir(dir, 0, |entry| {
                if entry.name != b"." && entry.name != b".." && !entry.name.starts_with(b"snapshot") {
                    listed.insert(entry.name.to_vec(), ());
                }
                Ok(Flow::More)
            })
            .unwrap();
        let at = format!("seed {} step {step} {dir:?}", self.seed);
        assert_eq!(listed.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{at}");
        for (name, node) in expected {
            let id = self.fs.lookup(Place::new(dir, name)).unwrap();
            let attributes = self.fs.attributes(id).unwrap();
            match node {
                Node::Directory(inner) => self.compare(id, inner, model, step),
                Node::Symlink(target) => assert_eq!(&self.fs.read_link(id).unwrap(), target, "{at}"),
                Node::File(number) => {
                    let file = &model.files[number];
                    let mut bytes = vec![0; file.bytes.len() + 10];
                    let len = self.fs.read(id, 0, &mut bytes).unwrap();
                    assert_eq!(len, file.bytes.len(), "{at} {name:?} size");
                    if let Some(wrong) = (0..len).find(|at| bytes[*at] != file.bytes[*at]) {
                        panic!("{at} {id:?}: byte {wrong} of {len} is {} not {}", bytes[wrong], file.bytes[wrong]);
                    }
                    assert_eq!(attributes.item.nlink.get() as usize, file.links, "{at} links");
                    for (name, value) in &file.xattrs {
                        assert_eq!(&self.fs.xattr(id, name).unwrap(), value, "{at}");
                    }
                    let mut names = self.fs.xattrs(id).unwrap();
                    // chattr's flags are told by this one, too.
                    names.retain(|name| name != COMPRESSION_PROPERTY);
                    assert_eq!(names.len(), file.xattrs.len(), "{at}");
                }
            }
        }
    }

    pub(super) fn name(&mut self) -> Vec<u8> {
        let number = self.below(60);
        match self.below(20) {
            0 => vec![b'a' + (number % 26) as u8; 255],
            _ => format!("name-{number}").into_bytes(),
        }
    }

    pub(super) fn any_dir(&mut self) -> (Vec<Vec<u8>>, InodeId) {
        let dirs = self.model.dirs();
        let path = dirs[self.below(dirs.len())].clone();
        let id = path.iter().fold(self.top, |dir, name| self.fs.lookup(Place::new(dir, name)).unwrap());
        (path, id)
    }

    /// A file that exists: its directory, name and number.
    pub(super) fn any_file(&mut self) -> Option<(InodeId, Vec<u8>, usize)> {
        let (path, id) = self.any_dir();
        let files: Vec<(Vec<u8>, usize)> = self
            .model
            .dir(&path)
            .iter()
            .filter_map(|(name, node)| if let Node::File(n) = node { Some((name.clone(), *n)) } else { None })
            .collect();
        let choice = self.below(files.len());
        files.get(choice).map(|(name, number)| (id, name.clone(), *number))
    }

    fn operation(&mut self) {
        match self.below(100) {
            0..=19 => self.create(),
            20..=37 => self.write(),
            38..=41 => self.more(),
            42..=47 => self.clone_range(),
            48 | 49 => self.preallocate(),
            50..=59 => self.truncate(),
            60..=69 => self.remove(),
            70..=79 => self.rename(),
            80..=84 => self.link(),
            85..=90 => self.xattr(),
            91..=94 => self.fsync(),
            95 => self.relocate(),
            96 | 97 => self.snapshot(),
            _ => self.delete_snapshot(),
        }
    }

    fn create(&mut self) {
        let (path, dir) = self.any_dir();
        let name = self.name();
        let kind = self.below(8);
        let target = vec![b't'; 1 + self.below(300)];
        let new = match kind {
            0 | 1 if path.len() < 5 => NewInode { kind: NewKind::Directory, ..NEW_FILE },
            2 => NewInode { kind: NewKind::Symlink(&target), ..NEW_FILE },
            _ => NEW_FILE,
        };
        let result = self.fs.create(Place::new(dir, &name), &new);
        let taken = self.model.dir(&path).contains_key(&name);
        assert_eq!(result.is_err(), taken, "{result:?}");
        if taken {
            return;
        }
        let node = match new.kind {
            NewKind::Directory => Node::Directory(BTreeMap::new()),
            NewKind::Symlink(_) => Node::Symlink(target),
            _ => {
                self.model.next += 1;
                let number = self.model.next;
                self.model.files.insert(number, File { links: 1, ..File::default() });
                Node::File(number)
            }
        };
        self.model.dir(&path).insert(name, node);
    }

    fn write(&mut self) {
        let Some((dir, name, number)) = self.any_file() else { return };
        let id = self.fs.lookup(Place::new(dir, &name)).unwrap();
        let size = self.model.files[&number].bytes.len();
        let offset = match self.below(4) {
            0 => 0,
            1 => size,
            2 => self.below(size + 1),
            _ => self.below(300_000),
        };
        let len = match self.below(4) {
            0 => self.below(100),
            1 => self.below(5000),
            2 => 4096,
            _ => self.below(200_000),
        };
        let fill = self.below(256) as u8;
        let bytes: Vec<u8> = (0..len).map(|n| fill.wrapping_add((n / 7) as u8)).collect();
        assert_eq!(self.fs.write(id, offset as u64, &bytes).unwrap(), len);
        let file = self.model.files.get_mut(&number).unwrap();
        if len > 0 {
            file.bytes.resize(size.max(offset + len), 0);
            file.bytes[offset..offset + len].copy_from_slice(&bytes);
        }
    }

    fn truncate(&mut self) {
        let Some((dir, name, number)) = self.any_file() else { return };
        let id = self.fs.lookup(Place::new(dir, &name)).unwrap();
        let size = self.model.files[&number].bytes.len();
        let new = if self.below(2) == 0 { self.below(size + 1) } else { self.below(400_000) };
        self.fs.set_size(id, new as u64).unwrap();
        self.model.files.get_mut(&number).unwrap().bytes.resize(new, 0);
    }

    fn preallocate(&mut self) {
        let Some((dir, name, number)) = self.any_file() else { return };
        let id = self.fs.lookup(Place::new(dir, &name)).unwrap();
        let start = self.below(300_000) as u64;
        let range = start..start + 1 + self.below(100_000) as u64;
        self.fs.preallocate(id, range, SizeMode::Keep).unwrap();
        assert!(self.model.files.contains_key(&number));
    }

    /// A clone between two files or within one, or, with the same bytes, a deduplication.
    fn clone_range(&mut self) {
        let sector = self.shape.sectorsize as usize;
        let (Some(from), Some(to)) = (self.any_file(), self.any_file()) else { return };
        let id = |fs: &Filesystem, file: &(InodeId, Vec<u8>, usize)| fs.lookup(Place::new(file.0, &file.1)).unwrap();
        let (source, dest) = (id(&self.fs, &from), id(&self.fs, &to));
        let bytes = self.model.files[&from.2].bytes.clone();
        let size = self.model.files[&to.2].bytes.len();
        let offset = self.below(bytes.len() / sector + 1) * sector;
        let target = self.below(size.max(200_000) / sector + 1) * sector;
        let len = match self.below(3) {
            0 => self.below((bytes.len() - offset) / sector + 1) * sector,
            _ => bytes.len() - offset,
        };
        let place = |id: InodeId, offset: usize| FileOffset { id, offset: offset as u64 };
        let whole = len.next_multiple_of(sector);
        let overlaps = source == dest && offset < target + whole && target < offset + whole;
        let is_tail = offset + len == bytes.len() && target + len >= size;
        let alike = self.has_checksums(source) == self.has_checksums(dest);
        let allowed = len == 0 || (alike && !overlaps && (len % sector == 0 || is_tail));
        if len > 0 && self.below(5) == 0 {
            self.dedupe(place(source, offset), place(dest, target), len, (from.2, to.2));
            return;
        }
        let result = self.fs.clone_range(place(source, offset), place(dest, target), CloneLen::Bytes(len as u64));
        assert_eq!(result.is_ok(), allowed, "{result:?}: {source:?} {offset}+{len} to {dest:?} {target} of {size}");
        if allowed && len > 0 {
            let file = self.model.files.get_mut(&to.2).unwrap();
            file.bytes.resize(size.max(target + len), 0);
            file.bytes[target..target + len].copy_from_slice(&bytes[offset..offset + len]);
        }
    }

    /// Files that differ in this share nothing.
    pub(super) fn has_checksums(&self, id: InodeId) -> bool {
        !self.fs.attributes(id).unwrap().item.flags().contains(InodeFlags::NODATASUM)
    }

    fn dedupe(&mut self, source: FileOffset, dest: FileOffset, len: usize, (from, to): (usize, usize)) {
        let of = |number: usize, at: FileOffset| {
            let at = at.offset as usize;
            self.model.files[&number].bytes.get(at..at + len)
        };
        let (first, second) = (of(from, source), of(to, dest));
        match self.fs.dedupe_range(source, dest, len as u64) {
            Ok(outcome) => assert_eq!(outcome == Dedupe::Shared, first == second),
            Err(Error::Invalid(_)) if self.has_checksums(source.id) != self.has_checksums(dest.id) => {}
            Err(Error::Invalid(_)) => {
                assert!(second.is_none() || source.id == dest.id || !len.is_multiple_of(self.shape.sectorsize as usize))
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn remove(&mut self) {
        let (path, dir) = self.any_dir();
        let names: Vec<Vec<u8>> = self.model.dir(&path).keys().cloned().collect();
        let choice = self.below(names.len());
        let Some(name) = names.get(choice) else { return };
        let node = self.model.dir(&path)[name].clone();
        let place = Place::new(dir, name);
        match &node {
            Node::Directory(inner) => assert_eq!(self.fs.rmdir(place).is_ok(), inner.is_empty()),
            _ => self.fs.unlink(place).unwrap(),
        }
        if !matches!(&node, Node::Directory(inner) if !inner.is_empty()) {
            self.model.dir(&path).remove(name);
            self.model.forget(&node);
        }
    }

    fn rename(&mut self) {
        let (from_path, from) = self.any_dir();
        let (to_path, to) = self.any_dir();
        let names: Vec<Vec<u8>> = self.model.dir(&from_path).keys().cloned().collect();
        let choice = self.below(names.len());
        let Some(name) = names.get(choice).cloned() else { return };
        let new_name = self.name();
        let node = self.model.dir(&from_path)[&name].clone();
        let moved_path: Vec<Vec<u8>> = from_path.iter().chain([&name]).cloned().collect();
        let replaced = self.model.dir(&to_path).get(&new_name).cloned();
        let into_itself = matches!(node, Node::Directory(_)) && to_path.starts_with(&moved_path);
        let same = replaced.as_ref() == Some(&node) && matches!(node, Node::File(_));
        let onto_itself = from_path == to_path && name == new_name;
        let onto_parent = from_path.starts_with(&[to_path.clone(), vec![new_name.clone()]].concat());
        let fits = match (&node, &replaced) {
            (_, None) => true,
            (Node::Directory(_), Some(Node::Directory(inner))) => inner.is_empty(),
            (Node::Directory(_), Some(_)) | (_, Some(Node::Directory(_))) => false,
            _ => true,
        };
        let options = RenameOptions { replace: Replace::Allow, leave: Leave::Nothing };
        let result = self.fs.rename(Place::new(from, &name), Place::new(to, &new_name), options);
        let allowed = onto_itself || (fits && !into_itself && !onto_parent);
        assert_eq!(result.is_ok(), allowed, "{result:?} {node:?} onto {replaced:?}");
        if !allowed || same || onto_itself {
            return;
        }
        self.model.dir(&from_path).remove(&name);
        if let Some(replaced) = &replaced {
            self.model.forget(replaced);
        }
        self.model.dir(&to_path).insert(new_name, node);
    }

    fn link(&mut self) {
        let Some((dir, name, number)) = self.any_file() else { return };
        let (path, to) = self.any_dir();
        let new_name = self.name();
        let id = self.fs.lookup(Place::new(dir, &name)).unwrap();
        let result = self.fs.link(id, Place::new(to, &new_name));
        if self.model.dir(&path).contains_key(&new_name) {
            assert!(result.is_err());
            return;
        }
        result.unwrap();
        self.model.dir(&path).insert(new_name, Node::File(number));
        self.model.files.get_mut(&number).unwrap().links += 1;
    }

    fn xattr(&mut self) {
        use butterfs_engine::inode::xattr::{Xattr, XattrMode};
        let Some((dir, name, number)) = self.any_file() else { return };
        let id = self.fs.lookup(Place::new(dir, &name)).unwrap();
        let key = format!("user.key-{}", self.below(6)).into_bytes();
        if self.below(3) == 0 {
            let had = self.model.files.get_mut(&number).unwrap().xattrs.remove(&key).is_some();
            assert_eq!(self.fs.remove_xattr(id, &key).is_ok(), had);
            return;
        }
        let value = vec![number as u8; self.below(1000)];
        self.fs.set_xattr(id, Xattr { name: &key, value: &value }, XattrMode::Any).unwrap();
        self.model.files.get_mut(&number).unwrap().xattrs.insert(key, value);
    }

    fn fsync(&mut self) {
        let Some((dir, name, _)) = self.any_file() else { return };
        let id = self.fs.lookup(Place::new(dir, &name)).unwrap();
        self.fs.fsync(id).unwrap();
    }

    /// Nobody sees anything of it.
    fn relocate(&mut self) {
        let kind = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA][self.below(2)];
        let filter = GroupFilter::used_at_most(kind, 100);
        self.fs.relocate(&filter, Room::NewChunks).unwrap();
        self.fs.trim(&Trim { range: 0..u64::MAX, minimum: 65536 }).unwrap();
    }

    fn snapshot(&mut self) {
        if self.snapshots.len() > 4 {
            return;
        }
        let name = self.subvolume_name();
        let access = if self.below(3) == 0 { Access::ReadOnly } else { Access::ReadWrite };
        let tree = self.fs.snapshot(self.top.tree, Place::new(self.fs.root(), &name), access).unwrap();
        self.snapshots.push(Snapshot { name, tree, model: self.model.clone(), access });
    }

    pub(super) fn subvolume_name(&mut self) -> Vec<u8> {
        self.names += 1;
        format!("snapshot-{}", self.names).into_bytes()
    }

    fn delete_snapshot(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let choice = self.below(self.snapshots.len());
        if self.snapshots[choice].name.is_empty() {
            return;
        }
        let snapshot = self.snapshots.remove(choice);
        self.fs.delete_subvolume(Place::new(self.fs.root(), &snapshot.name)).unwrap();
        let limit = 1 + self.below(5);
        self.fs.clean_once(limit).unwrap();
    }
}
