//! Items. One that does not keep the rules of its kind has `problem` and its bytes as `raw`.

use butterfs_format::ids::objectid;
use butterfs_format::items::{
    BackRef, BlockGroupItem, Chunk, DevExtent, DevItem, DirEntry, ExtentItem, FileExtent, FileExtentBody,
    FreeSpaceInfo, InlineRef, InodeExtref, InodeItem, InodeRef, RootItem, RootRef, Timespec, read_exact, read_front,
};
use butterfs_format::key::DiskKey;
use butterfs_format::print::{Names, Options, Show, block_group_flags, extent_flags, inode_flags, qgroup_status_flags};
use butterfs_format::{ItemType, Key};
use serde_json::{Map, Value, json};

use super::{hex, key as key_json, text, uuid};

type Parsed = Result<Value, String>;

/// What an item says; null for kinds whose keys say all, `raw` bytes for kinds that are not known.
pub fn data(key: &Key, data: &[u8], options: &Options) -> Value {
    let hidden = options.names == Names::Hidden;
    parse(key, data, options).unwrap_or_else(|problem| match hidden {
        true => json!({ "problem": problem }),
        false => json!({ "problem": problem, "raw": hex(data) }),
    })
}

fn parse(key: &Key, data: &[u8], options: &Options) -> Parsed {
    Ok(match key.item_type {
        ItemType::INODE_ITEM => inode(&read_exact(data)?),
        ItemType::INODE_REF => inode_refs(data, options)?,
        ItemType::INODE_EXTREF => inode_extrefs(data, options)?,
        ItemType::DIR_ITEM | ItemType::DIR_INDEX | ItemType::XATTR_ITEM => entries(data, options)?,
        ItemType::EXTENT_DATA => file_extent(&FileExtent::parse(data)?),
        ItemType::EXTENT_CSUM => csums(key.offset, data, options),
        ItemType::ROOT_ITEM => root(&RootItem::parse(data)?),
        ItemType::ROOT_REF | ItemType::ROOT_BACKREF => root_ref(&RootRef::parse(data)?, options),
        ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => extent(&ExtentItem::parse(key, data)?),
        ItemType::TREE_BLOCK_REF
        | ItemType::SHARED_BLOCK_REF
        | ItemType::EXTENT_DATA_REF
        | ItemType::SHARED_DATA_REF => back_ref(&BackRef::parse_keyed(key, data)?),
        ItemType::EXTENT_OWNER_REF => words(data, &["root"])?,
        ItemType::CHUNK_ITEM => chunk(data),
        ItemType::DEV_ITEM => dev_item(&read_exact(data)?),
        ItemType::DEV_EXTENT => dev_extent(&read_exact(data)?),
        ItemType::RAID_STRIPE => raid_stripe(data)?,
        ItemType::BLOCK_GROUP_ITEM => block_group(&read_exact(data)?),
        _ => return parse_rest(key, data, options),
    })
}

fn parse_rest(key: &Key, data: &[u8], options: &Options) -> Parsed {
    match key.item_type {
        ItemType::UNTYPED if key.objectid == objectid::FREE_SPACE => free_space_header(data),
        ItemType::FREE_SPACE_INFO => {
            let info: FreeSpaceInfo = read_exact(data)?;
            Ok(json!({ "extent_count": info.extent_count.get(), "flags": info.flags.get() }))
        }
        ItemType::FREE_SPACE_BITMAP => Ok(json!({ "bitmap": hex(data) })),
        ItemType::QGROUP_STATUS => qgroup_status(data, options),
        ItemType::QGROUP_INFO => {
            words(data, &["generation", "referenced", "referenced_compressed", "exclusive", "exclusive_compressed"])
        }
        ItemType::QGROUP_LIMIT => {
            words(data, &["flags", "max_referenced", "max_exclusive", "rsv_referenced", "rsv_exclusive"])
        }
        ItemType::UUID_SUBVOL | ItemType::UUID_RECEIVED_SUBVOL => Ok(json!({ "subvolumes": numbers(data)? })),
        ItemType::DIR_LOG_ITEM | ItemType::DIR_LOG_INDEX => words(data, &["end"]),
        ItemType::PERSISTENT_ITEM if key.objectid == objectid::DEV_STATS => {
            words(data, &["write_errs", "read_errs", "flush_errs", "corruption_errs", "generation_errs"])
        }
        ItemType::TEMPORARY_ITEM if key.objectid == objectid::BALANCE => balance(data),
        ItemType::DEV_REPLACE => words(data, &DEV_REPLACE),
        _ if data.is_empty() => Ok(Value::Null),
        _ if options.names == Names::Hidden => Ok(Value::Null),
        _ => Ok(json!({ "raw": hex(data) })),
    }
}

