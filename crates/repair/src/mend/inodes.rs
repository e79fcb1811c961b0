//! Inode items, made to fit what hangs on them.

use std::collections::HashMap;

use butterfs_format::items::{FileType, InodeFlags, InodeItem};
use zerocopy::FromZeros;

use super::found::{TOP, Types};
use super::model::{Inode, Model, Target};
use super::names::Names;

/// What each inode is, by most of what speaks of it.
pub fn decide_types(model: &mut Model, names: &Names) -> Types {
    let mut votes: HashMap<u64, Vec<FileType>> = HashMap::new();
    let mut parents: HashMap<u64, u64> = HashMap::new();
    for (at, link) in &names.links {
        if let Target::Inode(ino) = link.target {
            votes.entry(ino).or_default().extend(&link.types);
        }
        *parents.entry(at.0).or_default() += 1;
    }
    // A directory that only its children speak of.
    for dir in parents.keys() {
        if !model.inodes.contains_key(dir) {
            model.inode(*dir);
        }
    }
    let none = Vec::new();
    let of = |(ino, inode): (&u64, &Inode)| {
        let children = parents.get(ino).copied().unwrap_or(0) + inode.entries;
        let file_type = decide_type(*ino, inode, children, votes.get(ino).unwrap_or(&none));
        (*ino, file_type)
    };
    model.inodes.iter().map(of).collect()
}

fn decide_type(ino: u64, inode: &Inode, children: u64, votes: &[FileType]) -> FileType {
    if ino == TOP {
        return FileType::Directory;
    }
    let by_mode = inode.item.map(|item| FileType::from_mode(item.mode.get())).filter(|t| *t != FileType::Unknown);
    let possible = |kind: &FileType| match kind {
        FileType::Directory => inode.extents.count == 0,
        FileType::Regular => children == 0,
        FileType::Symlink => children == 0 && inode.extents.inline.is_some() && inode.extents.count == 1,
        _ => children == 0 && inode.extents.count == 0,
    };
    let count =
        |kind: FileType| votes.iter().filter(|vote| **vote == kind).count() + usize::from(by_mode == Some(kind));
    let named: Vec<FileType> = by_mode.into_iter().chain(votes.iter().copied()).filter(possible).collect();
    // The first of those with most votes: the mode's word, if it is one of them.
    let mut best: Option<FileType> = None;
    for kind in named {
        if best.is_none_or(|other| count(kind) > count(other)) {
            best = Some(kind);
        }
    }
    best.unwrap_or(if children > 0 { FileType::Directory } else { FileType::Regular })
}

/// What the names say of an inode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// How many names it has.
    pub links: u32,
    /// Bytes of the names in it.
    pub name_bytes: u64,
    /// The directory it is in.
    pub parent: u64,
}

/// Counts names and what directories hold.
pub fn count_names(names: &Names) -> HashMap<u64, Named> {
    let mut named: HashMap<u64, Named> = HashMap::new();
    for (at, link) in &names.links {
        let dir = named.entry(at.0).or_default();
        dir.name_bytes += at.1.len() as u64;
        if let Target::Inode(ino) = link.target {
            let inode = named.entry(ino).or_default();
            inode.links += 1;
            inode.parent = at.0;
        }
    }
    named
}

/// What is known around an inode item that is mended.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// Its number.
    pub ino: u64,
    /// What the inode is.
    pub file_type: FileType,
    /// Its names.
    pub named: Named,
    /// The newest generation there is.
    pub newest: u64,
}

