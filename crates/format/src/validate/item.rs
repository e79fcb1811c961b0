//! Each item's own rules.

use super::{Geometry, require};
use crate::block::TreeBlock;
use crate::hash::{extref_hash, name_hash};
use crate::ids::{FIRST_FREE_OBJECTID, Ino, LAST_FREE_OBJECTID, TreeId, objectid};
use crate::items::{
    BackRef, BlockGroupFlags, BlockGroupItem, Chunk, Compression, DevExtent, DevItem, DirEntry, ExtentFlags,
    ExtentItem, FileExtent, FileExtentBody, FileType, FreeSpaceInfo, InodeExtref, InodeItem, InodeRef, RootItem,
    RootRef, STRIPE_LEN, read_exact,
};
use crate::key::{ItemType, Key};

type Check = Result<(), String>;

/// Checks the item in `slot` of a leaf.
pub fn check_item(block: &TreeBlock, slot: usize, geometry: &Geometry) -> Check {
    let (key, data) = (block.key(slot), block.data(slot));
    match key.item_type {
        ItemType::INODE_ITEM => inode_item(block, &key, data),
        ItemType::INODE_REF => {
            InodeRef::each(data).try_for_each(|one| one.map(|_| ())).and_then(|()| not_empty(data.len()))
        }
        ItemType::INODE_EXTREF => inode_extref(&key, data),
        ItemType::DIR_ITEM | ItemType::DIR_INDEX | ItemType::XATTR_ITEM => dir_entry(&key, data, geometry),
        ItemType::EXTENT_DATA => file_extent(block, slot, geometry),
        ItemType::EXTENT_CSUM => extent_csum(block, slot, geometry),
        ItemType::ROOT_ITEM => root_item(&key, data, geometry),
        ItemType::ROOT_REF | ItemType::ROOT_BACKREF => RootRef::parse(data).map(|_| ()),
        ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => extent_item(&key, data, geometry),
        ItemType::TREE_BLOCK_REF
        | ItemType::SHARED_BLOCK_REF
        | ItemType::SHARED_DATA_REF
        | ItemType::EXTENT_DATA_REF => keyed_ref(&key, data, geometry),
        ItemType::BLOCK_GROUP_ITEM => block_group(&key, data, geometry),
        ItemType::FREE_SPACE_INFO | ItemType::FREE_SPACE_EXTENT | ItemType::FREE_SPACE_BITMAP => {
            free_space(&key, data, geometry)
        }
        ItemType::DEV_EXTENT => dev_extent(&key, data, geometry),
        ItemType::DEV_ITEM => dev_item(block, &key, data),
        ItemType::CHUNK_ITEM => chunk(block, &key, data, geometry),
        _ => Ok(()),
    }
}

fn aligned(name: &str, value: u64, geometry: &Geometry) -> Check {
    let sector = geometry.sectorsize;
    require(value.is_multiple_of(u64::from(sector)), || format!("{name} {value} is not a multiple of {sector}"))
}

fn not_empty(count: usize) -> Check {
    require(count > 0, || "item is empty".into())
}

fn inode_item(block: &TreeBlock, key: &Key, data: &[u8]) -> Check {
    let inode: InodeItem = read_exact(data)?;
    let special = [TreeId::ROOT_TREE_DIR.0, objectid::FREE_INO, objectid::FREE_SPACE];
    require(
        (FIRST_FREE_OBJECTID..=LAST_FREE_OBJECTID).contains(&key.objectid) || special.contains(&key.objectid),
        || format!("object id {} cannot be an inode's", key.objectid),
    )?;
    require(key.offset == 0, || format!("key offset is {}", key.offset))?;
    let newest = block.generation().0.saturating_add(1);
    require(inode.generation.get() <= newest, || format!("inode generation {} is in the future", inode.generation))?;
    if block.owner() != TreeId::TREE_LOG {
        require(inode.transid.get() <= newest, || format!("inode transid {} is in the future", inode.transid))?;
    }
    require(inode.mode.get() & !0o177_777 == 0, || format!("mode {:#o} has unknown bits", inode.mode.get()))?;
    if block.owner().is_subvolume() {
        require(FileType::from_mode(inode.mode.get()) != FileType::Unknown, || {
            format!("mode {:#o} has no file type", inode.mode.get())
        })?;
    }
    require(!inode.is_dir() || inode.nlink.get() <= 1, || format!("directory with {} links", inode.nlink))
}

