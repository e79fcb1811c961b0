//! Where a finding is.

use std::fmt;

use butterfs_format::{DevId, Ino, Key, Logical, TreeId};

/// Where a finding is: the coordinates that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What lies there, in words; empty if the coordinates tell.
    pub what: &'static str,
    /// The tree.
    pub tree: Option<TreeId>,
    /// The inode, in that tree.
    pub inode: Option<Ino>,
    /// The item's key, in that tree.
    pub key: Option<Key>,
    /// The logical address; of an item, that of its leaf.
    pub bytenr: Option<Logical>,
    /// The end of a logical range.
    pub end: Option<Logical>,
    /// Which copy, from 1.
    pub copy: Option<usize>,
    /// The device's number.
    pub devid: Option<DevId>,
    /// The device's path.
    pub device: Option<String>,
    /// The offset on the device, or in the file, in bytes.
    pub offset: Option<u64>,
    /// The quota group.
    pub qgroup: Option<u64>,
}

impl Place {
    fn of(what: &'static str) -> Self {
        Self { what, ..Self::default() }
    }

    fn at(what: &'static str, bytenr: u64) -> Self {
        Self { bytenr: Some(Logical(bytenr)), ..Self::of(what) }
    }

    /// The superblock.
    pub fn superblock() -> Self {
        Self::of("superblock")
    }

    /// A superblock copy, at an offset of a device.
    pub fn superblock_copy(device: String, offset: u64) -> Self {
        Self { device: Some(device), offset: Some(offset), ..Self::superblock() }
    }

    /// A tree.
    pub fn tree(id: TreeId) -> Self {
        Self { tree: Some(id), ..Self::default() }
    }

    /// An item.
    pub fn item(tree: TreeId, key: &Key) -> Self {
        Self { key: Some(*key), ..Self::tree(tree) }
    }

    /// A tree block.
    pub fn block(tree: TreeId, bytenr: Logical) -> Self {
        Self { bytenr: Some(bytenr), what: "block", ..Self::tree(tree) }
    }

    /// An inode.
    pub fn inode(tree: TreeId, ino: u64) -> Self {
        Self { inode: Some(Ino(ino)), ..Self::tree(tree) }
    }

    /// An extent.
    pub fn extent(bytenr: u64) -> Self {
        Self::at("extent", bytenr)
    }

    /// A chunk.
    pub fn chunk(start: u64) -> Self {
        Self::at("chunk", start)
    }

    /// A block group.
    pub fn block_group(start: u64) -> Self {
        Self::at("block group", start)
    }

    /// Data at a logical address.
    pub fn data(bytenr: u64) -> Self {
        Self::at("data", bytenr)
    }

    /// Checksums of a logical range.
    pub fn checksums(start: u64, end: u64) -> Self {
        Self { tree: Some(TreeId::CSUM), ..Self::range("checksums", start, end) }
    }

    /// A logical range.
    pub fn range(what: &'static str, start: u64, end: u64) -> Self {
        Self { end: Some(Logical(end)), ..Self::at(what, start) }
    }

    /// A device.
    pub fn device(devid: u64) -> Self {
        Self { devid: Some(DevId(devid)), ..Self::default() }
    }

    /// A range of a device.
    pub fn device_extent(devid: u64, offset: u64) -> Self {
        Self { devid: Some(DevId(devid)), offset: Some(offset), ..Self::of("device extent") }
    }

    /// A subvolume.
    pub fn subvolume(id: u64) -> Self {
        Self { what: "subvolume", ..Self::tree(TreeId(id)) }
    }

    /// A quota group.
    pub fn qgroup(id: u64) -> Self {
        Self { qgroup: Some(id), ..Self::tree(TreeId::QUOTA) }
    }

    /// This place in a copy, counted from 0.
    pub fn copy(self, copy: usize) -> Self {
        Self { copy: Some(copy + 1), ..self }
    }

    /// This place, at an offset in the file, in bytes.
    pub fn file_offset(self, offset: u64) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

/// A quota group's number as `btrfs qgroup` writes it.
pub(crate) fn qgroup_name(id: u64) -> String {
    format!("{}/{}", id >> 48, id & ((1 << 48) - 1))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leaf = if self.key.is_some() { "in block " } else { "" };
        let mut words = Vec::new();
        words.extend(self.device.clone());
        words.extend(self.tree.map(|tree| format!("tree {}", tree.0 as i64)));
        words.extend(self.inode.map(|ino| format!("inode {}", ino.0 as i64)));
        words.extend(self.key.map(|key| format!("item {key}")));
        words.extend(self.qgroup.map(|id| format!("quota group {}", qgroup_name(id))));
        words.extend((!self.what.is_empty()).then(|| self.what.to_owned()));
        words.extend(self.bytenr.map(|bytenr| format!("{leaf}{bytenr}")));
        words.extend(self.end.map(|end| format!("to {end}")));
        words.extend(self.copy.map(|copy| format!("copy {copy}")));
        words.extend(self.offset.map(|offset| format!("at {offset}")));
        words.extend(self.devid.map(|devid| format!("device {devid}")));
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_prints_what_is_known() {
        assert_eq!(Place::inode(TreeId(5), 257).file_offset(4096).to_string(), "tree 5 inode 257 at 4096");
        assert_eq!(Place::block(TreeId(2), Logical(65536)).copy(1).to_string(), "tree 2 block 65536 copy 2");
        assert_eq!(Place::qgroup(1 << 48 | 7).to_string(), "tree 8 quota group 1/7");
        assert_eq!(Place::device_extent(1, 9).to_string(), "device extent at 9 device 1");
    }
}
