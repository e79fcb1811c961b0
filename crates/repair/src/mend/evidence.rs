//! What the extent tree and the checksum tree, as they are, say of data: the evidence by which a wrong field of a
//! file extent is set right.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use butterfs_check::Kind;
use butterfs_format::items::{BackRef, BlockGroupFlags, ExtentFlags, ExtentItem};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, TreeId};

use crate::error::Result;
use crate::store::Store;
use crate::survey::Survey;
use crate::workspace::Workspace;

/// Whether data can lie there: aligned, and in one chunk for data.
pub fn data_can_lie(store: &Store, start: u64, len: u64) -> bool {
    let sector = u64::from(store.geometry().sectorsize);
    let Some(end) = start.checked_add(len).filter(|_| len > 0) else { return false };
    let inside = store.volume().chunk_containing(Logical(start)).is_some_and(|(first, chunk)| {
        chunk.flags().contains(BlockGroupFlags::DATA) && end <= first.0.saturating_add(chunk.length())
    });
    inside && start.is_multiple_of(sector) && len.is_multiple_of(sector)
}

/// A tree that was healed in this round may lack what could not be saved, so the check from before counts.
fn has_gaps(workspace: &Workspace) -> bool {
    let trees = [TreeId::EXTENT, TreeId::CSUM];
    let lost = |tree: &TreeId| !workspace.survey.is_whole(*tree);
    let broken = workspace.report.findings.iter().filter(|finding| finding.kind == Kind::TreeBlock);
    trees.iter().any(lost) || broken.filter_map(|finding| finding.place.tree).any(|tree| trees.contains(&tree))
}

/// Extents and their back references by file, and what has checksums.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Data extents: address to length.
    extents: BTreeMap<u64, u64>,
    /// By inode and the file offset of the extent's first byte: extents.
    by_file: HashMap<(u64, u64), Vec<u64>>,
    /// By extent: inode and offset of each reference.
    by_extent: HashMap<u64, Vec<(u64, u64)>>,
    /// Ranges with checksums: start to end.
    sums: BTreeMap<u64, u64>,
    /// Data that some file extent says was written.
    written: HashSet<u64>,
    /// Extents that some file extent refers to.
    used: HashSet<u64>,
    /// References that are made: extent, inode, offset.
    claimed: BTreeSet<(u64, u64, u64)>,
    /// Extents with references by leaf, which do not tell the file.
    shared: HashSet<u64>,
    /// Tree blocks.
    blocks: BTreeSet<u64>,
    /// Free space, where the free space tree says so extent by extent: start to end.
    free: BTreeMap<u64, u64>,
    /// A part of the extent tree or of the checksum tree is lost: that they lack something says nothing then.
    has_gaps: bool,
    nodesize: u64,
}

impl Evidence {
    /// Reads what can be read.
    ///
    /// # Errors
    /// If the checksum tree cannot be read though the survey says so.
    pub fn load(workspace: &Workspace) -> Result<Self> {
        let (store, survey) = (&workspace.store, &workspace.survey);
        let mut evidence = Self { nodesize: u64::from(store.geometry().nodesize), ..Self::default() };
        evidence.has_gaps = has_gaps(workspace);
        evidence.load_extents(store, survey);
        evidence.load_sums(store, survey);
        evidence.load_free_space(store, survey);
        evidence.blocks = survey.blocks.keys().map(|at| at.0).collect();
        let written = survey.extents.iter().filter(|(_, extent)| extent.written);
        evidence.written = written.map(|(at, _)| *at).collect();
        evidence.used = survey.extents.keys().copied().collect();
        let claims =
            survey.extents.iter().flat_map(|(at, extent)| extent.refs.iter().map(|r| (*at, r.objectid, r.offset)));
        evidence.claimed = claims.collect();
        Ok(evidence)
    }