fn inode_extref(key: &Key, data: &[u8]) -> Check {
    let refs = InodeExtref::parse_all(data)?;
    not_empty(refs.len())?;
    refs.iter().try_for_each(|r| {
        require(extref_hash(Ino(r.parent), r.name) == key.offset, || "name does not have the key's hash".into())
    })
}

fn dir_entry(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    not_empty(data.len())?;
    // What cannot be read at all comes before what is wrong with an entry.
    DirEntry::each(data).try_for_each(|entry| entry.map(|_| ()))?;
    let mut count = 0;
    for entry in DirEntry::each(data) {
        let entry = entry?;
        count += 1;
        let is_xattr = entry.file_type == FileType::Xattr;
        require(is_xattr == (key.item_type == ItemType::XATTR_ITEM), || format!("entry of type {}", entry.file_type))?;
        require(is_xattr || entry.value.is_empty(), || "directory entry with data".into())?;
        require(entry.packed_size() <= geometry.nodesize as usize, || "entry is larger than a leaf".into())?;
        if is_xattr {
            require(entry.location == Key::MIN, || "xattr with a location".into())?;
        } else {
            let kind = entry.location.item_type;
            require(kind == ItemType::INODE_ITEM || kind == ItemType::ROOT_ITEM, || {
                format!("location {} is neither inode nor subvolume", entry.location)
            })?;
            require(!entry.name.contains(&b'/') && !entry.name.contains(&0), || "name has a slash or zero".into())?;
        }
        if key.item_type != ItemType::DIR_INDEX {
            require(name_hash(entry.name) == key.offset, || "name does not have the key's hash".into())?;
        }
    }
    require(key.item_type != ItemType::DIR_INDEX || count == 1, || "several entries in a DIR_INDEX".into())
}

fn file_extent(block: &TreeBlock, slot: usize, geometry: &Geometry) -> Check {
    let (key, data) = (block.key(slot), block.data(slot));
    let extent = FileExtent::parse(data)?;
    aligned("file offset", key.offset, geometry)?;
    require(extent.generation <= block.generation().0.saturating_add(1), || "file extent from the future".into())?;
    match extent.body {
        FileExtentBody::Inline(bytes) => {
            require(key.offset == 0, || "inline extent not at file offset 0".into())?;
            require(extent.compression != Compression::None || bytes.len() as u64 == extent.ram_bytes, || {
                format!("inline extent of {} bytes, ram_bytes is {}", bytes.len(), extent.ram_bytes)
            })?;
            require(extent.ram_bytes <= u64::from(geometry.nodesize.max(geometry.sectorsize)), || {
                format!("inline extent with ram_bytes {}", extent.ram_bytes)
            })
        }
        FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, num_bytes, prealloc } => {
            for (name, value) in [
                ("disk_bytenr", disk_bytenr),
                ("disk_num_bytes", disk_num_bytes),
                ("offset", offset),
                ("num_bytes", num_bytes),
                ("ram_bytes", extent.ram_bytes),
            ] {
                aligned(name, value, geometry)?;
            }
            require(num_bytes > 0, || "file extent of no bytes".into())?;
            let end = key.offset.checked_add(num_bytes);
            require(end.is_some(), || "file extent past 2^64".into())?;
            require(disk_bytenr.checked_add(disk_num_bytes).is_some(), || "extent past 2^64".into())?;
            require(!prealloc || extent.compression == Compression::None, || "compressed preallocation".into())?;
            let whole = if extent.compression == Compression::None { disk_num_bytes } else { extent.ram_bytes };
            require(disk_bytenr == 0 || offset.checked_add(num_bytes).is_some_and(|end| end <= whole), || {
                format!("range {offset}+{num_bytes} is outside the extent of {whole} bytes")
            })?;
            overlap(block, slot, key.offset)
        }
    }
}

/// A file extent must begin after the end of the one before it.
fn overlap(block: &TreeBlock, slot: usize, start: u64) -> Check {
    let Some(before) = slot.checked_sub(1).map(|s| (block.key(s), block.data(s))) else { return Ok(()) };
    let this = block.key(slot);
    if before.0.objectid != this.objectid || before.0.item_type != ItemType::EXTENT_DATA {
        return Ok(());
    }
    let previous = FileExtent::parse(before.1)?;
    if previous.kind() == crate::items::FileExtentKind::Inline {
        return Ok(());
    }
    let end = before.0.offset.saturating_add(previous.len_in_file());
    require(end <= start, || format!("file extent overlaps the one before, which ends at {end}"))
}

