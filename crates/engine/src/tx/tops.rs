//! What the superblock says of a commit's trees: where they begin, and the same as a backup.
//!
//! # Invariants
//! * Backups are filled in turn, as the kernel fills them ([`Superblock::next_backup`]): the three commits before
//!   this one keep theirs.

use butterfs_format::superblock::RootBackup;
use butterfs_format::{Generation, Superblock};
use zerocopy::FromZeros;
use zerocopy::little_endian::U64;

use crate::tree::TreeRoot;

/// The trees that a superblock or its backups point to.
#[derive(Clone, Copy, Debug)]
pub struct Tops {
    /// The root tree.
    pub root: TreeRoot,
    /// The chunk tree.
    pub chunk: TreeRoot,
    /// The extent tree; this and those below only if there are such trees.
    pub extent: Option<TreeRoot>,
    /// The top-level subvolume.
    pub fs: Option<TreeRoot>,
    /// The device tree.
    pub dev: Option<TreeRoot>,
    /// The checksum tree.
    pub csum: Option<TreeRoot>,
}

impl Tops {
    /// Makes a superblock that of the commit of this generation. Totals are the caller's, and come first: the backup
    /// has them too.
    pub fn enter(&self, sb: &mut Superblock, generation: Generation) {
        let uuid_tree_was_current = sb.uuid_tree_generation == sb.generation;
        let slot = sb.next_backup();
        sb.generation = generation.0.into();
        (sb.root, _, sb.root_level) = fields(Some(self.root));
        (sb.chunk_root, sb.chunk_root_generation, sb.chunk_root_level) = fields(Some(self.chunk));
        if uuid_tree_was_current {
            sb.uuid_tree_generation = sb.generation;
        }
        sb.super_roots[slot] = self.backup(sb);
    }

    /// A tree that does not exist is zeros in it.
    fn backup(&self, sb: &Superblock) -> RootBackup {
        let mut backup = RootBackup::new_zeroed();
        (backup.tree_root, backup.tree_root_gen, backup.tree_root_level) = fields(Some(self.root));
        (backup.chunk_root, backup.chunk_root_gen, backup.chunk_root_level) = fields(Some(self.chunk));
        (backup.extent_root, backup.extent_root_gen, backup.extent_root_level) = fields(self.extent);
        (backup.fs_root, backup.fs_root_gen, backup.fs_root_level) = fields(self.fs);
        (backup.dev_root, backup.dev_root_gen, backup.dev_root_level) = fields(self.dev);
        (backup.csum_root, backup.csum_root_gen, backup.csum_root_level) = fields(self.csum);
        (backup.total_bytes, backup.bytes_used, backup.num_devices) = (sb.total_bytes, sb.bytes_used, sb.num_devices);
        backup
    }
}

/// Address, generation and level as the superblock has them.
fn fields(root: Option<TreeRoot>) -> (U64, U64, u8) {
    let known = |root: TreeRoot| (root.bytenr.0.into(), root.generation.0.into(), root.level);
    root.map_or((U64::ZERO, U64::ZERO, 0), known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_format::Logical;

    #[test]
    fn backups_are_filled_in_turn() {
        let mut sb = Superblock::new_zeroed();
        let at =
            |bytenr, generation| TreeRoot { bytenr: Logical(bytenr), level: 1, generation: Generation(generation) };
        for generation in 5..11 {
            let root = at(generation << 20, generation);
            let tops = Tops { root, chunk: root, extent: Some(root), fs: None, dev: None, csum: None };
            tops.enter(&mut sb, Generation(generation));
        }
        let generations = sb.super_roots.map(|backup| backup.tree_root_gen.get());
        assert_eq!(generations, [9, 10, 7, 8]);
        assert_eq!((sb.super_roots[1].extent_root.get(), sb.super_roots[1].fs_root.get()), (10 << 20, 0));
    }
}
