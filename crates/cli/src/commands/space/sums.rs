//! Chunks and block groups added up.

use butterfs_format::items::{BlockGroupFlags as Flags, Chunk};
use butterfs_fuse::control::SpaceInfo;
use butterfs_volume::Profile;

/// What chunks of one type, profile and number of stripes take of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSum {
    /// The device.
    pub devid: u64,
    /// Type and profile.
    pub flags: Flags,
    /// How many stripes each has.
    pub stripes: u64,
    /// The lengths of the chunks in logical space, counted for each stripe on the device.
    pub logical: u64,
}

impl ChunkSum {
    /// How many bytes that is on the device.
    pub fn on_device(&self) -> u64 {
        self.logical / self.columns()
    }

    fn columns(&self) -> u64 {
        let Some(profile) = Profile::of(self.flags) else { return 1 };
        let data = self.stripes.saturating_sub(profile.parity as u64);
        (data / profile.copies as u64).max(1)
    }
}

/// Data, metadata, both, and system last; then by profile.
pub fn order(flags: u64) -> (bool, u64, u64) {
    let flags = Flags::from_bits_retain(flags);
    (flags.contains(Flags::SYSTEM), flags.kind().bits(), flags.profile().bits())
}

/// The sums, in that order.
pub fn chunk_sums(chunks: &[Chunk]) -> Vec<ChunkSum> {
    let mut sums: Vec<ChunkSum> = Vec::new();
    for chunk in chunks {
        let stripes = chunk.stripes.len() as u64;
        for stripe in &chunk.stripes {
            let (devid, flags) = (stripe.devid.get(), chunk.flags());
            let is_it = |sum: &&mut ChunkSum| (sum.devid, sum.flags, sum.stripes) == (devid, flags, stripes);
            match sums.iter_mut().find(is_it) {
                Some(sum) => sum.logical += chunk.length(),
                None => sums.push(ChunkSum { devid, flags, stripes, logical: chunk.length() }),
            }
        }
    }
    sums.sort_by_key(|sum| order(sum.flags.bits()));
    sums
}

/// Those of block groups, in that order: without what is kept back.
pub fn groups(spaces: &[SpaceInfo]) -> Vec<SpaceInfo> {
    let mut groups: Vec<_> = spaces.iter().copied().filter(|space| !is_reserve(space)).collect();
    groups.sort_by_key(|space| order(space.flags));
    groups
}

/// Whether it is what the kernel keeps back, and not of block groups.
pub fn is_reserve(space: &SpaceInfo) -> bool {
    space.flags & butterfs_engine::filesystem::GLOBAL_RESERVE != 0
}

/// `Data`, `Metadata` and so on.
pub fn type_name(flags: u64) -> &'static str {
    const BOTH: Flags = Flags::DATA.union(Flags::METADATA);
    match Flags::from_bits_retain(flags).kind() {
        _ if flags & butterfs_engine::filesystem::GLOBAL_RESERVE != 0 => "GlobalReserve",
        Flags::DATA => "Data",
        Flags::SYSTEM => "System",
        Flags::METADATA => "Metadata",
        BOTH => "Data+Metadata",
        _ => "unknown",
    }
}

/// `RAID1`, `DUP`, `single` and so on.
pub fn profile_name(flags: u64) -> String {
    let name = Flags::from_bits_retain(flags).profile_name();
    if name == "single" { name.into() } else { name.to_uppercase() }
}

/// The types of which there are block groups of several profiles, each with these.
pub fn several_profiles(spaces: &[SpaceInfo]) -> Vec<(&'static str, Vec<String>)> {
    let mut types: Vec<(&str, Vec<String>)> = Vec::new();
    for group in groups(spaces) {
        let (name, profile) = (type_name(group.flags), profile_name(group.flags).to_lowercase());
        match types.iter_mut().find(|(of, _)| *of == name) {
            Some((_, profiles)) => profiles.push(profile),
            None => types.push((name, vec![profile])),
        }
    }
    types.retain(|(_, profiles)| profiles.len() > 1);
    types
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_share_a_chunk_as_their_profile_says() {
        let sum = |flags, stripes| ChunkSum { devid: 1, flags, stripes, logical: 1200 }.on_device();
        assert_eq!(sum(Flags::DATA, 1), 1200);
        assert_eq!(sum(Flags::DATA | Flags::DUP, 2), 1200);
        assert_eq!(sum(Flags::DATA | Flags::RAID0, 3), 400);
        assert_eq!(sum(Flags::DATA | Flags::RAID1C3, 3), 1200);
        assert_eq!(sum(Flags::DATA | Flags::RAID10, 4), 600);
        assert_eq!(sum(Flags::DATA | Flags::RAID5, 4), 400);
        assert_eq!(sum(Flags::DATA | Flags::RAID6, 4), 600);
    }

    #[test]
    fn system_is_last() {
        let mut all = [2, 4 | 32, 5, 1 | 8, 1];
        all.sort_by_key(|flags| order(*flags));
        assert_eq!(all, [1, 1 | 8, 4 | 32, 5, 2]);
        assert_eq!(all.map(type_name), ["Data", "Data", "Metadata", "Data+Metadata", "System"]);
    }
}
