//! Superblocks, as dump-super prints them.

use std::fmt::{self, Display, Formatter};

use zerocopy::IntoBytes;

use super::chunk;
use super::fields::{Fields, Stop};
use super::flags::{Named, compat_ro_flag_names, incompat_flag_names, super_flag_names};
use super::name::{Hex, Printable, UuidText};
use super::{KeyText, Show};
use crate::checksum::{CSUM_FIELD_SIZE, ChecksumType};
use crate::items::{ChunkHeader, Stripe};
use crate::key::{ItemType, Key};
use crate::superblock::{Incompat, MAGIC, RootBackup, SYS_CHUNK_ARRAY_SIZE, Superblock};

/// A superblock; it may be wrong in any way.
pub struct SuperblockText<'a> {
    /// The superblock.
    pub superblock: &'a Superblock,
    /// System chunks and backup roots too.
    pub full: Show,
}

impl Display for SuperblockText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let sb = self.superblock;
        csum(f, sb)?;
        identity(f, sb)?;
        roots(f, sb)?;
        geometry(f, sb)?;
        features(f, sb)?;
        device(f, sb)?;
        if self.full == Show::No {
            return Ok(());
        }
        writeln!(f, "sys_chunk_array[{SYS_CHUNK_ARRAY_SIZE}]:")?;
        system_chunks(sb).fmt(f)?;
        writeln!(f, "backup_roots[{}]:", sb.super_roots.len())?;
        backups(f, sb)
    }
}

fn matches(holds: bool) -> &'static str {
    if holds { "[match]" } else { "[DON'T MATCH]" }
}

fn csum(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    let number = sb.csum_type;
    let known = ChecksumType::from_number(number.get());
    let size = known.map_or(CSUM_FIELD_SIZE, ChecksumType::size);
    match known {
        Some(known) => writeln!(f, "csum_type\t\t{number} ({known})")?,
        None => writeln!(f, "csum_type\t\t{number} (INVALID)")?,
    }
    writeln!(f, "csum_size\t\t{size}")?;
    write!(f, "csum\t\t\t0x{} ", Hex(&sb.csum[..size]))?;
    match known {
        Some(known) => writeln!(f, "{}", matches(known.matches_block(sb.as_bytes()))),
        None => writeln!(f, "[UNKNOWN CSUM TYPE OR SIZE]"),
    }
}

fn identity(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    writeln!(f, "bytenr\t\t\t{}", sb.bytenr)?;
    writeln!(f, "flags\t\t\t0x{:x}", sb.flags.get())?;
    names(f, sb.flags.get(), super_flag_names)?;
    writeln!(f, "magic\t\t\t{} {}", Printable(&sb.magic), matches(sb.magic == MAGIC))?;
    writeln!(f, "fsid\t\t\t{}", UuidText(&sb.fsid))?;
    writeln!(f, "metadata_uuid\t\t{}", UuidText(&sb.metadata_uuid))?;
    writeln!(f, "label\t\t\t{}", Printable(sb.label()))?;
    writeln!(f, "generation\t\t{}", sb.generation)
}

fn roots(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    writeln!(f, "root\t\t\t{}", sb.root)?;
    writeln!(f, "sys_array_size\t\t{}", sb.sys_chunk_array_size)?;
    writeln!(f, "chunk_root_generation\t{}", sb.chunk_root_generation)?;
    writeln!(f, "root_level\t\t{}", sb.root_level)?;
    writeln!(f, "chunk_root\t\t{}", sb.chunk_root)?;
    writeln!(f, "chunk_root_level\t{}", sb.chunk_root_level)?;
    writeln!(f, "log_root\t\t{}", sb.log_root)?;
    writeln!(f, "log_root_transid (deprecated)\t{}", sb.log_root_transid)?;
    writeln!(f, "log_root_level\t\t{}", sb.log_root_level)
}