fn extent_csum(block: &TreeBlock, slot: usize, geometry: &Geometry) -> Check {
    let (key, data) = (block.key(slot), block.data(slot));
    require(key.objectid == objectid::EXTENT_CSUM, || "checksum item of another object".into())?;
    aligned("address", key.offset, geometry)?;
    let size = geometry.csum_type.size();
    require(!data.is_empty() && data.len().is_multiple_of(size), || {
        format!("checksum item of {} bytes, want a multiple of {size}", data.len())
    })?;
    let covered = |data: &[u8]| (data.len() / size) as u64 * u64::from(geometry.sectorsize);
    require(key.offset.checked_add(covered(data)).is_some(), || "checksums past 2^64".into())?;
    if slot > 0 && block.key(slot - 1).item_type == ItemType::EXTENT_CSUM {
        let end = block.key(slot - 1).offset.saturating_add(covered(block.data(slot - 1)));
        require(end <= key.offset, || format!("checksums overlap the item before, which ends at {end}"))?;
    }
    Ok(())
}

fn root_item(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    let item = RootItem::parse(data)?;
    require(key.objectid != 0, || "tree 0".into())?;
    aligned("root address", item.bytenr.get(), geometry)?;
    for (name, level) in [("level", item.level), ("drop level", item.drop_level)] {
        require(level < crate::block::MAX_LEVEL, || format!("{name} {level} is above 7"))?;
    }
    let known = crate::items::RootFlags::all();
    require(known.contains(item.flags()), || format!("unknown root flags {:#x}", item.flags.get()))
}

fn extent_item(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    let item = ExtentItem::parse(key, data)?;
    aligned("address", key.objectid, geometry)?;
    let is_tree = item.flags.contains(ExtentFlags::TREE_BLOCK);
    require(is_tree != item.flags.contains(ExtentFlags::DATA), || format!("extent flags {:#x}", item.flags.bits()))?;
    if key.item_type == ItemType::METADATA_ITEM {
        require(is_tree, || "METADATA_ITEM of data".into())?;
        require(key.offset < u64::from(crate::block::MAX_LEVEL), || format!("level {} is above 7", key.offset))?;
    } else {
        aligned("length", key.offset, geometry)?;
        require(key.offset > 0 && key.objectid.checked_add(key.offset).is_some(), || "bad extent length".into())?;
        require(!is_tree || key.offset == u64::from(geometry.nodesize), || {
            format!("tree block extent of {} bytes", key.offset)
        })?;
    }
    let mut total = 0u64;
    let mut last = None;
    for inline in &item.inline {
        require(inline.back_ref.is_data() != is_tree, || {
            format!("{} on the wrong kind of extent", inline.back_ref.item_type())
        })?;
        back_ref(&inline.back_ref, inline.count, geometry)?;
        let order = inline.back_ref.inline_order();
        require(last.is_none_or(|last| last <= order), || "inline references are out of order".into())?;
        last = Some(order);
        total = total.saturating_add(u64::from(inline.count));
    }
    require(item.refs >= total, || format!("{} references, the inline ones count {total}", item.refs))
}

fn back_ref(back_ref: &BackRef, count: u32, geometry: &Geometry) -> Check {
    require(count > 0, || "back reference with count 0".into())?;
    match *back_ref {
        BackRef::TreeBlock { root } => require(root.0 != 0, || "back reference to tree 0".into()),
        BackRef::SharedBlock { parent } | BackRef::SharedData { parent } => {
            aligned("parent", parent.0, geometry)?;
            require(parent.0 != 0, || "back reference to parent 0".into())
        }
        BackRef::Data { root, offset, .. } => {
            require(root.0 != 0, || "back reference to tree 0".into())?;
            aligned("back reference offset", offset, geometry)
        }
    }
}

fn keyed_ref(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    aligned("address", key.objectid, geometry)?;
    if key.item_type == ItemType::EXTENT_DATA_REF {
        // The kernel once wrote several references with one hash into one item.
        require(!data.is_empty() && data.len().is_multiple_of(28), || format!("data ref of {} bytes", data.len()))?;
        let one = BackRef::parse_keyed(key, &data[..28])?;
        return back_ref(&one.back_ref, one.count, geometry);
    }
    let one = BackRef::parse_keyed(key, data)?;
    back_ref(&one.back_ref, one.count, geometry)
}

fn block_group(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    let item: BlockGroupItem = read_exact(data)?;
    aligned("address", key.objectid, geometry)?;
    require(key.offset > 0 && key.objectid.checked_add(key.offset).is_some(), || "bad block group length".into())?;
    require(item.used.get() <= key.offset, || format!("{} bytes used of {}", item.used, key.offset))?;
    block_group_flags(item.flags())
}