const DEV_REPLACE: [&str; 9] = [
    "src_devid",
    "cursor_left",
    "cursor_right",
    "mode",
    "state",
    "time_started",
    "time_stopped",
    "write_errors",
    "uncorrectable_read_errors",
];

fn numbers(data: &[u8]) -> Result<Vec<u64>, String> {
    let (numbers, rest) = data.as_chunks::<8>();
    match rest {
        [] => Ok(numbers.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()),
        _ => Err(format!("item is {} bytes long, want a multiple of 8", data.len())),
    }
}

/// An item of 64-bit numbers; more than have names are left out.
fn words(data: &[u8], names: &[&str]) -> Parsed {
    let numbers = numbers(data)?;
    if numbers.len() < names.len() {
        return Err(format!("item is {} bytes long, want {}", data.len(), names.len() * 8));
    }
    let fields = names.iter().zip(numbers).map(|(name, number)| ((*name).to_owned(), number.into()));
    Ok(Value::Object(fields.collect()))
}

fn time(time: &Timespec) -> Value {
    json!({ "sec": time.seconds(), "nsec": time.nanoseconds() })
}

fn inode(i: &InodeItem) -> Value {
    json!({
        "generation": i.generation.get(),
        "transid": i.transid.get(),
        "size": i.size.get(),
        "nbytes": i.nbytes.get(),
        "block_group": i.block_group.get(),
        "nlink": i.nlink.get(),
        "uid": i.uid.get(),
        "gid": i.gid.get(),
        "mode": i.mode.get(),
        "rdev": i.rdev.get(),
        "sequence": i.sequence.get(),
        "flags": i.flags.get(),
        "flag_names": inode_flags(i.flags.get()).to_string(),
        "atime": time(&i.atime),
        "ctime": time(&i.ctime),
        "mtime": time(&i.mtime),
        "otime": time(&i.otime),
    })
}

/// Adds a name, unless names are hidden.
fn named(fields: Value, name: &[u8], options: &Options) -> Value {
    let Value::Object(mut out) = fields else { return fields };
    if options.names == Names::Shown {
        text(&mut out, "name", name);
    }
    Value::Object(out)
}

fn inode_refs(data: &[u8], options: &Options) -> Parsed {
    let refs = InodeRef::parse_all(data)?;
    let entry = |one: InodeRef<'_>| named(json!({ "index": one.index }), one.name, options);
    Ok(json!({ "refs": refs.into_iter().map(entry).collect::<Vec<_>>() }))
}

fn inode_extrefs(data: &[u8], options: &Options) -> Parsed {
    let refs = InodeExtref::parse_all(data)?;
    let entry = |one: InodeExtref<'_>| named(json!({ "parent": one.parent, "index": one.index }), one.name, options);
    Ok(json!({ "refs": refs.into_iter().map(entry).collect::<Vec<_>>() }))
}

fn entries(data: &[u8], options: &Options) -> Parsed {
    let entries = DirEntry::parse_all(data)?;
    Ok(json!({ "entries": entries.iter().map(|one| entry(one, options)).collect::<Vec<_>>() }))
}

fn entry(entry: &DirEntry<'_>, options: &Options) -> Value {
    let fields = json!({
        "location": key_json(&entry.location),
        "type": entry.file_type.to_string(),
        "transid": entry.transid,
        "data_len": entry.value.len(),
    });
    let Value::Object(mut out) = named(fields, entry.name, options) else { return Value::Null };
    if options.names == Names::Shown && !entry.value.is_empty() {
        text(&mut out, "value", entry.value);
    }
    Value::Object(out)
}

