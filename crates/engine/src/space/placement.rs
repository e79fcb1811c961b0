//! Where a new chunk goes: the devices with most room, as the kernel chooses them.
//!
//! Source: `gather_device_info` and `decide_stripe_size` of the kernel's allocator.
//!
//! # Invariants
//! * Stripes of one chunk on one device do not overlap and follow each other.
//! * A chunk is never larger than its limits, and never smaller than the smallest stripe allows.

use butterfs_format::items::STRIPE_LEN;
use butterfs_volume::Profile;

use super::FreeRanges;

/// Sizes of stripes are multiples of this where the size of the chunk is what limits them.
const STRIPE_ROUNDING: u64 = 16 << 20;

/// The room on one device.
#[derive(Clone, Copy)]
pub struct Room<'a> {
    /// Its place in the caller's list.
    pub index: usize,
    /// Its holes between device extents.
    pub free: &'a FreeRanges,
}

/// Bounds of a chunk, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most that each stripe takes.
    pub stripe: u64,
    /// The most that the chunk holds.
    pub chunk: u64,
    /// The least that each stripe takes.
    pub least: u64,
    /// The most devices.
    pub devices: usize,
}

/// Where the stripes of a chunk begin: device by its place in the caller's list, and offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// In the order of the chunk item.
    pub stripes: Vec<(usize, u64)>,
    /// What each takes, in bytes.
    pub stripe_len: u64,
    /// What the chunk holds, in bytes.
    pub len: u64,
}

