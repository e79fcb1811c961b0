//! `filesystem show`: filesystems with their devices, mounted ones and others.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_format::Superblock;
use butterfs_fuse::control;
use butterfs_volume::{BlockDevice, FileDevice, find_missing, paths_in, superblock_copy, system_devices};
use uuid::Uuid;

use super::mounted::MountedFilesystem;
use super::picture::directory_of_several;
use crate::commands::units::Units;
use crate::devices::open_degraded;
use crate::failure::{self, Failure, Result};
use crate::{exit, output};

/// What `filesystem show` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only what is found on block devices.
    #[arg(short = 'd', long, conflicts_with = "mounted")]
    all_devices: bool,
    /// Only what is mounted.
    #[arg(short, long)]
    mounted: bool,
    #[command(flatten)]
    units: Units,
    /// A mount point, a device or image, a UUID or its beginning, or a label; without it, all are shown.
    search: Option<PathBuf>,
}

/// A filesystem as it is shown.
struct Shown {
    fsid: [u8; 16],
    label: String,
    total_devices: u64,
    used: u64,
    devices: Vec<ShownDevice>,
}

struct ShownDevice {
    whose: Whose,
    devid: u64,
    size: u64,
    used: u64,
    path: PathBuf,
}

/// A seed's device is part of what grew from it, and of itself: by it the seed is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Own,
    Seed,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let search = arguments.search.as_deref().map(Search::of);
    let wanted =
        |shown: &Shown, target: Option<&Path>| search.as_ref().is_none_or(|search| search.is_for(shown, target));
    let failed = |error: io::Error| Failure::new(exit::USAGE, error);
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    if !arguments.all_devices {
        for mounted in MountedFilesystem::all().map_err(failed)? {
            let Ok(shown) = of_mount(&mounted) else { continue };
            let is_wanted = wanted(&shown, Some(&mounted.target)) || is_device_of(search.as_ref(), &mounted);
            if is_wanted && seen.insert(shown.fsid) {
                found.push(shown);
            }
        }
    }
    let is_done = arguments.mounted || (search.is_some() && !found.is_empty());
    if !is_done {
        let mut others = unmounted(search.as_ref())?;
        others.retain(|shown| wanted(shown, None) && !seen.contains(&shown.fsid));
        found.extend(others);
    }
    if let (true, Some(search)) = (found.is_empty(), &arguments.search) {
        return Err(Failure::new(exit::USAGE, format!("not a valid btrfs filesystem: {}", search.display())));
    }
    output::stream(|out| {
        found.iter().enumerate().try_for_each(|(number, shown)| {
            if number > 0 {
                writeln!(out)?;
            }
            print(out, shown, arguments.units)
        })
    })
    .map_err(failed)
}

/// What is looked for.
struct Search {
    text: String,
    /// If it is a path that exists, without links in it.
    path: Option<PathBuf>,
}

impl Search {
    fn of(text: &Path) -> Self {
        Self { text: text.display().to_string(), path: text.canonicalize().ok() }
    }

    fn is_for(&self, shown: &Shown, target: Option<&Path>) -> bool {
        let uuid = Uuid::from_bytes(shown.fsid).to_string();
        let is_named = uuid.starts_with(&self.text) || shown.label == self.text;
        let own = || shown.devices.iter().filter(|device| device.whose == Whose::Own);
        let has = |path: &PathBuf| {
            target == Some(path) || own().any(|device| device.path.canonicalize().is_ok_and(|found| found == *path))
        };
        (is_named && !self.text.is_empty()) || self.path.as_ref().is_some_and(has)
    }

    /// A file that may hold a filesystem.
    fn image(&self) -> Option<&PathBuf> {
        self.path.as_ref().filter(|path| !path.is_dir())
    }
}

fn is_device_of(search: Option<&Search>, mounted: &MountedFilesystem) -> bool {
    search.and_then(Search::image).is_some_and(|path| mounted.has(path))
}

fn of_mount(mounted: &MountedFilesystem) -> io::Result<Shown> {
    let file = mounted.file.as_fd();
    let seeds = mounted.seeds.iter().map(|device| (Whose::Seed, device));
    let all = mounted.devices.iter().map(|device| (Whose::Own, device)).chain(seeds);
    let devices = all.filter_map(|(whose, device)| {
        let path = device.path.as_ref().filter(|path| File::open(path).is_ok())?;
        let path = path.canonicalize().unwrap_or(path.clone());
        Some(ShownDevice { whose, devid: device.devid, size: device.total, used: device.used, path })
    });
    let mut devices: Vec<ShownDevice> = devices.collect();
    devices.sort_by_key(|device| device.devid);
    Ok(Shown {
        fsid: mounted.info.fsid,
        label: String::from_utf8_lossy(&control::label(file)?).into_owned(),
        total_devices: mounted.info.devices + mounted.seeds.len() as u64,
        used: control::space_infos(file)?.iter().map(|space| space.used).sum(),
        devices,
    })
}