fn file_extent(extent: &FileExtent<'_>) -> Value {
    let kind = ["inline", "regular", "prealloc"][extent.kind() as usize];
    let (generation, ram_bytes) = (extent.generation, extent.ram_bytes);
    let compression = extent.compression.to_string();
    match extent.body {
        FileExtentBody::Inline(bytes) => json!({
            "type": kind, "generation": generation, "ram_bytes": ram_bytes, "compression": compression,
            "inline_bytes": bytes.len(),
        }),
        FileExtentBody::Extent { disk_bytenr, disk_num_bytes, offset, num_bytes, .. } => json!({
            "type": kind, "generation": generation, "ram_bytes": ram_bytes, "compression": compression,
            "disk_bytenr": disk_bytenr, "disk_num_bytes": disk_num_bytes, "offset": offset, "num_bytes": num_bytes,
        }),
    }
}

fn csums(start: u64, data: &[u8], options: &Options) -> Value {
    let size = options.csum_type.size();
    let length = (data.len() / size) as u64 * u64::from(options.sectorsize);
    let mut out = Map::new();
    out.insert("start".into(), start.into());
    out.insert("length".into(), length.into());
    if options.item_csums == Show::Yes {
        out.insert("csums".into(), data.chunks_exact(size).map(hex).collect());
    }
    Value::Object(out)
}

fn root(r: &RootItem) -> Value {
    json!({
        "generation": r.generation.get(),
        "root_dirid": r.root_dirid.get(),
        "bytenr": r.bytenr.get(),
        "level": r.level,
        "byte_limit": r.byte_limit.get(),
        "bytes_used": r.bytes_used.get(),
        "last_snapshot": r.last_snapshot.get(),
        "flags": r.flags.get(),
        "refs": r.refs.get(),
        "drop_progress": key_json(&r.drop_progress.into()),
        "drop_level": r.drop_level,
        "generation_v2": r.generation_v2.get(),
        "uuid": uuid(&r.uuid),
        "parent_uuid": uuid(&r.parent_uuid),
        "received_uuid": uuid(&r.received_uuid),
        "ctransid": r.ctransid.get(),
        "otransid": r.otransid.get(),
        "stransid": r.stransid.get(),
        "rtransid": r.rtransid.get(),
        "ctime": time(&r.ctime),
        "otime": time(&r.otime),
        "stime": time(&r.stime),
        "rtime": time(&r.rtime),
    })
}

fn root_ref(one: &RootRef<'_>, options: &Options) -> Value {
    named(json!({ "dirid": one.dirid, "sequence": one.sequence }), one.name, options)
}

fn extent(item: &ExtentItem) -> Value {
    let info = item.block_info.map(|info| json!({ "key": key_json(&info.key.into()), "level": info.level }));
    json!({
        "refs": item.refs,
        "generation": item.generation,
        "flags": extent_flags(item.flags.bits()).to_string(),
        "tree_block": info,
        "owner": item.owner.map(|owner| owner.0),
        "inline_refs": item.inline.iter().map(back_ref).collect::<Vec<_>>(),
    })
}

fn back_ref(one: &InlineRef) -> Value {
    let kind = one.back_ref.item_type().to_string();
    match one.back_ref {
        BackRef::TreeBlock { root } => json!({ "type": kind, "root": root.0 }),
        BackRef::SharedBlock { parent } => json!({ "type": kind, "parent": parent.0 }),
        BackRef::SharedData { parent } => json!({ "type": kind, "parent": parent.0, "count": one.count }),
        BackRef::Data { root, objectid, offset } => json!({
            "type": kind, "root": root.0, "objectid": objectid.0, "offset": offset, "count": one.count,
        }),
    }
}

/// A chunk, from the chunk tree or a superblock.
pub fn chunk(data: &[u8]) -> Value {
    let chunk = match Chunk::parse(data) {
        Ok((chunk, _)) => chunk,
        Err(problem) => return json!({ "problem": problem, "raw": hex(data) }),
    };
    let c = &chunk.header;
    let stripes = chunk.stripes.iter().map(|stripe| {
        json!({ "devid": stripe.devid.get(), "offset": stripe.offset.get(), "dev_uuid": uuid(&stripe.dev_uuid) })
    });
    json!({
        "length": c.length.get(),
        "owner": c.owner.get(),
        "stripe_len": c.stripe_len.get(),
        "type": block_group_flags(c.chunk_type.get()).to_string(),
        "io_align": c.io_align.get(),
        "io_width": c.io_width.get(),
        "sector_size": c.sector_size.get(),
        "sub_stripes": c.sub_stripes.get(),
        "stripes": stripes.collect::<Vec<_>>(),
    })
}