    fn load_extents(&mut self, store: &Store, survey: &Survey) {
        let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::EXTENT);
        for (at, _) in leaves {
            let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
            for slot in 0..leaf.len() {
                let key = leaf.key(slot);
                // What no data can lie in says nothing of data, whatever happened to it.
                if key.item_type != ItemType::EXTENT_ITEM || data_can_lie(store, key.objectid, key.offset) {
                    self.extent_item(&key, leaf.data(slot));
                }
            }
        }
    }

    fn extent_item(&mut self, key: &Key, data: &[u8]) {
        match key.item_type {
            ItemType::EXTENT_ITEM => {
                let Ok(item) = ExtentItem::parse(key, data) else { return };
                if item.flags.contains(ExtentFlags::DATA) {
                    self.extents.insert(key.objectid, key.offset);
                    item.inline.iter().for_each(|inline| self.back_ref(key.objectid, &inline.back_ref));
                }
            }
            ItemType::EXTENT_DATA_REF => {
                if let Ok(one) = BackRef::parse_keyed(key, data) {
                    self.back_ref(key.objectid, &one.back_ref);
                }
            }
            ItemType::SHARED_DATA_REF => drop(self.shared.insert(key.objectid)),
            _ => {}
        }
    }

    fn back_ref(&mut self, bytenr: u64, back_ref: &BackRef) {
        match back_ref {
            BackRef::Data { objectid, offset, .. } => {
                let file = (objectid.0, *offset);
                self.by_file.entry(file).or_default().push(bytenr);
                self.by_extent.entry(bytenr).or_default().push(file);
            }
            BackRef::SharedData { .. } => drop(self.shared.insert(bytenr)),
            _ => {}
        }
    }

    fn load_sums(&mut self, store: &Store, survey: &Survey) {
        let (size, sector) = (store.geometry().csum_type.size(), u64::from(store.geometry().sectorsize));
        let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::CSUM);
        for (at, _) in leaves {
            let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
            for slot in (0..leaf.len()).filter(|slot| leaf.key(*slot).item_type == ItemType::EXTENT_CSUM) {
                let start = leaf.key(slot).offset;
                let end = start.saturating_add((leaf.data(slot).len() / size) as u64 * sector);
                let known = self.sums.entry(start).or_insert(end);
                *known = (*known).max(end);
            }
        }
    }

    fn load_free_space(&mut self, store: &Store, survey: &Survey) {
        let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::FREE_SPACE);
        for (at, _) in leaves {
            let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
            let keys = (0..leaf.len()).map(|slot| leaf.key(slot));
            let extents = keys.filter(|key| key.item_type == ItemType::FREE_SPACE_EXTENT);
            self.free.extend(extents.map(|key| (key.objectid, key.objectid.saturating_add(key.offset))));
        }
    }

    /// Whether a part of the extent tree or of the checksum tree is lost. What they lack is no evidence then.
    pub fn has_gaps(&self) -> bool {
        self.has_gaps
    }

    /// Whether anything but this file at this offset refers to an extent.
    pub fn is_of_others(&self, at: u64, ino: u64, offset: u64) -> bool {
        self.claimed.range((at, 0, 0)..=(at, u64::MAX, u64::MAX)).any(|claim| *claim != (at, ino, offset))
    }

    /// Whether the free space tree calls a part of a range free.
    pub fn is_free(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        self.free.range(..end).next_back().is_some_and(|(_, to)| *to > start)
    }

    /// How many bytes of a range have checksums.
    pub fn covered(&self, start: u64, len: u64) -> u64 {
        let end = start.saturating_add(len);
        let before = self.sums.range(..start).next_back();
        let inside = self.sums.range(start..end);
        before.into_iter().chain(inside).map(|(from, to)| (*to).min(end).saturating_sub((*from).max(start))).sum()
    }

    /// The length of the extent that begins at an address.
    pub fn extent_len(&self, at: u64) -> Option<u64> {
        self.extents.get(&at).copied()
    }

    /// Extents that should be referred to by this file at this offset, and are not.
    pub fn unclaimed_of_file(&self, ino: u64, offset: u64) -> Vec<u64> {
        let all = self.by_file.get(&(ino, offset)).map(Vec::as_slice).unwrap_or_default();
        let mut found: Vec<u64> =
            all.iter().filter(|at| !self.claimed.contains(&(**at, ino, offset))).copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The offsets at which a file should refer to an extent, and does not.
    pub fn unclaimed_offsets(&self, ino: u64, at: u64) -> Vec<u64> {
        let refs = self.by_extent.get(&at).map(Vec::as_slice).unwrap_or_default();
        let missing = |(file, offset): &&(u64, u64)| *file == ino && !self.claimed.contains(&(at, ino, *offset));
        refs.iter().filter(missing).map(|(_, offset)| *offset).collect()
    }

    /// Whether the extent tree knows that a file refers to an extent at an offset, as far as it says.
    pub fn agrees(&self, ino: u64, at: u64, offset: u64) -> bool {
        let refs = self.by_extent.get(&at).map(Vec::as_slice).unwrap_or_default();
        self.shared.contains(&at) || refs.contains(&(ino, offset))
    }

    /// Whether some file extent that was written, not only preallocated, refers to it.
    pub fn is_written(&self, at: u64) -> bool {
        self.written.contains(&at)
    }

    /// Whether an extent that begins elsewhere and that some file refers to, or a tree block, lies in a range. One that
    /// nobody refers to may be an item with a wrong address, and must not cost a file its data.
    pub fn is_taken(&self, start: u64, len: u64) -> bool {
        let end = start.saturating_add(len);
        let used = |(at, _): &(&u64, &u64)| self.used.contains(*at);
        let before =
            self.extents.range(..start).rev().find(used).is_some_and(|(at, len)| at.saturating_add(*len) > start);
        let inside = self.extents.range(start..end).filter(used).any(|(at, _)| *at != start);
        let from = start.saturating_sub(self.nodesize - 1);
        before || inside || self.blocks.range(from..end).next().is_some()
    }
}
