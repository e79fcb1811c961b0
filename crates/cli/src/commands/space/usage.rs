//! `filesystem usage` and `device usage`.

use std::io::{self, Write};
use std::path::PathBuf;

use butterfs_format::items::BlockGroupFlags as Flags;
use butterfs_fuse::control::SpaceInfo;
use butterfs_volume::Profile;

use super::picture::{Device, Further, Picture};
use super::several::warn_of_several;
use super::sums::{ChunkSum, chunk_sums, groups, is_reserve, profile_name, several_profiles, type_name};
use super::table::{self, Cell};
use crate::commands::units::{ShortUnits, Units};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// Less than so much that is in no chunk cannot be relied on.
const LEAST_UNALLOCATED: i64 = 16 << 20;

/// What `filesystem usage` is told.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Arguments {
    #[command(flatten)]
    units: ShortUnits,
    /// As a table.
    #[arg(short = 'T')]
    tabular: bool,
    #[command(flatten)]
    further: Further,
    /// Any directories on mounts, or images or devices that are not mounted.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// What `device usage` is told.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct DeviceArguments {
    #[command(flatten)]
    units: ShortUnits,
    #[command(flatten)]
    further: Further,
    /// Any directories on mounts, or images or devices that are not mounted.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Runs `filesystem usage`.
pub fn run(arguments: &Arguments) -> Result<()> {
    let units = Units::from(arguments.units);
    for (number, path) in arguments.paths.iter().enumerate() {
        let picture = Picture::of(path, &arguments.further)?;
        let sums = sums(&picture, "filesystem usage");
        let overall = Overall::of(&picture, &sums)?;
        output::stream(|out| {
            if number > 0 {
                writeln!(out)?;
            }
            overall.print(out, units)?;
            writeln!(out)?;
            if arguments.tabular { tabular(out, &picture, &sums, units) } else { linear(out, &picture, &sums, units) }
        })
        .map_err(failed)?;
    }
    Ok(())
}

/// Runs `device usage`.
pub fn run_devices(arguments: &DeviceArguments) -> Result<()> {
    let units = Units::from(arguments.units);
    for (number, path) in arguments.paths.iter().enumerate() {
        let picture = Picture::of(path, &arguments.further)?;
        let sums = sums(&picture, "device usage");
        output::stream(|out| {
            if number > 0 {
                writeln!(out)?;
            }
            picture.devices.iter().try_for_each(|device| device_usage(out, device, &sums, units))
        })
        .map_err(failed)?;
        warn_of_several(&picture.spaces);
    }
    Ok(())
}

fn failed(error: io::Error) -> Failure {
    Failure::new(exit::USAGE, error)
}

fn sums(picture: &Picture, command: &str) -> Vec<ChunkSum> {
    match &picture.chunks {
        Some(chunks) => chunk_sums(chunks),
        None => {
            output::complain(
                command,
                "cannot read detailed chunk info, per-device usage will not be shown, run as root",
            );
            Vec::new()
        }
    }
}

/// Bytes of chunks of one type on the devices, and what of them is used.
#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    chunks: u64,
    used: u64,
}

impl Raw {
    fn add(&mut self, chunks: u64, used: u64) {
        self.chunks += chunks;
        self.used += used;
    }
}

/// What `Overall:` says. `raw` is on devices, with all copies; everything else in logical space.
struct Overall {
    size: u64,
    missing: u64,
    slack: u64,
    allocated: u64,
    used: u64,
    free: u64,
    free_least: u64,
    available: u64,
    data_ratio: f64,
    metadata_ratio: f64,
    reserve: SpaceInfo,
    several: Vec<&'static str>,
}

