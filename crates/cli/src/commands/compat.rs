//! `butterfs compat`: runs a program with a library that does what Linux passes to no FUSE filesystem.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::exit;
use crate::failure::{Failure, Result};

/// The library's name.
const LIBRARY: &str = "libbutterfs_compat.so";
/// Where it is, if it is somewhere else.
const VARIABLE: &str = "BUTTERFS_COMPAT_LIBRARY";
/// What the dynamic linker reads.
const PRELOAD: &str = "LD_PRELOAD";
/// Where it may be, seen from the directory of the program.
const PLACES: [&str; 3] = ["", "../lib/butterfs", "../lib"];

const EXAMPLES: &str = "\
Examples:
  butterfs compat -- cp --reflink=always /mnt/disk.qcow2 /mnt/copy.qcow2
  butterfs compat -- btrfs subvolume list /mnt
  butterfs compat -- duperemove -dr /mnt
  butterfs compat -- bash                      # for all that is started from this shell

The program, and all that it starts, can clone, deduplicate and map files, and sees Btrfs. It makes no
difference on other filesystems, to programs that are statically linked, and to those that run with
other rights than their caller (set-user-id).";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The program to run, and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command. Comes back only if that fails.
pub fn run(arguments: &Arguments) -> Result<()> {
    let library = library()?;
    let (program, rest) = arguments.command.split_first().expect("clap requires one");
    let error = Command::new(program).args(rest).env(PRELOAD, preload(&library, env::var_os(PRELOAD))).exec();
    let (code, advice) = match error.kind() {
        ErrorKind::NotFound => (exit::NO_COMMAND, "no such command; check its name and PATH".to_owned()),
        ErrorKind::PermissionDenied => (exit::NOT_RUN, "cannot be run; check its permissions".to_owned()),
        _ => (exit::NOT_RUN, error.to_string()),
    };
    Err(Failure::at(code, Path::new(program), advice))
}

/// Finds the library.
fn library() -> Result<PathBuf> {
    if let Some(given) = env::var_os(VARIABLE) {
        let path = PathBuf::from(given);
        return match path.canonicalize() {
            Ok(path) => usable(path),
            Err(error) => Err(Failure::at(exit::SYSTEM, &path, format!("{error}; {VARIABLE} must name {LIBRARY}"))),
        };
    }
    let program =
        env::current_exe().map_err(|error| Failure::new(exit::SYSTEM, format!("/proc is needed: {error}")))?;
    let directory = program.parent().unwrap_or(Path::new("/"));
    let found = PLACES.iter().find_map(|place| directory.join(place).join(LIBRARY).canonicalize().ok());
    found.map_or_else(|| Err(missing(directory)), usable)
}

fn missing(directory: &Path) -> Failure {
    let text = format!(
        "{LIBRARY} is missing; put it beside the program, into {}, or name it in {VARIABLE} (cargo build --workspace makes both)",
        PLACES.map(|place| directory.join(place).display().to_string()).join(", ")
    );
    Failure::new(exit::SYSTEM, text)
}

/// The dynamic linker takes spaces and colons for the ends of names.
fn usable(library: PathBuf) -> Result<PathBuf> {
    if library.as_os_str().as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let text = format!("spaces and colons in its path keep it from being loaded; name another copy in {VARIABLE}");
        return Err(Failure::at(exit::SYSTEM, &library, text));
    }
    Ok(library)
}

/// The library, before others that are to be loaded.
fn preload(library: &Path, others: Option<OsString>) -> OsString {
    let mut list = library.as_os_str().to_owned();
    let all = others.unwrap_or_default();
    let others = all.as_bytes().split(|byte| b" :".contains(byte));
    for other in others.filter(|other| !other.is_empty() && *other != library.as_os_str().as_bytes()) {
        list.push(":");
        list.push(OsStr::from_bytes(other));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_comes_first_and_once() {
        let list = |others: Option<&str>| preload(Path::new("/lib/ours.so"), others.map(OsString::from));
        assert_eq!(list(None), "/lib/ours.so");
        assert_eq!(list(Some("")), "/lib/ours.so");
        assert_eq!(list(Some("a.so:/lib/ours.so b.so")), "/lib/ours.so:a.so:b.so");
    }

    #[test]
    fn paths_that_the_linker_would_cut_are_refused() {
        assert!(usable(PathBuf::from("/a/b.so")).is_ok());
        assert!(usable(PathBuf::from("/a b/c.so")).is_err());
        assert!(usable(PathBuf::from("/a:b/c.so")).is_err());
    }
}
