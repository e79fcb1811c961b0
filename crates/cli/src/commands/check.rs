//! `butterfs check`: looks at everything, writes nothing; with `--repair` and its relatives see [`repair`].

pub mod plan;
mod repair;

use std::io::{IsTerminal, stderr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use butterfs_check::{
    Devices, Finding, Options, Place, Progress, Report, check, open_failure, superblock_copy, with_superblock,
};
use butterfs_format::Superblock;
use butterfs_format::validate::Expected;
use butterfs_volume::{BlockDevice, Error, OpenMode, Volume};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::Format;
use crate::devices::open_degraded;
use crate::failure::{self, Failure, Result};
use crate::{devices, exit, output, size};

/// What `check` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// An image file or a block device, not mounted; of a filesystem on several devices, all of them, or a
    /// directory to look for the others in.
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Also read all data and compare it with its checksums.
    #[arg(long)]
    check_data_csum: bool,
    /// Use this copy of the superblock: 0, 1 or 2.
    #[arg(short = 's', long = "super", value_name = "COPY", conflicts_with = "backup")]
    superblock: Option<usize>,
    /// Use the newest backup of tree roots in the superblock that can be read.
    #[arg(short, long)]
    backup: bool,
    /// Print every quota group with what it says and what was counted.
    #[arg(short = 'Q', long)]
    qgroup_report: bool,
    /// Show on the terminal how far it got.
    #[arg(short, long)]
    progress: bool,
    /// About how much memory to use; with less it takes longer.
    #[arg(long, default_value = "512M", value_parser = size::parse, value_name = "SIZE")]
    memory: u64,
    /// How many threads judge; by default as many as there are processors.
    #[arg(long, value_name = "COUNT")]
    threads: Option<NonZeroUsize>,
    /// Write nothing; this is so unless a repair is asked for.
    #[arg(long)]
    readonly: bool,
    #[command(flatten)]
    repair: repair::Repair,
    /// How to print: for people or for programs.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// Runs the command; `before` is the format that was given before it.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let arguments = &Arguments { format: arguments.format.or(Some(before)), ..arguments.clone() };
    arguments.repair.refuse_idle_options()?;
    if arguments.repair.is_wanted() {
        return repair::run(arguments);
    }
    let devices = open_to_check(arguments)?;
    let volume = match open_volume(arguments, &devices) {
        Ok(volume) => volume,
        Err(error) => return unopenable(arguments, &error),
    };
    print_head(arguments, &volume);
    let bar = progress_bar(arguments);
    let report = check(&volume, &options(arguments, devices, bar.as_ref()));
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(print(arguments, Some(&volume), &report))
}

fn first_image(arguments: &Arguments) -> &Path {
    arguments.images.first().map_or(Path::new(""), PathBuf::as_path)
}

fn open_devices(images: &[PathBuf], mode: OpenMode) -> Result<Devices> {
    devices::find_and_open(images, mode).map_err(not_checked)
}

/// Opens for reading; what is mounted only if that is insisted on.
fn open_to_check(arguments: &Arguments) -> Result<Devices> {
    if !arguments.repair.is_forced() {
        return open_devices(&arguments.images, OpenMode::ReadOnly);
    }
    output::complain("check", "warning: it may be mounted; what changes meanwhile looks like damage");
    devices::find_and_open_unlocked(&arguments.images).map_err(not_checked)
}

fn not_checked((path, error): (PathBuf, Error)) -> Failure {
    failure::volume(exit::NOT_CHECKED, &path, &error)
}

/// Opens with the superblock that was asked for.
fn open_volume(arguments: &Arguments, devices: &Devices) -> butterfs_volume::Result<Volume> {
    if let Some(copy) = arguments.superblock {
        return open_with(devices, |device| superblock_copy(device, copy));
    }
    if arguments.backup {
        return open_backup(devices);
    }
    open_degraded(devices.clone())
}

/// Opens with the newest backup whose root tree can be read; if there is none, as usual.
fn open_backup(devices: &Devices) -> butterfs_volume::Result<Volume> {
    let Some(device) = devices.first() else { return open_degraded(Devices::new()) };
    match superblock_copy(&**device, 0)?.backups().into_iter().find_map(|old| open_old(devices, old)) {
        Some((_, volume)) => Ok(volume),
        None => open_degraded(devices.clone()),
    }
}

/// Opens with an older superblock, if its root tree can be read.
fn open_old(devices: &Devices, old: Superblock) -> Option<(Superblock, Volume)> {
    let volume = open_with(devices, |device| with_own_item(old, device)).ok()?;
    volume.read_block(&Expected::at(old.root())).is_ok().then_some((old, volume))
}

fn with_own_item(mut shown: Superblock, device: &dyn BlockDevice) -> butterfs_volume::Result<Superblock> {
    shown.dev_item = superblock_copy(device, 0)?.dev_item;
    Ok(shown)
}

