//! The superblock: 4 KiB at 64 KiB, 64 MiB and 256 GiB of each device.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::ChecksumType;
use crate::error::{Corruption, Result};
use crate::ids::{Generation, Logical};
use crate::items::DevItem;

/// The size of a superblock, in bytes.
pub const SUPERBLOCK_SIZE: usize = 4096;
/// `_BHRfS_M`
pub const MAGIC: [u8; 8] = *b"_BHRfS_M";
/// Where the copies lie on a device, in bytes; a copy past the device's end does not exist.
pub const SUPERBLOCK_OFFSETS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
/// The room for system chunks within the superblock.
pub const SYS_CHUNK_ARRAY_SIZE: usize = 2048;
/// The longest label, without its final zero.
pub const LABEL_MAX: usize = 255;
/// The first MiB of a device is never allocated.
pub const RESERVED_START: u64 = 1 << 20;

bitflags::bitflags! {
    /// Features without which the filesystem must not be opened at all.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Incompat: u64 {
        /// Back references that tell shared and owned blocks apart; always set.
        const MIXED_BACKREF = 1 << 0;
        /// A default subvolume other than the top level was set once.
        const DEFAULT_SUBVOL = 1 << 1;
        /// Block groups that hold data and metadata.
        const MIXED_GROUPS = 1 << 2;
        /// LZO compression was used.
        const COMPRESS_LZO = 1 << 3;
        /// zstd compression was used.
        const COMPRESS_ZSTD = 1 << 4;
        /// Tree blocks larger than a page.
        const BIG_METADATA = 1 << 5;
        /// INODE_EXTREF items.
        const EXTENDED_IREF = 1 << 6;
        /// RAID5 or RAID6 block groups.
        const RAID56 = 1 << 7;
        /// METADATA_ITEM instead of EXTENT_ITEM for tree blocks.
        const SKINNY_METADATA = 1 << 8;
        /// Holes need no file extent items.
        const NO_HOLES = 1 << 9;
        /// Tree blocks carry `metadata_uuid` instead of `fsid`.
        const METADATA_UUID = 1 << 10;
        /// RAID1C3 or RAID1C4 block groups.
        const RAID1C34 = 1 << 11;
        /// Zoned devices.
        const ZONED = 1 << 12;
        /// Extent tree v2 (experimental).
        const EXTENT_TREE_V2 = 1 << 13;
        /// raid-stripe-tree.
        const RAID_STRIPE_TREE = 1 << 14;
        /// Simple quotas.
        const SIMPLE_QUOTA = 1 << 16;
        /// Remap tree.
        const REMAP_TREE = 1 << 17;
    }
}

bitflags::bitflags! {
    /// Features without which the filesystem must not be written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CompatRo: u64 {
        /// The free space tree exists.
        const FREE_SPACE_TREE = 1 << 0;
        /// The free space tree may be trusted.
        const FREE_SPACE_TREE_VALID = 1 << 1;
        /// fs-verity files exist.
        const VERITY = 1 << 2;
        /// Block group items live in a tree of their own.
        const BLOCK_GROUP_TREE = 1 << 3;
    }
}

/// Set in [`Superblock::flags`]: tree blocks have been written (always set by current writers).
pub const HEADER_FLAG_WRITTEN: u64 = 1 << 0;
/// Set in [`Superblock::flags`]: a seed device, never written to.
pub const SUPER_FLAG_SEEDING: u64 = 1 << 32;
/// Set in [`Superblock::flags`]: restored by btrfs-image.
pub const SUPER_FLAG_METADUMP: u64 = 1 << 33;
/// Set in [`Superblock::flags`]: restored by btrfs-image, newer form.
pub const SUPER_FLAG_METADUMP_V2: u64 = 1 << 34;
/// Set in [`Superblock::flags`]: a change of the fsid was interrupted.
pub const SUPER_FLAG_CHANGING_FSID: u64 = 1 << 35;
/// Set in [`Superblock::flags`]: a change of the fsid (metadata_uuid) was interrupted.
pub const SUPER_FLAG_CHANGING_FSID_V2: u64 = 1 << 36;
/// A conversion to or from the block group tree is under way (`btrfstune`).
pub const SUPER_FLAG_CHANGING_BG_TREE: u64 = 1 << 38;

