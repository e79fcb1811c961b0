//! From inodes and subvolumes to paths, and back, by the items alone.

use std::collections::HashSet;

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, InodeExtref, InodeRef, RootRef};
use butterfs_format::validate::Expected;
use butterfs_format::{Ino, ItemType, Key, TreeId};

use super::image::{Flow, Image};

/// A file: an inode of a subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The subvolume.
    pub tree: TreeId,
    /// The inode.
    pub ino: Ino,
}

impl Place {
    /// The top of the whole filesystem.
    const TOP: Self = Self { tree: TreeId::FS, ino: Ino::ROOT_DIR };
}

/// What a lookup gives, or why not.
pub type Found<T> = Result<T, String>;

/// Follows a path from the top of the filesystem; symbolic links are not followed.
pub fn look_up(image: &Image, path: &[u8]) -> Found<Place> {
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.try_fold(Place::TOP, |place, name| step(image, place, name))
}

fn step(image: &Image, place: Place, name: &[u8]) -> Found<Place> {
    let tree = tree(image, place.tree)?;
    let missing = || format!("{}: no such file or directory", String::from_utf8_lossy(name));
    let key = Key::new(place.ino.0, ItemType::DIR_ITEM, name_hash(name));
    let data = image.item(&tree, &key).ok_or_else(missing)?;
    let entries = DirEntry::parse_all(&data)?;
    let entry = entries.iter().find(|entry| entry.name == name).ok_or_else(missing)?;
    Ok(match entry.location.item_type {
        ItemType::ROOT_ITEM => Place { tree: TreeId(entry.location.objectid), ino: Ino::ROOT_DIR },
        _ => Place { tree: place.tree, ino: Ino(entry.location.objectid) },
    })
}

fn tree(image: &Image, id: TreeId) -> Found<Expected> {
    image.tree(id).ok_or_else(|| format!("there is no subvolume {id}"))
}

/// The path of a subvolume from the top of the filesystem, without a leading slash; empty for the top.
pub fn subvolume_path(image: &Image, id: TreeId) -> Found<Vec<u8>> {
    tree(image, id)?;
    let mut path = Vec::new();
    let mut seen = HashSet::new();
    let mut at = id;
    while at != TreeId::FS {
        if !seen.insert(at) {
            return Err(format!("subvolume {at} is in itself"));
        }
        let (parent, dir, name) = subvolume_link(image, at)?;
        let mut front = directory_path(image, Place { tree: parent, ino: dir })?;
        join(&mut front, &name);
        if !path.is_empty() {
            join(&mut front, &path);
        }
        path = front;
        at = parent;
    }
    Ok(path)
}

/// Subvolume, directory and name that a subvolume hangs from.
fn subvolume_link(image: &Image, id: TreeId) -> Found<(TreeId, Ino, Vec<u8>)> {
    let mut found = None;
    let first = Key::new(id.0, ItemType::ROOT_BACKREF, 0);
    image.items(&image.root_tree(), first, &mut |key, data| {
        if (key.objectid, key.item_type) == (id.0, ItemType::ROOT_BACKREF) {
            let link = RootRef::parse(data).ok();
            found = link.map(|link| (TreeId(key.offset), Ino(link.dirid), link.name.to_vec()));
        }
        Flow::Break(())
    });
    found.ok_or_else(|| format!("subvolume {id} is in no directory"))
}

/// The paths of an inode within its subvolume, without a leading slash.
pub fn inode_paths(image: &Image, place: Place) -> Found<Vec<Vec<u8>>> {
    if place.ino == Ino::ROOT_DIR {
        return Ok(vec![Vec::new()]);
    }
    let links = links(image, place)?;
    if links.is_empty() {
        return Err(format!("inode {} of subvolume {}: no such inode, or it has no name", place.ino, place.tree));
    }
    let path = |(dir, name): (Ino, Vec<u8>)| {
        let mut path = directory_path(image, Place { ino: dir, ..place })?;
        join(&mut path, &name);
        Ok(path)
    };
    links.into_iter().map(path).collect()
}

/// The path of a directory within its subvolume.
fn directory_path(image: &Image, place: Place) -> Found<Vec<u8>> {
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    let mut ino = place.ino;
    while ino != Ino::ROOT_DIR {
        if !seen.insert(ino) {
            return Err(format!("directory {ino} of subvolume {} is in itself", place.tree));
        }
        let link = links(image, Place { ino, ..place })?.into_iter().next();
        let (parent, name) = link.ok_or_else(|| format!("directory {ino} of subvolume {} has no name", place.tree))?;
        names.push(name);
        ino = parent;
    }
    names.reverse();
    Ok(names.join(&b'/'))
}

/// Directories and names of an inode.
fn links(image: &Image, place: Place) -> Found<Vec<(Ino, Vec<u8>)>> {
    let tree = tree(image, place.tree)?;
    let mut links = Vec::new();
    let mut problem = None;
    image.items(&tree, Key::new(place.ino.0, ItemType::INODE_REF, 0), &mut |key, data| {
        if key.objectid != place.ino.0 || key.item_type > ItemType::INODE_EXTREF {
            return Flow::Break(());
        }
        match names(key, data) {
            Ok(names) => links.extend(names),
            Err(error) => problem = Some(format!("{key}: {error}")),
        }
        Flow::Continue(())
    });
    match problem {
        Some(problem) if links.is_empty() => Err(problem),
        _ => Ok(links),
    }
}

fn names(key: &Key, data: &[u8]) -> Found<Vec<(Ino, Vec<u8>)>> {
    if key.item_type == ItemType::INODE_REF {
        let names = InodeRef::parse_all(data)?;
        return Ok(names.into_iter().map(|one| (Ino(key.offset), one.name.to_vec())).collect());
    }
    let names = InodeExtref::parse_all(data)?;
    Ok(names.into_iter().map(|one| (Ino(one.parent), one.name.to_vec())).collect())
}

/// Appends to a path.
pub fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// The paths of an inode from the top of the filesystem, with a leading slash.
pub fn full_paths(image: &Image, place: Place) -> Found<Vec<Vec<u8>>> {
    let front = subvolume_path(image, place.tree)?;
    let paths = inode_paths(image, place)?;
    Ok(paths
        .into_iter()
        .map(|path| {
            let mut full = vec![b'/'];
            full.extend_from_slice(&front);
            if !front.is_empty() && !path.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(&path);
            full
        })
        .collect())
}
