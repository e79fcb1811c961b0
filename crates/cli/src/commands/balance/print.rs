//! The filters of a balance, as `balance status -v` and `start -v` print them: line by line those of btrfs-progs.

use butterfs_format::items::{BalanceArgs, BalanceFilters, BalanceFlags, BalanceItem};
use butterfs_fuse::control::MountBalance;

use crate::output;

/// The bits in which the kernel tells how a balance is.
pub fn state_of(balance: &MountBalance) -> u64 {
    u64::from(balance.running) | u64::from(balance.pausing) << 1 | u64::from(balance.cancelling) << 2
}

/// Prints them.
pub fn filters(item: &BalanceItem, state: u64) {
    let flags = item.balance_flags();
    let force = if flags.contains(BalanceFlags::FORCE) { "on" } else { "off" };
    output::line(format!("Dumping filters: flags {:#x}, state {state:#x}, force is {force}", item.flags.get()));
    for (flag, name, args) in [
        (BalanceFlags::DATA, "DATA", &item.data),
        (BalanceFlags::METADATA, "METADATA", &item.metadata),
        (BalanceFlags::SYSTEM, "SYSTEM", &item.system),
    ] {
        if flags.contains(flag) {
            output::line(format!("  {name} (flags {:#x}): {}", args.flags.get(), told(args)));
        }
    }
}

fn told(args: &BalanceArgs) -> String {
    let filters = args.filters();
    let soft = if filters.contains(BalanceFilters::SOFT) { "on" } else { "off" };
    let mut words = vec![match filters.contains(BalanceFilters::CONVERT) {
        true => format!("converting, target={}, soft is {soft}", args.target.get()),
        false => "balancing".into(),
    }];
    let wide = |from: u64, to: u64| format!("{from}..{to}");
    for (filter, name, value) in [
        (BalanceFilters::PROFILES, "profiles", args.profiles.get().to_string()),
        (BalanceFilters::USAGE, "usage", args.usage().to_string()),
        (BalanceFilters::USAGE_RANGE, "usage", small(args.usage_min.get(), args.usage_max.get())),
        (BalanceFilters::DEVID, "devid", args.devid.get().to_string()),
        (BalanceFilters::DRANGE, "drange", wide(args.pstart.get(), args.pend.get())),
        (BalanceFilters::VRANGE, "vrange", wide(args.vstart.get(), args.vend.get())),
        (BalanceFilters::LIMIT, "limit", args.limit().to_string()),
        (BalanceFilters::LIMIT_RANGE, "limit", small(args.limit_min.get(), args.limit_max.get())),
        (BalanceFilters::STRIPES_RANGE, "stripes", small(args.stripes_min.get(), args.stripes_max.get())),
    ] {
        if filters.contains(filter) {
            words.push(format!("{name}={value}"));
        }
    }
    words.join(", ")
}

/// Ends that are open are left out.
fn small(from: u32, to: u32) -> String {
    let from = if from == 0 { String::new() } else { from.to_string() };
    let to = if to == u32::MAX { String::new() } else { to.to_string() };
    format!("{from}..{to}")
}
