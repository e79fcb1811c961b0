//! A further mount of a filesystem that is mounted already: the daemon there serves it, too.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use butterfs_engine::filesystem::SubvolumeChoice;
use butterfs_format::TreeId;
use butterfs_fuse::control;
use butterfs_fuse::mount::{Joined, MountEntry, MountFlags, MountOptions};

use crate::exit;
use crate::failure::{self, Failure, Result};
use crate::mount_options::Options;

/// Whether root mounts a block device that a daemon of ours has mounted.
pub fn is_possible(device: &Path, options: &Options) -> bool {
    let (Ok(path), Ok(meta)) = (device.canonicalize(), device.metadata()) else { return false };
    rustix::process::geteuid().is_root()
        && !options.set.contains(MountFlags::PLAIN_FUSE)
        && meta.file_type().is_block_device()
        && MountEntry::of_butterfs().is_ok_and(|all| {
            all.iter().any(|mount| mount.kind.starts_with("fuseblk.") && Path::new(&mount.source) == path)
        })
}

/// Mounts it at `target`.
pub fn join(device: &Path, target: &Path, options: &Options) -> Result<()> {
    let failed = |error| failure::mount(device, &error);
    let io = |error: std::io::Error| failure::io(exit::FAILED, device, &error);
    let path = device.canonicalize().map_err(io)?;
    let mut how = MountOptions::for_root();
    how.flags = options.flags(how.flags);
    let joined = Joined::new(&path, &how).map_err(failed)?;
    let top = joined.top().map_err(io)?;
    let part = match part(top.as_fd(), options).map_err(io)? {
        Some(part) => part,
        None => {
            return Err(Failure::at(
                exit::FAILED,
                device,
                "mounted already, with another subvolume at its top; unmount it first, or use mount --bind",
            ));
        }
    };
    joined.attach(&part, target).map_err(failed)
}

/// The path of what is wanted below the top of what is mounted; `None` if it is not there.
fn part(top: BorrowedFd<'_>, options: &Options) -> std::io::Result<Option<PathBuf>> {
    let mounted = TreeId(control::subvolume_id(top)?);
    let wanted = match (&options.subvolume, options.subvolume_id) {
        (SubvolumeChoice::Default, None) => {
            // What was mounted without a word of it is the default one.
            let named = control::status(top)?.options.contains("subvol");
            return Ok((!named).then(PathBuf::new));
        }
        (SubvolumeChoice::Default, Some(id)) => Wanted::Id(id),
        (SubvolumeChoice::Id(id), _) => Wanted::Id(*id),
        (SubvolumeChoice::Path(path), _) => Wanted::Path(path),
    };
    if wanted.is(mounted, Path::new("")) {
        return Ok(Some(PathBuf::new()));
    }
    if mounted != TreeId::FS {
        return Ok(None);
    }
    let all = control::list_subvolumes(top)?;
    Ok(all.into_iter().find(|one| wanted.is(TreeId(one.id), &one.path)).map(|one| one.path))
}

/// How a subvolume is named.
enum Wanted<'a> {
    Id(TreeId),
    Path(&'a [u8]),
}

impl Wanted<'_> {
    /// Whether it is this one, at this path from the top level.
    fn is(&self, id: TreeId, path: &Path) -> bool {
        match self {
            Self::Id(wanted) => *wanted == id,
            Self::Path(wanted) => {
                let wanted = wanted.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
                wanted.eq(path.as_os_str().as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()))
                    && (!path.as_os_str().is_empty() || id == TreeId::FS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subvolume_has_a_number_and_a_path() {
        let is = |wanted: Wanted<'_>, id, path| wanted.is(TreeId(id), Path::new(path));
        assert!(is(Wanted::Id(TreeId(300)), 300, "a/b"));
        assert!(is(Wanted::Path(b"/a/b/"), 300, "a/b"));
        assert!(is(Wanted::Path(b"/"), 5, ""));
        assert!(!is(Wanted::Path(b"/"), 300, ""), "the top of the mount, which is not the top level");
        assert!(!is(Wanted::Path(b"a"), 300, "a/b"));
    }
}
