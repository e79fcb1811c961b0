//! What a balance works on, and whether it can be begun.
//!
//! Sources: `should_balance_chunk` and `btrfs_balance` of the kernel.

use std::ops::RangeInclusive;

use butterfs_format::Logical;
use butterfs_format::items::{BalanceArgs, BalanceFilters, BalanceFlags, BalanceItem, BlockGroupFlags, Chunk, SINGLE};
use butterfs_volume::{Profile, stripe_length};
use zerocopy::IntoBytes;

use crate::error::{Error, Result};
use crate::tx::GroupInfo;

const KINDS: [BlockGroupFlags; 3] = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM];

/// A group that may be balanced.
pub struct Candidate {
    /// The group.
    pub group: GroupInfo,
    /// Where its stripes are.
    pub chunk: Chunk,
}

/// What a balance chooses.
#[derive(Debug, Default)]
pub struct Choice {
    /// The groups, in the order in which they are worked on.
    pub groups: Vec<GroupInfo>,
    /// How many there are, with those that are left because a limit wants more of their kind.
    pub expected: u64,
}

/// Whether the filters let a candidate through; limits aside.
pub fn lets_through(item: &BalanceItem, candidate: &Candidate) -> Result<bool> {
    item.of_kind(candidate.group.flags.kind()).map_or(Ok(false), |args| chooses(args, candidate))
}

/// Those that a balance chooses, of all candidates in the order in which they are worked on.
pub fn choose(item: &BalanceItem, candidates: &[Candidate]) -> Result<Choice> {
    let mut chosen: Vec<GroupInfo> = Vec::new();
    for candidate in candidates {
        if lets_through(item, candidate)? {
            chosen.push(candidate.group);
        }
    }
    let limits = KINDS.into_iter().filter_map(|kind| Some((kind, limits(item.of_kind(kind)?)?)));
    let limits: Vec<_> = limits.collect();
    for (kind, limits) in &limits {
        keep(&mut chosen, *kind, *limits.end());
    }
    let expected = chosen.len() as u64;
    for (kind, limits) in limits {
        let count = chosen.iter().filter(|group| group.flags.contains(kind)).count() as u64;
        if count < *limits.start() {
            keep(&mut chosen, kind, 0);
        }
    }
    Ok(Choice { groups: chosen, expected })
}

/// How many groups are wanted: if there are fewer than the least, none is.
fn limits(args: &BalanceArgs) -> Option<RangeInclusive<u64>> {
    let filters = args.filters();
    if filters.contains(BalanceFilters::LIMIT) {
        Some(0..=args.limit())
    } else if filters.contains(BalanceFilters::LIMIT_RANGE) {
        Some(u64::from(args.limit_min.get())..=u64::from(args.limit_max.get()))
    } else {
        None
    }
}

/// Leaves no more of a kind.
fn keep(chosen: &mut Vec<GroupInfo>, kind: BlockGroupFlags, most: u64) {
    let mut left = most;
    chosen.retain(|group| {
        let is_of_kind = group.flags.contains(kind);
        let stays = !is_of_kind || left > 0;
        left -= u64::from(is_of_kind && left > 0);
        stays
    });
}

fn chooses(args: &BalanceArgs, candidate: &Candidate) -> Result<bool> {
    let Candidate { group, chunk } = candidate;
    let filters = args.filters();
    let has = |filter| filters.contains(filter);
    let profile = extended(group.flags);
    let by_profile = !has(BalanceFilters::PROFILES) || args.profiles.get() & profile != 0;
    let is_there_already = has(BalanceFilters::CONVERT | BalanceFilters::SOFT) && args.target.get() & profile != 0;
    let stripes = chunk.stripes.len() as u64;
    let range = u64::from(args.stripes_min.get())..=u64::from(args.stripes_max.get());
    let end = group.start.saturating_add(group.len);
    let in_range = group.start < args.vend.get() && end > args.vstart.get();
    Ok(by_profile
        && !is_there_already
        && by_usage(args, group)
        && by_device(args, candidate)?
        && (!has(BalanceFilters::VRANGE) || in_range)
        && (!has(BalanceFilters::STRIPES_RANGE) || range.contains(&stripes)))
}

/// A profile as a bit that is there for single, too.
fn extended(flags: BlockGroupFlags) -> u64 {
    let profile = flags.profile();
    if profile.is_empty() { SINGLE } else { profile.bits() }
}

fn percent(len: u64, percent: u64) -> u64 {
    (u128::from(len) * u128::from(percent) / 100) as u64
}

