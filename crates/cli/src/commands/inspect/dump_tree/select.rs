//! Which trees are printed, and in which order: as btrfs-progs does.

use std::io;

use butterfs_format::ids::objectid;
use butterfs_format::items::RootItem;
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use super::Arguments;
use super::sink::Sink;
use super::walk::{print_leaves, print_tree};
use crate::commands::inspect::image::{Flow, Image};
use crate::commands::inspect::report::warn;

/// One run of the command.
pub struct Dump<'a, 's> {
    pub arguments: &'a Arguments,
    pub image: &'a Image,
    pub sink: &'a mut Sink<'s>,
}

/// Why nothing, or not all that was asked for, is there.
type Problem = Option<String>;

impl Dump<'_, '_> {
    /// Prints what was asked for.
    pub fn all(&mut self) -> io::Result<Problem> {
        let arguments = self.arguments;
        if !arguments.block.is_empty() {
            return self.blocks();
        }
        if let Some((id, name)) = arguments.tree.and_then(|id| Some((TreeId(id), special_name(TreeId(id))?))) {
            return self.special(id, name);
        }
        if !(arguments.extents || arguments.uuid || arguments.tree.is_some()) {
            self.first_trees()?;
        }
        self.trees_of(&self.image.root_tree())?;
        if let Some(log) = self.image.log_root_tree() {
            self.trees_of(&log)?;
        }
        if arguments.extents || arguments.device || arguments.uuid {
            return Ok(None);
        }
        if arguments.backups {
            self.sink.backups(self.image.superblock())?;
        }
        self.sink.totals(self.image.superblock())?;
        Ok(None)
    }

    /// Blocks by address, in order.
    fn blocks(&mut self) -> io::Result<Problem> {
        let mut blocks = self.arguments.block.clone();
        blocks.sort_unstable();
        for pair in blocks.windows(2).filter(|pair| pair[0] == pair[1]) {
            warn(format_args!("block {} was given twice", pair[0]));
        }
        blocks.dedup();
        for at in blocks {
            let sector = self.image.geometry().sectorsize;
            if !at.is_multiple_of(u64::from(sector)) {
                self.image.lose(format_args!("block {at} is not aligned to sectors of {sector} bytes"));
                continue;
            }
            let Some(block) = self.read(&Expected::at(Logical(at)))? else { continue };
            if self.arguments.follow { self.print(&block)? } else { self.sink.block(&block)? }
        }
        Ok(None)
    }

    fn read(&mut self, at: &Expected) -> io::Result<Option<TreeBlock>> {
        match self.image.block(at) {
            Ok(block) => Ok(Some(block)),
            Err(problem) => {
                self.sink.flush()?;
                self.image.lose(problem);
                Ok(None)
            }
        }
    }

    fn print(&mut self, root: &TreeBlock) -> io::Result<()> {
        print_tree(self.image, self.sink, root, self.arguments.order())
    }

    /// A tree that is not found, or not looked for, in the root tree.
    fn special(&mut self, id: TreeId, name: &str) -> io::Result<Problem> {
        let Some(root) = special_root(self.image, id) else {
            return Ok(Some(format!("there is no tree {id}")));
        };
        if let Some(block) = self.read(&root)? {
            self.sink.special_tree(name)?;
            self.print(&block)?;
        }
        Ok(None)
    }

    /// Root tree, chunk tree, log root tree.
    fn first_trees(&mut self) -> io::Result<()> {
        for (id, name) in [(TreeId::ROOT, "root"), (TreeId::CHUNK, "chunk"), (TreeId::TREE_LOG, "log root")] {
            let Some(root) = special_root(self.image, id) else { continue };
            let Some(block) = self.read(&root)? else { continue };
            if self.arguments.roots || self.arguments.backups {
                self.sink.root(name, None, &block)?;
            } else {
                self.sink.special_tree(name)?;
                self.print(&block)?;
            }
        }
        Ok(())
    }

    /// The trees that the items of a root tree lead to.
    fn trees_of(&mut self, root_tree: &Expected) -> io::Result<()> {
        let mut result = Ok(());
        let image = self.image;
        image.items(root_tree, Key::new(0, ItemType::ROOT_ITEM, 0), &mut |key, data| {
            if key.item_type == ItemType::ROOT_ITEM {
                result = self.root_item(key, data);
            }
            if result.is_ok() { Flow::Continue(()) } else { Flow::Break(()) }
        });
        result
    }

    fn root_item(&mut self, key: &Key, data: &[u8]) -> io::Result<()> {
        if self.arguments.tree.is_some_and(|id| id != key.objectid) || !self.wanted(TreeId(key.objectid)) {
            return Ok(());
        }
        let item = match RootItem::parse(data) {
            Ok(item) => item,
            Err(problem) => {
                self.sink.flush()?;
                self.image.lose(format_args!("{key}: {problem}"));
                return Ok(());
            }
        };
        // Neither level nor generation are compared: what is there is to be seen.
        let Some(block) = self.read(&Expected::at(item.bytenr()))? else { return Ok(()) };
        let name = tree_name(key.objectid);
        if self.arguments.extents {
            self.sink.tree(name, key, "")?;
            return print_leaves(self.image, self.sink, &block);
        }
        if self.arguments.roots || self.arguments.backups {
            return self.sink.root(name, Some(key), &block);
        }
        self.sink.tree(name, key, " ")?;
        self.print(&block)
    }

