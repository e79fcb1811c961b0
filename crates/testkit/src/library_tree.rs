//! A directory tree as the library shows it, without a mount; and how a damaged filesystem compares with a
//! whole one.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Attributes, Filesystem, Flow};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::{FileType, Timespec};

use crate::tree_compare::{Entry, Time, Tree, hash_content};

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// Why a tree cannot be read, and where.
pub type Unreadable = (PathBuf, Error);

/// Reads everything below the top directory of the chosen subvolume, nested ones too. Panics on any error.
#[track_caller]
pub fn read(fs: &Filesystem) -> Tree {
    try_read(fs).unwrap_or_else(|(path, error)| panic!("{}: {error}", path.display()))
}

/// As [`read`], for filesystems that may be damaged.
///
/// # Errors
/// The first path that cannot be read.
pub fn try_read(fs: &Filesystem) -> Result<Tree, Unreadable> {
    let mut tree = Tree::default();
    let mut groups: HashMap<InodeId, Vec<PathBuf>> = HashMap::new();
    walk(fs, |path, id| {
        let entry = entry(fs, id)?;
        if entry.kind != 'd' && entry.links > 1 {
            groups.entry(id).or_default().push(path.to_owned());
        }
        tree.entries.insert(path.to_owned(), entry);
        Ok(())
    })?;
    for mut group in groups.into_values().filter(|group| group.len() > 1) {
        group.sort();
        for path in &group {
            tree.entries.get_mut(path).expect("just inserted").same_as = Some(group[0].clone());
        }
    }
    Ok(tree)
}

/// The contents of all regular files by path.
///
/// # Errors
/// The first path that cannot be read.
pub fn files(fs: &Filesystem) -> Result<BTreeMap<String, Vec<u8>>, Unreadable> {
    let mut files = BTreeMap::new();
    walk(fs, |path, id| {
        if fs.attributes(id)?.file_type == FileType::Regular {
            let mut bytes = Vec::new();
            File::new(fs, id).read_to_end(&mut bytes).map_err(engine_error)?;
            files.insert(path.to_string_lossy().into_owned(), bytes);
        }
        Ok(())
    })?;
    Ok(files)
}

/// Calls `visit` with each path and inode, directories before what is in them.
fn walk(fs: &Filesystem, mut visit: impl FnMut(&Path, InodeId) -> Result<(), Error>) -> Result<(), Unreadable> {
    let mut pending = vec![(PathBuf::new(), fs.root())];
    while let Some((path, id)) = pending.pop() {
        let visited = visit(&path, id).and_then(|()| children(fs, id));
        let children = visited.map_err(|error| (path.clone(), error))?;
        pending.extend(children.into_iter().map(|(name, child)| (path.join(name), child)));
    }
    Ok(())
}

/// What is in a directory, found by name; nothing in anything else.
fn children(fs: &Filesystem, dir: InodeId) -> Result<Vec<(OsString, InodeId)>, Error> {
    let mut names = Vec::new();
    if fs.attributes(dir)?.file_type == FileType::Directory {
        fs.read_dir(dir, 2, |listed| {
            names.push(listed.name.clone());
            Ok(Flow::More)
        })?;
    }
    let found = names.into_iter().map(|name| {
        let id = fs.lookup(Place::new(dir, &name))?;
        Ok((OsString::from_vec(name), id))
    });
    found.collect()
}

fn entry(fs: &Filesystem, id: InodeId) -> Result<Entry, Error> {
    let found = fs.attributes(id)?;
    let item = &found.item;
    let kind = kind(&found);
    let hash = if kind == 'f' { Some(hash_content(&mut File::new(fs, id)).map_err(engine_error)?) } else { None };
    Ok(Entry {
        kind,
        mode: item.mode.get() & 0o7777,
        owner: (item.uid.get(), item.gid.get()),
        size: item.size.get(),
        links: item.nlink.get().into(),
        device: if matches!(kind, 'c' | 'b') { device(item.rdev.get()) } else { 0 },
        atime: time(item.atime),
        mtime: time(item.mtime),
        ctime: time(item.ctime),
        target: if kind == 'l' { Some(OsString::from_vec(fs.read_link(id)?).into()) } else { None },
        xattrs: xattrs(fs, id)?,
        hash,
        same_as: None,
        placeholder: id.is_placeholder(),
    })
}

