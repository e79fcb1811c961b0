//! `butterfs device scan` and `ready`: which devices there are, and whether a filesystem has all of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use butterfs_volume::{
    Error, FileDevice, OpenMode, ScannedDevice, Volume, find_missing, paths_in, scan as look, system_devices,
};

use crate::failure::{self, Failure, Result};
use crate::{exit, output};

/// Where is looked.
#[derive(Debug, clap::Args)]
pub struct ScanArguments {
    /// Taken as btrfs-progs takes it: all devices are looked at in any case.
    #[arg(short = 'd', long)]
    all_devices: bool,
    /// Taken as btrfs-progs takes it: nothing is registered, so nothing is to be forgotten.
    #[arg(short = 'u', long)]
    forget: bool,
    /// Images, devices, and directories of them; without any, the block devices of the system.
    paths: Vec<PathBuf>,
}

/// What is looked at.
#[derive(Debug, clap::Args)]
pub struct ReadyArguments {
    /// A device or image, and directories to look for the others in.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// `scan`.
pub fn scan(arguments: &ScanArguments) -> Result<()> {
    if arguments.forget {
        return Ok(());
    }
    let mut found: BTreeMap<[u8; 16], Vec<ScannedDevice>> = BTreeMap::new();
    for device in look(candidates(&arguments.paths)?) {
        found.entry(device.fsid).or_default().push(device);
    }
    for (fsid, mut devices) in found {
        output::line(format!("UUID: {}", uuid::Uuid::from_bytes(fsid)));
        devices.sort_by_key(|device| device.id.devid);
        for device in devices {
            let (devid, generation, path) = (device.id.devid, device.generation, device.path.display());
            output::line(format!("\tdevid {devid} generation {generation} path {path}"));
        }
    }
    Ok(())
}

/// `ready`.
pub fn ready(arguments: &ReadyArguments) -> Result<ExitCode> {
    let (first, others) = arguments.paths.split_at(1);
    let failed = |error: &Error| failure::volume(exit::USAGE, &first[0], error);
    let candidates = if others.is_empty() { system_devices() } else { candidates(others)? };
    let found = find_missing(first, candidates).map_err(|error| failed(&error))?;
    let open = |path: &PathBuf| Ok(std::sync::Arc::new(FileDevice::open_unlocked(path)?) as _);
    let devices = first.iter().chain(&found).map(open).collect::<butterfs_volume::Result<Vec<_>>>();
    match devices.and_then(|devices| Volume::open(devices, OpenMode::ReadOnly)) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error @ Error::MissingDevices(_)) => Err(Failure::at(exit::USAGE, &first[0], error)),
        Err(error) => Err(failed(&error)),
    }
}

fn candidates(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if paths.is_empty() {
        return Ok(system_devices());
    }
    let mut all = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => all.extend(paths_in(path).map_err(|error| failure::io(exit::USAGE, path, &error))?),
            false => all.push(path.clone()),
        }
    }
    Ok(all)
}
