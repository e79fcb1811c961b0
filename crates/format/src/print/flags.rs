//! Sets of flags in words.

use std::fmt::{self, Display, Formatter};

use crate::items::{BlockGroupFlags, ExtentFlags, InodeFlags};
use crate::superblock::{CompatRo, Incompat};

/// A set of flags as text.
pub struct Flags(Vec<Part>);

enum Part {
    Known(&'static str),
    Unknown(&'static str, u64, &'static str),
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(name) => f.write_str(name),
            Self::Unknown(before, bits, after) => write!(f, "{before}0x{bits:x}{after}"),
        }
    }
}

/// `A|B`.
impl Display for Flags {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().enumerate().try_for_each(|(number, part)| {
            let bar = if number == 0 { "" } else { "|" };
            write!(f, "{bar}{part}")
        })
    }
}

type Table = [(u64, &'static str)];

fn known(bits: u64, table: &Table) -> Vec<Part> {
    table.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| Part::Known(name)).collect()
}

fn unknown(bits: u64, table: &Table) -> u64 {
    table.iter().fold(bits, |rest, (bit, _)| rest & !bit)
}

const INODE: [(u64, &str); 13] = [
    (InodeFlags::NODATASUM.bits(), "NODATASUM"),
    (InodeFlags::NODATACOW.bits(), "NODATACOW"),
    (InodeFlags::READONLY.bits(), "READONLY"),
    (InodeFlags::NOCOMPRESS.bits(), "NOCOMPRESS"),
    (InodeFlags::PREALLOC.bits(), "PREALLOC"),
    (InodeFlags::SYNC.bits(), "SYNC"),
    (InodeFlags::IMMUTABLE.bits(), "IMMUTABLE"),
    (InodeFlags::APPEND.bits(), "APPEND"),
    (InodeFlags::NODUMP.bits(), "NODUMP"),
    (InodeFlags::NOATIME.bits(), "NOATIME"),
    (InodeFlags::DIRSYNC.bits(), "DIRSYNC"),
    (InodeFlags::COMPRESS.bits(), "COMPRESS"),
    (InodeFlags::ROOT_ITEM_INIT.bits(), "ROOT_ITEM_INIT"),
];

/// Flags of an inode; `none` if there are none.
pub fn inode_flags(bits: u64) -> Flags {
    let mut parts = known(bits, &INODE);
    if unknown(bits, &INODE) != 0 {
        parts.push(Part::Unknown("UNKNOWN: ", unknown(bits, &INODE), ""));
    }
    if parts.is_empty() {
        parts.push(Part::Known("none"));
    }
    Flags(parts)
}

/// Type and profile of a chunk or block group.
pub fn block_group_flags(bits: u64) -> Flags {
    use BlockGroupFlags as F;
    const TYPES: [(u64, &str); 3] =
        [(F::DATA.bits(), "DATA"), (F::METADATA.bits(), "METADATA"), (F::SYSTEM.bits(), "SYSTEM")];
    let mut parts = known(bits, &TYPES);
    // The bar before the profile is there even when no type is.
    if parts.is_empty() {
        parts.push(Part::Known(""));
    }
    parts.push(Part::Known(profile_name(bits)));
    Flags(parts)
}

/// The profile, in capitals but for the single one; of several that which progs takes.
pub fn profile_name(bits: u64) -> &'static str {
    use BlockGroupFlags as F;
    const PROFILES: [(BlockGroupFlags, &str); 8] = [
        (F::RAID10, "RAID10"),
        (F::RAID1, "RAID1"),
        (F::RAID1C3, "RAID1C3"),
        (F::RAID1C4, "RAID1C4"),
        (F::DUP, "DUP"),
        (F::RAID0, "RAID0"),
        (F::RAID5, "RAID5"),
        (F::RAID6, "RAID6"),
    ];
    PROFILES.into_iter().find(|(profile, _)| bits & profile.bits() != 0).map_or("single", |(_, name)| name)
}

/// Flags of an extent item.
pub fn extent_flags(bits: u64) -> Flags {
    const TABLE: [(u64, &str); 2] =
        [(ExtentFlags::DATA.bits(), "DATA"), (ExtentFlags::TREE_BLOCK.bits(), "TREE_BLOCK")];
    let mut parts = known(bits, &TABLE);
    if bits & ExtentFlags::FULL_BACKREF.bits() != 0 {
        if parts.is_empty() {
            parts.push(Part::Known(""));
        }
        parts.push(Part::Known("FULL_BACKREF"));
    }
    Flags(parts)
}