    /// Whether the options that leave trees out leave this one in.
    fn wanted(&self, id: TreeId) -> bool {
        let Arguments { extents, device, uuid, .. } = *self.arguments;
        let all = !(extents || device || uuid);
        match id {
            TreeId::EXTENT => all || !(device || uuid),
            TreeId::DEV => all || !uuid,
            TreeId::UUID => all || !(extents || device),
            TreeId::ROOT_TREE_DIR => true,
            _ => all,
        }
    }
}

/// Names of trees that `--tree` takes from elsewhere than from an item with their id.
fn special_name(id: TreeId) -> Option<&'static str> {
    Some(match id {
        TreeId::ROOT => "root",
        TreeId::CHUNK => "chunk",
        TreeId::TREE_LOG => "log root",
        TreeId::BLOCK_GROUP => "block group",
        _ => return None,
    })
}

/// Where such a tree is, if there is one.
fn special_root(image: &Image, id: TreeId) -> Option<Expected> {
    if id == TreeId::TREE_LOG { image.log_root_tree() } else { image.tree(id) }
}

fn tree_name(id: u64) -> &'static str {
    match TreeId(id) {
        TreeId::ROOT => "root",
        TreeId::EXTENT => "extent",
        TreeId::CHUNK => "chunk",
        TreeId::DEV => "device",
        TreeId::FS => "fs",
        TreeId::ROOT_TREE_DIR => "directory",
        TreeId::CSUM => "checksum",
        TreeId::QUOTA => "quota",
        TreeId::UUID => "uuid",
        TreeId::FREE_SPACE => "free space",
        TreeId::BLOCK_GROUP => "block group",
        TreeId::RAID_STRIPE => "raid stripe",
        TreeId::TREE_LOG => "log",
        TreeId::TREE_RELOC => "reloc",
        TreeId::DATA_RELOC => "data reloc",
        TreeId(objectid::ORPHAN) => "orphan",
        TreeId(objectid::TREE_LOG_FIXUP) => "log fixup",
        TreeId(objectid::EXTENT_CSUM) => "extent checksum",
        TreeId(objectid::MULTIPLE) => "multiple",
        _ => "file",
    }
}

/// Reads the id of a tree: a number, or a name in any case, with or without `BTRFS_` before and `_TREE` and
/// `_OBJECTID` behind.
pub fn tree_id(text: &str) -> Result<u64, String> {
    let names = [
        ("ROOT", TreeId::ROOT.0),
        ("EXTENT", TreeId::EXTENT.0),
        ("CHUNK", TreeId::CHUNK.0),
        ("DEVICE", TreeId::DEV.0),
        ("DEV", TreeId::DEV.0),
        ("FS", TreeId::FS.0),
        ("CSUM", TreeId::CSUM.0),
        ("CHECKSUM", TreeId::CSUM.0),
        ("QUOTA", TreeId::QUOTA.0),
        ("UUID", TreeId::UUID.0),
        ("FREE_SPACE", TreeId::FREE_SPACE.0),
        ("TREE_LOG_FIXUP", objectid::TREE_LOG_FIXUP),
        ("TREE_LOG", TreeId::TREE_LOG.0),
        ("TREE_RELOC", TreeId::TREE_RELOC.0),
        ("DATA_RELOC", TreeId::DATA_RELOC.0),
        ("BLOCK_GROUP", TreeId::BLOCK_GROUP.0),
        ("RAID_STRIPE", TreeId::RAID_STRIPE.0),
    ];
    if let Ok(number) = text.parse::<u64>() {
        return if number == 0 { Err("there is no tree 0".into()) } else { Ok(number) };
    }
    let upper = text.to_ascii_uppercase().replace('-', "_");
    let name = upper.strip_prefix("BTRFS_").unwrap_or(&upper);
    let name = name.strip_suffix("_OBJECTID").unwrap_or(name);
    let short = name.strip_suffix("_TREE").unwrap_or(name);
    let found = names.iter().find(|(known, _)| *known == name || *known == short);
    found.map(|(_, id)| *id).ok_or_else(|| "no tree has this name".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_names() {
        for text in ["5", "fs", "FS_TREE", "btrfs_fs_tree_objectid", "BTRFS_FS"] {
            assert_eq!(tree_id(text), Ok(5), "{text}");
        }
        assert_eq!(tree_id("tree_log"), Ok(u64::MAX - 5));
        assert_eq!(tree_id("free-space"), Ok(10));
        assert_eq!(tree_id("data-reloc-tree"), Ok(u64::MAX - 8));
        assert_eq!(tree_id("dev"), tree_id("device"));
        for text in ["", "0", "x", "fsx", "-1"] {
            assert!(tree_id(text).is_err(), "{text}");
        }
    }
}
