//! A filesystem that is mounted already, mounted once more: one daemon serves it, and the second mount shows a part of
//! the first one, or all of it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use butterfs_engine::filesystem::{Access, SubvolumeChoice};
use butterfs_fuse::control::{self, ListedSubvolume, MountState};
use butterfs_fuse::mount::{self, MountEntry};

use super::Plan;
use crate::exit;
use crate::failure::{self, Failure, Result};

/// A mount of the same image.
pub struct First {
    target: PathBuf,
    state: MountState,
}

/// The mount of an image, if Butterfs has mounted it already.
pub fn find(image: &Path) -> Result<Option<First>> {
    let Ok(image) = image.canonicalize() else { return Ok(None) };
    let entries = MountEntry::of_butterfs().unwrap_or_default();
    let Some(entry) = entries.into_iter().find(|entry| stands_for(&entry.source, &image)) else { return Ok(None) };
    let status = File::open(&entry.target).and_then(|top| control::status(top.as_fd()));
    // One whose daemon is gone has no lock on the image either.
    Ok(status.ok().map(|status| First { target: entry.target, state: status.state }))
}

/// Whether the source of a mount is the image, or the loop device that stands for it. No mount is asked: one that hangs
/// would not answer.
fn stands_for(source: &str, image: &Path) -> bool {
    let backing = Path::new(source).file_name().and_then(|name| {
        let file = Path::new("/sys/block").join(name).join("loop/backing_file");
        std::fs::read(file).ok()
    });
    match backing {
        Some(backing) => backing.trim_ascii_end() == image.as_os_str().as_bytes(),
        None => Path::new(source) == image,
    }
}

/// Mounts a part of the first mount.
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
    let source = source(plan, first, &refused)?;
    let flags = plan.options.flags(butterfs_fuse::mount::MountFlags::empty());
    mount::bind(&source, &target, flags).map_err(|error| failure::io(exit::FAILED, plan.directory, &error))
}

/// The directory in the first mount that is the wanted subvolume.
fn source(plan: &Plan<'_>, first: &First, refused: &dyn Fn(&str) -> Failure) -> Result<PathBuf> {
    let failed = |error: std::io::Error| failure::io(exit::FAILED, &first.target, &error);
    let top = File::open(&first.target).map_err(failed)?;
    let all = control::list_subvolumes(top.as_fd()).map_err(failed)?;
    let shown = control::subvolume_id(top.as_fd()).map_err(failed)?;
    let wanted = wanted(plan, &top, &all)?;
    let path_of = |id: u64| all.iter().find(|found| found.id == id).map(|found| found.path.clone());
    let (Some(shown), Some(path)) = (path_of(shown), path_of(wanted)) else {
        return Err(refused(""));
    };
    match path.strip_prefix(&shown) {
        Ok(below) if below.as_os_str().is_empty() => Ok(first.target.clone()),
        Ok(below) => Ok(first.target.join(below)),
        Err(_) => Err(refused(&format!(
            ", which shows subvolume /{}, and /{} does not lie in it",
            shown.display(),
            path.display()
        ))),
    }
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