/// Flags of a tree block's header, the revision left out.
pub fn header_flags(bits: u64) -> Flags {
    Flags(known(bits, &[(crate::block::FLAG_WRITTEN, "WRITTEN"), (crate::block::FLAG_RELOC, "RELOC")]))
}

/// State of the quotas.
pub fn qgroup_status_flags(bits: u64) -> Flags {
    const TABLE: [(u64, &str); 3] = [(1 << 3, "SIMPLE_MODE"), (1 << 1, "SCANNING"), (1 << 2, "INCONSISTENT")];
    let mut parts = vec![Part::Known(if bits & 1 != 0 { "ON" } else { "OFF" })];
    parts.extend(known(bits, &TABLE));
    if unknown(bits & !1, &TABLE) != 0 {
        parts.push(Part::Unknown("UNKNOWN(", unknown(bits & !1, &TABLE), ")"));
    }
    Flags(parts)
}

/// Names of flags, and the bits that have none.
pub type Named = (Vec<&'static str>, u64);

fn named(bits: u64, table: &Table) -> Named {
    (table.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect(), unknown(bits, table))
}

/// Flags of a superblock.
pub fn super_flag_names(bits: u64) -> Named {
    use crate::superblock::{
        HEADER_FLAG_WRITTEN, SUPER_FLAG_CHANGING_BG_TREE, SUPER_FLAG_CHANGING_FSID, SUPER_FLAG_CHANGING_FSID_V2,
        SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2, SUPER_FLAG_SEEDING,
    };
    let table = [
        (HEADER_FLAG_WRITTEN, "WRITTEN"),
        (crate::block::FLAG_RELOC, "RELOC"),
        (SUPER_FLAG_CHANGING_FSID, "CHANGING_FSID"),
        (SUPER_FLAG_CHANGING_FSID_V2, "CHANGING_FSID_V2"),
        (SUPER_FLAG_SEEDING, "SEEDING"),
        (SUPER_FLAG_METADUMP, "METADUMP"),
        (SUPER_FLAG_METADUMP_V2, "METADUMP_V2"),
        (SUPER_FLAG_CHANGING_BG_TREE, "CHANGING_BG_TREE"),
        (1 << 39, "CHANGING_DATA_CSUM"),
        (1 << 40, "CHANGING_META_CSUM"),
    ];
    named(bits, &table)
}

/// Features that writers must know.
pub fn compat_ro_flag_names(bits: u64) -> Named {
    let table = [
        (CompatRo::FREE_SPACE_TREE.bits(), "FREE_SPACE_TREE"),
        (CompatRo::FREE_SPACE_TREE_VALID.bits(), "FREE_SPACE_TREE_VALID"),
        (CompatRo::BLOCK_GROUP_TREE.bits(), "BLOCK_GROUP_TREE"),
    ];
    named(bits, &table)
}

/// Features that everybody must know.
pub fn incompat_flag_names(bits: u64) -> Named {
    let table = [
        (Incompat::MIXED_BACKREF.bits(), "MIXED_BACKREF"),
        (Incompat::DEFAULT_SUBVOL.bits(), "DEFAULT_SUBVOL"),
        (Incompat::MIXED_GROUPS.bits(), "MIXED_GROUPS"),
        (Incompat::COMPRESS_LZO.bits(), "COMPRESS_LZO"),
        (Incompat::COMPRESS_ZSTD.bits(), "COMPRESS_ZSTD"),
        (Incompat::BIG_METADATA.bits(), "BIG_METADATA"),
        (Incompat::EXTENDED_IREF.bits(), "EXTENDED_IREF"),
        (Incompat::RAID56.bits(), "RAID56"),
        (Incompat::SKINNY_METADATA.bits(), "SKINNY_METADATA"),
        (Incompat::NO_HOLES.bits(), "NO_HOLES"),
        (Incompat::METADATA_UUID.bits(), "METADATA_UUID"),
        (Incompat::RAID1C34.bits(), "RAID1C34"),
        (Incompat::ZONED.bits(), "ZONED"),
        (Incompat::EXTENT_TREE_V2.bits(), "EXTENT_TREE_V2"),
        (Incompat::RAID_STRIPE_TREE.bits(), "RAID_STRIPE_TREE"),
        (Incompat::SIMPLE_QUOTA.bits(), "SIMPLE_QUOTA"),
    ];
    named(bits, &table)
}
