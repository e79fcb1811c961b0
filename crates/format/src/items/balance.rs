//! The item of a balance: which block groups are to be written anew, and how; kept while that is under way.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::BlockGroupFlags;

bitflags::bitflags! {
    /// What a balance works on, and how.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct BalanceFlags: u64 {
        /// Data.
        const DATA = 1 << 0;
        /// The chunk tree.
        const SYSTEM = 1 << 1;
        /// All other trees.
        const METADATA = 1 << 2;
        /// Redundancy may become less.
        const FORCE = 1 << 3;
        /// One that was interrupted goes on.
        const RESUME = 1 << 4;
    }
}

bitflags::bitflags! {
    /// Which conditions of a kind count, and what is to be done.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct BalanceFilters: u64 {
        /// By profile.
        const PROFILES = 1 << 0;
        /// Used to less than so many percent.
        const USAGE = 1 << 1;
        /// On a device.
        const DEVID = 1 << 2;
        /// On a part of that device.
        const DRANGE = 1 << 3;
        /// In a part of the address space.
        const VRANGE = 1 << 4;
        /// At most so many.
        const LIMIT = 1 << 5;
        /// The same with a least number: no group if there are fewer.
        const LIMIT_RANGE = 1 << 6;
        /// With so many stripes.
        const STRIPES_RANGE = 1 << 7;
        /// To another profile.
        const CONVERT = 1 << 8;
        /// Those that have that profile stay.
        const SOFT = 1 << 9;
        /// Used to at least and to less than so many percent.
        const USAGE_RANGE = 1 << 10;
    }
}

/// The bit that stands for the profile without bits, single, where profiles are a set (`BTRFS_AVAIL_ALLOC_BIT_SINGLE`).
pub const SINGLE: u64 = 1 << 48;

/// The conditions of one kind.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BalanceArgs {
    /// A set of profiles, with [`SINGLE`].
    pub profiles: U64,
    /// Percent, at least; with [`BalanceFilters::USAGE`] this and the next are one number.
    pub usage_min: U32,
    /// Percent, less than.
    pub usage_max: U32,
    /// A device.
    pub devid: U64,
    /// Where the part of it begins.
    pub pstart: U64,
    /// Where it ends.
    pub pend: U64,
    /// Where the part of the address space begins.
    pub vstart: U64,
    /// Where it ends.
    pub vend: U64,
    /// The profile to convert to, with [`SINGLE`].
    pub target: U64,
    /// See [`BalanceFilters`].
    pub flags: U64,
    /// At least; with [`BalanceFilters::LIMIT`] this and the next are one number.
    pub limit_min: U32,
    /// At most.
    pub limit_max: U32,
    /// At least.
    pub stripes_min: U32,
    /// At most.
    pub stripes_max: U32,
    /// Zero.
    pub unused: [U64; 6],
}
const _: () = assert!(size_of::<BalanceArgs>() == 136);

impl Default for BalanceArgs {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl BalanceArgs {
    /// What counts.
    pub fn filters(&self) -> BalanceFilters {
        BalanceFilters::from_bits_retain(self.flags.get())
    }

    /// Makes more conditions count.
    pub fn use_filters(&mut self, more: BalanceFilters) {
        self.flags = (self.filters() | more).bits().into();
    }

    /// Percent, less than, with [`BalanceFilters::USAGE`].
    pub fn usage(&self) -> u64 {
        u64::from(self.usage_min.get()) | u64::from(self.usage_max.get()) << 32
    }

    /// Sets [`BalanceArgs::usage`].
    pub fn set_usage(&mut self, percent: u64) {
        (self.usage_min, self.usage_max) = ((percent as u32).into(), ((percent >> 32) as u32).into());
    }

    /// At most so many, with [`BalanceFilters::LIMIT`].
    pub fn limit(&self) -> u64 {
        u64::from(self.limit_min.get()) | u64::from(self.limit_max.get()) << 32
    }

    /// Sets [`BalanceArgs::limit`].
    pub fn set_limit(&mut self, most: u64) {
        (self.limit_min, self.limit_max) = ((most as u32).into(), ((most >> 32) as u32).into());
    }

    /// The profile to convert to, if that is asked for.
    pub fn target_profile(&self) -> Option<BlockGroupFlags> {
        let converts = self.filters().contains(BalanceFilters::CONVERT);
        converts.then(|| BlockGroupFlags::from_bits_retain(self.target.get() & !SINGLE))
    }
}

/// A balance under way; the key is (BALANCE, TEMPORARY_ITEM, 0) in the root tree.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct BalanceItem {
    /// See [`BalanceFlags`].
    pub flags: U64,
    /// For data.
    pub data: BalanceArgs,
    /// For metadata.
    pub metadata: BalanceArgs,
    /// For the chunk tree.
    pub system: BalanceArgs,
    /// Zero.
    pub unused: [U64; 4],
}
const _: () = assert!(size_of::<BalanceItem>() == 448);

impl Default for BalanceItem {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl BalanceItem {
    /// What it works on.
    pub fn balance_flags(&self) -> BalanceFlags {
        BalanceFlags::from_bits_retain(self.flags.get())
    }

    /// The conditions for groups of a kind, if it works on them. Groups with data and metadata go by those of data.
    pub fn of_kind(&self, kind: BlockGroupFlags) -> Option<&BalanceArgs> {
        let on = |flag| self.balance_flags().contains(flag);
        if kind.contains(BlockGroupFlags::DATA) {
            return on(BalanceFlags::DATA).then_some(&self.data);
        }
        if kind.contains(BlockGroupFlags::SYSTEM) {
            return on(BalanceFlags::SYSTEM).then_some(&self.system);
        }
        on(BalanceFlags::METADATA).then_some(&self.metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_eight_bytes_lie_in_two_halves() {
        let mut args = BalanceArgs::default();
        args.set_usage(90);
        args.set_limit(1 << 33 | 5);
        assert_eq!((args.usage(), args.usage_min.get(), args.limit()), (90, 90, 1 << 33 | 5));
    }

    #[test]
    fn kinds_have_their_own_conditions() {
        let mut item =
            BalanceItem { flags: (BalanceFlags::DATA | BalanceFlags::SYSTEM).bits().into(), ..Default::default() };
        item.system.target = SINGLE.into();
        item.system.use_filters(BalanceFilters::CONVERT);
        assert!(item.of_kind(BlockGroupFlags::METADATA).is_none());
        assert_eq!(item.of_kind(BlockGroupFlags::DATA).unwrap().target_profile(), None);
        let system = item.of_kind(BlockGroupFlags::SYSTEM).unwrap();
        assert_eq!(system.target_profile(), Some(BlockGroupFlags::empty()));
    }
}
