//! `filesystem du`: what files take, and how much of it they share with others.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_fuse::control::{self, MapFlag};

use super::picture::not_btrfs;
use super::show::superblock_of;
use crate::commands::units::Units;
use crate::failure::{Failure, Result, io_text};
use crate::names::Shown;
use crate::{exit, output};

/// What `filesystem du` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only a line for each argument.
    #[arg(short, long)]
    summarize: bool,
    #[command(flatten)]
    units: Units,
    /// Files and directories on a mount.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut problems = Vec::new();
    let printed = output::stream(|out| {
        line(out, ["Total", "Exclusive", "Set shared"], b"Filename")?;
        for path in &arguments.paths {
            let mut walk = Walk { arguments, out: &mut *out, seen: HashSet::new(), shared: Ranges::default() };
            match walk.top(path) {
                Ok(()) => {}
                Err(Trouble::Output(error)) => return Err(error),
                Err(Trouble::Files(path, error)) => problems.push((path, error)),
            }
        }
        Ok(())
    });
    printed.map_err(|error| Failure::new(exit::USAGE, error))?;
    for (path, error) in &problems {
        let text = match not_btrfs(path, error) {
            _ if superblock_of(path).is_ok() => {
                format!(
                    "{}: holds a filesystem that is not mounted; mount it (ro) and name a path in it",
                    path.display()
                )
            }
            other if other.line().starts_with("not a btrfs") => other.line(),
            _ => format!("cannot check space of '{}': {}", path.display(), io_text(error)),
        };
        output::complain("filesystem du", text);
    }
    Ok(ExitCode::from(if problems.is_empty() { 0 } else { exit::USAGE }))
}

fn line(out: &mut dyn Write, numbers: [&str; 3], name: &[u8]) -> io::Result<()> {
    let [total, exclusive, shared] = numbers;
    writeln!(out, "{total:>10}  {exclusive:>10}  {shared:>10}  {}", Shown(name))
}

/// Why a walk ends.
enum Trouble {
    /// Nobody can be told.
    Output(io::Error),
    /// Something could not be read.
    Files(PathBuf, io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Bytes that files refer to, and those of them that others refer to, too.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    total: u64,
    shared: u64,
}

struct Walk<'a> {
    arguments: &'a Arguments,
    out: &'a mut dyn Write,
    /// Hard links count once.
    seen: HashSet<(u64, u64)>,
    shared: Ranges,
}

impl Walk<'_> {
    fn top(&mut self, path: &Path) -> std::result::Result<(), Trouble> {
        let sum = self.add(path)?.unwrap_or_default();
        let shared = if path.is_dir() { self.shared.len() } else { sum.shared };
        self.print(sum, Some(shared), path)?;
        Ok(())
    }

    fn print(&mut self, sum: Sum, shared: Option<u64>, path: &Path) -> io::Result<()> {
        let units = self.arguments.units;
        let (total, exclusive) = (units.show(sum.total), units.show(sum.total - sum.shared));
        let shared = shared.map_or("-".into(), |bytes| units.show(bytes));
        line(self.out, [&total, &exclusive, &shared], path.as_os_str().as_bytes())
    }

    /// What a file takes, or all in a directory; nothing if it was counted before.
    fn add(&mut self, path: &Path) -> std::result::Result<Option<Sum>, Trouble> {
        let failed = |error: io::Error| Trouble::Files(path.to_path_buf(), error);
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let subvolume = control::subvolume_id(file.as_fd()).map_err(failed)?;
        if !self.seen.insert((subvolume, meta.ino())) {
            return Ok(None);
        }
        if meta.is_dir() { self.add_directory(path).map(Some) } else { self.add_file(&file).map(Some).map_err(failed) }
    }

    fn add_directory(&mut self, path: &Path) -> std::result::Result<Sum, Trouble> {
        let failed = |error: io::Error| Trouble::Files(path.to_path_buf(), error);
        let mut sum = Sum::default();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if !kind.is_file() && !kind.is_dir() {
                continue;
            }
            // As it was typed, with no second slash.
            let path = path.join(entry.file_name());
            let Some(found) = self.add(&path)? else { continue };
            sum = Sum { total: sum.total + found.total, shared: sum.shared + found.shared };
            if !self.arguments.summarize {
                self.print(found, None, &path)?;
            }
        }
        Ok(sum)
    }

    fn add_file(&mut self, file: &File) -> io::Result<Sum> {
        let mut sum = Sum::default();
        let map = control::file_map(file.as_fd())?;
        // Inline data takes no space of its own.
        for range in map.ranges.iter().filter(|range| !range.has(MapFlag::Inline)) {
            sum.total += range.len;
            if range.has(MapFlag::Shared) {
                sum.shared += range.len;
                self.shared.add(range.physical, range.len);
            }
        }
        Ok(sum)
    }
}

/// Ranges of the logical address space, each byte once.
#[derive(Clone, Debug, Default)]
struct Ranges {
    /// Ends by starts; they do not touch.
    ends: BTreeMap<u64, u64>,
}

impl Ranges {
    fn add(&mut self, start: u64, len: u64) {
        let (mut start, mut end) = (start, start.saturating_add(len));
        while let Some((from, to)) = self.ends.range(..=end).next_back().map(|(from, to)| (*from, *to)) {
            if to < start {
                break;
            }
            self.ends.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.ends.insert(start, end);
    }

    fn len(&self) -> u64 {
        self.ends.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_counts_once() {
        let mut ranges = Ranges::default();
        for (start, len) in [(100, 10), (120, 10), (105, 5), (200, 1), (108, 14), (90, 5), (95, 5)] {
            ranges.add(start, len);
        }
        assert_eq!(ranges.ends.iter().map(|(a, b)| (*a, *b)).collect::<Vec<_>>(), [(90, 130), (200, 201)]);
        assert_eq!(ranges.len(), 41);
    }
}
