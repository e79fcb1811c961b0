//! What the filesystem and its devices are: `FS_INFO`, `DEV_INFO`, `GET_DEV_STATS` and features.

use butterfs_engine::filesystem::SUPPORTED_FEATURES;
use butterfs_format::DevId;
use butterfs_format::items::DevItem;

use super::number;
use crate::adapter::EngineFrontEnd;
use crate::types::Caller;
use crate::{Errno, Result};

pub(super) const GET_DEV_STATS: u32 = 0xc408_9434;
pub(super) const GET_FEATURES: u32 = 0x8018_9439;
pub(super) const GET_SUPPORTED_FEATURES: u32 = 0x8048_9439;

/// `BTRFS_FS_INFO_FLAG_CSUM_INFO`, `_GENERATION` and `_METADATA_UUID`: all that there is. Which of them the caller
/// wants the kernel does not pass on.
const FS_INFO_FLAGS: u64 = 7;
const FS_INFO_SIZE: usize = 1024;
/// Where the path is in `struct btrfs_ioctl_dev_info_args`, and its length.
const DEV_PATH: usize = 3072;
const DEV_PATH_LEN: usize = 1024;
/// Counters in `struct btrfs_ioctl_get_dev_stats`, and its length.
const STATS: u64 = 5;
const STATS_SIZE: usize = 1032;
/// `BTRFS_DEV_STATS_RESET`.
const STATS_RESET: u64 = 1;

impl EngineFrontEnd {
    /// `struct btrfs_ioctl_fs_info_args`.
    pub(super) fn fs_info(&self) -> Vec<u8> {
        let volume = self.fs.shared().gate.volume();
        let superblock = volume.superblock();
        let items = volume.dev_items();
        let highest = items.iter().map(|item| item.devid.get()).max().unwrap_or(0);
        let csum_size = superblock.checksum_type().size() as u16;
        let mut out = Vec::with_capacity(FS_INFO_SIZE);
        // As the kernel, without the devices of seeds.
        let own = items.iter().filter(|item| item.fsid == superblock.block_fsid()).count();
        for number in [highest, own as u64] {
            out.extend(number.to_ne_bytes());
        }
        out.extend(superblock.fsid);
        for number in [superblock.nodesize, superblock.sectorsize, superblock.sectorsize] {
            out.extend(number.get().to_ne_bytes());
        }
        for number in [superblock.csum_type.get(), csum_size] {
            out.extend(number.to_ne_bytes());
        }
        for number in [FS_INFO_FLAGS, superblock.generation.get()] {
            out.extend(number.to_ne_bytes());
        }
        out.extend(superblock.block_fsid());
        out.resize(FS_INFO_SIZE, 0);
        out
    }

    /// `struct btrfs_ioctl_dev_info_args`.
    pub(super) fn dev_info(&self, input: &[u8]) -> Result<Vec<u8>> {
        let devid = number(input, 0)?;
        let uuid: [u8; 16] = *input.get(8..).and_then(<[u8]>::first_chunk).ok_or(Errno::EINVAL)?;
        let volume = self.fs.shared().gate.volume();
        // By number, by UUID, or by both.
        let is_it = |item: &&DevItem| {
            let has_uuid = uuid == [0; 16] || item.uuid == uuid;
            if devid == 0 { uuid != [0; 16] && has_uuid } else { item.devid.get() == devid && has_uuid }
        };
        let items = volume.dev_items();
        let item = items.iter().find(is_it).ok_or(Errno::ENODEV)?;
        let mut out = item.devid.get().to_ne_bytes().to_vec();
        out.extend(item.uuid);
        out.extend(item.bytes_used.get().to_ne_bytes());
        out.extend(item.total_bytes.get().to_ne_bytes());
        out.extend(item.fsid);
        out.resize(DEV_PATH, 0);
        let name = volume.device_name(DevId(item.devid.get())).unwrap_or_default();
        // Another device may have taken the place of the one that something stands for.
        let name = self.stand_in.as_ref().filter(|(own, _)| *own == name).map_or(name, |(_, stands)| stands.clone());
        out.extend(name.bytes().take(DEV_PATH_LEN - 1));
        out.resize(DEV_PATH + DEV_PATH_LEN, 0);
        Ok(out)
    }

    /// `struct btrfs_ioctl_get_dev_stats`.
    pub(super) fn dev_stats(&self, caller: &Caller, input: &[u8]) -> Result<Vec<u8>> {
        let (devid, wanted, flags) = (number(input, 0)?, number(input, 8)?, number(input, 16)?);
        let volume = self.fs.shared().gate.volume();
        let stats = if flags & STATS_RESET != 0 {
            self.require_privileged(caller)?;
            volume.reset_device_stats(DevId(devid))
        } else {
            volume.device_stats().into_iter().find(|(id, _)| id.0 == devid).map(|(_, stats)| stats)
        };
        let stats = stats.ok_or(Errno::ENODEV)?;
        let given = wanted.min(STATS);
        let mut out: Vec<u8> = [devid, given, flags].into_iter().flat_map(u64::to_ne_bytes).collect();
        out.extend(stats.values().into_iter().take(given as usize).flat_map(u64::to_ne_bytes));
        out.resize(STATS_SIZE, 0);
        Ok(out)
    }

    /// `struct btrfs_ioctl_feature_flags`: compat, compat_ro, incompat.
    pub(super) fn features(&self) -> Vec<u8> {
        let superblock = self.fs.shared().gate.volume().superblock();
        let flags = [superblock.compat_flags, superblock.compat_ro_flags, superblock.incompat_flags];
        flags.iter().flat_map(|flags| flags.get().to_ne_bytes()).collect()
    }

    /// Three of them: what is supported, what can be set on a mount, and what can be cleared: nothing.
    pub(super) fn supported_features() -> Vec<u8> {
        let (incompat, compat_ro) = SUPPORTED_FEATURES;
        let supported = [0, compat_ro.bits(), incompat.bits()];
        supported.into_iter().chain([0; 6]).flat_map(u64::to_ne_bytes).collect()
    }
}
