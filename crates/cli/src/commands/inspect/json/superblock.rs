//! The superblock.

use std::path::Path;

use butterfs_format::print::{Show, compat_ro_flag_names, incompat_flag_names, super_flag_names, system_chunks};
use butterfs_format::superblock::{MAGIC, RootBackup, SUPERBLOCK_SIZE};
use butterfs_format::{ChecksumType, Superblock};
use serde_json::{Map, Value, json};

use super::{hex, item, key, text, uuid};

/// A superblock of a device.
pub fn superblock(device: &Path, offset: u64, sb: &Superblock, full: Show) -> Value {
    let mut out = Map::new();
    text(&mut out, "device", device.as_os_str().as_encoded_bytes());
    out.insert("offset".into(), offset.into());
    for part in [csum(sb), identity(sb), roots(sb), geometry(sb), features(sb)] {
        if let Value::Object(part) = part {
            out.extend(part);
        }
    }
    text(&mut out, "label", sb.label());
    out.insert("dev_item".into(), item::dev_item(&sb.dev_item));
    if full == Show::Yes {
        let chunks = system_chunks(sb).entries;
        let entry = |(at, data): &(_, &[u8])| json!({ "key": key(at), "data": item::chunk(data) });
        out.insert("sys_chunk_array".into(), chunks.iter().map(entry).collect());
        out.insert("backup_roots".into(), backup_roots(sb));
    }
    Value::Object(out)
}

fn csum(sb: &Superblock) -> Value {
    let known = ChecksumType::from_number(sb.csum_type.get());
    let bytes = sb.to_raw_bytes();
    debug_assert_eq!(bytes.len(), SUPERBLOCK_SIZE);
    json!({
        "csum_type": sb.csum_type.get(),
        "csum_name": known.map(|known| known.to_string()),
        "csum": hex(&sb.csum[..known.map_or(sb.csum.len(), ChecksumType::size)]),
        "csum_match": known.is_some_and(|known| known.matches_block(&bytes)),
    })
}

fn identity(sb: &Superblock) -> Value {
    json!({
        "bytenr": sb.bytenr.get(),
        "flags": flags(sb.flags.get(), super_flag_names(sb.flags.get())),
        "magic": hex(&sb.magic),
        "magic_match": sb.magic == MAGIC,
        "fsid": uuid(&sb.fsid),
        "metadata_uuid": uuid(&sb.metadata_uuid),
        "generation": sb.generation.get(),
    })
}

fn roots(sb: &Superblock) -> Value {
    json!({
        "root": sb.root.get(),
        "root_level": sb.root_level,
        "chunk_root": sb.chunk_root.get(),
        "chunk_root_generation": sb.chunk_root_generation.get(),
        "chunk_root_level": sb.chunk_root_level,
        "log_root": sb.log_root.get(),
        "log_root_transid": sb.log_root_transid.get(),
        "log_root_level": sb.log_root_level,
        "root_dir": sb.root_dir_objectid.get(),
        "cache_generation": sb.cache_generation.get(),
        "uuid_tree_generation": sb.uuid_tree_generation.get(),
    })
}

fn geometry(sb: &Superblock) -> Value {
    json!({
        "total_bytes": sb.total_bytes.get(),
        "bytes_used": sb.bytes_used.get(),
        "sectorsize": sb.sectorsize.get(),
        "nodesize": sb.nodesize.get(),
        "leafsize": sb.leafsize.get(),
        "stripesize": sb.stripesize.get(),
        "num_devices": sb.num_devices.get(),
        "sys_array_size": sb.sys_chunk_array_size.get(),
    })
}

fn features(sb: &Superblock) -> Value {
    let (compat_ro, incompat) = (sb.compat_ro_flags.get(), sb.incompat_flags.get());
    json!({
        "compat_flags": flags(sb.compat_flags.get(), (Vec::new(), sb.compat_flags.get())),
        "compat_ro_flags": flags(compat_ro, compat_ro_flag_names(compat_ro)),
        "incompat_flags": flags(incompat, incompat_flag_names(incompat)),
    })
}

/// All bits, the names of those that have one, and the bits of the others.
fn flags(bits: u64, (names, unknown): (Vec<&'static str>, u64)) -> Value {
    json!({ "value": bits, "names": names, "unknown": unknown })
}

/// The older roots in a superblock.
pub fn backup_roots(sb: &Superblock) -> Value {
    sb.super_roots.iter().map(backup).collect()
}

fn backup(b: &RootBackup) -> Value {
    let root = |at: u64, generation: u64, level: u8| json!({ "bytenr": at, "generation": generation, "level": level });
    json!({
        "tree_root": root(b.tree_root.get(), b.tree_root_gen.get(), b.tree_root_level),
        "chunk_root": root(b.chunk_root.get(), b.chunk_root_gen.get(), b.chunk_root_level),
        "extent_root": root(b.extent_root.get(), b.extent_root_gen.get(), b.extent_root_level),
        "fs_root": root(b.fs_root.get(), b.fs_root_gen.get(), b.fs_root_level),
        "dev_root": root(b.dev_root.get(), b.dev_root_gen.get(), b.dev_root_level),
        "csum_root": root(b.csum_root.get(), b.csum_root_gen.get(), b.csum_root_level),
        "total_bytes": b.total_bytes.get(),
        "bytes_used": b.bytes_used.get(),
        "num_devices": b.num_devices.get(),
    })
}