/// As the kernel: 0 as the highest stands for groups without extents, more than 100 for all.
fn by_usage(args: &BalanceArgs, group: &GroupInfo) -> bool {
    let below = |most: u64| match most {
        0 => group.used < 1,
        most if most > 100 => group.used < group.len,
        most => group.used < percent(group.len, most),
    };
    let has = |filter| args.filters().contains(filter);
    let in_range = || {
        let least = percent(group.len, u64::from(args.usage_min.get()));
        least <= group.used && below(u64::from(args.usage_max.get()))
    };
    // Some versions of btrfs-progs ask for a range by both: read as one number it is a large one.
    (!has(BalanceFilters::USAGE) || below(args.usage())) && (!has(BalanceFilters::USAGE_RANGE) || in_range())
}

fn by_device(args: &BalanceArgs, Candidate { group, chunk }: &Candidate) -> Result<bool> {
    let filters = args.filters();
    if !filters.contains(BalanceFilters::DEVID) {
        return Ok(true);
    }
    let length = stripe_length(Logical(group.start), chunk)?;
    let on_it = |offset: u64| {
        let within = offset < args.pend.get() && offset.saturating_add(length) > args.pstart.get();
        !filters.contains(BalanceFilters::DRANGE) || within
    };
    Ok(chunk.stripes.iter().any(|stripe| stripe.devid == args.devid && on_it(stripe.offset.get())))
}

/// What a balance that was interrupted goes on with: what is converted already stays, and what is quite full was
/// balanced already.
pub fn resumed(item: &BalanceItem) -> BalanceItem {
    const FULL: u64 = 90;
    let again = |args: &BalanceArgs| {
        let mut args = *args;
        let filters = args.filters();
        if filters.contains(BalanceFilters::CONVERT) {
            args.use_filters(BalanceFilters::SOFT);
        } else if !filters.intersects(BalanceFilters::USAGE | BalanceFilters::USAGE_RANGE) {
            args.use_filters(BalanceFilters::USAGE);
            args.set_usage(FULL);
        }
        args
    };
    BalanceItem { data: again(&item.data), metadata: again(&item.metadata), system: again(&item.system), ..*item }
}

/// Of a balance, what converts.
pub fn conversions(item: &BalanceItem) -> BalanceItem {
    let of = |flag, args: &BalanceArgs| if args.target_profile().is_some() { flag } else { BalanceFlags::empty() };
    let converts = of(BalanceFlags::DATA, &item.data)
        | of(BalanceFlags::METADATA, &item.metadata)
        | of(BalanceFlags::SYSTEM, &item.system);
    BalanceItem { flags: (item.balance_flags() & converts).bits().into(), ..*item }
}

/// Whether the groups can be what a balance wants of them.
///
/// # Errors
/// What is wrong, with the number of devices that it takes. Nothing was changed.
pub fn check(item: &BalanceItem, groups: &[BlockGroupFlags], devices: usize) -> Result<()> {
    if (item.balance_flags() & (BalanceFlags::DATA | BalanceFlags::METADATA | BalanceFlags::SYSTEM)).is_empty() {
        return Err(Error::Invalid("a balance works on data, metadata or the chunk tree"));
    }
    check_mixed(item, groups)?;
    for kind in KINDS {
        let Some(args) = item.of_kind(kind) else { continue };
        check_conditions(args)?;
        let Some(target) = args.target_profile() else { continue };
        check_target(args, target, devices)?;
        check_redundancy(item, kind, target, groups)?;
    }
    Ok(())
}

/// As the kernel: what lies in the same groups is balanced in the same way.
fn check_mixed(item: &BalanceItem, groups: &[BlockGroupFlags]) -> Result<()> {
    const BOTH: BlockGroupFlags = BlockGroupFlags::DATA.union(BlockGroupFlags::METADATA);
    let are_mixed = groups.iter().any(|flags| flags.contains(BOTH));
    if !are_mixed || item.balance_flags().intersection(BalanceFlags::DATA | BalanceFlags::METADATA).is_empty() {
        return Ok(());
    }
    let [data, metadata] = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA].map(|kind| item.of_kind(kind));
    if data.map(IntoBytes::as_bytes) != metadata.map(IntoBytes::as_bytes) {
        let text = "with mixed block groups the balance options of data and of metadata must be the same";
        return Err(Error::Refused(text.into()));
    }
    Ok(())
}

fn check_conditions(args: &BalanceArgs) -> Result<()> {
    let filters = args.filters();
    let unknown = filters.difference(BalanceFilters::all());
    if !unknown.is_empty() {
        return Err(Error::Refused(format!("conditions {:#x} are not known", unknown.bits())));
    }
    if filters.contains(BalanceFilters::LIMIT | BalanceFilters::LIMIT_RANGE) {
        return Err(Error::Invalid("a balance has two conditions of the same kind"));
    }
    if filters.contains(BalanceFilters::DRANGE) && !filters.contains(BalanceFilters::DEVID) {
        return Err(Error::Invalid("drange filter can be used only if devid filter is used"));
    }
    Ok(())
}

