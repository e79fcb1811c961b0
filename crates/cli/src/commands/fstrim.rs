//! `butterfs fstrim`: free space of a mounted filesystem, told to its devices. Options and words are those of fstrim(8).

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use butterfs_fuse::control::{self, TrimRange};
use rustix::io::Errno;

use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// What `fstrim` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where in the filesystem's address space to begin, in bytes.
    #[arg(short, long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    offset: u64,
    /// How far to go, in bytes; all of it if not given.
    #[arg(short, long, value_name = "SIZE", value_parser = size::parse)]
    length: Option<u64>,
    /// Leave out free ranges that are shorter than this.
    #[arg(short, long, value_name = "SIZE", default_value = "0", value_parser = size::parse)]
    minimum: u64,
    /// Print how many bytes were trimmed.
    #[arg(short, long)]
    verbose: bool,
    /// The mount point.
    mount_point: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.mount_point.as_path();
    let file = File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    let range =
        TrimRange { start: arguments.offset, len: arguments.length.unwrap_or(u64::MAX), minimum: arguments.minimum };
    let trimmed = control::trim(file.as_fd(), range).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => {
            Failure::at(exit::FAILED, path, "the discard operation is not supported")
        }
        _ => failure::io(exit::FAILED, path, &error),
    })?;
    if arguments.verbose {
        output::line(format!("{}: {} ({trimmed} bytes) trimmed", path.display(), human(trimmed)));
    }
    Ok(())
}

/// As fstrim(8) prints it: one digit behind the point, if it is not zero.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    let tenths = (u128::from(bytes) * 10 + (1 << (10 * unit) >> 1)) >> (10 * unit);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {}", UNITS[unit]),
        (whole, tenth) => format!("{whole}.{tenth} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_fstrim_prints_them() {
        let cases =
            [(0, "0 B"), (512, "512 B"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"), ((1 << 30) + 99_999_999, "1.1 GiB")];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }
}
