//! What a superblock says of features, and what this version makes of it.

use butterfs_format::Superblock;
use butterfs_format::superblock::{
    CompatRo, Incompat, SUPER_FLAG_CHANGING_BG_TREE, SUPER_FLAG_CHANGING_FSID, SUPER_FLAG_CHANGING_FSID_V2,
    SUPER_FLAG_METADUMP, SUPER_FLAG_METADUMP_V2, SUPER_FLAG_SEEDING,
};

use super::open::{Access, OpenOptions};
use super::rescue::Rescue;
use crate::error::{Error, Result};

/// Features that can be written.
const WRITABLE: Incompat = Incompat::MIXED_BACKREF
    .union(Incompat::DEFAULT_SUBVOL)
    .union(Incompat::BIG_METADATA)
    .union(Incompat::EXTENDED_IREF)
    .union(Incompat::SKINNY_METADATA)
    .union(Incompat::NO_HOLES)
    .union(Incompat::RAID1C34)
    .union(Incompat::RAID56)
    .union(Incompat::MIXED_GROUPS)
    .union(Incompat::COMPRESS_LZO)
    .union(Incompat::COMPRESS_ZSTD);

/// Features that can be read; the volume judges those of chunks for itself. Of zones a reader need not know where
/// superblocks are at their usual places (decision 22).
const READABLE: Incompat = WRITABLE.union(Incompat::ZONED).union(Incompat::METADATA_UUID).union(Incompat::SIMPLE_QUOTA);

const WRITABLE_COMPAT_RO: CompatRo =
    CompatRo::FREE_SPACE_TREE.union(CompatRo::FREE_SPACE_TREE_VALID).union(CompatRo::BLOCK_GROUP_TREE);

/// All features that this version can read, and those of the second kind with which it can write.
pub const SUPPORTED: (Incompat, CompatRo) = (READABLE, WRITABLE_COMPAT_RO);

/// What stands in the way of writing, and the first of them of reading, too: half of the blocks may be
/// changed. (Where only the UUID that users see is changed, blocks stay as they are.)
const FLAGS: [(u64, &str); 6] = [
    (SUPER_FLAG_CHANGING_FSID, "a change of its fsid was interrupted (finish it with btrfstune)"),
    (SUPER_FLAG_CHANGING_BG_TREE, "a conversion of its block groups was interrupted (finish it with btrfstune)"),
    (SUPER_FLAG_CHANGING_FSID_V2, "a change of its fsid was interrupted (finish it with btrfstune; reading only)"),
    (SUPER_FLAG_SEEDING, "it is a seed device (reading only)"),
    (SUPER_FLAG_METADUMP, "it is a metadata dump of btrfs-image, without data (reading only)"),
    (SUPER_FLAG_METADUMP_V2, "it is a metadata dump of btrfs-image, without data (reading only)"),
];
const READING_FLAGS: usize = 2;

/// Fails, by name, if the filesystem cannot be used in this way.
pub fn check(sb: &Superblock, options: &OpenOptions) -> Result<()> {
    let access = options.access;
    if access == Access::ReadWrite && (!options.rescue.is_empty() || options.generation.is_some()) {
        return Err(Error::Invalid("rescue options and older generations are for reading only"));
    }
    let known = if access == Access::ReadWrite { WRITABLE } else { READABLE };
    let foreign = sb.incompat().difference(known);
    if !foreign.is_empty() {
        let names = incompat_names(foreign);
        let way = if READABLE.contains(foreign) { " (reading only)" } else { "" };
        return refuse(format!("incompatible features {names}{way}"));
    }
    let flags: &[_] = if access == Access::ReadWrite { &FLAGS } else { &FLAGS[..READING_FLAGS] };
    for (flag, problem) in flags {
        if sb.flags.get() & flag != 0 && !options.rescue.contains(Rescue::IGNORE_SUPER_FLAGS) {
            return refuse((*problem).into());
        }
    }
    if access == Access::ReadOnly {
        return Ok(());
    }
    check_compat_ro(sb.compat_ro())
}

