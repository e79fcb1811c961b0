//! More operations: holes, flags, defragmentation, names that change places, files without names, other subvolumes.

use butterfs_engine::dir::Place;
use butterfs_engine::file::{CloneLen, CompressRule, DataRule, Defrag, Seek, SharedExtents, SizeMode};
use butterfs_engine::filesystem::{Access, FileOffset, Leave, NewSubvolume, RenameOptions, Replace};
use butterfs_engine::inode::InodeId;
use butterfs_format::Ino;
use butterfs_format::compression::Choice;
use butterfs_format::items::InodeFlags;

use super::exercise::{Exercise, NEW_FILE, Snapshot};
use super::model::{File, Model, Node};

/// Subvolumes that there are at most, beside the one that is worked in.
const SUBVOLUMES: usize = 5;

/// A file: its directory's path, the directory, its name and number.
type FilePlace = (Vec<Vec<u8>>, InodeId, Vec<u8>, usize);

impl Exercise {
    pub(super) fn more(&mut self) {
        match self.below(26) {
            0..=3 => self.punch(),
            4..=6 => self.zero(),
            7..=9 => self.preallocate_all(),
            10 | 11 => self.defragment(),
            12 => self.flags(),
            13 | 14 => self.exchange(),
            15 => self.rename_without_replacing(),
            16 | 17 => self.without_a_name(),
            18 | 19 => self.seek(),
            20 => self.settings(),
            21 => self.new_subvolume(),
            22 | 23 => self.enter_another(),
            24 => self.clone_across(),
            _ => self.write_to_read_only(),
        }
    }

    fn id_of(&self, (dir, name, _): &(InodeId, Vec<u8>, usize)) -> InodeId {
        self.fs.lookup(Place::new(*dir, name)).unwrap()
    }

    fn bytes(&mut self, number: usize) -> &mut Vec<u8> {
        &mut self.model.files.get_mut(&number).unwrap().bytes
    }

    /// A range that may reach beyond the file's end.
    fn range(&mut self, size: usize) -> std::ops::Range<usize> {
        let start = self.below(size + 20_000);
        let start = if self.below(3) == 0 { start / 4096 * 4096 } else { start };
        start..start + 1 + self.below(150_000)
    }

    fn fill_with_zeros(&mut self, number: usize, range: std::ops::Range<usize>) {
        let bytes = self.bytes(number);
        let end = range.end.min(bytes.len());
        if range.start < end {
            bytes[range.start..end].fill(0);
        }
    }

    fn punch(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.bytes(file.2).len();
        let range = self.range(size);
        self.fs.punch_hole(self.id_of(&file), range.start as u64..range.end as u64).unwrap();
        self.fill_with_zeros(file.2, range);
    }

    fn zero(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.bytes(file.2).len();
        let range = self.range(size);
        let mode = if self.below(2) == 0 { SizeMode::Keep } else { SizeMode::Extend };
        self.fs.zero_range(self.id_of(&file), range.start as u64..range.end as u64, mode).unwrap();
        if mode == SizeMode::Extend {
            self.bytes(file.2).resize(size.max(range.end), 0);
        }
        self.fill_with_zeros(file.2, range);
    }

    fn preallocate_all(&mut self) {
        let Some(file) = self.any_file() else { return };
        let size = self.bytes(file.2).len();
        let range = self.range(size);
        self.fs.preallocate(self.id_of(&file), range.start as u64..range.end as u64, SizeMode::Extend).unwrap();
        self.bytes(file.2).resize(size.max(range.end), 0);
    }

    fn defragment(&mut self) {
        if self.below(8) == 0 {
            self.fs.defragment_tree(self.top.tree).unwrap();
            return;
        }
        let Some(file) = self.any_file() else { return };
        let compress = [None, None, Some("zstd"), Some("lzo"), Some("none")][self.below(5)];
        let compress = compress.and_then(|text| text.parse::<Choice>().ok());
        let shared = if self.below(4) == 0 { SharedExtents::Break } else { SharedExtents::Keep };
        let wish = Defrag { compress, shared, ..Defrag::default() };
        self.fs.defragment(self.id_of(&file), &wish).unwrap();
    }

    /// What chattr changes; a file with data keeps its rule of checksums whatever is asked for.
    fn flags(&mut self) {
        let Some(file) = self.any_file() else { return };
        let flags = [InodeFlags::NODATACOW, InodeFlags::COMPRESS, InodeFlags::NOCOMPRESS, InodeFlags::empty()];
        let flags = flags[self.below(4)];
        self.fs.set_flags(self.id_of(&file), flags).unwrap();
    }

    fn exchange(&mut self) {
        let (Some(a), Some(b)) = (self.any_file_with_path(), self.any_file_with_path()) else { return };
        self.fs.exchange(Place::new(a.1, &a.2), Place::new(b.1, &b.2)).unwrap();
        let one = self.model.dir(&a.0)[&a.2].clone();
        let other = self.model.dir(&b.0).insert(b.2, one).unwrap();
        self.model.dir(&a.0).insert(a.2, other);
    }

    /// A file: its directory's path, the directory, its name and number.
    fn any_file_with_path(&mut self) -> Option<FilePlace> {
        let (path, dir) = self.any_dir();
        let of = |(name, node): (&Vec<u8>, &Node)| match node {
            Node::File(number) => Some((name.clone(), *number)),
            _ => None,
        };
        let files: Vec<_> = self.model.dir(&path).iter().filter_map(of).collect();
        let choice = self.below(files.len());
        files.get(choice).map(|(name, number)| (path, dir, name.clone(), *number))
    }