fn geometry(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    writeln!(f, "total_bytes\t\t{}", sb.total_bytes)?;
    writeln!(f, "bytes_used\t\t{}", sb.bytes_used)?;
    writeln!(f, "sectorsize\t\t{}", sb.sectorsize)?;
    writeln!(f, "nodesize\t\t{}", sb.nodesize)?;
    writeln!(f, "leafsize (deprecated)\t{}", sb.leafsize)?;
    writeln!(f, "stripesize\t\t{}", sb.stripesize)?;
    writeln!(f, "root_dir\t\t{}", sb.root_dir_objectid)?;
    writeln!(f, "num_devices\t\t{}", sb.num_devices)
}

fn features(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    writeln!(f, "compat_flags\t\t0x{:x}", sb.compat_flags.get())?;
    writeln!(f, "compat_ro_flags\t\t0x{:x}", sb.compat_ro_flags.get())?;
    names(f, sb.compat_ro_flags.get(), compat_ro_flag_names)?;
    writeln!(f, "incompat_flags\t\t0x{:x}", sb.incompat_flags.get())?;
    names(f, sb.incompat_flags.get(), incompat_flag_names)?;
    writeln!(f, "cache_generation\t{}", sb.cache_generation)?;
    writeln!(f, "uuid_tree_generation\t{}", sb.uuid_tree_generation)
}

/// The flags one below the other, in parentheses; nothing if there are none.
fn names(f: &mut Formatter<'_>, bits: u64, names: fn(u64) -> Named) -> fmt::Result {
    if bits == 0 {
        return Ok(());
    }
    let (known, unknown) = names(bits);
    let mut words: Vec<String> = known.into_iter().map(str::to_owned).collect();
    if unknown != 0 {
        words.push(format!("unknown flag: 0x{unknown:x}"));
    }
    writeln!(f, "\t\t\t( {} )", words.join(" |\n\t\t\t  "))
}

fn device(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    let d = &sb.dev_item;
    let own = if sb.incompat().contains(Incompat::METADATA_UUID) { sb.metadata_uuid } else { sb.fsid };
    writeln!(f, "dev_item.uuid\t\t{}", UuidText(&d.uuid))?;
    writeln!(f, "dev_item.fsid\t\t{} {}", UuidText(&d.fsid), matches(d.fsid == own))?;
    writeln!(f, "dev_item.type\t\t{}", d.dev_type)?;
    writeln!(f, "dev_item.total_bytes\t{}", d.total_bytes)?;
    writeln!(f, "dev_item.bytes_used\t{}", d.bytes_used)?;
    writeln!(f, "dev_item.io_align\t{}", d.io_align)?;
    writeln!(f, "dev_item.io_width\t{}", d.io_width)?;
    writeln!(f, "dev_item.sector_size\t{}", d.sector_size)?;
    writeln!(f, "dev_item.devid\t\t{}", d.devid)?;
    writeln!(f, "dev_item.dev_group\t{}", d.dev_group)?;
    writeln!(f, "dev_item.seek_speed\t{}", d.seek_speed)?;
    writeln!(f, "dev_item.bandwidth\t{}", d.bandwidth)?;
    writeln!(f, "dev_item.generation\t{}", d.generation)
}

/// The system chunks of a superblock, as far as they can be read.
pub struct SystemChunks<'a> {
    /// Key and bytes of each chunk; the last may be something else, without bytes.
    pub entries: Vec<(Key, &'a [u8])>,
    /// Why there are no more.
    pub problem: Option<String>,
}

impl Display for SystemChunks<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, (key, data)) in self.entries.iter().enumerate() {
            writeln!(f, "\titem {number} {}", KeyText(*key))?;
            if data.is_empty() {
                continue;
            }
            match chunk::chunk(f, data) {
                Err(Stop::Format(error)) => return Err(error),
                Ok(()) | Err(Stop::Short) => {}
            }
        }
        Ok(())
    }
}

