//! The superblocks: each copy on each device, and what can be told from the fields alone.

use butterfs_format::Superblock;
use butterfs_format::superblock::{
    CompatRo, HEADER_FLAG_WRITTEN, Incompat, SUPER_FLAG_CHANGING_FSID, SUPER_FLAG_CHANGING_FSID_V2,
    SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2, SUPER_FLAG_SEEDING, SUPERBLOCK_OFFSETS,
};

use crate::context::Context;
use crate::finding::{Kind, Place};

/// Checks the fields of the newest superblock, and every copy against it.
pub(crate) fn check(context: &mut Context<'_>) {
    check_features(context);
    check_fields(context);
    check_flags(context);
    check_backups(context);
    let newest = *context.superblock();
    // btrfs-image restores the first copy only; with zones, the others lie in zones of their own (decision 22).
    let first_only = context.is_dump() || context.has(Incompat::ZONED);
    for (offset, place, copy) in context.access.superblock_copies() {
        match copy {
            Err(problem) if first_only && offset != SUPERBLOCK_OFFSETS[0] => {
                context.note(Kind::Superblock, place, problem)
            }
            Err(problem) => context.error(Kind::Superblock, place, problem),
            Ok(copy) if context.access.is_seed(copy.dev_item.devid.get()) => {}
            Ok(copy) => compare(context, place, &newest, &copy),
        }
    }
}

/// Features that this checker cannot judge, so that "clean" would be a lie.
fn check_features(context: &mut Context<'_>) {
    let blind = [
        (Incompat::EXTENT_TREE_V2, "extent-tree-v2"),
        (Incompat::RAID_STRIPE_TREE, "raid-stripe-tree"),
        (Incompat::REMAP_TREE, "remap-tree"),
    ];
    for (feature, name) in blind {
        if context.has(feature) {
            context.error(Kind::Unsupported, Place::superblock(), format!("{name} cannot be checked yet"));
        }
    }
    if context.has(Incompat::RAID56) && !context.options.data_csums {
        let note = "RAID5 and RAID6 parity of data is compared only where its checksums are checked";
        context.note(Kind::Unsupported, Place::superblock(), note);
    }
    let unknown = context.superblock().incompat_flags.get() & !Incompat::all().bits();
    if unknown != 0 {
        context.error(Kind::Unsupported, Place::superblock(), format!("unknown incompat bits {unknown:#x}"));
    }
    let unknown = context.superblock().compat_ro_flags.get() & !CompatRo::all().bits();
    if unknown != 0 {
        context.error(Kind::Unsupported, Place::superblock(), format!("unknown compat_ro bits {unknown:#x}"));
    }
}

fn check_fields(context: &mut Context<'_>) {
    let sb = *context.superblock();
    let place = Place::superblock;
    if !sb.total_bytes.get().is_multiple_of(u64::from(sb.sectorsize.get())) {
        context.warn(
            Kind::Superblock,
            place(),
            format!("total_bytes {} is not a multiple of a sector", sb.total_bytes),
        );
    }
    if sb.bytes_used.get() > sb.total_bytes.get() {
        context.error(Kind::Superblock, place(), format!("bytes_used {} is above total_bytes", sb.bytes_used));
    }
    if sb.root_dir_objectid.get() != 6 {
        context.error(Kind::Superblock, place(), format!("root_dir_objectid is {}, want 6", sb.root_dir_objectid));
    }
    let (tree, valid) = (CompatRo::FREE_SPACE_TREE, CompatRo::FREE_SPACE_TREE_VALID);
    if context.has_ro(tree) && !context.has_ro(valid) {
        context.warn(Kind::FreeSpace, place(), "the free space tree is not marked as valid");
    }
    if context.has_ro(CompatRo::BLOCK_GROUP_TREE) && !(context.has_ro(tree) && context.has(Incompat::NO_HOLES)) {
        context.error(Kind::Superblock, place(), "block-group-tree needs no-holes and a free space tree");
    }
}

