//! A filesystem that is looked at: blocks and items, as far as they can be read.
//!
//! Unlike elsewhere, a leaf with bad items is read: they are what one looks for. What cannot be read is
//! told of and left out.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_check::superblock_copy;
use butterfs_format::items::RootItem;
use butterfs_format::validate::{Checksum, Expected, Geometry, check_structure};
use butterfs_format::{Generation, ItemType, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, FileDevice, Volume};

use super::report::warn;
use crate::devices::open_damaged;
use crate::exit;
use crate::failure::{self, Result};

/// An opened filesystem.
pub struct Image {
    volume: Volume,
    geometry: Geometry,
    superblock: Superblock,
    lost: Cell<usize>,
}

/// Whether to go on with what follows.
pub type Flow = ControlFlow<()>;

impl Image {
    /// Opens the devices of a filesystem; some may be missing.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
        let devices = paths.iter().map(|path| open_device(path)).collect::<Result<Vec<_>>>()?;
        let bad: Vec<_> = devices.iter().filter_map(|device| superblock_copy(&**device, 0).err()).collect();
        let volume = open_damaged(devices).map_err(|error| failure::volume(exit::USAGE, first, &error))?;
        for problem in bad {
            warn(format_args!("{problem}; another copy of the superblock is used"));
        }
        for device in volume.missing_devices() {
            warn(format_args!("device {} is missing", device.devid));
        }
        let (superblock, geometry) = (volume.superblock(), volume.geometry());
        Ok(Self { volume, geometry, superblock, lost: Cell::new(0) })
    }

    /// The devices.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// What is known of all blocks.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The superblock.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// How many blocks could not be read so far.
    pub fn lost(&self) -> usize {
        self.lost.get()
    }

    /// Tells of a block that cannot be read, and counts it.
    pub fn lose(&self, problem: impl Display) {
        self.lost.set(self.lost.get() + 1);
        warn(problem);
    }

    /// Reads a block from the first good copy; its items may be wrong.
    ///
    /// # Errors
    /// What is wrong with the last copy.
    pub fn block(&self, expected: &Expected) -> std::result::Result<TreeBlock, String> {
        let at = expected.bytenr;
        let mut problem = format!("tree block {at}: is in no chunk");
        for copy in 0..self.volume.copies(at).unwrap_or(0) {
            match self.block_copy(expected, copy) {
                Ok(block) => return Ok(block),
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    fn block_copy(&self, expected: &Expected, copy: usize) -> std::result::Result<TreeBlock, String> {
        let mut bytes = vec![0; self.geometry.nodesize as usize];
        self.volume
            .read_copy(expected.bytenr, &mut bytes, copy)
            .map_err(|error| format!("tree block {}: {error}", expected.bytenr))?;
        let block = TreeBlock::from_bytes(bytes);
        check_structure(&block, &self.geometry, expected, Checksum::Verify).map_err(|error| error.to_string())?;
        Ok(block)
    }

    /// The root tree's root.
    pub fn root_tree(&self) -> Expected {
        let sb = &self.superblock;
        Expected { level: Some(sb.root_level), generation: Some(sb.generation()), ..Expected::at(sb.root()) }
    }

    /// The chunk tree's root.
    pub fn chunk_tree(&self) -> Expected {
        let sb = &self.superblock;
        Expected {
            level: Some(sb.chunk_root_level),
            generation: Some(Generation(sb.chunk_root_generation.get())),
            ..Expected::at(Logical(sb.chunk_root.get()))
        }
    }

    /// The root of the tree of log trees, if there is a log.
    pub fn log_root_tree(&self) -> Option<Expected> {
        let sb = &self.superblock;
        let at = Some(sb.log_root.get()).filter(|at| *at != 0)?;
        Some(Expected {
            level: Some(sb.log_root_level),
            generation: Some(sb.generation().next()),
            ..Expected::at(Logical(at))
        })
    }

    /// The root of a tree.
    pub fn tree(&self, id: TreeId) -> Option<Expected> {
        match id {
            TreeId::ROOT => return Some(self.root_tree()),
            TreeId::CHUNK => return Some(self.chunk_tree()),
            _ => {}
        }
        let first = Key::new(id.0, ItemType::ROOT_ITEM, 0);
        let mut found = None;
        self.items(&self.root_tree(), first, &mut |key, data| {
            if key.objectid != id.0 || key.item_type != ItemType::ROOT_ITEM {
                return Flow::Break(());
            }
            found = RootItem::parse(data).ok();
            Flow::Continue(())
        });
        found.map(|item| root_of(&item))
    }

    /// Goes through the items of a tree from `first` on, in order, until `visit` breaks off. Blocks that
    /// cannot be read are told of and left out.
    pub fn items(&self, root: &Expected, first: Key, visit: &mut dyn FnMut(&Key, &[u8]) -> Flow) {
        let leaf = &mut |leaf: &TreeBlock, from: usize| {
            (from..leaf.len()).try_for_each(|slot| visit(&leaf.key(slot), leaf.data(slot)))
        };
        self.leaves(root, first, leaf);
    }

    /// Goes through the leaves of a tree that may have items from `first` on, each with the slot where
    /// these begin.
    pub fn leaves(&self, root: &Expected, first: Key, visit: &mut dyn FnMut(&TreeBlock, usize) -> Flow) {
        let mut walk = Walk { image: self, first, seen: HashSet::new() };
        // That it broke off is what the visitor wanted.
        let _ = walk.block(root, visit);
    }

    /// The item with this key.
    pub fn item(&self, root: &Expected, key: &Key) -> Option<Vec<u8>> {
        let mut found = None;
        self.items(root, *key, &mut |at, data| {
            found = (at == key).then(|| data.to_vec());
            Flow::Break(())
        });
        found
    }

    /// All subvolumes, by id.
    pub fn subvolumes(&self) -> Vec<(TreeId, Expected)> {
        let mut found = Vec::new();
        self.items(&self.root_tree(), Key::MIN, &mut |key, data| {
            let id = TreeId(key.objectid);
            if key.item_type == ItemType::ROOT_ITEM && id.is_subvolume() {
                found.extend(RootItem::parse(data).ok().map(|item| (id, root_of(&item))));
            }
            Flow::Continue(())
        });
        found
    }
}

struct Walk<'a> {
    image: &'a Image,
    first: Key,
    /// Nodes that were met, so that a damaged tree cannot lead in circles.
    seen: HashSet<Logical>,
}

impl Walk<'_> {
    fn block(&mut self, at: &Expected, visit: &mut dyn FnMut(&TreeBlock, usize) -> Flow) -> Flow {
        let block = match self.image.block(at) {
            Ok(block) => block,
            Err(problem) => {
                self.image.lose(problem);
                return Flow::Continue(());
            }
        };
        if block.is_leaf() {
            let from = block.search(&self.first).unwrap_or_else(|slot| slot);
            return visit(&block, from);
        }
        if !self.seen.insert(at.bytenr) {
            self.image.lose(format_args!("tree block {}: is referred to twice", at.bytenr));
            return Flow::Continue(());
        }
        (block.child_slot(&self.first)..block.len()).try_for_each(|slot| self.block(&child(&block, slot), visit))
    }
}

/// What a node says of a child.
pub fn child(node: &TreeBlock, slot: usize) -> Expected {
    let ptr = node.ptr(slot);
    Expected {
        level: node.level().checked_sub(1),
        generation: Some(Generation(ptr.generation.get())),
        ..Expected::at(Logical(ptr.blockptr.get()))
    }
}

/// Where a root item points.
pub fn root_of(item: &RootItem) -> Expected {
    Expected { level: Some(item.level), generation: Some(item.generation()), ..Expected::at(item.bytenr()) }
}

fn open_device(path: &Path) -> Result<Arc<dyn BlockDevice>> {
    match FileDevice::open_unlocked(path) {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => Err(failure::volume(exit::USAGE, path, &error)),
    }
}