/// Reads the system chunks in a superblock.
pub fn system_chunks(sb: &Superblock) -> SystemChunks<'_> {
    let size = sb.sys_chunk_array_size.get() as usize;
    let mut chunks = SystemChunks { entries: Vec::new(), problem: None };
    let Some(array) = sb.sys_chunk_array.get(..size) else {
        chunks.problem = Some(format!("sys_array_size {size} shouldn't exceed {SYS_CHUNK_ARRAY_SIZE} bytes"));
        return chunks;
    };
    let mut fields = Fields::new(array);
    while !fields.is_empty() && chunks.problem.is_none() {
        let at = |fields: &Fields<'_>| size - fields.rest().len();
        let Ok(key) = fields.key() else {
            let problem = format!("sys_array too short to read a key at offset {}", at(&fields));
            chunks.problem = Some(problem);
            break;
        };
        let (taken, problem) = system_chunk(&key, &fields, at(&fields));
        chunks.problem = problem;
        chunks.entries.push((key, fields.up_to(taken)));
    }
    chunks
}

/// How many bytes the chunk after a key takes; none, and why, if it is no chunk.
fn system_chunk(key: &Key, fields: &Fields<'_>, at: usize) -> (usize, Option<String>) {
    if key.item_type != ItemType::CHUNK_ITEM {
        return (0, Some(format!("unexpected item type {} in sys_array at offset {at}", key.item_type.0)));
    }
    let short = |len: usize| (0, Some(format!("sys_array too short to read {len} bytes at offset {at}")));
    let least = size_of::<ChunkHeader>() + size_of::<Stripe>();
    let left = fields.rest().len();
    let header = { *fields }.take::<ChunkHeader>();
    let Ok(header) = header else { return short(least) };
    let stripes = usize::from(header.num_stripes.get());
    let len = size_of::<ChunkHeader>() + stripes * size_of::<Stripe>();
    match stripes {
        _ if left < least => short(least),
        0 => (0, Some(format!("invalid number of stripes 0 in sys_array at offset {at}"))),
        _ if left < len => short(len),
        _ => (len, None),
    }
}

fn backups(f: &mut Formatter<'_>, sb: &Superblock) -> fmt::Result {
    let v2 = sb.incompat().contains(Incompat::EXTENT_TREE_V2);
    let extent_root = if v2 { "backup_block_group_root" } else { "backup_extent_root" };
    let used = |backup: &RootBackup| backup.tree_root.get() != 0 || backup.tree_root_gen.get() != 0;
    for (number, backup) in sb.super_roots.iter().enumerate().filter(|(_, backup)| used(backup)) {
        writeln!(f, "\tbackup {number}:")?;
        backup_roots(f, backup, extent_root)?;
    }
    Ok(())
}

fn backup_roots(f: &mut Formatter<'_>, b: &RootBackup, extent_root: &str) -> fmt::Result {
    let roots = [
        ("backup_tree_root:", b.tree_root, b.tree_root_gen, b.tree_root_level),
        ("backup_chunk_root:", b.chunk_root, b.chunk_root_gen, b.chunk_root_level),
        (&format!("{extent_root}:"), b.extent_root, b.extent_root_gen, b.extent_root_level),
        ("backup_fs_root:\t", b.fs_root, b.fs_root_gen, b.fs_root_level),
        ("backup_dev_root:", b.dev_root, b.dev_root_gen, b.dev_root_level),
        ("csum_root:", b.csum_root, b.csum_root_gen, b.csum_root_level),
    ];
    for (name, root, generation, level) in roots {
        writeln!(f, "\t\t{name}\t{root}\tgen: {generation}\tlevel: {level}")?;
    }
    writeln!(f, "\t\tbackup_total_bytes:\t{}", b.total_bytes)?;
    writeln!(f, "\t\tbackup_bytes_used:\t{}", b.bytes_used)?;
    writeln!(f, "\t\tbackup_num_devices:\t{}\n", b.num_devices)
}
