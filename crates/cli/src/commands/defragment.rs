//! `butterfs filesystem defragment`: the words are those of `btrfs filesystem defragment`.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use butterfs_format::compression::{Choice, Method};
use butterfs_fuse::control::{self, DefragCompression, DefragFlush, DefragSharing, DefragWish};
use rustix::io::Errno;

use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// Extents that are so long stay, if nothing else is said; as in btrfs-progs.
const LARGE: u64 = 32 << 20;

/// What `filesystem defragment` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Files, and directories: of a directory, the tree of its subvolume is defragmented, with -r the files below it.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// All files below a directory, but those of other subvolumes and filesystems.
    #[arg(short, long)]
    recursive: bool,
    /// Print each path.
    #[arg(short, long)]
    verbose: bool,
    /// Have the data on the device before going on.
    #[arg(short, long)]
    flush: bool,
    /// Compress: zlib, lzo or zstd (-c, or -cALGORITHM without a space).
    #[arg(long, value_name = "ALGORITHM", num_args = 0..=1, require_equals = true, default_missing_value = "zlib")]
    compress: Option<String>,
    /// The level of compression (zlib: 1 to 9, zstd: -15 to 15; 0: the default).
    #[arg(short = 'L', long, value_name = "LEVEL", allow_negative_numbers = true, requires = "compress")]
    level: Option<i8>,
    /// Decompress.
    #[arg(long, conflicts_with = "compress")]
    nocomp: bool,
    /// Go on in steps of so many bytes, with the data on the device after each.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    step: Option<u64>,
    /// Begin at this byte.
    #[arg(short, long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    start: u64,
    /// Do so many bytes.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    len: Option<u64>,
    /// Leave extents of this size as they are (32M).
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    target: Option<u64>,
    /// Write anew what reflinks and snapshots share too, which takes space twice from then on.
    #[arg(long)]
    break_shared: bool,
}

/// Runs the command: all paths, even if one fails; gives how many failed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let wish = wish(arguments)?;
    let mut failures = 0;
    for path in &arguments.paths {
        let found = path.symlink_metadata().map_err(|error| failure::io(exit::USAGE, path, &error))?;
        if arguments.recursive && found.is_dir() {
            match require_btrfs(path) {
                Ok(()) => walk(arguments, &wish, path, &found, &mut failures),
                failed => count(failed, &mut failures),
            }
        } else {
            count(one(arguments, &wish, path, &found), &mut failures);
        }
    }
    if failures == 0 { Ok(()) } else { Err(Failure::new(exit::USAGE, format!("total {failures} failures"))) }
}

fn wish(arguments: &Arguments) -> Result<DefragWish> {
    let large = arguments.target.unwrap_or(LARGE).min(u32::MAX.into()) as u32;
    Ok(DefragWish {
        start: arguments.start,
        len: arguments.len.unwrap_or(u64::MAX),
        large,
        compression: compression(arguments)?,
        sharing: if arguments.break_shared { DefragSharing::Break } else { DefragSharing::Keep },
        flush: if arguments.flush { DefragFlush::Now } else { DefragFlush::Later },
    })
}

fn compression(arguments: &Arguments) -> Result<DefragCompression> {
    if arguments.nocomp {
        return Ok(DefragCompression::Never);
    }
    let Some(name) = &arguments.compress else { return Ok(DefragCompression::AsItIs) };
    let level = arguments.level.unwrap_or(0);
    let text = if level == 0 { name.clone() } else { format!("{name}:{level}") };
    let number = match text.parse::<Choice>() {
        Ok(Choice::With(Method::Zlib(_))) => 1,
        Ok(Choice::With(Method::Lzo)) => 2,
        Ok(Choice::With(Method::Zstd(_))) => 3,
        Ok(Choice::Never) => return Err(Failure::new(exit::USAGE, "use --nocomp to decompress")),
        Err(error) => return Err(Failure::new(exit::USAGE, format!("unknown compression '{text}': {error}"))),
    };
    Ok(DefragCompression::With(number, level))
}

/// Prints a failure and counts it.
fn count(result: Result<()>, failures: &mut usize) {
    if let Err(failure) = result {
        failure.print("filesystem defragment");
        *failures += 1;
    }
}

/// Fails, once for all that is below, if a directory is on no Btrfs.
fn require_btrfs(dir: &Path) -> Result<()> {
    let file = File::open(dir).map_err(|error| failure::io(exit::USAGE, dir, &error))?;
    match control::subvolume_id(file.as_fd()) {
        Err(error) if is_foreign(&error) => Err(failed(dir, &error)),
        _ => Ok(()),
    }
}

/// Whether an error says that no Btrfs was asked.
fn is_foreign(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS))
}

/// All regular files below a directory, on the same device.
fn walk(arguments: &Arguments, wish: &DefragWish, dir: &Path, found: &Metadata, failures: &mut usize) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return count(Err(failure::io(exit::USAGE, dir, &error)), failures),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(entry) = path.symlink_metadata() else { continue };
        if entry.dev() != found.dev() {
            continue;
        }
        if entry.is_dir() {
            walk(arguments, wish, &path, found, failures);
        } else if entry.is_file() {
            count(one(arguments, wish, &path, &entry), failures);
        }
    }
}

/// One file, or the tree of a directory's subvolume.
fn one(arguments: &Arguments, wish: &DefragWish, path: &Path, found: &Metadata) -> Result<()> {
    if arguments.verbose {
        output::line(path.display().to_string());
    }
    let open = |write: bool| OpenOptions::new().read(true).write(write).open(path);
    let file = if found.is_dir() { open(false) } else { open(true).or_else(|_| open(false)) };
    let file = file.map_err(|error| failure::io(exit::USAGE, path, &error))?;
    let steps = match arguments.step {
        Some(step) if found.is_file() => in_steps(wish, step.max(1), found.len(), &file),
        _ => control::defragment(file.as_fd(), wish),
    };
    let done = match arguments.flush && found.is_file() {
        true => steps.and_then(|()| file.sync_data()),
        false => steps,
    };
    done.map_err(|error| failed(path, &error))
}

fn in_steps(wish: &DefragWish, step: u64, size: u64, file: &File) -> io::Result<()> {
    let end = wish.start.saturating_add(wish.len).min(size);
    let mut at = wish.start;
    while at < end {
        let len = step.min(end - at);
        control::defragment(file.as_fd(), &DefragWish { start: at, len, ..*wish })?;
        file.sync_data()?;
        at += len;
    }
    Ok(())
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let text = match Errno::from_io_error(error) {
        _ if is_foreign(error) => "cannot be defragmented; name a path on a mounted Btrfs filesystem",
        Some(Errno::ROFS) => "read-only; mount it with -o rw, or choose a subvolume that can be changed",
        Some(Errno::NOSPC) => "no space left on the filesystem; delete something",
        _ => return failure::io(exit::USAGE, path, error),
    };
    Failure::at(exit::USAGE, path, text)
}
