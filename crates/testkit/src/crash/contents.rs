//! What a filesystem holds, read by the engine: as trees that can be compared with those of a mount.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use butterfs_engine::Result;
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Filesystem, Flow};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::{FileType, Timespec};

use crate::tree_compare::{Entry, Time, Tree, hash_content};

/// Everything below the top directory, with all contents; nested subvolumes too.
pub fn tree(filesystem: &Filesystem) -> Result<Tree> {
    let mut reader = Reader { filesystem, tree: Tree::default(), names: HashMap::new(), files: BTreeMap::new() };
    reader.read(filesystem.root(), PathBuf::new())?;
    for group in reader.names.into_values().filter(|group| group.len() > 1) {
        let first = group.iter().min().cloned();
        for path in group {
            reader.tree.entries.get_mut(&path).expect("just inserted").same_as.clone_from(&first);
        }
    }
    Ok(reader.tree)
}

/// The contents of all regular files by path.
pub fn files(filesystem: &Filesystem) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut reader = Reader { filesystem, tree: Tree::default(), names: HashMap::new(), files: BTreeMap::new() };
    reader.read(filesystem.root(), PathBuf::new())?;
    Ok(reader.files)
}

struct Reader<'a> {
    filesystem: &'a Filesystem,
    tree: Tree,
    names: HashMap<InodeId, Vec<PathBuf>>,
    files: BTreeMap<String, Vec<u8>>,
}

impl Reader<'_> {
    fn read(&mut self, id: InodeId, path: PathBuf) -> Result<()> {
        let entry = self.entry(id, &path)?;
        let is_dir = entry.kind == 'd';
        if !is_dir && entry.links > 1 {
            self.names.entry(id).or_default().push(path.clone());
        }
        self.tree.entries.insert(path.clone(), entry);
        if is_dir { self.read_below(id, &path) } else { Ok(()) }
    }

    fn read_below(&mut self, dir: InodeId, path: &Path) -> Result<()> {
        let mut names = Vec::new();
        self.filesystem.read_dir(dir, 2, |entry| {
            names.push(entry.name.clone());
            Ok(Flow::More)
        })?;
        for name in names {
            let id = self.filesystem.lookup(Place::new(dir, &name))?;
            self.read(id, path.join(std::ffi::OsStr::from_bytes(&name)))?;
        }
        Ok(())
    }

    fn entry(&mut self, id: InodeId, path: &Path) -> Result<Entry> {
        let found = self.filesystem.attributes(id)?;
        let item = found.item;
        let (kind, size) = (letter(found.file_type), item.size.get());
        let target = match kind {
            'l' => Some(PathBuf::from(std::ffi::OsStr::from_bytes(&self.filesystem.read_link(id)?))),
            _ => None,
        };
        let hash = match kind {
            'f' => {
                let bytes = self.content(id, size)?;
                let hash = hash_content(&mut bytes.as_slice()).expect("memory can be read");
                self.files.insert(path.to_string_lossy().into_owned(), bytes);
                Some(hash)
            }
            _ => None,
        };
        Ok(Entry {
            kind,
            mode: item.mode.get() & 0o7777,
            owner: (item.uid.get(), item.gid.get()),
            size,
            links: item.nlink.get().into(),
            device: if matches!(kind, 'c' | 'b') { item.rdev.get() } else { 0 },
            atime: time(&item.atime),
            mtime: time(&item.mtime),
            ctime: time(&item.ctime),
            target,
            xattrs: self.xattrs(id)?,
            hash,
            same_as: None,
            placeholder: id.is_placeholder(),
        })
    }

    fn content(&self, id: InodeId, size: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX).min(1 << 30)];
        let count = self.filesystem.read(id, 0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    fn xattrs(&self, id: InodeId) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let names = self.filesystem.xattrs(id)?;
        names.into_iter().map(|name| self.filesystem.xattr(id, &name).map(|value| (name, value))).collect()
    }
}

fn letter(file_type: FileType) -> char {
    match file_type {
        FileType::Regular => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => '?',
    }
}

fn time(time: &Timespec) -> Time {
    (time.sec.get() as i64, time.nsec.get())
}
