//! Directories that lie within each other in a circle: each has its name, and none can be reached.
//!
//! In such a circle at least one directory has a higher number than the one that holds it; only from
//! those the way up is followed, by look-ups in the tree. Memory: the directories on the way.

use std::collections::HashSet;

use butterfs_format::{ItemType, Key};

use crate::context::Context;
use crate::finding::{Kind, Place};
use crate::revisit;
use crate::walk::TreeRoot;

/// The inode of a subvolume's top directory.
const ROOT_DIR: u64 = 256;
/// Directories that are remembered to hang well.
const REMEMBERED: usize = 1 << 20;

/// Follows the way up from directories whose parent has a higher number.
pub(crate) fn check(context: &mut Context<'_>, root: &TreeRoot, upward: &[u64]) {
    let (mut well, mut circled) = (HashSet::new(), HashSet::new());
    for start in upward {
        let mut way = Vec::new();
        let mut on_way = HashSet::new();
        let mut at = *start;
        while at != ROOT_DIR && !well.contains(&at) && !circled.contains(&at) && on_way.insert(at) {
            way.push(at);
            let Some(parent) = parent_of(context, root, at) else { break };
            at = parent;
        }
        match way.iter().position(|dir| *dir == at) {
            // Without a parent it ends where it is; what is missing was told of elsewhere.
            Some(begin) if way.last() != Some(&at) || parent_of(context, root, at) == Some(at) => {
                let circle = &way[begin..];
                let lowest = circle.iter().min().copied().unwrap_or(at);
                let problem = format!("{} directories lie within each other in a circle", circle.len());
                context.error(Kind::DirectoryLoop, Place::inode(root.id, lowest), problem);
                circled.extend(way);
            }
            _ if well.len() < REMEMBERED => well.extend(way),
            _ => {}
        }
    }
}

/// The directory that holds a directory.
fn parent_of(context: &Context<'_>, root: &TreeRoot, dir: u64) -> Option<u64> {
    let key = |offset| Key::new(dir, ItemType::INODE_REF, offset);
    let mut parent = None;
    revisit::items(context, root, &(key(0)..key(u64::MAX)), &mut |key, _| parent = parent.or(Some(key.offset)));
    parent
}