/// One change of an item: the stable name of the step, and words.
pub type Change = (&'static str, String);

/// The item as it must be, and what was changed.
pub fn mended(inode: &Inode, around: &Around) -> (InodeItem, Vec<Change>) {
    let mut item = inode.item.unwrap_or_else(|| new_item(inode, around));
    let mut changes = Vec::new();
    if inode.is_new {
        // It was never anything else.
        let mut unsaid = Vec::new();
        links(around, &mut item, &mut unsaid);
        sizes(inode, around, &mut item, &mut unsaid);
        return (item, vec![("lost-and-found", "made, for what no name leads to".to_owned())]);
    }
    if inode.item.is_none() {
        changes.push(("inode-item", format!("lost: made again as {} of {} bytes", around.file_type, item.size)));
    }
    generations(inode, around, &mut item, &mut changes);
    mode_and_flags(inode, around, &mut item, &mut changes);
    links(around, &mut item, &mut changes);
    sizes(inode, around, &mut item, &mut changes);
    (item, changes)
}

/// The item of an inode that has lost its own: of no more rights than its owner's. Who that was is not known.
fn new_item(inode: &Inode, around: &Around) -> InodeItem {
    let mut item = InodeItem::new_zeroed();
    let permissions = if around.file_type == FileType::Directory { 0o700 } else { 0o600 };
    item.mode = (around.file_type.mode_bits() | permissions).into();
    item.generation = around.newest.into();
    item.transid = around.newest.into();
    item.size = inode.extents.inline.unwrap_or(inode.extents.end).into();
    item.nbytes = inode.extents.bytes.into();
    if inode.extents.without_sums && !inode.extents.needs_sums {
        item.flags = InodeFlags::NODATASUM.bits().into();
    }
    item
}

fn generations(inode: &Inode, around: &Around, item: &mut InodeItem, changes: &mut Vec<Change>) {
    let limit = if inode.item.is_some() { inode.leaf_generation.min(around.newest) } else { around.newest };
    let bad = |value: u64| value > around.newest;
    if bad(item.transid.get()) {
        changes.push(("inode-generation", format!("transid {} to {limit}", item.transid)));
        item.transid = limit.into();
    }
    if bad(item.generation.get()) {
        let known = item.transid.get().min(limit);
        changes.push(("inode-generation", format!("generation {} to {known}", item.generation)));
        item.generation = known.into();
    }
}

fn mode_and_flags(inode: &Inode, around: &Around, item: &mut InodeItem, changes: &mut Vec<Change>) {
    let mode = item.mode.get();
    let want = around.file_type.mode_bits() | mode & 0o7777;
    if mode != want {
        changes.push(("inode-mode", format!("mode {mode:#o} to {want:#o}")));
        item.mode = want.into();
    }
    let flags = item.flags();
    let mut want = flags & InodeFlags::all();
    if around.file_type == FileType::Symlink {
        want -= InodeFlags::IMMUTABLE | InodeFlags::APPEND;
    }
    if inode.extents.needs_sums {
        want -= InodeFlags::NODATASUM | InodeFlags::NODATACOW;
    }
    if flags != want {
        changes.push(("inode-flags", format!("flags {:#x} to {:#x}", flags.bits(), want.bits())));
        item.flags = want.bits().into();
    }
}

fn links(around: &Around, item: &mut InodeItem, changes: &mut Vec<Change>) {
    let is_named_directory = around.file_type == FileType::Directory && around.named.links > 0;
    let want = if around.ino == TOP || is_named_directory { 1 } else { around.named.links };
    if item.nlink.get() != want {
        changes.push(("link-count", format!("{} links to {want}", item.nlink)));
        item.nlink = want.into();
    }
}

fn sizes(inode: &Inode, around: &Around, item: &mut InodeItem, changes: &mut Vec<Change>) {
    let size = match around.file_type {
        FileType::Directory => around.named.name_bytes * 2,
        FileType::Symlink => inode.extents.inline.unwrap_or(item.size.get()),
        _ => item.size.get(),
    };
    if item.size.get() != size {
        changes.push(("inode-size", format!("size {} to {size}", item.size)));
        item.size = size.into();
    }
    let has_bytes = matches!(around.file_type, FileType::Regular | FileType::Symlink);
    if has_bytes && item.nbytes.get() != inode.extents.bytes {
        changes.push(("inode-bytes", format!("nbytes {} to {}", item.nbytes, inode.extents.bytes)));
        item.nbytes = inode.extents.bytes.into();
    }
}
