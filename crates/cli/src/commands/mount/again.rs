//! A filesystem that is mounted already, mounted once more: one daemon serves it, and the second mount shows a part of
//! the first one, or all of it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use butterfs_engine::filesystem::{Access, SubvolumeChoice};
use butterfs_fuse::control::{self, ListedSubvolume, MountState};
use butterfs_fuse::mount::{self, Joined, MountEntry, MountFlags, MountOptions};

use super::Plan;
use crate::exit;
use crate::failure::{self, Failure, Result};

/// A mount of the same image.
pub struct First {
    target: PathBuf,
    state: MountState,
    /// The block device that the kernel knows the filesystem by, if it does.
    device: Option<PathBuf>,
}

/// The mount of an image, if Butterfs has mounted it already.
pub fn find(image: &Path) -> Result<Option<First>> {
    let Ok(image) = image.canonicalize() else { return Ok(None) };
    let entries = MountEntry::of_butterfs().unwrap_or_default();
    let Some(entry) = entries.into_iter().find(|entry| stands_for(&entry.source, &image)) else { return Ok(None) };
    let status = File::open(&entry.target).and_then(|top| control::status(top.as_fd()));
    let device = entry.kind.starts_with("fuseblk.").then(|| entry.source.into());
    // One whose daemon is gone has no lock on the image either.
    Ok(status.ok().map(|status| First { target: entry.target, state: status.state, device }))
}

/// Whether the source of a mount is the image, or the loop device that stands for it. No mount is asked: one that hangs
/// would not answer.
fn stands_for(source: &str, image: &Path) -> bool {
    if Path::new(source) == image {
        return true;
    }
    let backing = Path::new(source).file_name().and_then(|name| {
        let file = Path::new("/sys/block").join(name).join("loop/backing_file");
        std::fs::read(file).ok()
    });
    backing.is_some_and(|backing| backing.trim_ascii_end() == image.as_os_str().as_bytes())
}

/// Mounts it once more, or a part of it. What the kernel knows by a device is there as a whole, whatever is left of
/// the first mount; of another, a part of the first mount is shown.
pub fn run(plan: &Plan<'_>, first: &First) -> Result<()> {
    let target = super::check_directory(plan.directory)?;
    let refused = |text: &str| {
        let todo = "unmount that first, or use a directory in it";
        Failure::at(exit::FAILED, plan.image, format!("mounted already on {}{text}; {todo}", first.target.display()))
    };
    if !rustix::process::geteuid().is_root() {
        return Err(refused(", and only root can show it in another place"));
    }
    if plan.options.access == Access::ReadWrite && first.state != MountState::ReadWrite {
        return Err(refused(" for reading only"));
    }
    let failed = |error: std::io::Error| failure::io(exit::FAILED, &first.target, &error);
    let Some(device) = &first.device else {
        let top = File::open(&first.target).map_err(failed)?;
        let source = first.target.join(part(plan, &top, &refused)?);
        let flags = plan.options.flags(MountFlags::empty());
        return mount::bind(&source, &target, flags).map_err(|error| failure::io(exit::FAILED, plan.directory, &error));
    };
    let mut how = MountOptions::for_root();
    how.flags = plan.options.flags(how.flags);
    let joined = Joined::new(device, &how).map_err(|error| failure::mount(plan.image, &error))?;
    let top = joined.top().map_err(failed)?;
    joined.attach(&part(plan, &top, &refused)?, &target).map_err(|error| failure::mount(plan.directory, &error))
}

/// The path below the top of what is mounted of the wanted subvolume.
fn part(plan: &Plan<'_>, top: &File, refused: &dyn Fn(&str) -> Failure) -> Result<PathBuf> {
    let failed = |error: std::io::Error| failure::io(exit::FAILED, plan.image, &error);
    let all = control::list_subvolumes(top.as_fd()).map_err(failed)?;
    let shown = control::subvolume_id(top.as_fd()).map_err(failed)?;
    let wanted = wanted(plan, top, &all)?;
    let path_of = |id: u64| all.iter().find(|found| found.id == id).map(|found| found.path.clone());
    let (Some(shown), Some(path)) = (path_of(shown), path_of(wanted)) else {
        return Err(refused(""));
    };
    let outside = format!(", which shows subvolume /{}, and /{} does not lie in it", shown.display(), path.display());
    path.strip_prefix(&shown).map(Path::to_path_buf).map_err(|_| refused(&outside))
}

fn wanted(plan: &Plan<'_>, top: &File, all: &[ListedSubvolume]) -> Result<u64> {
    let failed = |error: std::io::Error| failure::io(exit::FAILED, plan.image, &error);
    let by_path = |path: &[u8]| {
        let path: PathBuf = Path::new(OsStr::from_bytes(path)).components().filter(is_name).collect();
        all.iter().find(|found| found.path == path)
    };
    let (option, found) = match &plan.options.subvolume {
        SubvolumeChoice::Default => return control::default_subvolume(top.as_fd()).map_err(failed),
        SubvolumeChoice::Id(tree) => (format!("subvolid={}", tree.0), all.iter().find(|found| found.id == tree.0)),
        SubvolumeChoice::Path(path) => (format!("subvol={}", String::from_utf8_lossy(path)), by_path(path)),
    };
    let Some(found) = found else {
        let text = format!("{option}: no such subvolume; see butterfs subvolume list");
        return Err(Failure::at(exit::FAILED, plan.image, text));
    };
    match plan.options.subvolume_id {
        Some(id) if id.0 != found.id => {
            let text = format!("subvol= names subvolume {}, subvolid= says {id}; leave one out", found.id);
            Err(Failure::at(exit::FAILED, plan.image, text))
        }
        _ => Ok(found.id),
    }
}

fn is_name(component: &std::path::Component<'_>) -> bool {
    matches!(component, std::path::Component::Normal(_))
}
