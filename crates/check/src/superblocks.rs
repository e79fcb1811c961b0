//! The superblocks: each copy on each device, and what can be told from the fields alone.

use butterfs_format::Superblock;
use butterfs_format::superblock::{CompatRo, Incompat, SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2};

use crate::context::Context;
use crate::finding::Kind;

/// Checks the fields of the newest superblock, and every copy against it.
pub(crate) fn check(context: &mut Context<'_>) {
    check_features(context);
    check_fields(context);
    let newest = *context.superblock();
    // btrfs-image restores the first copy only.
    let dump = newest.flags.get() & (SUPER_FLAG_METADUMP | SUPER_FLAG_METADUMP_V2) != 0;
    for (place, copy) in context.access.superblock_copies() {
        match copy {
            Err(problem) if dump => context.note(Kind::Superblock, place, problem),
            Err(problem) => context.error(Kind::Superblock, place, problem),
            Ok(copy) => compare(context, &place, &newest, &copy),
        }
    }
}

/// Features that this checker cannot judge, so that "clean" would be a lie.
fn check_features(context: &mut Context<'_>) {
    let blind = [
        (Incompat::EXTENT_TREE_V2, "extent-tree-v2"),
        (Incompat::RAID_STRIPE_TREE, "raid-stripe-tree"),
        (Incompat::REMAP_TREE, "remap-tree"),
        (Incompat::SIMPLE_QUOTA, "simple quotas"),
    ];
    for (feature, name) in blind {
        if context.has(feature) {
            context.error(Kind::Unsupported, "superblock", format!("{name} cannot be checked yet"));
        }
    }
    if context.has(Incompat::RAID56) {
        context.note(Kind::Unsupported, "superblock", "RAID5 and RAID6 parity is not compared with the data");
    }
    let unknown = context.superblock().incompat() & !Incompat::all();
    if !unknown.is_empty() {
        context.error(Kind::Unsupported, "superblock", format!("unknown incompat bits {:#x}", unknown.bits()));
    }
    let unknown = context.superblock().compat_ro() & !CompatRo::all();
    if !unknown.is_empty() {
        context.error(Kind::Unsupported, "superblock", format!("unknown compat_ro bits {:#x}", unknown.bits()));
    }
}

fn check_fields(context: &mut Context<'_>) {
    let sb = *context.superblock();
    let place = "superblock";
    if !sb.total_bytes.get().is_multiple_of(u64::from(sb.sectorsize.get())) {
        context.error(Kind::Superblock, place, format!("total_bytes {} is not a multiple of a sector", sb.total_bytes));
    }
    if sb.bytes_used.get() > sb.total_bytes.get() {
        context.error(Kind::Superblock, place, format!("bytes_used {} is above total_bytes", sb.bytes_used));
    }
    if sb.root_dir_objectid.get() != 6 {
        context.error(Kind::Superblock, place, format!("root_dir_objectid is {}, want 6", sb.root_dir_objectid));
    }
    let (tree, valid) = (CompatRo::FREE_SPACE_TREE, CompatRo::FREE_SPACE_TREE_VALID);
    if context.has_ro(tree) && !context.has_ro(valid) {
        context.warn(Kind::FreeSpace, place, "the free space tree is not marked as valid");
    }
    if context.has_ro(CompatRo::BLOCK_GROUP_TREE) && !(context.has_ro(tree) && context.has(Incompat::NO_HOLES)) {
        context.error(Kind::Superblock, place, "block-group-tree needs no-holes and a free space tree");
    }
}

/// The log is left out: fsync writes the first copy only.
fn compare(context: &mut Context<'_>, place: &str, newest: &Superblock, copy: &Superblock) {
    if newest.fsid != copy.fsid || newest.block_fsid() != copy.block_fsid() {
        context.error(Kind::SuperblockMirror, place, "another filesystem's UUID");
        return;
    }
    if copy.generation < newest.generation {
        let problem = format!("stale: generation {}, the newest is {}", copy.generation, newest.generation);
        context.warn(Kind::SuperblockMirror, place, problem);
        return;
    }
    let fields = |sb: &Superblock| {
        [
            ("generation", sb.generation.get()),
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
            context.error(Kind::SuperblockMirror, place, problem);
        }
    }
    if newest.sys_chunk_array != copy.sys_chunk_array {
        context.error(Kind::SuperblockMirror, place, "another array of system chunks");
    }
}