/// A device item, from the chunk tree or a superblock.
pub fn dev_item(d: &DevItem) -> Value {
    json!({
        "devid": d.devid.get(),
        "total_bytes": d.total_bytes.get(),
        "bytes_used": d.bytes_used.get(),
        "io_align": d.io_align.get(),
        "io_width": d.io_width.get(),
        "sector_size": d.sector_size.get(),
        "type": d.dev_type.get(),
        "generation": d.generation.get(),
        "start_offset": d.start_offset.get(),
        "dev_group": d.dev_group.get(),
        "seek_speed": d.seek_speed,
        "bandwidth": d.bandwidth,
        "uuid": uuid(&d.uuid),
        "fsid": uuid(&d.fsid),
    })
}

fn dev_extent(e: &DevExtent) -> Value {
    json!({
        "chunk_tree": e.chunk_tree.get(),
        "chunk_objectid": e.chunk_objectid.get(),
        "chunk_offset": e.chunk_offset.get(),
        "length": e.length.get(),
        "chunk_tree_uuid": uuid(&e.chunk_tree_uuid),
    })
}

fn raid_stripe(data: &[u8]) -> Parsed {
    let numbers = numbers(data)?;
    let strides = numbers.chunks_exact(2).map(|pair| json!({ "devid": pair[0], "physical": pair[1] }));
    Ok(json!({ "strides": strides.collect::<Vec<_>>() }))
}

fn block_group(group: &BlockGroupItem) -> Value {
    json!({
        "used": group.used.get(),
        "chunk_objectid": group.chunk_objectid.get(),
        "flags": block_group_flags(group.flags.get()).to_string(),
    })
}

fn free_space_header(data: &[u8]) -> Parsed {
    let (location, rest) = read_front::<DiskKey>(data)?;
    let Value::Object(mut out) = words(rest, &["generation", "entries", "bitmaps"])? else { return Ok(Value::Null) };
    out.insert("location".into(), key_json(&location.into()));
    Ok(Value::Object(out))
}

fn qgroup_status(data: &[u8], options: &Options) -> Parsed {
    let names: &[&str] = match options.simple_quota {
        true => &["version", "generation", "flags", "scan", "enable_gen"],
        false => &["version", "generation", "flags", "scan"],
    };
    let Value::Object(mut out) = words(data, names)? else { return Ok(Value::Null) };
    let flags = out.get("flags").and_then(Value::as_u64).unwrap_or(0);
    out.insert("flag_names".into(), qgroup_status_flags(flags).to_string().into());
    Ok(Value::Object(out))
}

fn balance(data: &[u8]) -> Parsed {
    const FILTERS: usize = 136;
    let (flags, mut rest) = read_front::<[u8; 8]>(data)?;
    let mut out = Map::new();
    out.insert("flags".into(), u64::from_le_bytes(flags).into());
    for name in ["data", "metadata", "system"] {
        let (filters, after) =
            rest.split_at_checked(FILTERS).ok_or_else(|| format!("item of {} bytes is too short", data.len()))?;
        out.insert(name.into(), balance_filters(filters)?);
        rest = after;
    }
    Ok(Value::Object(out))
}

/// Pairs of 32-bit numbers are one 64-bit number on disk: least in the lower half, most in the upper.
fn balance_filters(data: &[u8]) -> Parsed {
    const NAMES: [&str; 11] =
        ["profiles", "usage", "devid", "pstart", "pend", "vstart", "vend", "target", "flags", "limit", "stripes"];
    let fields = NAMES.iter().zip(numbers(data)?).map(|(name, number)| {
        let value = match *name {
            "usage" | "limit" | "stripes" => json!({ "min": number as u32, "max": number >> 32 }),
            _ => number.into(),
        };
        ((*name).to_owned(), value)
    });
    Ok(Value::Object(fields.collect()))
}