impl Overall {
    fn of(picture: &Picture, sums: &[ChunkSum]) -> Result<Self> {
        let parity = Flags::RAID5 | Flags::RAID6;
        let has_parity = |flags: u64| Flags::from_bits_retain(flags).intersects(parity);
        let groups = groups(&picture.spaces);
        if sums.is_empty() && groups.iter().any(|group| has_parity(group.flags)) {
            return Err(Failure::new(exit::USAGE, "with RAID5 or RAID6 some values need the chunks; run as root"));
        }
        let mut worst = 1.0_f64;
        let [mut data, mut metadata, mut system] = [Raw::default(); 3];
        let (mut data_len, mut metadata_len) = (0, 0);
        for group in &groups {
            let flags = Flags::from_bits_retain(group.flags);
            let copies = Profile::of(flags).map_or(1, |profile| profile.copies as u64);
            let raw = if has_parity(group.flags) {
                parity_raw(group, sums, &mut worst)
            } else {
                worst = worst.max(copies as f64);
                Raw { chunks: group.total * copies, used: group.used * copies }
            };
            if flags.contains(Flags::DATA) {
                data.add(raw.chunks, raw.used);
                data_len += group.total;
            }
            if flags.contains(Flags::METADATA) {
                metadata.add(raw.chunks, raw.used);
                metadata_len += group.total;
            }
            if flags.contains(Flags::SYSTEM) {
                system.add(raw.chunks, raw.used);
            }
        }
        let is_mixed = groups.iter().any(|group| Flags::from_bits_retain(group.flags).contains(MIXED));
        let mut allocated = data.chunks + system.chunks;
        let mut used = data.used + system.used;
        if !is_mixed {
            allocated += metadata.chunks;
            used += metadata.used;
        }
        let ratio = |raw: Raw, len: u64| if len == 0 { 1.0 } else { raw.chunks as f64 / len as f64 };
        let data_ratio = ratio(data, data_len);
        let metadata_ratio = if is_mixed { data_ratio } else { ratio(metadata, metadata_len) };
        let reserve = picture.spaces.iter().copied().find(is_reserve).unwrap_or_default();
        let size = picture.devices.iter().map(|device| device.size).sum::<u64>();
        let mut free = (data.chunks.saturating_sub(data.used) as f64 / data_ratio) as u64;
        if is_mixed {
            free = free.saturating_sub(reserve.total.saturating_sub(reserve.used));
        }
        let mut free_least = free;
        let unallocated = size.wrapping_sub(allocated).cast_signed();
        if unallocated >= LEAST_UNALLOCATED {
            free = (free as f64 + unallocated as f64 / data_ratio) as u64;
            free_least = (free_least as f64 + unallocated as f64 / worst) as u64;
        }
        Ok(Self {
            size,
            missing: picture.devices.iter().filter(|device| device.length == 0).map(|device| device.size).sum(),
            slack: picture.devices.iter().map(Device::slack).sum(),
            allocated,
            used,
            free,
            free_least,
            available: picture.available,
            data_ratio,
            metadata_ratio,
            reserve,
            several: several_profiles(&picture.spaces).into_iter().map(|(name, _)| name).collect(),
        })
    }

    fn print(&self, out: &mut dyn Write, units: Units) -> io::Result<()> {
        let width = if units.is_usual() { 10 } else { 18 };
        let show = |bytes: u64| units.show(bytes);
        writeln!(out, "Overall:")?;
        for (name, value) in [
            ("Device size:\t\t", show(self.size)),
            ("Device allocated:\t\t", show(self.allocated)),
            ("Device unallocated:\t\t", units.show_signed(self.size.wrapping_sub(self.allocated).cast_signed())),
            ("Device missing:\t\t", show(self.missing)),
            ("Device slack:\t\t", show(self.slack)),
            ("Used:\t\t\t", show(self.used)),
        ] {
            writeln!(out, "    {name}{value:>width$}")?;
        }
        let (free, least) = (show(self.free), show(self.free_least));
        writeln!(out, "    Free (estimated):\t\t{free:>width$}\t(min: {least})")?;
        writeln!(out, "    Free (statfs, df):\t\t{:>width$}", show(self.available))?;
        writeln!(out, "    Data ratio:\t\t\t{:>width$.2}", self.data_ratio)?;
        writeln!(out, "    Metadata ratio:\t\t{:>width$.2}", self.metadata_ratio)?;
        let (total, used) = (show(self.reserve.total), show(self.reserve.used));
        writeln!(out, "    Global reserve:\t\t{total:>width$}\t(used: {used})")?;
        if self.several.is_empty() {
            return writeln!(out, "    Multiple profiles:\t\t{:>width$}", "no");
        }
        let names = self.several.join(", ").to_lowercase();
        writeln!(out, "    Multiple profiles:\t\t{:>width$}\t({names})", "yes")
    }
}

const MIXED: Flags = Flags::DATA.union(Flags::METADATA);

/// With parity the devices tell how much there is of a chunk; how full they are is reckoned.
fn parity_raw(group: &SpaceInfo, sums: &[ChunkSum], worst: &mut f64) -> Raw {
    let full = if group.total == 0 { 0.0 } else { group.used as f64 / group.total as f64 };
    let mut raw = Raw::default();
    for sum in sums.iter().filter(|sum| sum.flags.bits() == group.flags) {
        let size = sum.on_device();
        let columns = sum.logical.checked_div(size).unwrap_or(1).max(1);
        *worst = worst.max(sum.stripes as f64 / columns as f64);
        raw.add(size, (size as f64 * full) as u64);
    }
    raw
}