/// An older set of tree roots; four of them are kept in turn.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct RootBackup {
    /// Root tree.
    pub tree_root: U64,
    /// Its generation.
    pub tree_root_gen: U64,
    /// Chunk tree.
    pub chunk_root: U64,
    /// Its generation.
    pub chunk_root_gen: U64,
    /// Extent tree (or block group tree under extent-tree-v2).
    pub extent_root: U64,
    /// Its generation.
    pub extent_root_gen: U64,
    /// Top-level subvolume.
    pub fs_root: U64,
    /// Its generation.
    pub fs_root_gen: U64,
    /// Device tree.
    pub dev_root: U64,
    /// Its generation.
    pub dev_root_gen: U64,
    /// Checksum tree.
    pub csum_root: U64,
    /// Its generation.
    pub csum_root_gen: U64,
    /// Size of all devices, in bytes.
    pub total_bytes: U64,
    /// Allocated bytes.
    pub bytes_used: U64,
    /// Number of devices.
    pub num_devices: U64,
    /// Reserved. Nobody reads it but ourselves: numbers of devices that lack the commit.
    pub unused_64: [U64; 4],
    /// Level of the root tree.
    pub tree_root_level: u8,
    /// Level of the chunk tree.
    pub chunk_root_level: u8,
    /// Level of the extent tree.
    pub extent_root_level: u8,
    /// Level of the top-level subvolume.
    pub fs_root_level: u8,
    /// Level of the device tree.
    pub dev_root_level: u8,
    /// Level of the checksum tree.
    pub csum_root_level: u8,
    /// Reserved.
    pub unused_8: [u8; 10],
}
const _: () = assert!(size_of::<RootBackup>() == 168);

impl Superblock {
    /// Which of [`Superblock::super_roots`] has the roots of this superblock's own generation.
    fn newest_backup(&self) -> Option<usize> {
        let generation = self.generation;
        self.super_roots.iter().position(|backup| generation.get() != 0 && backup.tree_root_gen == generation)
    }

    /// Where the next commit puts its roots, as in the kernel: behind those of this one, in turn.
    pub fn next_backup(&self) -> usize {
        self.newest_backup().map_or(0, |newest| (newest + 1) % self.super_roots.len())
    }
}

/// The superblock as it lies on disk.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub struct Superblock {
    /// Checksum of all that follows.
    pub csum: [u8; 32],
    /// The UUID that users see.
    pub fsid: [u8; 16],
    /// Physical address of this copy.
    pub bytenr: U64,
    /// Flags: `SUPER_FLAG_*`.
    pub flags: U64,
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The transaction that wrote this superblock.
    pub generation: U64,
    /// Root of the root tree.
    pub root: U64,
    /// Root of the chunk tree.
    pub chunk_root: U64,
    /// Root of the log root tree; zero when there is no log to replay.
    pub log_root: U64,
    /// Unused.
    pub log_root_transid: U64,
    /// Size of all devices, in bytes.
    pub total_bytes: U64,
    /// Allocated bytes: the sum of `used` over the block groups.
    pub bytes_used: U64,
    /// Always 6.
    pub root_dir_objectid: U64,
    /// Number of devices.
    pub num_devices: U64,
    /// Size of a data sector, in bytes.
    pub sectorsize: U32,
    /// Size of a tree block, in bytes.
    pub nodesize: U32,
    /// Unused; equal to nodesize.
    pub leafsize: U32,
    /// Unused; equal to sectorsize.
    pub stripesize: U32,
    /// Used bytes of `sys_chunk_array`.
    pub sys_chunk_array_size: U32,
    /// Generation of the chunk tree's root.
    pub chunk_root_generation: U64,
    /// Features that do not matter to others.
    pub compat_flags: U64,
    /// See [`CompatRo`].
    pub compat_ro_flags: U64,
    /// See [`Incompat`].
    pub incompat_flags: U64,
    /// See [`ChecksumType`].
    pub csum_type: U16,
    /// Level of the root tree.
    pub root_level: u8,
    /// Level of the chunk tree.
    pub chunk_root_level: u8,
    /// Level of the log root tree.
    pub log_root_level: u8,
    /// The device this copy lies on.
    pub dev_item: DevItem,
    /// Zero-terminated label.
    pub label: [u8; 256],
    /// Generation of the v1 space cache; all ones or zero when unused.
    pub cache_generation: U64,
    /// Generation up to which the UUID tree is complete.
    pub uuid_tree_generation: U64,
    /// The UUID in tree blocks, when METADATA_UUID is set.
    pub metadata_uuid: [u8; 16],
    /// extent-tree-v2.
    pub nr_global_roots: U64,
    /// Reserved.
    pub reserved: [U64; 27],
    /// System chunks: pairs of key and chunk item.
    pub sys_chunk_array: [u8; SYS_CHUNK_ARRAY_SIZE],
    /// The last four commits, slot = generation mod 4 by custom.
    pub super_roots: [RootBackup; 4],
    /// Zero.
    pub padding: [u8; 565],
}
const _: () = assert!(size_of::<Superblock>() == SUPERBLOCK_SIZE);