/// Flags that a kernel does not know keep it from mounting: a program was interrupted that rewrites
/// the whole filesystem, and wants to go on.
fn check_flags(context: &mut Context<'_>) {
    /// Set by a kernel that saw an error; and by very old ones during a relocation.
    const ERROR: u64 = 1 << 2;
    const RELOC: u64 = 1 << 1;
    let unfinished = [
        (SUPER_FLAG_CHANGING_FSID, "a change of the filesystem's UUID"),
        (1 << 38, "a conversion from or to a block group tree"),
        (1 << 39, "a change of the data checksums"),
        (1 << 40, "a change of the metadata checksums"),
    ];
    let place = Place::superblock;
    let flags = context.superblock().flags.get();
    let mut known = HEADER_FLAG_WRITTEN | RELOC | ERROR | SUPER_FLAG_SEEDING | SUPER_FLAG_CHANGING_FSID_V2;
    known |= SUPER_FLAG_METADUMP | SUPER_FLAG_METADUMP_V2;
    for (flag, what) in unfinished {
        known |= flag;
        if flags & flag != 0 {
            context.error(Kind::Superblock, place(), format!("{what} was interrupted: no kernel mounts this"));
        }
    }
    if flags & SUPER_FLAG_CHANGING_FSID_V2 != 0 {
        context.warn(Kind::Superblock, place(), "a change of the metadata UUID was interrupted");
    }
    if flags & ERROR != 0 {
        context.warn(Kind::Superblock, place(), "the kernel noted an error");
    }
    if flags & !known != 0 {
        context.error(Kind::Superblock, place(), format!("unknown flags {:#x}", flags & !known));
    }
}

/// The backup of this very generation names the same trees. (mkfs writes none.)
fn check_backups(context: &mut Context<'_>) {
    let sb = *context.superblock();
    for (index, backup) in sb.super_roots.iter().enumerate() {
        let generation = backup.tree_root_gen.get();
        let own = generation == sb.generation.get();
        let problem = if own && backup.tree_root != sb.root {
            format!("backup {index} says that the root tree is at {}, it is at {}", backup.tree_root, sb.root)
        } else if own && backup.tree_root_level != sb.root_level {
            format!("backup {index} says root level {}, it is {}", backup.tree_root_level, sb.root_level)
        } else {
            continue;
        };
        context.warn(Kind::BackupRoot, Place::superblock(), problem);
    }
}

/// The log is left out: fsync writes the first copy only.
fn compare(context: &mut Context<'_>, place: Place, newest: &Superblock, copy: &Superblock) {
    if newest.block_fsid() != copy.block_fsid() || newest.fsid != copy.fsid && newest.generation == copy.generation {
        context.error(Kind::SuperblockMirror, place, "another filesystem's UUID");
        return;
    }
    // Superblocks are written together, and a power cut may leave any of them as it was.
    if copy.generation != newest.generation {
        let problem = format!("generation {}, the filesystem's is {}", copy.generation, newest.generation);
        context.warn(Kind::SuperblockMirror, place, problem);
        return;
    }
    let fields = |sb: &Superblock| {
        [
            ("root", sb.root.get()),
            ("root_level", u64::from(sb.root_level)),
            ("chunk_root", sb.chunk_root.get()),
            ("chunk_root_level", u64::from(sb.chunk_root_level)),
            ("chunk_root_generation", sb.chunk_root_generation.get()),
            ("total_bytes", sb.total_bytes.get()),
            ("bytes_used", sb.bytes_used.get()),
            ("num_devices", sb.num_devices.get()),
            ("nodesize", u64::from(sb.nodesize.get())),
            ("sectorsize", u64::from(sb.sectorsize.get())),
            ("flags", sb.flags.get()),
            ("incompat_flags", sb.incompat_flags.get()),
            ("compat_ro_flags", sb.compat_ro_flags.get()),
            ("csum_type", u64::from(sb.csum_type.get())),
        ]
    };
    for ((name, want), (_, found)) in fields(newest).into_iter().zip(fields(copy)) {
        if want != found {
            let problem = format!("{name} is {found}, the newest superblock says {want}");
            context.error(Kind::SuperblockMirror, place.clone(), problem);
        }
    }
    if newest.sys_chunk_array != copy.sys_chunk_array {
        context.error(Kind::SuperblockMirror, place, "another array of system chunks");
    }
}