fn kind(found: &Attributes) -> char {
    match found.file_type {
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

/// The number that `stat` gives for one on disk.
fn device(on_disk: u64) -> u64 {
    rustix::fs::makedev((on_disk >> 20) as u32 & 0xfff, on_disk as u32 & 0xf_ffff)
}

fn time(time: Timespec) -> Time {
    (time.seconds(), time.nanoseconds())
}

fn xattrs(fs: &Filesystem, id: InodeId) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    // What the kernel does not list: properties are attributes on disk.
    let listed = fs.xattrs(id)?.into_iter();
    listed.map(|name| Ok((name.clone(), fs.xattr(id, &name)?))).collect()
}

/// A file to read from its beginning on.
struct File<'a> {
    fs: &'a Filesystem,
    id: InodeId,
    offset: u64,
}

impl<'a> File<'a> {
    fn new(fs: &'a Filesystem, id: InodeId) -> Self {
        Self { fs, id, offset: 0 }
    }
}

impl Read for File<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fs.read(self.id, self.offset, buf).map_err(io::Error::other)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn engine_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(other) => panic!("no other errors are made here: {other}"),
    }
}

/// What a damaged filesystem does not give.
#[derive(Debug, Default)]
pub struct Losses {
    /// Sectors of files, by path and offset.
    pub sectors: Vec<(PathBuf, u64)>,
    /// Objects of which the attributes, names or targets cannot be had.
    pub objects: Vec<PathBuf>,
}

impl Losses {
    /// Whether all is there.
    pub fn is_empty(&self) -> bool {
        self.sectors.is_empty() && self.objects.is_empty()
    }
}

/// Compares what a damaged filesystem gives with the whole one: each object and each sector is the same, or
/// an I/O error. Panics at anything else.
#[track_caller]
pub fn losses(whole: &Filesystem, damaged: &Filesystem) -> Losses {
    let mut losses = Losses::default();
    let compared = walk(whole, |path, id| {
        if compare(&mut losses, whole, damaged, path, id).is_none() {
            losses.objects.push(path.to_owned());
        }
        Ok(())
    });
    compared.unwrap_or_else(|(path, error)| panic!("{}: {error}", path.display()));
    losses
}

/// `None` if the damaged one does not give the object.
fn compare(losses: &mut Losses, whole: &Filesystem, damaged: &Filesystem, path: &Path, id: InodeId) -> Option<()> {
    let want = whole.attributes(id).expect("the whole one reads");
    assert_eq!(given(path, damaged.attributes(id))?, want, "{}", path.display());
    match want.file_type {
        FileType::Regular => compare_file(losses, whole, damaged, path, id),
        FileType::Symlink => {
            let target = whole.read_link(id).expect("the whole one reads");
            assert_eq!(given(path, damaged.read_link(id))?, target, "{}", path.display());
        }
        FileType::Directory => {
            let listed = listed(whole, id).expect("the whole one reads");
            assert_eq!(given(path, self::listed(damaged, id))?, listed, "{}", path.display());
        }
        _ => {}
    }
    Some(())
}

fn listed(fs: &Filesystem, dir: InodeId) -> Result<Vec<(InodeId, Vec<u8>)>, Error> {
    let mut names = Vec::new();
    fs.read_dir(dir, 2, |listed| {
        names.push((listed.id, listed.name.clone()));
        Ok(Flow::More)
    })?;
    Ok(names)
}

/// What was given, if it was not an I/O error.
#[track_caller]
fn given<T>(path: &Path, result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(error) if error.errno() == 5 => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn compare_file(losses: &mut Losses, whole: &Filesystem, damaged: &Filesystem, path: &Path, id: InodeId) {
    let sector = whole.usage().sectorsize as usize;
    let (mut want, mut got) = (vec![0; PIECE], vec![0; PIECE]);
    let mut offset = 0;
    loop {
        let count = whole.read(id, offset, &mut want).expect("the whole one reads");
        if given(path, damaged.read(id, offset, &mut got)) != Some(count) || got[..count] != want[..count] {
            for at in (0..count).step_by(sector) {
                let len = sector.min(count - at);
                match given(path, damaged.read(id, offset + at as u64, &mut got[..len])) {
                    Some(read) => {
                        let same = read == len && got[..len] == want[at..at + len];
                        assert!(same, "{} has wrong bytes at {}", path.display(), offset + at as u64);
                    }
                    None => losses.sectors.push((path.to_owned(), offset + at as u64)),
                }
            }
        }
        offset += count as u64;
        if count < PIECE {
            return;
        }
    }
}
