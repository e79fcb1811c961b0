//! Inodes, gathered from the leaves of a subvolume in the order of their numbers.

use butterfs_format::items::{Compression, DirEntry, FileExtent, FileExtentBody, InodeItem, read_exact};
use butterfs_format::key::is_user_objectid;
use butterfs_format::{ItemType, Key};

use crate::outline::{LeafRef, Trust};
use crate::sink::Xattr;
use crate::source::Block;

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Extent {
    /// Where it begins in the file.
    pub start: u64,
    /// How much of the file it is.
    pub len: u64,
    /// How far it is to be believed.
    pub trust: Trust,
    /// Where its bytes are.
    pub body: Body,
}

/// Where the bytes of an extent are.
#[derive(Clone, Debug)]
pub enum Body {
    /// Zeros: a hole, or space that was never written.
    Zeros,
    /// In the item.
    Inline {
        /// As they are there.
        bytes: Vec<u8>,
        /// How they are compressed.
        compression: Compression,
    },
    /// In a data extent.
    Data(Data),
}

/// A part of a data extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// Address of the whole.
    pub bytenr: u64,
    /// Its length on disk.
    pub disk_len: u64,
    /// Where the part begins in the whole, decompressed.
    pub offset: u64,
    /// Length of the whole, decompressed.
    pub ram_len: u64,
    /// How it is compressed.
    pub compression: Compression,
}

/// An inode and all that is known of it but its names.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub ino: u64,
    /// Its item.
    pub item: Option<InodeItem>,
    /// Its extended attributes.
    pub xattrs: Vec<Xattr>,
    /// Its content, in the order of the file.
    pub extents: Vec<Extent>,
    /// The bytes that its extents count as, as `nbytes` does.
    pub bytes: u64,
    /// The least that any part of it is to be believed.
    pub trust: Trust,
    /// Some part of it is current.
    pub has_current: bool,
}

impl Inode {
    /// Nothing is known but the number.
    pub fn new(ino: u64) -> Self {
        let (xattrs, extents) = (Vec::new(), Vec::new());
        Self { ino, item: None, xattrs, extents, bytes: 0, trust: Trust::Current, has_current: false }
    }

    fn take(&mut self, key: &Key, data: &[u8], trust: Trust) {
        match key.item_type {
            ItemType::INODE_ITEM => self.item = read_exact(data).ok(),
            ItemType::XATTR_ITEM => {
                let entries = DirEntry::each(data).flatten();
                self.xattrs.extend(entries.map(|entry| (entry.name.to_vec(), entry.value.to_vec())));
            }
            ItemType::EXTENT_DATA => self.extent(key.offset, data, trust),
            // Names are known already.
            ItemType::INODE_REF | ItemType::INODE_EXTREF | ItemType::DIR_ITEM | ItemType::DIR_INDEX => return,
            _ => {}
        }
        self.trust = self.trust.max(trust);
        self.has_current |= trust == Trust::Current;
    }

    fn extent(&mut self, start: u64, data: &[u8], trust: Trust) {
        let Ok(extent) = FileExtent::parse(data) else { return };
        let len = extent.len_in_file();
        let compression = extent.compression;
        let (counted, body) = match extent.body {
            FileExtentBody::Inline(bytes) => (len, Body::Inline { bytes: bytes.to_vec(), compression }),
            FileExtentBody::Extent { disk_bytenr: 0, .. } => (0, Body::Zeros),
            FileExtentBody::Extent { prealloc: true, .. } => (len, Body::Zeros),
            FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, .. } => {
                let ram_len = extent.ram_bytes;
                (len, Body::Data(Data { bytenr: disk_bytenr, disk_len: disk_num_bytes, offset, ram_len, compression }))
            }
        };
        self.bytes = self.bytes.saturating_add(counted);
        self.extents.push(Extent { start, len, trust, body });
    }

    /// Where the last extent ends.
    pub fn end(&self) -> u64 {
        self.extents.iter().map(|extent| extent.start.saturating_add(extent.len)).max().unwrap_or(0)
    }
}

/// Puts inodes together from leaves that come in order.
#[derive(Default)]
pub struct Gatherer {
    current: Option<Inode>,
}

impl Gatherer {
    /// Takes a leaf; gives each inode that is complete to `emit`.
    pub fn take(&mut self, leaf: &LeafRef, block: &Block, emit: &mut dyn FnMut(Inode)) {
        for (key, data) in leaf.items(block).filter(|(key, _)| is_user_objectid(key.objectid)) {
            if self.current.as_ref().is_none_or(|inode| inode.ino != key.objectid) {
                self.finish(emit);
            }
            let inode = self.current.get_or_insert_with(|| Inode::new(key.objectid));
            inode.take(&key, data, leaf.trust);
        }
    }

    /// There are no more leaves.
    pub fn finish(&mut self, emit: &mut dyn FnMut(Inode)) {
        if let Some(inode) = self.current.take() {
            emit(inode);
        }
    }
}
