//! `butterfs subvolume`: subvolumes of a mounted filesystem. The words are those of `btrfs subvolume`.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_fuse::control::{self, Access};
use butterfs_fuse::mount::MountEntry;

use crate::failure::{self, Failure, Result};
use crate::{exit, output};

/// Subvolumes of a mounted filesystem.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make empty subvolumes.
    Create {
        /// Where: a path that does not exist yet.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Make a snapshot of a subvolume.
    Snapshot {
        /// A snapshot that cannot be changed.
        #[arg(short, long)]
        read_only: bool,
        /// The subvolume.
        source: PathBuf,
        /// A path that does not exist yet, or a directory to put the snapshot in.
        destination: PathBuf,
    },
    /// Delete subvolumes with all they hold.
    Delete {
        /// The subvolumes.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// Commit after each.
        #[arg(short = 'C', long)]
        commit_each: bool,
        /// Commit at the end.
        #[arg(short = 'c', long)]
        commit_after: bool,
    },
    /// List the subvolumes of a filesystem.
    List {
        /// Also print the parent's number.
        #[arg(short)]
        parent: bool,
        /// Any path in the mounted filesystem.
        path: PathBuf,
    },
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "subvolume create",
            Self::Snapshot { .. } => "subvolume snapshot",
            Self::Delete { .. } => "subvolume delete",
            Self::List { .. } => "subvolume list",
        }
    }
}

/// A directory, and a name in it.
struct Place<'a> {
    directory: &'a Path,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Failure::at(exit::USAGE, path, "has no name at its end; name the subvolume itself"));
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { directory, name })
    }

    fn display(&self) -> String {
        self.directory.join(self.name).display().to_string()
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Create { paths } => paths.iter().try_for_each(|path| create(path)),
        Command::Snapshot { read_only, source, destination } => {
            let access = if *read_only { Access::ReadOnly } else { Access::ReadWrite };
            snapshot(source, destination, access)
        }
        Command::Delete { paths, commit_each, commit_after } => {
            let commit = match (commit_each, commit_after) {
                (true, _) => Commit::Each,
                (false, true) => Commit::After,
                (false, false) => Commit::No,
            };
            delete(paths, commit)
        }
        Command::List { parent, path } => list(path, if *parent { Columns::WithParent } else { Columns::Usual }),
    }
}

/// When deletions become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    No,
    Each,
    After,
}

/// What a list shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Usual,
    WithParent,
}

fn create(path: &Path) -> Result<()> {
    let place = Place::of(path)?;
    let directory = open(place.directory)?;
    control::create_subvolume(directory.as_fd(), place.name).map_err(|error| failed(path, &error))?;
    output::line(format!("Create subvolume '{}'", place.display()));
    Ok(())
}

/// A destination that is a directory gets the snapshot under the source's name.
fn snapshot(source: &Path, destination: &Path, access: Access) -> Result<()> {
    let inside;
    let place = if destination.is_dir() {
        let source = source.canonicalize().map_err(|error| failed(source, &error))?;
        inside = destination.join(Place::of(&source)?.name);
        Place::of(&inside)?
    } else {
        Place::of(destination)?
    };
    take_snapshot(source, &place, access)?;
    let kind = if access == Access::ReadOnly { "readonly snapshot" } else { "snapshot" };
    output::line(format!("Create a {kind} of '{}' in '{}'", source.display(), place.display()));
    Ok(())
}

fn take_snapshot(source: &Path, place: &Place<'_>, access: Access) -> Result<()> {
    let (top, directory) = (open(source)?, open(place.directory)?);
    let target = place.directory.join(place.name);
    // The call itself does not say which of the two is wrong.
    control::subvolume_access(top.as_fd()).map_err(|error| failed(source, &error))?;
    control::snapshot(top.as_fd(), directory.as_fd(), place.name, access).map_err(|error| failed(&target, &error))?;
    Ok(())
}

fn delete(paths: &[PathBuf], commit: Commit) -> Result<()> {
    let words = if commit == Commit::No { "no-commit" } else { "commit" };
    for path in paths {
        let place = Place::of(path)?;
        let directory = open(place.directory)?;
        if path.canonicalize().and_then(|path| MountEntry::at(&path)).is_ok_and(|mount| mount.is_some()) {
            return Err(Failure::at(exit::USAGE, path, "a mount point; unmount it, or name a subvolume below it"));
        }
        let result = control::delete_subvolume(directory.as_fd(), place.name);
        result.map_err(|error| failed(path, &error))?;
        output::line(format!("Delete subvolume ({words}): '{}'", place.display()));
        if commit == Commit::Each || (commit == Commit::After && paths.last() == Some(path)) {
            control::sync(directory.as_fd()).map_err(|error| failed(path, &error))?;
        }
    }
    Ok(())
}

/// The top level has neither parent nor name and is not listed, as by `btrfs subvolume list`.
fn list(path: &Path, columns: Columns) -> Result<()> {
    let found = control::list_subvolumes(open(path)?.as_fd()).map_err(|error| failed(path, &error))?;
    for info in &found {
        let Some(top) = info.parent else { continue };
        let parent = if columns == Columns::WithParent { format!("parent {top} ") } else { String::new() };
        let (id, generation, path) = (info.id, info.generation, info.path.display());
        output::line(format!("ID {id} gen {generation} {parent}top level {top} path {path}"));
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| failed(path, &error))
}

/// Errors in words, with what to do.
fn failed(path: &Path, error: &io::Error) -> Failure {
    use rustix::io::Errno;
    let text = match Errno::from_io_error(error) {
        Some(Errno::EXIST) => "exists already; choose another name",
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => {
            "not on a filesystem mounted by butterfs; name a path in one"
        }
        Some(Errno::NOTEMPTY) => "holds other subvolumes; delete those first",
        Some(Errno::PERM) => "not permitted; it is the default subvolume or the mounted one, or you are not its owner",
        Some(Errno::ROFS) => "read-only; mount it with -o rw, or choose a subvolume that can be changed",
        Some(Errno::INVAL) => "not a subvolume; see butterfs subvolume list",
        _ => return failure::io(exit::USAGE, path, error),
    };
    Failure::at(exit::USAGE, path, text)
}
