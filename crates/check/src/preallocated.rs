//! Preallocated parts of files whose range has checksums: right only if somebody wrote to the extent, as a
//! clone of the file may have done.

use std::collections::HashMap;

use butterfs_format::items::{FileExtent, FileExtentBody};
use butterfs_format::{ItemType, TreeBlock};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::finding::Kind;
use crate::revisit::{Revisitor, revisit};
use crate::walk::TreeRoot;

/// Finds out which extents somebody wrote to.
struct Written {
    /// The extents in question, and whether a file has them as written.
    extents: HashMap<u64, bool>,
}

impl Revisitor for Written {
    fn block(&mut self, _: &mut Context<'_>, leaf: &TreeBlock) {
        for slot in (0..leaf.len()).filter(|_| leaf.is_leaf()) {
            if leaf.key(slot).item_type != ItemType::EXTENT_DATA {
                continue;
            }
            let body = FileExtent::parse(leaf.data(slot)).map(|extent| extent.body);
            if let Ok(FileExtentBody::Extent { disk_bytenr, prealloc: false, .. }) = body
                && let Some(written) = self.extents.get_mut(&disk_bytenr)
            {
                *written = true;
            }
        }
    }
}

/// Preallocated parts of files may have checksums only if somebody wrote to the extent.
pub(crate) fn check(context: &mut Context<'_>, roots: &[TreeRoot], logged: &Checksums) {
    let places = std::mem::take(&mut context.preallocated_with_sums);
    let mut written = Written { extents: places.iter().map(|(_, bytenr)| (*bytenr, false)).collect() };
    for root in roots.iter().filter(|root| root.id.is_subvolume()) {
        revisit(context, root, &mut written);
    }
    for (place, bytenr) in places {
        let untouched = written.extents.get(&bytenr) == Some(&false);
        if untouched && !context.incomplete && logged.covered(context, bytenr, 1) == 0 {
            context.error(Kind::Checksum, place, "has checksums, but is preallocated and was never written");
        }
    }
}
