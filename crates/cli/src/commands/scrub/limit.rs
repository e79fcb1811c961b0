//! `butterfs scrub limit`: how fast scrubs of a mounted filesystem read.

use std::os::fd::AsFd;
use std::path::PathBuf;

use butterfs_fuse::control;

use super::record;
use super::target::{Device, open_mount};
use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// What is shown or changed.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Change the limit of all devices.
    #[arg(short, long, requires = "limit", conflicts_with = "devid")]
    all: bool,
    /// Change the limit of this device.
    #[arg(short, long, value_name = "DEVID", requires = "limit")]
    devid: Option<u64>,
    /// So many bytes in a second; 0: no limit.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    limit: Option<u64>,
    /// A path on the mounted filesystem.
    path: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.as_path();
    let mount = open_mount(path)?;
    let failed = |error: std::io::Error| failure::io(exit::USAGE, path, &error);
    output::line(format!("UUID: {}", record::text_of(&mount.fsid)));
    let Some(limit) = arguments.limit else {
        let limit = |device: &Device| control::scrub_limit(mount.file.as_fd(), device.devid);
        let limits = mount.devices.iter().map(limit).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
        table(&mount.devices, &limits);
        return Ok(());
    };
    if !arguments.all && arguments.devid.is_none() {
        return Err(Failure::new(exit::USAGE, "--limit must be set either on all devices (-a) or on one (-d)"));
    }
    let chosen = |device: &&Device| arguments.devid.is_none_or(|devid| devid == device.devid);
    let mut any = false;
    for device in mount.devices.iter().filter(chosen) {
        any = true;
        let before = control::set_scrub_limit(mount.file.as_fd(), device.devid, limit).map_err(failed)?;
        let text = |limit: u64| if limit == 0 { "unlimited".to_owned() } else { format!("{}/s", size::display(limit)) };
        let (devid, before, now) = (device.devid, text(before), text(limit));
        output::line(format!("Set scrub limit of devid {devid} from {before} to {now}"));
    }
    if any { Ok(()) } else { Err(Failure::at(exit::USAGE, path, "there is no such device")) }
}

fn table(devices: &[Device], limits: &[u64]) {
    let text = |limit: &u64| if *limit == 0 { "-".to_owned() } else { size::display(*limit) };
    let rows: Vec<[String; 3]> =
        devices.iter().zip(limits).map(|(d, limit)| [d.devid.to_string(), text(limit), d.path.clone()]).collect();
    let head = ["Id", "Limit", "Path"];
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0).max(head[column].len());
    let widths = [0, 1, 2].map(width);
    let line = |row: [&str; 3]| {
        let [a, b, c] = [0, 1, 2].map(|at| format!("{:>width$}", row[at], width = widths[at]));
        output::line(format!("{a}  {b}  {c}"));
    };
    line(head);
    let bars = widths.map(|width| "-".repeat(width));
    line([&bars[0], &bars[1], &bars[2]]);
    rows.iter().for_each(|row| line([&row[0], &row[1], &row[2]]));
}
