//! What the kernel goes on to hold: the device that a mount was made from, also after it has left the filesystem
//! (`docs/decisions/0033-the-device-of-a-mount.md`).

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_fuse::mount::MountEntry;
use rustix::fs::{fstat, major, minor};

use crate::commands::space::{MountedFilesystem, stands_for};
use crate::output;

/// A mount that was made from a device which is about to leave.
pub struct Held {
    device: PathBuf,
    shown: String,
}

impl Held {
    /// By the devices that are named, each by its path from the root or its number.
    pub fn of(path: &Path, words: &[&str]) -> Option<Self> {
        let mounted = MountedFilesystem::at(path).ok()?;
        let number = fstat(mounted.file.as_fd()).ok()?.st_dev;
        let is_it = |entry: &MountEntry| entry.device == (major(number), minor(number));
        let entry = MountEntry::of_butterfs().ok()?.into_iter().find(is_it)?;
        if !entry.kind.starts_with("fuseblk") {
            return None;
        }
        let source = Path::new(&entry.source);
        mounted.devices.into_iter().find_map(|device| {
            let own = device.path?;
            let is_named = |word: &&str| word.parse() == Ok(device.devid) || stands_for(&own, Path::new(word));
            let leaves = words.iter().any(is_named) && stands_for(source, &own);
            leaves.then(|| Self { device: own, shown: entry.source.clone() })
        })
    }

    /// Tells the user, unless it is a script that knows the stock tool's words only.
    pub fn tell(&self, command: &str) {
        if output::is_stock_tool() {
            return;
        }
        let device = self.device.display();
        output::complain(
            command,
            format!(
                "note: the mount was made from {device}: until it is unmounted, findmnt and df show it as {}, and {device} stays \
                 in use",
                self.shown
            ),
        );
    }
}
