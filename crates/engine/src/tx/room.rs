//! What the devices could still hold, as the kernel reckons it for statfs: chunks of the profile of data are laid on the
//! devices that have most room, until too few have any.
//!
//! It is an estimate, the kernel's: parity counts as space, and chunks of metadata that come in between do not count.

use std::ops::Add;

use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, STRIPE_LEN};
use butterfs_volume::Profile;

use super::Transaction;
use crate::space::{BlockGroup, GroupState};

/// What stays free at the beginning of each device.
const RESERVED: u64 = 1 << 20;

/// Bytes of devices in block groups of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// What extents take, with their copies.
    pub used: u64,
    /// What the rest is, with copies; without what is free in lines that wait beside parity, which nothing can be put
    /// into yet.
    pub free: u64,
    /// The part of the rest that nothing is put into any more.
    pub closed: u64,
}

/// Bytes of devices in all block groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Of any kind.
    pub all: DiskSpace,
    /// That can hold data.
    pub data: DiskSpace,
    /// That can hold metadata.
    pub metadata: DiskSpace,
    /// The last of the profiles that there are for data.
    data_profile: Option<BlockGroupFlags>,
}

impl DiskUsage {
    /// How often statfs takes each byte of data to be stored.
    pub fn data_factor(&self) -> u64 {
        self.data_profile.and_then(Profile::of).map_or(1, |profile| profile.copies as u64)
    }

    fn add(&mut self, group: &BlockGroup) {
        let space = DiskSpace::of(group);
        self.all = self.all + space;
        if group.flags.contains(BlockGroupFlags::DATA) {
            self.data = self.data + space;
            let profiles = [self.data_profile, Some(group.flags.profile())];
            self.data_profile = profiles.into_iter().flatten().max_by_key(|profile| profile.bits());
        }
        if group.flags.contains(BlockGroupFlags::METADATA) {
            self.metadata = self.metadata + space;
        }
    }
}

impl DiskSpace {
    fn of(group: &BlockGroup) -> Self {
        let copies = Profile::of(group.flags).map_or(1, |profile| profile.copies as u64);
        let free = group.len.saturating_sub(group.used + group.waiting()) * copies;
        let closed = if group.state == GroupState::Open { 0 } else { free };
        Self { used: group.used * copies, free, closed }
    }
}

impl Add for DiskSpace {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { used: self.used + other.used, free: self.free + other.free, closed: self.closed + other.closed }
    }
}

/// How many devices a chunk is laid on for statfs, and what it asks of each.
struct Lay {
    devices: usize,
    least_devices: usize,
    least_bytes: u64,
}

impl Lay {
    fn of(profile: &Profile, devices: usize) -> Self {
        const RAID10: usize = 4;
        let on = match profile.flags {
            BlockGroupFlags::RAID0 => devices,
            BlockGroupFlags::RAID10 => RAID10,
            // Whatever else there is counts as if it were on one.
            _ if profile.min_devices == profile.copies => profile.copies,
            _ => 1,
        };
        Self {
            devices: on.max(1),
            least_devices: profile.min_devices,
            least_bytes: profile.stripes_per_device as u64 * STRIPE_LEN,
        }
    }

    /// How much of such room could be used.
    fn usable(&self, mut room: Vec<u64>) -> u64 {
        room.sort_unstable_by(|a, b| b.cmp(a));
        let (mut total, mut on) = (0, self.devices);
        while room.len() >= self.least_devices.max(1) {
            on = on.min(room.len());
            let last = room.len() - 1;
            let taken = room[last];
            if taken >= self.least_bytes {
                total += taken * on as u64;
                room[last + 1 - on..].iter_mut().for_each(|bytes| *bytes -= taken);
            }
            room.pop();
        }
        total
    }
}

impl Transaction {
    /// How many bytes of devices new chunks of a kind could take, with their copies, by the kernel's reckoning.
    pub fn room_for(&self, kind: BlockGroupFlags) -> u64 {
        let Some(profile) = Profile::of(self.profile_for(kind)) else { return 0 };
        let devices = self.devices.iter().filter(|item| self.volume.takes_chunks(DevId(item.devid.get())));
        let free = devices.map(|item| item.total_bytes.get().saturating_sub(item.bytes_used.get()));
        let free: Vec<u64> = free.map(|bytes| bytes / STRIPE_LEN * STRIPE_LEN).collect();
        let lay = Lay::of(&profile, free.len());
        let room = free.into_iter().filter(|bytes| *bytes > RESERVED + lay.least_bytes);
        lay.usable(room.map(|bytes| bytes - RESERVED).collect())
    }

    /// What block groups take on devices.
    pub fn disk_usage(&self) -> DiskUsage {
        let mut usage = DiskUsage::default();
        self.space.iter().for_each(|group| usage.add(group));
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn usable(flags: BlockGroupFlags, room: &[u64]) -> u64 {
        let profile = Profile::of(flags).unwrap();
        Lay::of(&profile, room.len()).usable(room.iter().map(|mib| mib * MIB).collect()) / MIB
    }

    /// By hand, after the kernel's rules.
    #[test]
    fn room_is_what_the_kernel_reckons() {
        assert_eq!(usable(BlockGroupFlags::empty(), &[10, 30]), 40);
        assert_eq!(usable(BlockGroupFlags::DUP, &[10, 30]), 40);
        assert_eq!(usable(BlockGroupFlags::RAID1, &[10, 30, 25]), 50);
        assert_eq!(usable(BlockGroupFlags::RAID1, &[30]), 0);
        assert_eq!(usable(BlockGroupFlags::RAID0, &[10, 30, 25]), 65);
        assert_eq!(usable(BlockGroupFlags::RAID1C3, &[10, 30, 25]), 30);
        assert_eq!(usable(BlockGroupFlags::RAID10, &[10, 10, 10, 20]), 40);
        // The largest is left out, and parity is not.
        assert_eq!(usable(BlockGroupFlags::RAID5, &[10, 20, 30]), 30);
        assert_eq!(usable(BlockGroupFlags::RAID6, &[10, 20, 30]), 10);
    }
}
