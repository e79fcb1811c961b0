//! `butterfs umount`: unmounts, and returns when the daemon is gone and everything is on disk.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use butterfs_fuse::mount::{Busy, MountEntry, MountError, Unmounted, unmount};

use crate::failure::{self, Failure, Result};
use crate::run_dir::Daemons;
use crate::{exit, output};

/// The last commit of a large cache on a slow disk takes its time.
const LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What `umount` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the filesystem is mounted, or its block device.
    directory: PathBuf,
    /// Detach a filesystem that is in use; it ends with its last user, and is not waited for.
    #[arg(short, long)]
    lazy: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let given = arguments.directory.as_path();
    let target = resolve(given).map_err(|error| failure::io(exit::FAILED, given, &error))?;
    let target = mounted_from(&target).unwrap_or(target);
    let mount = find(given, &target)?;
    let daemons = Daemons::of(&mount);
    let busy = if arguments.lazy { Busy::Detach } else { Busy::Refuse };
    match unmount(&target, busy).map_err(|error| failure::mount(given, &error))? {
        Unmounted::Detached => output::line(format!("{}: detached; it ends with its last user", given.display())),
        // A bind mount, or one of several mounts: the daemon goes on.
        Unmounted::Gone | Unmounted::WasNot if is_mounted_elsewhere(&mount) => {}
        Unmounted::Gone | Unmounted::WasNot => wait(given, &daemons)?,
    }
    Ok(())
}

fn is_mounted_elsewhere(mount: &MountEntry) -> bool {
    MountEntry::of_butterfs().is_ok_and(|all| all.iter().any(|other| other.device == mount.device))
}

/// Where a block device is mounted, the last place of several.
fn mounted_from(device: &Path) -> Option<PathBuf> {
    if !device.metadata().is_ok_and(|meta| meta.file_type().is_block_device()) {
        return None;
    }
    let mounts = MountEntry::of_butterfs().unwrap_or_default();
    mounts.into_iter().rfind(|mount| Path::new(&mount.source) == device).map(|mount| mount.target)
}

/// The mount at the path, if it is one of ours.
fn find(given: &Path, target: &Path) -> Result<MountEntry> {
    let error = |error: MountError| failure::mount(given, &error);
    let Some(mount) = MountEntry::at(target).map_err(|e| error(MountError::Mountinfo(e)))? else {
        return Err(Failure::at(exit::FAILED, given, "not mounted; see findmnt for what is"));
    };
    if mount.kind.ends_with(".butterfs") {
        return Ok(mount);
    }
    let text = format!("not mounted by butterfs, but of type {}; use umount(8)", mount.kind);
    Err(Failure::at(exit::FAILED, given, text))
}

fn wait(given: &Path, daemons: &Daemons) -> Result<()> {
    let failed = |text: String| Failure::at(exit::FAILED, given, text);
    match daemons.wait(LIMIT) {
        Ok(None) => Ok(()),
        Ok(Some(failure)) => Err(failed(format!("unmounted, but {failure}"))),
        Err(error) => Err(failed(format!(
            "unmounted, but the daemon has not ended ({error}); do not use the image before it has"
        ))),
    }
}

/// The path without symbolic links. Its last part is not touched: a mount whose daemon has died
/// would answer with an error.
fn resolve(path: &Path) -> std::io::Result<PathBuf> {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Err(error), Some(parent), Some(name)) if error.kind() != std::io::ErrorKind::NotFound => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        (result, ..) => result,
    }
}