fn check_target(args: &BalanceArgs, target: BlockGroupFlags, devices: usize) -> Result<()> {
    let profile = Profile::of(target).filter(|profile| profile.flags == target && args.target.get().count_ones() == 1);
    let Some(profile) = profile else {
        return Err(Error::Refused(format!("{:#x} is no profile to convert to", args.target)));
    };
    if profile.min_devices > devices {
        return Err(Error::TooFewDevices {
            profile: target.profile_name(),
            needed: profile.min_devices,
            left: devices,
        });
    }
    Ok(())
}

/// As the kernel: metadata and the chunk tree do not get less redundant by mistake.
fn check_redundancy(
    item: &BalanceItem,
    kind: BlockGroupFlags,
    target: BlockGroupFlags,
    groups: &[BlockGroupFlags],
) -> Result<()> {
    let is_redundant = |flags: BlockGroupFlags| Profile::of(flags).is_some_and(|p| p.copies > 1 || p.parity > 0);
    let now = groups.iter().any(|flags| flags.contains(kind) && is_redundant(*flags));
    let loses = kind != BlockGroupFlags::DATA && now && !is_redundant(target);
    if loses && !item.balance_flags().contains(BalanceFlags::FORCE) {
        let text = "balance reduces metadata redundancy; use --force if you want this";
        return Err(Error::Refused(text.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use butterfs_format::items::{ChunkHeader, Stripe};
    use zerocopy::FromZeros;

    use super::*;

    fn candidate(start: u64, flags: BlockGroupFlags, used: u64, places: &[(u64, u64)]) -> Candidate {
        let mut header = ChunkHeader::new_zeroed();
        (header.length, header.chunk_type) = (1000.into(), flags.bits().into());
        header.num_stripes = (places.len() as u16).into();
        let stripe = |(devid, offset): &(u64, u64)| Stripe {
            devid: (*devid).into(),
            offset: (*offset).into(),
            dev_uuid: [0; 16],
        };
        let chunk = Chunk { header, stripes: places.iter().map(stripe).collect() };
        Candidate { group: GroupInfo { start, len: 1000, flags, used, waiting: 0 }, chunk }
    }

    fn all() -> Vec<Candidate> {
        let (data, metadata) = (BlockGroupFlags::DATA, BlockGroupFlags::METADATA);
        vec![
            candidate(9000, data, 0, &[(1, 0)]),
            candidate(8000, data | BlockGroupFlags::RAID1, 500, &[(1, 5000), (2, 0)]),
            candidate(7000, data, 1000, &[(2, 9000)]),
            candidate(6000, metadata | BlockGroupFlags::DUP, 10, &[(1, 1000), (1, 2000)]),
        ]
    }

    fn chosen(flags: BalanceFlags, change: impl Fn(&mut BalanceArgs)) -> Vec<u64> {
        let mut item = BalanceItem { flags: flags.bits().into(), ..BalanceItem::default() };
        change(&mut item.data);
        choose(&item, &all()).unwrap().groups.iter().map(|group| group.start).collect()
    }

    /// As the kernel, which counts before it knows whether there are enough.
    #[test]
    fn a_limit_is_what_is_expected() {
        let expected = |least: u32, most: u32| {
            let mut item = BalanceItem { flags: BalanceFlags::DATA.bits().into(), ..BalanceItem::default() };
            item.data.use_filters(BalanceFilters::LIMIT_RANGE);
            (item.data.limit_min, item.data.limit_max) = (least.into(), most.into());
            let choice = choose(&item, &all()).unwrap();
            (choice.groups.len(), choice.expected)
        };
        assert_eq!((expected(0, 2), expected(3, 9), expected(4, 9)), ((2, 2), (3, 3), (0, 3)));
    }

    fn data(change: impl Fn(&mut BalanceArgs)) -> Vec<u64> {
        chosen(BalanceFlags::DATA, change)
    }

    fn with(filters: BalanceFilters, change: impl Fn(&mut BalanceArgs)) -> Vec<u64> {
        data(|args| {
            args.use_filters(filters);
            change(args);
        })
    }

    #[test]
    fn conditions_choose_as_in_the_kernel() {
        assert_eq!(data(|_| {}), [9000, 8000, 7000]);
        assert_eq!(chosen(BalanceFlags::METADATA, |_| {}), [6000]);
        let usage = |percent| with(BalanceFilters::USAGE, |args| args.set_usage(percent));
        assert_eq!((usage(0), usage(50), usage(51)), (vec![9000], vec![9000], vec![9000, 8000]));
        assert_eq!((usage(100), usage(101)), (vec![9000, 8000], vec![9000, 8000]));
        let range = |least: u32, most: u32| {
            with(BalanceFilters::USAGE_RANGE, |args| (args.usage_min, args.usage_max) = (least.into(), most.into()))
        };
        assert_eq!((range(1, 60), range(0, 100), range(50, 50)), (vec![8000], vec![9000, 8000], vec![]));
        assert_eq!(with(BalanceFilters::PROFILES, |args| args.profiles = SINGLE.into()), [9000, 7000]);
        assert_eq!(with(BalanceFilters::DEVID, |args| args.devid = 2.into()), [8000, 7000]);
        let part = with(BalanceFilters::DEVID | BalanceFilters::DRANGE, |args| {
            (args.devid, args.pstart, args.pend) = (1.into(), 5999.into(), 6000.into());
        });
        assert_eq!(part, [8000]);
        let addresses = with(BalanceFilters::VRANGE, |args| (args.vstart, args.vend) = (7999.into(), 8000.into()));
        assert_eq!(addresses, [7000]);
        let stripes = |args: &mut BalanceArgs| (args.stripes_min, args.stripes_max) = (2.into(), 3.into());
        assert_eq!(with(BalanceFilters::STRIPES_RANGE, stripes), [8000]);
        assert_eq!(with(BalanceFilters::LIMIT, |args| args.set_limit(2)), [9000, 8000]);
        let range = |least: u32| {
            with(BalanceFilters::LIMIT_RANGE, |args| (args.limit_min, args.limit_max) = (least.into(), 1.into()))
        };
        assert_eq!((range(1), range(2)), (vec![9000], vec![]));
        // As btrfs-progs ask for a range.
        let used = |by| with(by, |args| (args.usage_min, args.usage_max) = (10.into(), 80.into()));
        let range = BalanceFilters::USAGE_RANGE;
        assert_eq!(used(BalanceFilters::USAGE | range), used(range));
        assert_ne!(used(range), used(BalanceFilters::empty()));
        let soft = BalanceFilters::CONVERT | BalanceFilters::SOFT;
        assert_eq!(with(soft, |args| args.target = SINGLE.into()), [8000]);
        assert_eq!(with(BalanceFilters::CONVERT, |args| args.target = SINGLE.into()), [9000, 8000, 7000]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let groups = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA | BlockGroupFlags::DUP];
        let convert = |flags: BalanceFlags, target: BlockGroupFlags| {
            let mut args = BalanceArgs::default();
            args.use_filters(BalanceFilters::CONVERT);
            args.target = extended(target).into();
            let (data, metadata) = (args, args);
            BalanceItem { flags: flags.bits().into(), data, metadata, ..BalanceItem::default() }
        };
        let raid = convert(BalanceFlags::DATA, BlockGroupFlags::RAID1C3);
        let refused = check(&raid, &groups, 2);
        assert!(matches!(refused, Err(Error::TooFewDevices { needed: 3, left: 2, .. })), "{refused:?}");
        check(&raid, &groups, 3).unwrap();
        let less = convert(BalanceFlags::METADATA, BlockGroupFlags::empty());
        assert!(matches!(check(&less, &groups, 1), Err(Error::Refused(_))));
        check(&convert(BalanceFlags::METADATA | BalanceFlags::FORCE, BlockGroupFlags::empty()), &groups, 1).unwrap();
        check(&convert(BalanceFlags::DATA, BlockGroupFlags::empty()), &groups, 1).unwrap();
        assert!(check(&BalanceItem::default(), &groups, 1).is_err());
        let two = BlockGroupFlags::RAID1 | BlockGroupFlags::DUP;
        assert!(matches!(check(&convert(BalanceFlags::DATA, two), &groups, 4), Err(Error::Refused(_))));
    }

    #[test]
    fn what_goes_on_leaves_what_is_done() {
        let mut item = BalanceItem::default();
        item.data.use_filters(BalanceFilters::CONVERT);
        item.system.use_filters(BalanceFilters::USAGE);
        item.system.set_usage(5);
        let again = resumed(&item);
        assert_eq!(again.data.filters(), BalanceFilters::CONVERT | BalanceFilters::SOFT);
        assert_eq!((again.metadata.filters(), again.metadata.usage()), (BalanceFilters::USAGE, 90));
        assert_eq!(again.system, item.system);
    }
}