fn block_group_flags(flags: BlockGroupFlags) -> Check {
    require(flags.profile().bits().count_ones() <= 1, || format!("several profiles: {flags}"))?;
    let kind = flags.kind();
    let valid = kind == BlockGroupFlags::DATA
        || kind == BlockGroupFlags::METADATA
        || kind == BlockGroupFlags::SYSTEM
        || kind == BlockGroupFlags::DATA | BlockGroupFlags::METADATA;
    require(valid, || format!("impossible type {flags}"))
}

fn free_space(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    aligned("start", key.objectid, geometry)?;
    aligned("length", key.offset, geometry)?;
    require(key.offset > 0 && key.objectid.checked_add(key.offset).is_some(), || "bad free space length".into())?;
    match key.item_type {
        ItemType::FREE_SPACE_INFO => read_exact::<FreeSpaceInfo>(data).map(|_| ()),
        ItemType::FREE_SPACE_EXTENT => require(data.is_empty(), || "free space extent with data".into()),
        _ => {
            let want = key.offset.div_ceil(u64::from(geometry.sectorsize)).div_ceil(8);
            require(data.len() as u64 == want, || format!("bitmap of {} bytes, want {want}", data.len()))
        }
    }
}

fn dev_extent(key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    let item: DevExtent = read_exact(data)?;
    aligned("device offset", key.offset, geometry)?;
    aligned("chunk address", item.chunk_offset.get(), geometry)?;
    aligned("length", item.length.get(), geometry)?;
    require(item.length.get() > 0 && key.offset.checked_add(item.length.get()).is_some(), || "bad length".into())
}

fn dev_item(block: &TreeBlock, key: &Key, data: &[u8]) -> Check {
    // The same number is a device item in the chunk tree only.
    if block.owner() != TreeId::CHUNK {
        return Ok(());
    }
    let item: DevItem = read_exact(data)?;
    require(key.objectid == objectid::DEV_ITEMS, || "device item of another object".into())?;
    require(item.devid.get() == key.offset, || format!("devid is {}", item.devid))?;
    require(item.bytes_used <= item.total_bytes, || format!("{} bytes used of {}", item.bytes_used, item.total_bytes))
}

fn chunk(block: &TreeBlock, key: &Key, data: &[u8], geometry: &Geometry) -> Check {
    require(block.owner() == TreeId::CHUNK, || format!("chunk item in tree {}", block.owner()))?;
    let (chunk, size) = Chunk::parse(data)?;
    require(size == data.len(), || format!("chunk item of {} bytes, want {size}", data.len()))?;
    check_chunk(key, &chunk, geometry)
}

/// Checks a chunk, from the chunk tree or from the superblock's array.
pub fn check_chunk(key: &Key, chunk: &Chunk, geometry: &Geometry) -> Check {
    require(key.objectid == objectid::FIRST_CHUNK_TREE && key.item_type == ItemType::CHUNK_ITEM, || {
        format!("{key} is not a chunk's key")
    })?;
    aligned("address", key.offset, geometry)?;
    aligned("length", chunk.length(), geometry)?;
    require(chunk.length() > 0 && key.offset.checked_add(chunk.length()).is_some(), || "bad chunk length".into())?;
    require(chunk.header.stripe_len.get() == STRIPE_LEN, || format!("stripe length {}", chunk.header.stripe_len))?;
    let unknown = chunk.flags().bits() & !(BlockGroupFlags::TYPE_MASK | BlockGroupFlags::PROFILE_MASK).bits();
    require(unknown == 0, || format!("unknown chunk type bits {unknown:#x}"))?;
    block_group_flags(chunk.flags())?;
    check_stripe_count(chunk)
}

fn check_stripe_count(chunk: &Chunk) -> Check {
    use BlockGroupFlags as F;
    let n = chunk.stripes.len();
    let valid = match chunk.flags().profile() {
        p if p.is_empty() => n == 1,
        F::DUP | F::RAID1 => n == 2,
        F::RAID1C3 => n == 3,
        F::RAID1C4 => n == 4,
        F::RAID0 => n >= 1,
        F::RAID10 => chunk.header.sub_stripes.get() == 2 && n >= 2 && n.is_multiple_of(2),
        F::RAID5 => n >= 2,
        F::RAID6 => n >= 3,
        _ => false,
    };
    require(valid, || format!("{n} stripes for profile {}", chunk.flags().profile_name()))
}
