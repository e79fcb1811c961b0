//! Filters of a balance as they are written: `usage=50,convert=raid1,soft`.

use butterfs_format::items::{BalanceArgs, BalanceFilters, BlockGroupFlags, SINGLE};

use crate::size;

/// The profiles, by the names that users write; `single` has no bit.
const PROFILES: [(&str, BlockGroupFlags); 8] = [
    ("raid0", BlockGroupFlags::RAID0),
    ("raid1", BlockGroupFlags::RAID1),
    ("raid1c3", BlockGroupFlags::RAID1C3),
    ("raid1c4", BlockGroupFlags::RAID1C4),
    ("raid10", BlockGroupFlags::RAID10),
    ("raid5", BlockGroupFlags::RAID5),
    ("raid6", BlockGroupFlags::RAID6),
    ("dup", BlockGroupFlags::DUP),
];

fn profile(name: &str) -> Result<u64, String> {
    if name.eq_ignore_ascii_case("single") {
        return Ok(SINGLE);
    }
    let found = PROFILES.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
    found.map(|(_, flags)| flags.bits()).ok_or_else(|| format!("unknown profile: {name}"))
}

/// Reads filters.
///
/// # Errors
/// What is wrong with the first that is.
pub fn parse(text: &str) -> Result<BalanceArgs, String> {
    let mut args = BalanceArgs::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        one(&mut args, name, value)?;
    }
    let filters = args.filters();
    if filters.contains(BalanceFilters::SOFT) && !filters.contains(BalanceFilters::CONVERT) {
        return Err("'soft' option can be used only if changing profiles".into());
    }
    if filters.contains(BalanceFilters::DRANGE) && !filters.contains(BalanceFilters::DEVID) {
        return Err("drange filter must be used with devid filter".into());
    }
    Ok(args)
}

fn one(args: &mut BalanceArgs, name: &str, value: Option<&str>) -> Result<(), String> {
    let given = || value.ok_or_else(|| format!("the {name} filter requires an argument"));
    let filter = match name {
        "profiles" => {
            let all = given()?.split('|').map(profile).collect::<Result<Vec<_>, _>>()?;
            args.profiles = all.iter().fold(0, |all, one| all | one).into();
            BalanceFilters::PROFILES
        }
        "usage" => usage(args, given()?)?,
        "devid" => {
            args.devid = number(given()?)?.into();
            if args.devid.get() == 0 {
                return Err("invalid devid: 0".into());
            }
            BalanceFilters::DEVID
        }
        "drange" => {
            let (start, end) = range(given()?)?;
            (args.pstart, args.pend) = (start.into(), end.into());
            BalanceFilters::DRANGE
        }
        "vrange" => {
            let (start, end) = range(given()?)?;
            (args.vstart, args.vend) = (start.into(), end.into());
            BalanceFilters::VRANGE
        }
        "convert" => {
            args.target = profile(given()?)?.into();
            BalanceFilters::CONVERT
        }
        "soft" => BalanceFilters::SOFT,
        "limit" => limit(args, given()?)?,
        "stripes" => {
            let (least, most) = small_range(given()?, u32::MAX)?;
            (args.stripes_min, args.stripes_max) = (least.into(), most.into());
            BalanceFilters::STRIPES_RANGE
        }
        _ => return Err(format!("unrecognized balance option: {name}")),
    };
    args.use_filters(filter);
    Ok(())
}

fn usage(args: &mut BalanceArgs, value: &str) -> Result<BalanceFilters, String> {
    const MOST: u32 = 100;
    let bad = || format!("invalid usage argument: {value}");
    if !value.contains("..") {
        let percent = number(value)?;
        if percent > u64::from(MOST) {
            return Err(bad());
        }
        args.set_usage(percent);
        return Ok(BalanceFilters::USAGE);
    }
    let (least, most) = small_range(value, MOST)?;
    if most > MOST {
        return Err(bad());
    }
    (args.usage_min, args.usage_max) = (least.into(), most.into());
    Ok(BalanceFilters::USAGE_RANGE)
}

fn limit(args: &mut BalanceArgs, value: &str) -> Result<BalanceFilters, String> {
    if !value.contains("..") {
        args.set_limit(number(value)?);
        return Ok(BalanceFilters::LIMIT);
    }
    let (least, most) = small_range(value, u32::MAX)?;
    (args.limit_min, args.limit_max) = (least.into(), most.into());
    Ok(BalanceFilters::LIMIT_RANGE)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("invalid number: {text}"))
}

/// `a..b`, `..b` or `a..`, in bytes.
fn range(text: &str) -> Result<(u64, u64), String> {
    let wrong = || format!("invalid range: {text}");
    let (start, end) = text.split_once("..").ok_or_else(wrong)?;
    let start = if start.is_empty() { 0 } else { size::parse(start)? };
    let end = if end.is_empty() { u64::MAX } else { size::parse(end)? };
    if start >= end { Err(format!("range {text} does not make sense")) } else { Ok((start, end)) }
}

/// The same of small numbers, both included; one number stands for itself.
fn small_range(text: &str, most: u32) -> Result<(u32, u32), String> {
    let parse = |text: &str| text.parse::<u32>().map_err(|_| format!("invalid number: {text}"));
    let Some((first, last)) = text.split_once("..") else {
        let both = parse(text)?;
        return Ok((both, both));
    };
    let first = if first.is_empty() { 0 } else { parse(first)? };
    let last = if last.is_empty() { most } else { parse(last)? };
    if first > last { Err(format!("range {text} does not make sense")) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_as_btrfs_progs_read_them() {
        let args = parse("profiles=raid1|single,usage=10..50,devid=2,drange=1G..,limit=3,stripes=2..4").unwrap();
        assert_eq!(args.profiles.get(), SINGLE | BlockGroupFlags::RAID1.bits());
        assert_eq!((args.usage_min.get(), args.usage_max.get(), args.devid.get()), (10, 50, 2));
        assert_eq!((args.pstart.get(), args.pend.get(), args.limit()), (1 << 30, u64::MAX, 3));
        assert_eq!((args.stripes_min.get(), args.stripes_max.get()), (2, 4));
        let wanted = BalanceFilters::PROFILES
            | BalanceFilters::USAGE_RANGE
            | BalanceFilters::DEVID
            | BalanceFilters::DRANGE
            | BalanceFilters::LIMIT
            | BalanceFilters::STRIPES_RANGE;
        assert_eq!(args.filters(), wanted);
        let args = parse("convert=RAID1C3,soft,vrange=..4096,limit=2..").unwrap();
        assert_eq!(args.target_profile(), Some(BlockGroupFlags::RAID1C3));
        assert_eq!((args.vend.get(), args.limit_min.get(), args.limit_max.get()), (4096, 2, u32::MAX));
        assert_eq!(parse("").unwrap(), BalanceArgs::default());
        for text in
            ["soft", "drange=1..2", "usage=101", "usage", "convert=x", "vrange=2..1", "devid=0", "x=1", "limit=-1"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