/// Finds room for a chunk; `None` if there is none.
pub fn place(profile: &Profile, limits: &Limits, rooms: &[Room<'_>]) -> Option<Placement> {
    let each = profile.stripes_per_device as u64;
    let want = limits.stripe * each;
    let mut found: Vec<(u64, Room<'_>)> = rooms.iter().map(|room| (room.free.longest().min(want), *room)).collect();
    found.retain(|(room, _)| room / each / STRIPE_LEN * STRIPE_LEN >= limits.least);
    // The most room in one piece first, then the most in all; a stable sort keeps the order of devices.
    found.sort_by_key(|(room, device)| std::cmp::Reverse((*room, device.free.total())));
    let devices = profile.usable_devices(found.len().min(limits.devices));
    if devices < profile.min_devices {
        return None;
    }
    let found = &found[..devices];
    let data_stripes = profile.data_stripes(devices) as u64;
    let room = found.last().map_or(0, |(room, _)| *room) / each;
    let stripe_len = bounded(room, data_stripes, limits.chunk) / STRIPE_LEN * STRIPE_LEN;
    let mut stripes = Vec::with_capacity(devices * profile.stripes_per_device);
    for (_, device) in found {
        let start = device.free.first_fit(stripe_len * each)?;
        stripes.extend((0..each).map(|number| (device.index, start + number * stripe_len)));
    }
    Some(Placement { stripes, stripe_len, len: stripe_len * data_stripes })
}

/// A stripe so short that the chunk keeps within its limit.
fn bounded(stripe: u64, data_stripes: u64, chunk: u64) -> u64 {
    if stripe * data_stripes <= chunk {
        return stripe;
    }
    chunk.div_ceil(data_stripes).next_multiple_of(STRIPE_ROUNDING).min(stripe)
}

#[cfg(test)]
mod tests {
    use butterfs_format::items::BlockGroupFlags;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const LIMITS: Limits = Limits { stripe: GIB, chunk: 10 * GIB, least: MIB, devices: 100 };

    fn holes(ranges: &[(u64, u64)]) -> FreeRanges {
        let mut free = FreeRanges::default();
        ranges.iter().for_each(|(start, len)| free.add(*start, *len));
        free
    }

    fn place_on(flags: BlockGroupFlags, limits: &Limits, devices: &[FreeRanges]) -> Option<Placement> {
        let rooms: Vec<_> = devices.iter().enumerate().map(|(index, free)| Room { index, free }).collect();
        place(&Profile::of(flags).unwrap(), limits, &rooms)
    }

    fn devices_of(placement: &Placement) -> Vec<usize> {
        placement.stripes.iter().map(|(device, _)| *device).collect()
    }

    #[test]
    fn the_devices_with_most_room_are_taken() {
        let devices = [holes(&[(MIB, 2 * GIB)]), holes(&[(MIB, 3 * GIB)]), holes(&[(MIB, 4 * GIB)])];
        let two = place_on(BlockGroupFlags::RAID1, &LIMITS, &devices).unwrap();
        assert_eq!((devices_of(&two), two.stripe_len, two.len), (vec![2, 1], GIB, GIB));
        let all = place_on(BlockGroupFlags::RAID0, &LIMITS, &devices).unwrap();
        assert_eq!((devices_of(&all), all.len), (vec![2, 1, 0], 3 * GIB));
        let parity = place_on(BlockGroupFlags::RAID5, &LIMITS, &devices).unwrap();
        assert_eq!((devices_of(&parity).len(), parity.len), (3, 2 * GIB));
    }

    #[test]
    fn both_copies_of_dup_lie_side_by_side() {
        let dup = place_on(BlockGroupFlags::DUP, &LIMITS, &[holes(&[(MIB, 8 * MIB), (100 * MIB, 20 * MIB)])]).unwrap();
        assert_eq!(dup.stripes, [(0, 100 * MIB), (0, 110 * MIB)]);
        assert_eq!((dup.stripe_len, dup.len), (10 * MIB, 10 * MIB));
    }

    #[test]
    fn pairs_need_an_even_number() {
        let same = || holes(&[(MIB, GIB)]);
        let ten = place_on(BlockGroupFlags::RAID10, &LIMITS, &[same(), same(), same(), same(), same()]).unwrap();
        assert_eq!((ten.stripes.len(), ten.len), (4, 2 * GIB));
        for (flags, have) in [(BlockGroupFlags::RAID1, 1), (BlockGroupFlags::RAID1C3, 2), (BlockGroupFlags::RAID6, 2)] {
            let devices: Vec<_> = (0..have).map(|_| same()).collect();
            assert_eq!(place_on(flags, &LIMITS, &devices), None, "{}", flags.profile_name());
        }
        // One is full.
        assert_eq!(place_on(BlockGroupFlags::RAID1, &LIMITS, &[same(), holes(&[(MIB, MIB / 2)])]), None);
    }

    #[test]
    fn a_wide_chunk_keeps_within_its_limit() {
        let devices: Vec<_> = (0..8).map(|_| holes(&[(MIB, 4 * GIB)])).collect();
        let limits = Limits { chunk: GIB, ..LIMITS };
        let wide = place_on(BlockGroupFlags::RAID0, &limits, &devices).unwrap();
        assert_eq!((wide.stripe_len, wide.len), (128 * MIB, GIB));
    }

    /// What the kernel's driver makes of 1,500, 1,500 and 900 MiB: a tenth of all, rounded up.
    #[test]
    fn a_limit_is_rounded_up() {
        let devices = [holes(&[(MIB, 1400 * MIB)]), holes(&[(MIB, 1400 * MIB)]), holes(&[(MIB, 800 * MIB)])];
        let limits = Limits { chunk: 390 * MIB, ..LIMITS };
        let pair = place_on(BlockGroupFlags::RAID1, &limits, &devices).unwrap();
        assert_eq!((pair.stripe_len, pair.len), (400 * MIB, 400 * MIB));
        // Not beyond the room there is.
        let narrow = [holes(&[(MIB, 395 * MIB)]), holes(&[(MIB, 396 * MIB)])];
        assert_eq!(place_on(BlockGroupFlags::RAID1, &limits, &narrow).unwrap().len, 395 * MIB);
    }
}
