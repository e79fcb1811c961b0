//! Tree blocks that lie on the devices, whether anything leads to them or not: those of old commits too, so what is
//! found here counts only where nothing that is known of the present speaks against it.

use butterfs_format::items::BlockGroupFlags;
use butterfs_format::validate::Expected;
use butterfs_format::{Logical, TreeBlock};

use crate::store::Store;
use crate::workspace::looks_like_a_block;

/// Visits each block whose checksum and structure are right, and that is no newer than the superblock.
pub fn visit(store: &Store, mut visit: impl FnMut(&TreeBlock)) {
    let nodesize = u64::from(store.geometry().nodesize);
    let newest = store.superblock.generation();
    for (start, chunk) in store.volume().chunks() {
        if !chunk.flags().intersects(BlockGroupFlags::METADATA | BlockGroupFlags::SYSTEM) {
            continue;
        }
        let end = start.0.saturating_add(chunk.length());
        let first = start.0.checked_next_multiple_of(nodesize).unwrap_or(end);
        for at in (first..end).step_by(nodesize as usize).map(Logical) {
            let block = looks_like_a_block(store, at).then(|| any_copy(store, at)).flatten();
            if let Some(block) = block.filter(|block| block.generation() <= newest) {
                visit(&block);
            }
        }
    }
}

/// Not by way of [`Store::read`], which has bad copies healed: these blocks may be nobody's.
fn any_copy(store: &Store, at: Logical) -> Option<TreeBlock> {
    let copies = store.volume().copies(at).unwrap_or(0);
    (0..copies).find_map(|copy| store.read_copy(&Expected::at(at), copy).ok())
}