fn linear(out: &mut dyn Write, picture: &Picture, sums: &[ChunkSum], units: Units) -> io::Result<()> {
    for group in groups(&picture.spaces) {
        let (name, profile) = (type_name(group.flags), profile_name(group.flags));
        let percent = f64::from(100.0_f32 * group.used as f32 / (group.total + 1) as f32);
        let (total, used) = (units.show(group.total), units.show(group.used));
        writeln!(out, "{name},{profile}: Size:{total}, Used:{used} ({percent:.2}%)")?;
        for device in &picture.devices {
            let its = sums.iter().filter(|sum| sum.devid == device.devid && sum.flags.bits() == group.flags);
            let size: u64 = its.map(ChunkSum::on_device).sum();
            if size > 0 {
                writeln!(out, "   {}\t{:>10}", device.path, units.show(size))?;
            }
        }
        writeln!(out)?;
    }
    if sums.is_empty() {
        return Ok(());
    }
    writeln!(out, "Unallocated:")?;
    picture.devices.iter().try_for_each(|device| {
        writeln!(out, "   {}\t{:>10}", device.path, units.show_signed(unallocated(device, sums)))
    })
}

/// What of a device is in no chunk.
fn unallocated(device: &Device, sums: &[ChunkSum]) -> i64 {
    let its = sums.iter().filter(|sum| sum.devid == device.devid);
    device.size.wrapping_sub(its.map(ChunkSum::on_device).sum()).cast_signed()
}

fn tabular(out: &mut dyn Write, picture: &Picture, sums: &[ChunkSum], units: Units) -> io::Result<()> {
    let groups = groups(&picture.spaces);
    let left = |text: &str| Cell::Left(text.into());
    let row = |first: [Cell; 2], middle: Vec<Cell>, last: [Cell; 3]| -> Vec<Cell> {
        first.into_iter().chain(middle).chain(last).collect()
    };
    let none = Cell::empty;
    let rule = || row([Cell::Rule, Cell::Rule], vec![Cell::Rule; groups.len()], [Cell::Rule, Cell::Rule, Cell::Rule]);
    let types = groups.iter().map(|group| left(type_name(group.flags))).collect();
    let profiles = groups.iter().map(|group| left(&profile_name(group.flags))).collect();
    let mut rows = vec![
        row([none(), none()], types, [none(), none(), none()]),
        row([left("Id"), left("Path")], profiles, [left("Unallocated"), left("Total"), left("Slack")]),
        rule(),
    ];
    for device in &picture.devices {
        let cell = |group: &SpaceInfo| {
            let its = sums.iter().filter(|sum| sum.devid == device.devid && sum.flags.bits() == group.flags);
            dash_if_none(its.map(ChunkSum::on_device).sum(), units)
        };
        let free = Cell::Right(units.show_signed(unallocated(device, sums)));
        let last = [free, Cell::Right(units.show(device.size)), dash_if_none(device.slack(), units)];
        let first = [Cell::Right(device.devid.to_string()), left(&device.path)];
        rows.push(row(first, groups.iter().map(cell).collect(), last));
    }
    rows.push(rule());
    let right = |bytes: u64| Cell::Right(units.show(bytes));
    let totals = groups.iter().map(|group| right(group.total)).collect();
    let free = picture.devices.iter().map(|device| unallocated(device, sums)).sum();
    let (size, slack) = picture.devices.iter().fold((0, 0), |(a, b), device| (a + device.size, b + device.slack()));
    let last = [Cell::Right(units.show_signed(free)), right(size), right(slack)];
    rows.push(row([none(), left("Total")], totals, last));
    let used = groups.iter().map(|group| right(group.used)).collect();
    rows.push(row([none(), left("Used")], used, [none(), none(), none()]));
    table::print(out, &rows)
}

fn dash_if_none(bytes: u64, units: Units) -> Cell {
    Cell::Right(if bytes == 0 { "-".into() } else { units.show(bytes) })
}

fn device_usage(out: &mut dyn Write, device: &Device, sums: &[ChunkSum], units: Units) -> io::Result<()> {
    writeln!(out, "{}, ID: {}", device.path, device.devid)?;
    let line = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "   {name:<22}{value:>10}");
    line(out, "Device size:", units.show(device.length))?;
    line(out, "Device slack:", units.show(device.slack()))?;
    for sum in sums.iter().filter(|sum| sum.devid == device.devid) {
        let (name, profile) = (type_name(sum.flags.bits()), profile_name(sum.flags.bits()));
        let is_striped = sum.flags.intersects(Flags::RAID0 | Flags::RAID10 | Flags::RAID5 | Flags::RAID6);
        let stripes = if is_striped { format!("/{}", sum.stripes) } else { String::new() };
        let title = format!("{name},{profile}{stripes}:");
        writeln!(out, "   {title:<22}{:>10}", units.show(sum.on_device()))?;
    }
    let free = if sums.is_empty() { "N/A".into() } else { units.show_signed(unallocated(device, sums)) };
    line(out, "Unallocated:", free)?;
    writeln!(out)
}