/// The superblock of a device as the newest backup that can be read has it; if there is none, as it is.
fn backup_superblock(devices: &Devices, device: &dyn BlockDevice) -> butterfs_volume::Result<Superblock> {
    let now = superblock_copy(device, 0)?;
    let found = now.backups().into_iter().find_map(|old| open_old(devices, old));
    found.map_or(Ok(now), |(old, _)| with_own_item(old, device))
}

/// Opens the volume as if each device had another first superblock.
fn open_with(
    devices: &Devices,
    superblock: impl Fn(&dyn BlockDevice) -> butterfs_volume::Result<Superblock>,
) -> butterfs_volume::Result<Volume> {
    let show = |device: &Arc<dyn BlockDevice>| Ok(with_superblock(device.clone(), &superblock(&**device)?));
    let shown = devices.iter().map(show).collect::<butterfs_volume::Result<Devices>>()?;
    open_degraded(shown)
}

/// A filesystem that is too damaged to open was checked, with one finding; all else is a failure.
fn unopenable(arguments: &Arguments, error: &Error) -> Result<ExitCode> {
    match open_failure(error) {
        Some(finding) => {
            let report = Report { findings: vec![finding], ..Report::default() };
            Ok(print(arguments, None, &report))
        }
        None => Err(failure::volume(exit::NOT_CHECKED, first_image(arguments), error)),
    }
}

fn options(arguments: &Arguments, devices: Devices, bar: Option<&ProgressBar>) -> Options {
    let (data_csums, memory, threads) = (arguments.check_data_csum, arguments.memory, arguments.threads);
    Options { data_csums, devices, progress: progress(bar), memory, threads, ..Options::default() }
}

fn progress(bar: Option<&ProgressBar>) -> Option<Progress> {
    bar.cloned().map(|bar| -> Progress {
        Arc::new(move |stage, blocks| bar.set_message(format!("{}, {blocks} tree blocks", stage.name())))
    })
}

/// Only on a terminal: elsewhere nobody looks, and output must stay as it is.
fn progress_bar(arguments: &Arguments) -> Option<ProgressBar> {
    if !arguments.progress || !stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    Some(bar)
}

fn print_head(arguments: &Arguments, volume: &Volume) {
    if arguments.format == Some(Format::Text) {
        output::line(format!("Checking {} (read-only: nothing is written)", first_image(arguments).display()));
        output::line(format!("UUID: {}", uuid::Uuid::from_bytes(volume.superblock().fsid)));
    }
}

fn print(arguments: &Arguments, volume: Option<&Volume>, report: &Report) -> ExitCode {
    match arguments.format {
        Some(Format::Json) => output::line(report_json(arguments, volume, report)),
        _ => print_text(arguments, report),
    }
    ExitCode::from(if report.is_clean() { 0 } else { exit::FOUND })
}

fn print_text(arguments: &Arguments, report: &Report) {
    output::line(report);
    if arguments.qgroup_report {
        report.quota_groups.iter().for_each(output::line);
    }
    output::line(if report.is_clean() { "no error found" } else { "ERRORS FOUND" });
}

fn report_json(arguments: &Arguments, volume: Option<&Volume>, report: &Report) -> Value {
    let statistics: Map<String, Value> =
        report.statistics.named().into_iter().map(|(name, count)| (name.into(), count.into())).collect();
    json!({
        "image": first_image(arguments).display().to_string(),
        "uuid": volume.map(|volume| uuid::Uuid::from_bytes(volume.superblock().fsid).to_string()),
        "clean": report.is_clean(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "statistics": statistics,
        "quota_groups": quota_groups_json(report),
    })
}

fn quota_groups_json(report: &Report) -> Vec<Value> {
    let groups = report.quota_groups.iter().map(|group| {
        json!({
            "id": group.id,
            "referenced": group.referenced.stored,
            "referenced_counted": group.referenced.counted,
            "exclusive": group.exclusive.stored,
            "exclusive_counted": group.exclusive.counted,
        })
    });
    groups.collect()
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "name": finding.kind.name(),
        "severity": finding.severity.name(),
        "place": place_json(&finding.place),
        "where": finding.place.to_string(),
        "problem": finding.problem,
    })
}

/// The coordinates that are known; numbers of trees and inodes as the disk has them, unsigned.
fn place_json(place: &Place) -> Value {
    let fields = [
        ("tree", place.tree.map(|id| id.0.into())),
        ("inode", place.inode.map(|ino| ino.0.into())),
        ("key", place.key.map(|key| json!([key.objectid, key.item_type.0, key.offset]))),
        ("bytenr", place.bytenr.map(|at| at.0.into())),
        ("end", place.end.map(|at| at.0.into())),
        ("copy", place.copy.map(Value::from)),
        ("devid", place.devid.map(|id| id.0.into())),
        ("device", place.device.clone().map(Value::from)),
        ("offset", place.offset.map(Value::from)),
        ("qgroup", place.qgroup.map(Value::from)),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(known.collect())
}
