//! `butterfs device stats`: the counters of what went wrong, of a mount or of an image that is not mounted. Options,
//! words and exit statuses are those of `btrfs device stats`.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_fuse::control::{self, DeviceInfo, StatsReset};
use butterfs_volume::{Missing, OpenMode};

use crate::commands::space::MountedFilesystem;
use crate::failure::{self, Failure, Result};
use crate::{devices, exit, output};

/// `-c`: a counter is not zero.
const NOT_ZERO: u8 = 64;
/// The counters in the order of their numbers.
const NAMES: [&str; 5] = ["write_io_errs", "read_io_errs", "flush_io_errs", "corruption_errs", "generation_errs"];

/// What is shown.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Exit with status 64 if a counter is not zero.
    #[arg(short, long)]
    check: bool,
    /// Set the counters to zero after they are printed.
    #[arg(short = 'z', long)]
    reset: bool,
    /// Print a table.
    #[arg(short = 'T')]
    tabular: bool,
    /// A path on a mounted filesystem; or an image or device that is not mounted, with the others of its filesystem.
    #[arg(required = true)]
    target: Vec<PathBuf>,
}

/// The counters of a device.
struct Counted {
    devid: u64,
    path: String,
    values: [u64; 5],
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = arguments.target[0].as_path();
    let all = match MountedFilesystem::of_device(path) {
        _ if path.is_dir() => of_mount(path, arguments)?,
        Ok(Some(mounted)) => of_device(path, &mounted, arguments)?,
        _ => of_image(arguments)?,
    };
    if arguments.tabular {
        table(&all);
    } else {
        all.iter().for_each(print);
    }
    let is_bad = arguments.check && all.iter().any(|counted| counted.values != [0; 5]);
    Ok(if is_bad { ExitCode::from(NOT_ZERO) } else { ExitCode::SUCCESS })
}

fn of_mount(path: &Path, arguments: &Arguments) -> Result<Vec<Counted>> {
    let failed = |error: std::io::Error| failure::io(exit::USAGE, path, &error);
    let file = File::open(path).map_err(failed)?;
    let info = control::filesystem_info(file.as_fd()).map_err(failed)?;
    let devices = control::devices_of(file.as_fd(), &info).map_err(failed)?;
    let reset = if arguments.reset { StatsReset::Yes } else { StatsReset::No };
    let counted = |DeviceInfo { devid, path, .. }| {
        let values = control::device_stats(file.as_fd(), devid, reset)?;
        let path = path.unwrap_or_default().to_string_lossy().into_owned();
        Ok(Counted { devid, path, values })
    };
    devices.into_iter().map(counted).collect::<std::io::Result<_>>().map_err(failed)
}

/// Of a mounted filesystem only the device that was named, as the stock tool does.
fn of_device(device: &Path, mounted: &MountedFilesystem, arguments: &Arguments) -> Result<Vec<Counted>> {
    let mut all = of_mount(&mounted.target, arguments)?;
    let is_it = |counted: &Counted| Path::new(&counted.path).canonicalize().ok() == device.canonicalize().ok();
    if all.iter().any(is_it) {
        all.retain(is_it);
    }
    Ok(all)
}

fn of_image(arguments: &Arguments) -> Result<Vec<Counted>> {
    let (access, mode) = match arguments.reset {
        true => (Access::ReadWrite, OpenMode::ReadWrite),
        false => (Access::ReadOnly, OpenMode::ReadOnly),
    };
    let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
    let volume = devices::open_volume(exit::USAGE, &arguments.target, &how)?;
    let options = OpenOptions { access, ..OpenOptions::default() };
    let failed = |error| Failure::at(exit::USAGE, &arguments.target[0], error);
    let filesystem = Filesystem::open(volume, options, Box::new(SystemEnvironment)).map_err(failed)?;
    let volume = filesystem.shared().gate.volume();
    let counted = |(devid, stats): (butterfs_format::DevId, butterfs_volume::DeviceStats)| {
        let path = volume.device_name(devid).unwrap_or_default();
        Counted { devid: devid.0, path, values: stats.values() }
    };
    let mut all: Vec<Counted> = volume.device_stats().into_iter().map(counted).collect();
    all.sort_by_key(|counted| counted.devid);
    if arguments.reset {
        for counted in &all {
            volume.reset_device_stats(counted.devid.into());
        }
        filesystem.sync().map_err(failed)?;
    }
    Ok(all)
}

fn print(counted: &Counted) {
    for (name, value) in NAMES.iter().zip(counted.values) {
        output::line(format!("[{}].{name:<16} {value}", counted.path));
    }
}

fn table(all: &[Counted]) {
    let head = ["Id", "Path", "Write errors", "Read errors", "Flush errors", "Corruption errors", "Generation errors"];
    let row = |counted: &Counted| -> Vec<String> {
        let values = counted.values.iter().map(u64::to_string);
        [counted.devid.to_string(), counted.path.clone()].into_iter().chain(values).collect()
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    let width = |at: usize| rows.iter().map(|row| row[at].len()).max().unwrap_or(0).max(head[at].len());
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &[String]| {
        // Paths begin at the left, numbers end at the right.
        let cell = |(at, text): (usize, &String)| match at {
            1 => format!("{text:<width$}", width = widths[at]),
            _ => format!("{text:>width$}", width = widths[at]),
        };
        output::line(cells.iter().enumerate().map(cell).collect::<Vec<_>>().join(" ").trim_end());
    };
    line(&head.map(str::to_owned));
    line(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}
