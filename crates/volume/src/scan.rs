//! Finding the devices of a filesystem among many: in a directory, or of the whole system.
//!
//! Nothing is remembered: two filesystems with the same UUID do not get into each other's way.
//!
//! # Invariants
//! * Looking at a device takes no lock and writes nothing; what it says is checked again when the device is
//!   opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_format::items::DevReplaceItem;
use butterfs_format::{DevId, Generation, Superblock};

use crate::device::{BlockDevice, FileDevice};
use crate::error::{DeviceId, Error, Result};
use crate::member::Seen;
use crate::open::{choose, role};
use crate::superblock::{self, Found};
use crate::volume::{Missing, OpenMode, OpenOptions, Volume};

/// A device with a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScannedDevice {
    /// Where it was found.
    pub path: PathBuf,
    /// The UUID of its filesystem that users see.
    pub fsid: [u8; 16],
    /// Which device of that it is.
    pub id: DeviceId,
    /// Of the superblock.
    pub generation: Generation,
}

/// Looks at each path; what is no device of a Btrfs filesystem, or cannot be read, is left out. So is, as by the kernel,
/// what has no good first superblock: a copy further on may be what is left of a filesystem that was wiped.
pub fn scan(paths: impl IntoIterator<Item = PathBuf>) -> Vec<ScannedDevice> {
    let devices = paths.into_iter().filter_map(|path| {
        let found = look(&path).ok()?;
        matches!(found.seen, Seen::Valid { .. }).then(|| ScannedDevice::new(path, &found.superblock))
    });
    devices.collect()
}

fn look(path: &Path) -> Result<Found> {
    superblock::find(Arc::new(FileDevice::open_unlocked(path)?), OpenMode::ReadOnly)
}

impl ScannedDevice {
    fn new(path: PathBuf, sb: &Superblock) -> Self {
        let id = DeviceId { devid: DevId(sb.dev_item.devid.get()), uuid: sb.dev_item.uuid };
        Self { path, fsid: sb.fsid, id, generation: sb.generation() }
    }
}

/// The files and block devices of a directory, in the order of their names; not those further down.
///
/// # Errors
/// If the directory cannot be read.
pub fn paths_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|path| path.as_ref().map_or(true, |path| is_candidate(path)))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn is_candidate(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() || meta.file_type().is_block_device())
}

/// The block devices that the system has, as far as they have their usual names in `/dev`.
pub fn system_devices() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/partitions").unwrap_or_default();
    // Two lines of head; then major, minor, blocks, name.
    let names = table.lines().skip(2).filter_map(|line| line.split_ascii_whitespace().nth(3));
    names.map(|name| Path::new("/dev").join(name)).filter(|path| is_candidate(path)).collect()
}

/// Those of the candidates that are devices of the filesystem on the given devices: its own, and those of
/// its seeds. The given ones are not among them. Of several copies of one device the newest counts.
///
/// # Errors
/// If two candidates are the same device and equally new; or if a given device is none of Btrfs.
pub fn find_missing(given: &[PathBuf], candidates: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let own = given.iter().map(|path| look(path)).collect::<Result<Vec<_>>>()?;
    let Some(own) = choose(&own) else { return Ok(Vec::new()) };
    if missing_of(given.iter())?.is_none() {
        return Ok(Vec::new());
    }
    // A copy of the filesystem with another UUID has devices of the same names.
    let fits = |path: &PathBuf| look(path).is_ok_and(|found| role(&found.superblock, &own).is_some());
    let candidates = scan(candidates.into_iter().filter(fits));
    let mut found: Vec<PathBuf> = Vec::new();
    loop {
        let wanted = missing_of(given.iter().chain(&found))?.unwrap_or_default();
        let mut new: Vec<&ScannedDevice> = Vec::new();
        for candidate in candidates.iter().filter(|device| wanted.devices.contains(&device.id)) {
            prefer(&mut new, candidate)?;
        }
        if wanted.target {
            new.extend(newest_target(&candidates).filter(|target| !found.contains(&target.path)));
        }
        if new.is_empty() {
            return Ok(found);
        }
        found.extend(new.into_iter().map(|device| device.path.clone()));
    }
}

/// Puts a device among those that were found, or in the place of an older copy.
fn prefer<'a>(found: &mut Vec<&'a ScannedDevice>, device: &'a ScannedDevice) -> Result<()> {
    match found.iter_mut().find(|other| other.id == device.id) {
        None => found.push(device),
        Some(other) if other.generation < device.generation => *other = device,
        Some(other) if other.generation > device.generation => {}
        Some(other) => {
            let (a, b) = (other.path.display(), device.path.display());
            let text = format!("{a} and {b} are both device {}; name the one that is meant", device.id.devid);
            return Err(Error::Unsupported(text));
        }
    }
    Ok(())
}

fn newest_target(candidates: &[ScannedDevice]) -> Option<&ScannedDevice> {
    let targets = candidates.iter().filter(|device| device.id.devid.0 == DevReplaceItem::TARGET);
    targets.max_by_key(|device| device.generation)
}

/// What is not there.
#[derive(Default)]
struct Wanted {
    devices: Vec<DeviceId>,
    /// The one that is to replace another.
    target: bool,
}

impl Wanted {
    fn of(volume: &Volume) -> Self {
        let under_way = volume.stored_replace_item().ok().flatten().is_some_and(|item| item.is_under_way());
        Self { devices: volume.missing_devices(), target: under_way && volume.replaced_device().is_none() }
    }
}

/// What is missing besides these devices, if anything is.
fn missing_of<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Option<Wanted>> {
    let open = |path: &PathBuf| FileDevice::open_unlocked(path).map(|device| Arc::new(device) as Arc<dyn BlockDevice>);
    let devices = paths.map(open).collect::<Result<Vec<_>>>()?;
    let accept = OpenOptions { missing: Missing::Accept, ..OpenOptions::new(OpenMode::ReadOnly) };
    match Volume::open_with(devices.clone(), &accept) {
        Ok(volume) => Ok(Some(Wanted::of(&volume)).filter(|wanted| wanted.target || !wanted.devices.is_empty())),
        // The chunk tree cannot be read yet; what the superblock names is known all the same.
        Err(error) => match Volume::open(devices, OpenMode::ReadOnly) {
            Err(Error::MissingDevices(devices)) => Ok(Some(Wanted { devices, target: false })),
            _ => Err(error),
        },
    }
}
