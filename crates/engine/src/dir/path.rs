//! From an inode upwards.
//!
//! # Invariants
//! * A hostile tree may hold a circle of directories: every climb is bounded.

use butterfs_format::{Ino, ItemType, Key, TreeId};

use super::{backref, root_ref};
use crate::error::{Error, Result};
use crate::inode::{InodeId, corrupt};
use crate::tx::Transaction;

/// More levels than a path can have that Linux could walk, and few enough to give up soon.
const MAX_DEPTH: usize = 1 << 16;

/// The directory that holds a directory, across subvolumes; `None` at the very top.
pub fn parent(tx: &Transaction, dir: InodeId) -> Result<Option<InodeId>> {
    if dir.is_placeholder() {
        return Ok(Some(InodeId::top_of(dir.tree)));
    }
    if dir.ino != Ino::ROOT_DIR {
        return backref::parent_dir(tx, dir).map(|ino| Some(InodeId::new(dir.tree, ino)));
    }
    Ok(root_ref::parent_of(tx, dir.tree)?.map(|parent| parent.dir))
}

/// Whether `ancestor` is `dir` or lies above it.
pub fn is_above(tx: &Transaction, ancestor: InodeId, dir: InodeId) -> Result<bool> {
    let mut at = dir;
    for _ in 0..MAX_DEPTH {
        if at == ancestor {
            return Ok(true);
        }
        match parent(tx, at)? {
            Some(up) => at = up,
            None => return Ok(false),
        }
    }
    Err(too_deep(dir))
}

/// The path of a subvolume from the top level, without a leading slash; `None` if it has no name.
pub fn of_subvolume(tx: &Transaction, tree: TreeId) -> Result<Option<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = InodeId::top_of(tree);
    for _ in 0..MAX_DEPTH {
        if at == InodeId::top_of(TreeId::FS) {
            names.reverse();
            return Ok(Some(names.join(&b'/')));
        }
        let step = if at.ino == Ino::ROOT_DIR {
            root_ref::parent_of(tx, at.tree)?.map(|parent| (parent.dir, parent.name))
        } else {
            let (ino, name) = backref::first_name(tx, at)?;
            Some((InodeId::new(at.tree, ino), name))
        };
        let Some((dir, name)) = step else { return Ok(None) };
        names.push(name);
        at = dir;
    }
    Err(too_deep(at))
}

/// The path of an inode from the top directory of its subvolume, by the first of its names.
pub fn in_subvolume(tx: &Transaction, id: InodeId) -> Result<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut at = id;
    for _ in 0..MAX_DEPTH {
        if at.ino == Ino::ROOT_DIR {
            names.reverse();
            return Ok(names.join(&b'/'));
        }
        let (ino, name) = backref::first_name(tx, at)?;
        names.push(name);
        at = InodeId::new(at.tree, ino);
    }
    Err(too_deep(id))
}

/// The paths of an inode from the top directory of its subvolume, one for each of its names.
pub fn all_in_subvolume(tx: &Transaction, id: InodeId) -> Result<Vec<Vec<u8>>> {
    if id.ino == Ino::ROOT_DIR {
        return Ok(vec![Vec::new()]);
    }
    let names = backref::names(tx, id)?.into_iter().map(|(dir, name)| {
        let mut path = in_subvolume(tx, InodeId::new(id.tree, dir))?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name);
        Ok(path)
    });
    names.collect()
}

/// An inode for a message: its path from the top level as far as that can be found, and its numbers.
pub fn describe(tx: &Transaction, id: InodeId) -> String {
    let numbers = format!("subvolume {} inode {}", id.tree, id.ino);
    let Ok(mut path) = in_subvolume(tx, id) else { return numbers };
    if let Ok(Some(above)) = of_subvolume(tx, id.tree)
        && !above.is_empty()
    {
        path = [above, path].join(&b'/');
    }
    format!("/{} ({numbers})", path.escape_ascii())
}

fn too_deep(dir: InodeId) -> Error {
    corrupt(dir.tree, &Key::new(dir.ino.0, ItemType::INODE_REF, 0), "directories go in a circle")
}