impl Superblock {
    /// Reads a superblock and checks everything that can be checked without other blocks.
    ///
    /// `offset` is where the bytes were read (bytes from the device's start).
    pub fn parse(bytes: &[u8], offset: u64) -> Result<Self> {
        let place = || format!("superblock at {offset}");
        let sb = Self::read_from_prefix(bytes)
            .map_err(|_| Corruption::new(place(), format!("only {} bytes, want {SUPERBLOCK_SIZE}", bytes.len())))?
            .0;
        if sb.magic != MAGIC {
            return Err(Corruption::new(place(), "no Btrfs magic"));
        }
        let csum_type = ChecksumType::from_number(sb.csum_type.get())
            .ok_or_else(|| Corruption::new(place(), format!("unknown checksum type {}", sb.csum_type)))?;
        if !csum_type.matches_block(&bytes[..SUPERBLOCK_SIZE]) {
            return Err(Corruption::new(place(), format!("{csum_type} checksum does not match")));
        }
        sb.check_fields(offset).map_err(|problem| Corruption::new(place(), problem))?;
        Ok(sb)
    }

    /// The bytes as they are, for looking at: nothing is checked. `None` if there are too few.
    pub fn unchecked(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(superblock, _)| superblock)
    }

    fn check_fields(&self, offset: u64) -> std::result::Result<(), String> {
        let size_ok = |size: u32| size.is_power_of_two() && (4096..=65536).contains(&size);
        let require = |ok: bool, problem: String| if ok { Ok(()) } else { Err(problem) };
        let (node, sector) = (self.nodesize.get(), self.sectorsize.get());
        require(self.bytenr.get() == offset, format!("bytenr is {}", self.bytenr))?;
        require(size_ok(node), format!("invalid nodesize {node}"))?;
        require(size_ok(sector), format!("invalid sectorsize {sector}"))?;
        require(sector <= node, format!("sectorsize {sector} is above nodesize {node}"))?;
        for (name, level) in
            [("root", self.root_level), ("chunk root", self.chunk_root_level), ("log root", self.log_root_level)]
        {
            require(level < crate::block::MAX_LEVEL, format!("{name} level {level} is above 7"))?;
        }
        for (name, at) in [("root", self.root), ("chunk root", self.chunk_root), ("log root", self.log_root)] {
            require(at.get().is_multiple_of(u64::from(sector)), format!("{name} {at} is not aligned to sectors"))?;
        }
        require(self.root.get() != 0 && self.chunk_root.get() != 0, "a tree root is zero".into())?;
        require(self.num_devices.get() != 0, "num_devices is zero".into())?;
        require(self.total_bytes.get() != 0, "total_bytes is zero".into())?;
        let array = self.sys_chunk_array_size.get() as usize;
        require(array <= SYS_CHUNK_ARRAY_SIZE, format!("sys_chunk_array_size {array} is above 2048"))?;
        require(array >= 97, format!("sys_chunk_array_size {array} is below one entry"))?;
        let generation = self.generation.get();
        require(
            self.chunk_root_generation.get() <= generation,
            format!("chunk_root_generation {} is above generation {generation}", self.chunk_root_generation),
        )?;
        require(self.dev_item.fsid == self.block_fsid(), "the device item has another fsid".into())
    }

    /// The UUID that this filesystem's tree blocks carry.
    pub fn block_fsid(&self) -> [u8; 16] {
        if self.incompat().contains(Incompat::METADATA_UUID) { self.metadata_uuid } else { self.fsid }
    }

    /// The checksum algorithm; [`Superblock::parse`] made sure that it is known.
    pub fn checksum_type(&self) -> ChecksumType {
        ChecksumType::from_number(self.csum_type.get()).unwrap_or(ChecksumType::Crc32c)
    }

    /// Features, unknown bits included.
    pub fn incompat(&self) -> Incompat {
        Incompat::from_bits_retain(self.incompat_flags.get())
    }

    /// Features for writers, unknown bits included.
    pub fn compat_ro(&self) -> CompatRo {
        CompatRo::from_bits_retain(self.compat_ro_flags.get())
    }

    /// The generation as a typed number.
    pub fn generation(&self) -> Generation {
        Generation(self.generation.get())
    }

    /// The root tree's address.
    pub fn root(&self) -> Logical {
        Logical(self.root.get())
    }

    /// The superblock as it was at each commit that it keeps a backup of, the newest first.
    pub fn backups(&self) -> Vec<Self> {
        let mut backups: Vec<_> = self.super_roots.iter().filter(|b| b.tree_root.get() != 0).collect();
        backups.sort_by_key(|backup| std::cmp::Reverse(backup.tree_root_gen.get()));
        backups.into_iter().map(|backup| self.with_backup(backup)).collect()
    }

    fn with_backup(&self, backup: &RootBackup) -> Self {
        let mut old = *self;
        (old.generation, old.root, old.root_level) = (backup.tree_root_gen, backup.tree_root, backup.tree_root_level);
        (old.chunk_root, old.chunk_root_level) = (backup.chunk_root, backup.chunk_root_level);
        old.chunk_root_generation = backup.chunk_root_gen;
        (old.total_bytes, old.bytes_used, old.num_devices) =
            (backup.total_bytes, backup.bytes_used, backup.num_devices);
        old.log_root = 0.into();
        old
    }

    /// The label without its padding.
    pub fn label(&self) -> &[u8] {
        let end = self.label.iter().position(|b| *b == 0).unwrap_or(self.label.len());
        &self.label[..end]
    }

    /// The bytes as they are.
    pub fn to_raw_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    /// The bytes for the copy at `offset`, with its address and checksum set.
    pub fn to_bytes_at(&self, offset: u64) -> Vec<u8> {
        let mut copy = *self;
        copy.bytenr = offset.into();
        let csum = self.checksum_type().compute_block(copy.as_bytes());
        copy.csum = csum;
        copy.as_bytes().to_vec()
    }
}

