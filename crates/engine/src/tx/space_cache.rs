//! The v1 space cache, which is not written: before anything else changes it goes, and the kernel makes it anew.
//!
//! # Invariants
//! * A cache is believed by a kernel only where the superblock names its own generation as that of the cache; the first
//!   commit says that there is none, so a cache that is gone in part only is not believed either.

use butterfs_format::ids::objectid;
use butterfs_format::items::{BackRef, FileExtent, FileExtentBody};
use butterfs_format::{Corruption, Ino, ItemType, Key, Logical, TreeId};

use super::Transaction;
use crate::error::Result;

/// What the superblock says where no cache is to be believed.
const NO_CACHE: u64 = u64::MAX;
/// Headers of so many groups go in one change.
const STEP: usize = 16;

impl Transaction {
    /// Whether there is a cache, of any block group.
    pub fn has_space_cache(&self) -> Result<bool> {
        Ok(!self.cache_headers(1)?.is_empty())
    }

    /// Removes the cache files of a few block groups; says whether there may be more.
    pub fn drop_space_cache(&mut self) -> Result<bool> {
        let headers = self.cache_headers(STEP)?;
        self.superblock.cache_generation = NO_CACHE.into();
        for (key, ino) in &headers {
            self.remove(TreeId::ROOT, key)?;
            self.drop_cache_file(*ino)?;
        }
        Ok(headers.len() == STEP)
    }

    /// Up to `limit` headers, each with the number of its file.
    fn cache_headers(&self, limit: usize) -> Result<Vec<(Key, u64)>> {
        let mut found = Vec::new();
        let mut cursor = self.cursor(TreeId::ROOT, &Key::new(objectid::FREE_SPACE, ItemType::UNTYPED, 0))?;
        while let Some((key, data)) = cursor.item().filter(|(key, _)| is_header(key) && found.len() < limit) {
            // The file's key comes first.
            let ino = data.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            found.push((key, ino.ok_or_else(|| bad(&key, "it is too short"))?));
            cursor.advance()?;
        }
        Ok(found)
    }

    /// Removes a file of the root tree, with its data. (The root tree's own directory is none.)
    fn drop_cache_file(&mut self, ino: u64) -> Result<()> {
        if ino == TreeId::ROOT_TREE_DIR.0 {
            return Err(bad(&Key::new(ino, ItemType::INODE_ITEM, 0), "a cache claims it").into());
        }
        let mut extents = Vec::new();
        let mut cursor = self.cursor(TreeId::ROOT, &Key::new(ino, ItemType::EXTENT_DATA, 0))?;
        while let Some((key, data)) = cursor.item().filter(|(key, _)| is_extent_of(key, ino)) {
            let extent = FileExtent::parse(data).map_err(|problem| bad(&key, &problem))?;
            let place = match extent.body {
                FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, .. } if disk_bytenr != 0 => {
                    Some((Logical(disk_bytenr), disk_num_bytes, offset))
                }
                _ => None,
            };
            extents.push((key, place));
            cursor.advance()?;
        }
        drop(cursor);
        for (key, place) in extents {
            self.remove(TreeId::ROOT, &key)?;
            if let Some((at, len, offset)) = place {
                let offset = key.offset.wrapping_sub(offset);
                self.drop_data_ref(at, len, BackRef::Data { root: TreeId::ROOT, objectid: Ino(ino), offset })?;
            }
        }
        self.remove(TreeId::ROOT, &Key::new(ino, ItemType::INODE_ITEM, 0)).map(drop)
    }
}

fn is_header(key: &Key) -> bool {
    (key.objectid, key.item_type) == (objectid::FREE_SPACE, ItemType::UNTYPED)
}

fn is_extent_of(key: &Key, ino: u64) -> bool {
    (key.objectid, key.item_type) == (ino, ItemType::EXTENT_DATA)
}

fn bad(key: &Key, problem: &str) -> Corruption {
    Corruption::new(format!("space cache, root tree {key}"), problem)
}