fn check_compat_ro(bits: CompatRo) -> Result<()> {
    let foreign = bits.difference(WRITABLE_COMPAT_RO);
    if !foreign.is_empty() {
        let names = names(foreign.iter_names(), (foreign - CompatRo::all()).bits());
        return refuse(format!("features that allow reading only: {names}"));
    }
    if bits.contains(CompatRo::FREE_SPACE_TREE) && !bits.contains(CompatRo::FREE_SPACE_TREE_VALID) {
        return refuse("its free space tree is not valid: mount it once with the kernel to have it rebuilt".into());
    }
    Ok(())
}

fn refuse(problem: String) -> Result<()> {
    Err(Error::Unsupported(problem))
}

/// Features that cannot be read at all come with their bits, for those who look them up.
fn incompat_names(foreign: Incompat) -> String {
    let name = |(name, bit): (&str, Incompat)| match READABLE.contains(bit) {
        true => name.to_owned(),
        false => format!("{name} (bit {})", bit.bits().trailing_zeros()),
    };
    let known: Vec<String> = foreign.iter_names().map(name).collect();
    names(known.iter().map(|name| (&**name, ())), (foreign - Incompat::all()).bits())
}

fn names<'n, B>(known: impl Iterator<Item = (&'n str, B)>, unknown: u64) -> String {
    let known = known.map(|(name, _)| name.to_owned());
    let unknown = (0..64).filter(|bit| unknown & (1 << bit) != 0);
    let unknown = unknown.map(|bit| format!("bit {bit} ({:#x}, unknown)", 1u64 << bit));
    known.chain(unknown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn superblock(incompat: Incompat, compat_ro: CompatRo) -> Superblock {
        let mut sb = Superblock::new_zeroed();
        sb.incompat_flags = incompat.bits().into();
        sb.compat_ro_flags = compat_ro.bits().into();
        sb
    }

    fn check(sb: &Superblock, access: Access) -> Result<()> {
        super::check(sb, &OpenOptions { access, ..OpenOptions::default() })
    }

    fn error(sb: &Superblock, access: Access) -> String {
        check(sb, access).unwrap_err().to_string()
    }

    #[test]
    fn todays_default_can_be_written() {
        let sb = superblock(WRITABLE, WRITABLE_COMPAT_RO);
        assert!(check(&sb, Access::ReadWrite).is_ok());
    }

    #[test]
    fn foreign_features_are_named() {
        let sb = superblock(Incompat::EXTENT_TREE_V2 | Incompat::from_bits_retain(1 << 40), CompatRo::empty());
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let text = error(&sb, access);
            assert!(
                text.contains("EXTENT_TREE_V2 (bit 13)") && text.contains("bit 40 (0x10000000000, unknown)"),
                "{text}"
            );
        }
        let sb = superblock(Incompat::METADATA_UUID, CompatRo::empty());
        assert!(error(&sb, Access::ReadWrite).contains("METADATA_UUID (reading only)"));
        let sb = superblock(Incompat::ZONED, CompatRo::empty());
        assert!(error(&sb, Access::ReadWrite).contains("ZONED (reading only)"));
        let sb = superblock(Incompat::empty(), CompatRo::VERITY);
        assert!(error(&sb, Access::ReadWrite).contains("VERITY"));
        assert!(check(&sb, Access::ReadOnly).is_ok());
    }

    #[test]
    fn flags_and_a_stale_free_space_tree_are_refused() {
        let mut sb = superblock(WRITABLE, CompatRo::FREE_SPACE_TREE);
        assert!(error(&sb, Access::ReadWrite).contains("free space tree"));
        sb.flags = SUPER_FLAG_SEEDING.into();
        assert!(error(&sb, Access::ReadWrite).contains("seed"));
        assert!(check(&sb, Access::ReadOnly).is_ok());
        sb.flags = SUPER_FLAG_CHANGING_BG_TREE.into();
        assert!(error(&sb, Access::ReadOnly).contains("interrupted"));
        let rescue = OpenOptions { rescue: Rescue::IGNORE_SUPER_FLAGS, ..OpenOptions::default() };
        assert!(super::check(&sb, &OpenOptions { access: Access::ReadOnly, ..rescue.clone() }).is_ok());
        assert!(matches!(super::check(&sb, &rescue), Err(Error::Invalid(_))));
        sb.flags = SUPER_FLAG_CHANGING_FSID_V2.into();
        assert!(check(&sb, Access::ReadOnly).is_ok());
    }
}
