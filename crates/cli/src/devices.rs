//! The devices that a command line names: files and block devices, and directories to look in for the
//! others of the filesystem.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_volume::{
    BadChunks, BlockDevice, Error, FileDevice, Missing, OpenMode, OpenOptions, Result, Volume, find_missing, paths_in,
    system_devices,
};

use crate::exit;
use crate::failure::{self, Failure};

/// Opens all devices that are meant, and so locks them: those named, then what the filesystem has besides them in
/// the directories named and, if it is on a block device, in the system.
///
/// # Errors
/// The first that fails, with its path: if a directory cannot be read, if it cannot be told which of several copies is
/// meant, or if a device cannot be opened.
pub fn find_and_open(
    named: &[PathBuf],
    mode: OpenMode,
) -> std::result::Result<Vec<Arc<dyn BlockDevice>>, (PathBuf, Error)> {
    open_each(
        named,
        match mode {
            OpenMode::ReadOnly => |path| FileDevice::open_read_only(path),
            OpenMode::ReadWrite => |path| FileDevice::open_read_write(path),
        },
    )
}

/// As [`find_and_open`], for reading what may be in use.
///
/// # Errors
/// As [`find_and_open`].
pub fn find_and_open_unlocked(named: &[PathBuf]) -> std::result::Result<Vec<Arc<dyn BlockDevice>>, (PathBuf, Error)> {
    open_each(named, |path| FileDevice::open_unlocked(path))
}

fn open_each(
    named: &[PathBuf],
    open: fn(&PathBuf) -> Result<FileDevice>,
) -> std::result::Result<Vec<Arc<dyn BlockDevice>>, (PathBuf, Error)> {
    let paths = resolve(named).map_err(|error| (named.first().cloned().unwrap_or_default(), error))?;
    let open = |path: PathBuf| -> std::result::Result<Arc<dyn BlockDevice>, (PathBuf, Error)> {
        Ok(Arc::new(open(&path).map_err(|error| (path, error))?))
    };
    paths.into_iter().map(open).collect()
}

fn resolve(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let (directories, mut paths): (Vec<&PathBuf>, Vec<PathBuf>) = split(named);
    let mut candidates = Vec::new();
    for directory in directories {
        let failed = |source| Error::Device { name: directory.display().to_string(), devid: None, source };
        candidates.extend(paths_in(directory).map_err(failed)?);
    }
    if paths.first().is_some_and(|path| is_block_device(path)) {
        candidates.extend(system_devices());
    }
    if candidates.is_empty() {
        return Ok(paths);
    }
    match find_missing(&paths, candidates) {
        Ok(found) => paths.extend(found),
        Err(error @ Error::Unsupported(_)) => return Err(error),
        // What is wrong with the named ones is told when they are opened.
        Err(_) => {}
    }
    Ok(paths)
}

/// Directories; and all else, each once. The first is always meant to be a device.
fn split(named: &[PathBuf]) -> (Vec<&PathBuf>, Vec<PathBuf>) {
    let (first, others) = named.split_at(named.len().min(1));
    let (directories, files): (Vec<_>, Vec<_>) = others.iter().partition(|path| path.is_dir());
    let mut paths: Vec<PathBuf> = first.to_vec();
    for path in files {
        let same = |other: &PathBuf| same_file(other, path);
        if !paths.iter().any(same) {
            paths.push(path.clone());
        }
    }
    (directories, paths)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// For commands that make devices of all that is named.
///
/// # Errors
/// If one is named twice, also by different names.
pub fn require_each_once(named: &[PathBuf]) -> failure::Result<()> {
    let is_twice = |(number, path): (usize, &PathBuf)| named[..number].iter().any(|other| same_file(other, path));
    match named.iter().enumerate().find(|one| is_twice(*one)) {
        Some((_, path)) => {
            Err(Failure::at(exit::USAGE, path, "is named twice; each device of a filesystem is another one"))
        }
        None => Ok(()),
    }
}

fn is_block_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.file_type().is_block_device())
}

/// Opens a filesystem to be looked at: without devices that are missing, and without chunks that cannot be.
///
/// # Errors
/// As [`Volume::open_with`].
pub fn open_damaged(devices: Vec<Arc<dyn BlockDevice>>) -> Result<Volume> {
    let (missing, bad_chunks) = (Missing::Accept, BadChunks::LeaveOut);
    Volume::open_with(devices, &OpenOptions { missing, bad_chunks, ..OpenOptions::new(OpenMode::ReadOnly) })
}

/// Opens the volume of all devices that are meant, see [`find_and_open`].
///
/// # Errors
/// With this exit status, and the path that is to blame.
pub fn open_volume(code: u8, named: &[PathBuf], how: &OpenOptions) -> failure::Result<Volume> {
    let image = named.first().map_or(Path::new(""), PathBuf::as_path);
    let failed = |path: &Path, error: Error| failure::volume(code, path, &error);
    let devices = find_and_open(named, how.mode).map_err(|(path, error)| failed(&path, error))?;
    Volume::open_with(devices, how).map_err(|error| failed(image, error))
}

/// Opens a filesystem for reading, without devices that are missing.
///
/// # Errors
/// As [`Volume::open_with`].
pub fn open_degraded(devices: Vec<Arc<dyn BlockDevice>>) -> Result<Volume> {
    let accept = OpenOptions { missing: Missing::Accept, ..OpenOptions::new(OpenMode::ReadOnly) };
    Volume::open_with(devices, &accept)
}