    fn rename_without_replacing(&mut self) {
        let Some((path, dir, name, number)) = self.any_file_with_path() else { return };
        let (to_path, to) = self.any_dir();
        let new_name = self.name();
        let options = RenameOptions { replace: Replace::Refuse, leave: Leave::Nothing };
        let result = self.fs.rename(Place::new(dir, &name), Place::new(to, &new_name), options);
        let is_free = !self.model.dir(&to_path).contains_key(&new_name);
        assert_eq!(result.is_ok(), is_free, "{result:?}");
        if is_free {
            self.model.dir(&path).remove(&name);
            self.model.dir(&to_path).insert(new_name, Node::File(number));
        }
    }

    /// A file that gets its name when it is written, or never.
    fn without_a_name(&mut self) {
        let (path, dir) = self.any_dir();
        let id = self.fs.create_unnamed(dir, &NEW_FILE).unwrap();
        let bytes = vec![self.below(256) as u8; self.below(60_000)];
        self.fs.write(id, 0, &bytes).unwrap();
        let name = self.name();
        let is_linked = self.below(3) > 0 && !self.model.dir(&path).contains_key(&name);
        if is_linked {
            self.fs.link(id, Place::new(dir, &name)).unwrap();
            self.model.next += 1;
            let number = self.model.next;
            self.model.files.insert(number, File { bytes, links: 1, ..File::default() });
            self.model.dir(&path).insert(name, Node::File(number));
        }
        self.fs.release(id, 1).unwrap();
    }

    /// What is called a hole holds zeros.
    fn seek(&mut self) {
        let Some(file) = self.any_file() else { return };
        let id = self.id_of(&file);
        let bytes = self.model.files[&file.2].bytes.clone();
        let mut at = 0;
        while let Some(data) = self.fs.seek(id, at, Seek::Data).unwrap() {
            assert!(bytes[at as usize..data as usize].iter().all(|byte| *byte == 0), "{id:?} {at}..{data}");
            let Some(hole) = self.fs.seek(id, data, Seek::Hole).unwrap() else { panic!("no end behind {data}") };
            assert!(hole > data && hole <= bytes.len() as u64, "{id:?} {data}..{hole} of {}", bytes.len());
            at = hole;
        }
        assert!(bytes[at as usize..].iter().all(|byte| *byte == 0), "{id:?} behind {at}");
    }

    /// As a remount.
    fn settings(&mut self) {
        let mut settings = self.fs.settings();
        settings.compress = match self.below(4) {
            0 => CompressRule::Asked,
            1 => CompressRule::All(super::method("zstd:1")),
            2 => CompressRule::Force(super::method("lzo")),
            _ => self.shape.compress,
        };
        settings.new_data = [DataRule::Usual, DataRule::InPlace, DataRule::NoChecksums, self.shape.data][self.below(4)];
        settings.max_inline = [0, 100, 2048][self.below(3)];
        self.fs.set_settings(settings);
    }

    fn new_subvolume(&mut self) {
        if self.snapshots.len() >= SUBVOLUMES {
            return;
        }
        let name = self.subvolume_name();
        let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
        let tree = self.fs.create_subvolume(Place::new(self.fs.root(), &name), &new).unwrap();
        let model = Model { next: self.model.next, ..Model::default() };
        self.snapshots.push(Snapshot { name, tree, model, access: Access::ReadWrite });
    }

    /// From now on another subvolume is worked in.
    fn enter_another(&mut self) {
        let choice = self.below(self.snapshots.len());
        let Some(other) = self.snapshots.get_mut(choice).filter(|other| other.access == Access::ReadWrite) else {
            return;
        };
        std::mem::swap(&mut self.name, &mut other.name);
        std::mem::swap(&mut self.top.tree, &mut other.tree);
        std::mem::swap(&mut self.model, &mut other.model);
    }

    /// A file in another subvolume, with its bytes.
    fn file_elsewhere(&mut self) -> Option<(InodeId, Vec<u8>, Access)> {
        let choice = self.below(self.snapshots.len());
        let other = self.snapshots.get(choice)?;
        let mut at = other.model.root.iter().filter_map(|(name, node)| match node {
            Node::File(number) => Some((name, &other.model.files[number].bytes)),
            _ => None,
        });
        let (name, bytes) = at.next()?;
        let top = InodeId { tree: other.tree, ino: Ino::ROOT_DIR };
        Some((self.fs.lookup(Place::new(top, name)).unwrap(), bytes.clone(), other.access))
    }

    fn clone_across(&mut self) {
        let (Some((source, bytes, _)), Some(file)) = (self.file_elsewhere(), self.any_file()) else { return };
        let place = |id| FileOffset { id, offset: 0 };
        let size = self.bytes(file.2).len();
        let len = bytes.len();
        let alike = self.has_checksums(source) == self.has_checksums(self.id_of(&file));
        let is_allowed = len == 0 || alike && (len % self.shape.sectorsize as usize == 0 || len >= size);
        let result = self.fs.clone_range(place(source), place(self.id_of(&file)), CloneLen::Bytes(len as u64));
        assert_eq!(result.is_ok(), is_allowed, "{result:?}: {len} bytes over {size}");
        if is_allowed {
            let target = self.bytes(file.2);
            target.resize(size.max(len), 0);
            target[..len].copy_from_slice(&bytes);
        }
    }

    fn write_to_read_only(&mut self) {
        let Some((id, _, access)) = self.file_elsewhere() else { return };
        if access == Access::ReadOnly {
            assert!(self.fs.write(id, 0, b"never").is_err() && self.fs.set_size(id, 1).is_err());
        }
    }
}
