//! What a new filesystem is like.

use butterfs_format::ChecksumType;
use butterfs_format::items::{BlockGroupFlags, Timespec};
use butterfs_format::superblock::{CompatRo, Incompat, LABEL_MAX};

use crate::environment::Environment;
use crate::error::{Error, Result};
use butterfs_volume::Profile;

/// The smallest device that a filesystem fits on, in bytes (as `mkfs.btrfs` with DUP metadata).
pub const MIN_SIZE: u64 = 109 << 20;

/// The same where data and metadata lie in the same block groups.
pub const MIN_SIZE_MIXED: u64 = 32 << 20;

/// What a new filesystem is like.
#[derive(Clone, Debug)]
pub struct MakeOptions {
    /// Its devices; they get the numbers from 1 on.
    pub devices: Vec<NewDevice>,
    /// Label, at most 255 bytes.
    pub label: Vec<u8>,
    /// The filesystem's UUID.
    pub fsid: [u8; 16],
    /// The chunk tree's UUID.
    pub chunk_tree_uuid: [u8; 16],
    /// The top-level subvolume's UUID.
    pub fs_tree_uuid: [u8; 16],
    /// Size of a tree block, in bytes.
    pub nodesize: u32,
    /// Size of a sector, in bytes.
    pub sectorsize: u32,
    /// Checksum algorithm.
    pub csum_type: ChecksumType,
    /// Features.
    pub incompat: Incompat,
    /// Features.
    pub compat_ro: CompatRo,
    /// Profile of metadata and system chunks; none for single.
    pub metadata_profile: BlockGroupFlags,
    /// Profile of data chunks; none for single.
    pub data_profile: BlockGroupFlags,
    /// Owner of the top directory.
    pub uid: u32,
    /// Group of the top directory.
    pub gid: u32,
    /// Time of making.
    pub now: Timespec,
}

/// A device of a new filesystem.
#[derive(Clone, Copy, Debug)]
pub struct NewDevice {
    /// How much of it is used, in bytes.
    pub total_bytes: u64,
    /// Its UUID.
    pub uuid: [u8; 16],
}

impl NewDevice {
    /// A device of this size in bytes; what is no whole sector of 4 KiB stays unused.
    pub fn new(total_bytes: u64, environment: &dyn Environment) -> Self {
        Self { total_bytes: total_bytes / 4096 * 4096, uuid: environment.new_uuid() }
    }
}

impl MakeOptions {
    /// What today's `mkfs.btrfs` makes by default, on a device of this size in bytes.
    pub fn new(total_bytes: u64, environment: &dyn Environment) -> Self {
        Self {
            label: Vec::new(),
            fsid: environment.new_uuid(),
            devices: vec![NewDevice::new(total_bytes, environment)],
            chunk_tree_uuid: environment.new_uuid(),
            fs_tree_uuid: environment.new_uuid(),
            nodesize: 16384,
            sectorsize: 4096,
            csum_type: ChecksumType::Crc32c,
            incompat: Incompat::MIXED_BACKREF
                | Incompat::BIG_METADATA
                | Incompat::EXTENDED_IREF
                | Incompat::SKINNY_METADATA
                | Incompat::NO_HOLES,
            compat_ro: CompatRo::FREE_SPACE_TREE | CompatRo::FREE_SPACE_TREE_VALID | CompatRo::BLOCK_GROUP_TREE,
            metadata_profile: BlockGroupFlags::DUP,
            data_profile: BlockGroupFlags::empty(),
            uid: 0,
            gid: 0,
            now: environment.now(),
        }
    }

    /// Fails for options that do not go together.
    pub(crate) fn check(&self) -> Result<()> {
        let power = |n: u32| n.is_power_of_two() && (4096..=65536).contains(&n);
        if self.label.len() > LABEL_MAX || self.label.contains(&0) || self.label.contains(&b'\n') {
            return Err(Error::Invalid("a label has at most 255 bytes, no newline and no zero"));
        }
        if !power(self.nodesize) || !power(self.sectorsize) || self.sectorsize > self.nodesize {
            return Err(Error::Invalid(
                "node and sector size are powers of two from 4096 to 65536, and a node holds a sector",
            ));
        }
        self.check_size()?;
        if self.is_mixed() {
            self.check_mixed()?;
        }
        self.check_profile(self.metadata_profile)?;
        self.check_profile(self.data_profile)?;
        let modern = self.incompat.contains(Incompat::NO_HOLES) && self.compat_ro.contains(CompatRo::FREE_SPACE_TREE);
        if self.compat_ro.contains(CompatRo::BLOCK_GROUP_TREE) && !modern {
            return Err(Error::Invalid("block-group-tree needs no-holes and free-space-tree"));
        }
        Ok(())
    }

    /// Whether data and metadata lie in the same block groups.
    pub fn is_mixed(&self) -> bool {
        self.incompat.contains(Incompat::MIXED_GROUPS)
    }

    fn check_size(&self) -> Result<()> {
        if self.devices.is_empty() {
            return Err(Error::Invalid("a filesystem needs a device"));
        }
        (0..self.devices.len()).try_for_each(|number| self.check_device(number))
    }

    /// Whether one of the devices is large enough for a filesystem like this.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_device(&self, number: usize) -> Result<()> {
        let len = self.devices.get(number).map_or(0, |device| device.total_bytes);
        match self.is_mixed() {
            false if len < MIN_SIZE => {
                Err(Error::Invalid("the device is too small: a filesystem needs at least 109 MiB"))
            }
            true if len < MIN_SIZE_MIXED => Err(Error::Invalid(
                "the device is too small: a filesystem with mixed block groups needs at least 32 MiB",
            )),
            _ => Ok(()),
        }
    }

    fn check_mixed(&self) -> Result<()> {
        if self.nodesize != self.sectorsize {
            return Err(Error::Invalid("with mixed block groups node and sector size must be the same"));
        }
        if self.data_profile != self.metadata_profile {
            return Err(Error::Invalid("with mixed block groups data and metadata profiles must be the same"));
        }
        Ok(())
    }

    /// All bytes of all devices.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.devices.iter().map(|device| device.total_bytes).sum()
    }

    fn check_profile(&self, flags: BlockGroupFlags) -> Result<()> {
        match Profile::of(flags) {
            Some(profile) if profile.min_devices > self.devices.len() => {
                Err(Error::Invalid("the profile needs more devices"))
            }
            Some(_) => Ok(()),
            None => Err(Error::Invalid("no such profile")),
        }
    }
}