impl std::fmt::Debug for Superblock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Superblock")
            .field("fsid", &uuid::Uuid::from_bytes(self.fsid))
            .field("generation", &self.generation.get())
            .field("root", &self.root.get())
            .field("chunk_root", &self.chunk_root.get())
            .field("total_bytes", &self.total_bytes.get())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn valid() -> Superblock {
        let mut sb = Superblock::new_zeroed();
        sb.magic = MAGIC;
        sb.bytenr = SUPERBLOCK_OFFSETS[0].into();
        sb.nodesize = 16384.into();
        sb.sectorsize = 4096.into();
        sb.root = (1u64 << 20).into();
        sb.chunk_root = (2u64 << 20).into();
        sb.num_devices = 1.into();
        sb.total_bytes = (1u64 << 30).into();
        sb.sys_chunk_array_size = 97.into();
        sb
    }

    fn parse(sb: &Superblock) -> Result<Superblock> {
        Superblock::parse(&sb.to_bytes_at(SUPERBLOCK_OFFSETS[0]), SUPERBLOCK_OFFSETS[0])
    }

    #[test]
    fn a_valid_one_round_trips() {
        let sb = parse(&valid()).unwrap();
        assert_eq!(sb.nodesize.get(), 16384);
    }

    type Break = fn(&mut Superblock);

    #[test]
    fn each_broken_field_is_refused() {
        let breaks: [(&str, Break); 9] = [
            ("magic", |s| s.magic[0] = 0),
            ("checksum type", |s| s.csum_type = 9.into()),
            ("nodesize", |s| s.nodesize = 12288.into()),
            ("sectorsize", |s| s.sectorsize = 8_392_704.into()),
            ("level", |s| s.root_level = 8),
            ("aligned", |s| s.root = 4097.into()),
            ("num_devices", |s| s.num_devices = 0.into()),
            ("sys_chunk_array_size", |s| s.sys_chunk_array_size = 4000.into()),
            ("fsid", |s| s.dev_item.fsid = [1; 16]),
        ];
        for (word, break_it) in breaks {
            let mut sb = valid();
            break_it(&mut sb);
            let error = parse(&sb).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn a_flipped_bit_is_a_checksum_error() {
        let mut bytes = valid().to_bytes_at(SUPERBLOCK_OFFSETS[0]);
        bytes[3000] ^= 1;
        let error = Superblock::parse(&bytes, SUPERBLOCK_OFFSETS[0]).unwrap_err();
        assert!(error.problem.contains("checksum"));
    }
}