/// What is on the devices of the system, and in the file that is looked for.
fn unmounted(search: Option<&Search>) -> Result<Vec<Shown>> {
    let image = search.and_then(Search::image);
    let mut paths = system_devices();
    if let Some(image) = image.filter(|image| !paths.contains(image)) {
        // Copies of its devices elsewhere do not count.
        paths = vec![image.clone()];
    }
    let mut found: Vec<Shown> = Vec::new();
    for path in &paths {
        let superblock = match superblock_of(path) {
            Ok(superblock) => superblock,
            Err(error) if image == Some(path) => return Err(failure::volume(exit::USAGE, path, &error)),
            Err(_) => continue,
        };
        add(&mut found, path.clone(), &superblock);
    }
    if let Some(directory) = image.and_then(|image| directory_of_several(image)) {
        paths.extend(paths_in(&directory).unwrap_or_default());
    }
    for shown in &mut found {
        add_missing(shown, &paths);
        shown.devices.sort_by_key(|device| device.devid);
    }
    Ok(found)
}

/// The other devices of a filesystem, those of its seeds too, that are among these.
fn add_missing(shown: &mut Shown, candidates: &[PathBuf]) {
    if shown.devices.len() as u64 >= shown.total_devices {
        return;
    }
    let given: Vec<PathBuf> = shown.devices.iter().map(|device| device.path.clone()).collect();
    let found = find_missing(&given, candidates.to_vec()).unwrap_or_default();
    let paths = given.iter().chain(&found);
    let devices =
        paths.filter_map(|path| Some(Arc::new(FileDevice::open_unlocked(path).ok()?) as Arc<dyn BlockDevice>));
    // A seed does not know how much of it the filesystem that grew from it uses.
    let Ok(volume) = open_degraded(devices.collect()) else { return };
    let items = volume.dev_items();
    for path in found {
        let Ok(superblock) = superblock_of(&path) else { continue };
        let own = &superblock.dev_item;
        let Some(item) = items.iter().find(|item| item.devid == own.devid && item.uuid == own.uuid) else { continue };
        let whose = if superblock.fsid == shown.fsid { Whose::Own } else { Whose::Seed };
        let (devid, size, used) = (item.devid.get(), item.total_bytes.get(), item.bytes_used.get());
        shown.devices.push(ShownDevice { whose, devid, size, used, path });
    }
}

/// The first superblock of a device or image, whoever uses it.
///
/// # Errors
/// If there is none.
pub fn superblock_of(path: &Path) -> butterfs_volume::Result<Superblock> {
    superblock_copy(&FileDevice::open_unlocked(path)?, 0)
}

fn add(found: &mut Vec<Shown>, path: PathBuf, superblock: &Superblock) {
    let item = &superblock.dev_item;
    let (devid, size, used) = (item.devid.get(), item.total_bytes.get(), item.bytes_used.get());
    let device = ShownDevice { whose: Whose::Own, devid, size, used, path };
    match found.iter_mut().find(|shown| shown.fsid == superblock.fsid) {
        Some(shown) => shown.devices.push(device),
        None => found.push(Shown {
            fsid: superblock.fsid,
            label: label_of(superblock),
            total_devices: superblock.num_devices.get(),
            used: superblock.bytes_used.get(),
            devices: vec![device],
        }),
    }
}

fn label_of(superblock: &Superblock) -> String {
    let label = superblock.label.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(label).into_owned()
}

fn print(out: &mut dyn Write, shown: &Shown, units: Units) -> io::Result<()> {
    let label = if shown.label.is_empty() { "none".into() } else { format!("'{}'", shown.label) };
    writeln!(out, "Label: {label}  uuid: {}", Uuid::from_bytes(shown.fsid))?;
    let used = units.show(shown.used);
    writeln!(out, "\tTotal devices {} FS bytes used {used}", shown.total_devices)?;
    for device in &shown.devices {
        let (size, used) = (units.show(device.size), units.show(device.used));
        writeln!(out, "\tdevid {:>4} size {size} used {used} path {}", device.devid, device.path.display())?;
    }
    if (shown.devices.len() as u64) < shown.total_devices {
        writeln!(out, "\t*** Some devices missing")?;
    }
    Ok(())
}
