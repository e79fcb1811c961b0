//! `butterfs subvolume delete`: by path or by number, with those beneath if that is asked for.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_fuse::control::{self, ListedSubvolume};
use butterfs_fuse::mount::MountEntry;

use super::{Place, failed, find, open};
use crate::failure::{Failure, Result};
use crate::{exit, output};

/// What `subvolume delete` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Commit at the end.
    #[arg(short = 'c', long)]
    commit_after: bool,
    /// Commit after each.
    #[arg(short = 'C', long)]
    commit_each: bool,
    /// Delete the subvolume with this number; the path is any in the filesystem.
    #[arg(short = 'i', long, value_name = "ID")]
    subvolid: Option<u64>,
    /// Delete the subvolumes beneath, too. This is not atomic.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Has no effect: what is done is always told.
    #[arg(short = 'v', long = "verbose")]
    _verbose: bool,
    /// The subvolumes.
    #[arg(required = true, value_name = "SUBVOLUME")]
    paths: Vec<PathBuf>,
}

/// When deletions become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    No,
    Each,
    After,
}

impl Commit {
    fn words(self) -> &'static str {
        if self == Self::No { "no-commit" } else { "commit" }
    }
}

/// A subvolume to delete.
struct Victim {
    /// Any file of its filesystem.
    file: File,
    id: u64,
    /// As it is shown.
    path: PathBuf,
}

/// Deletes each that can be deleted.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let commit = match (arguments.commit_each, arguments.commit_after) {
        (true, _) => Commit::Each,
        (false, true) => Commit::After,
        (false, false) => Commit::No,
    };
    if arguments.subvolid.is_some() && arguments.paths.len() > 1 {
        return Err(Failure::new(exit::USAGE, "-i takes one path, of the filesystem; name one only"));
    }
    let (mut code, mut touched) = (ExitCode::SUCCESS, Vec::new());
    for path in &arguments.paths {
        let done = victims(arguments, path).and_then(|victims| {
            victims.into_iter().try_for_each(|victim| {
                delete(&victim, commit)?;
                touched.push(victim.file);
                Ok(())
            })
        });
        if let Err(failure) = done {
            output::complain("subvolume delete", failure.line());
            code = ExitCode::from(exit::USAGE);
        }
    }
    if commit == Commit::After {
        for file in &touched {
            control::sync(file.as_fd()).map_err(|error| failed(Path::new("the last commit"), &error))?;
        }
    }
    Ok(code)
}

/// What a path, or a number, stands for: those beneath come first.
fn victims(arguments: &Arguments, path: &Path) -> Result<Vec<Victim>> {
    let (file, id, shown) = match arguments.subvolid {
        Some(id) => (open(path)?, id, None),
        None => by_path(path)?,
    };
    // Listing is for root. Others delete what they own, by its path.
    let listed = control::list_subvolumes(file.as_fd());
    let all = match listed {
        Ok(all) => all,
        Err(error) if arguments.recursive || arguments.subvolid.is_some() => return Err(failed(path, &error)),
        Err(_) => Vec::new(),
    };
    let own = find(&all, id).map(|found| found.path.clone());
    let shown = match (shown, &own) {
        (Some(shown), _) => shown,
        (None, Some(own)) => path.join(own),
        (None, None) => {
            return Err(Failure::at(exit::USAGE, path, format!("no subvolume {id}; see butterfs subvolume list")));
        }
    };
    let mut order = Vec::new();
    if let (true, Some(own)) = (arguments.recursive, &own) {
        beneath(&all, id, &mut |found| {
            let below = found.path.strip_prefix(own).unwrap_or(&found.path);
            order.push((found.id, shown.join(below)));
        });
    }
    order.push((id, shown));
    let victim = |(id, path): (u64, PathBuf)| {
        let file = file.try_clone().map_err(|error| failed(&path, &error))?;
        Ok(Victim { file, id, path })
    };
    order.into_iter().map(victim).collect()
}

fn by_path(path: &Path) -> Result<(File, u64, Option<PathBuf>)> {
    let real = path.canonicalize().map_err(|error| failed(path, &error))?;
    if MountEntry::at(&real).is_ok_and(|mount| mount.is_some()) {
        return Err(Failure::at(exit::USAGE, path, "a mount point; unmount it, or name a subvolume below it"));
    }
    let file = open(path)?;
    control::subvolume_access(file.as_fd()).map_err(|error| failed(path, &error))?;
    let id = control::subvolume_id(file.as_fd()).map_err(|error| failed(path, &error))?;
    Ok((file, id, Some(real)))
}

/// Calls `each` with all subvolumes beneath one, the deepest first.
fn beneath(all: &[ListedSubvolume], id: u64, each: &mut dyn FnMut(&ListedSubvolume)) {
    for child in all.iter().filter(|found| found.parent == Some(id)) {
        beneath(all, child.id, each);
        each(child);
    }
}

fn delete(victim: &Victim, commit: Commit) -> Result<()> {
    let path = victim.path.as_path();
    if control::default_subvolume(victim.file.as_fd()).is_ok_and(|default| default == victim.id) {
        let text = format!("not deleting default subvolume id {}; choose another with set-default", victim.id);
        return Err(Failure::at(exit::USAGE, path, text));
    }
    output::line(format!("Delete subvolume {} ({}): '{}'", victim.id, commit.words(), path.display()));
    // What is not below the mount has no path here, only a number.
    let deleted = match is_at(victim) {
        true => {
            let place = Place::of(path)?;
            control::delete_subvolume(open(place.directory)?.as_fd(), place.name)
        }
        false => control::delete_subvolume_by_id(victim.file.as_fd(), victim.id),
    };
    deleted.map_err(|error| failed(path, &error))?;
    if commit == Commit::Each {
        control::sync(victim.file.as_fd()).map_err(|error| failed(path, &error))?;
    }
    Ok(())
}

/// Whether the path leads to the subvolume.
fn is_at(victim: &Victim) -> bool {
    File::open(&victim.path).and_then(|top| control::subvolume_id(top.as_fd())).is_ok_and(|id| id == victim.id)
}
