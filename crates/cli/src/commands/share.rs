//! `butterfs reflink` and `butterfs dedupe`: files of a mount that share extents.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use butterfs_fuse::control::{self, Deduped, Offered, SharedRange};
use rustix::io::Errno;

use crate::failure::{self, Failure, Result};
use crate::{exit, output};

/// What `reflink` is told.
#[derive(Debug, clap::Args)]
pub struct ReflinkArguments {
    /// A part of the source and where it goes, in bytes or with K, M, G: multiples of the sector size (4K); only the
    /// source's end need not be one, where nothing follows in DEST.
    #[arg(long, value_name = "SRC_OFFSET:LENGTH:DEST_OFFSET")]
    range: Option<Range>,
    /// The file whose extents are shared.
    source: PathBuf,
    /// The file that gets them: a new one, or one whose content is replaced (with --range, only there).
    dest: PathBuf,
}

/// What `dedupe` is told.
#[derive(Debug, clap::Args)]
pub struct DedupeArguments {
    /// Compare a part of the first file with a part of the others, in bytes or with K, M, G.
    #[arg(long, value_name = "SRC_OFFSET:LENGTH:DEST_OFFSET")]
    range: Option<Range>,
    /// The file whose extents stay.
    source: PathBuf,
    /// Files that share them where they have the same bytes.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// A range as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range(SharedRange);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let [source, len, dest] = parts[..] else {
            return Err("three numbers are needed, with colons between them: 0:64K:1M".into());
        };
        let number = |text: &str| crate::size::parse(text).map_err(|error| error.to_string());
        Ok(Self(SharedRange { source: number(source)?, len: number(len)?, dest: number(dest)? }))
    }
}

/// A file, open and looked at.
struct Opened<'a> {
    path: &'a Path,
    file: File,
    found: Metadata,
}

impl<'a> Opened<'a> {
    fn new(path: &'a Path, options: &OpenOptions) -> Result<Self> {
        let file = options.open(path).map_err(|error| failed(path, &error))?;
        let found = file.metadata().map_err(|error| failed(path, &error))?;
        if !found.is_file() {
            return Err(Failure::at(exit::USAGE, path, "not a regular file; only those have extents to share"));
        }
        Ok(Self { path, file, found })
    }

    fn offer(&self) -> Result<Offered> {
        control::offer(self.file.as_fd()).map_err(|error| failed(self.path, &error))
    }

    fn require_mount_of(&self, source: &Self) -> Result<()> {
        if self.found.dev() == source.found.dev() {
            return Ok(());
        }
        let text = format!("not on the filesystem of {}; only files of one mount share extents", source.path.display());
        Err(Failure::at(exit::USAGE, self.path, text))
    }
}

/// Runs `reflink`.
pub fn reflink(arguments: &ReflinkArguments) -> Result<()> {
    let source = Opened::new(&arguments.source, OpenOptions::new().read(true))?;
    let offered = source.offer()?;
    let is_new = !arguments.dest.exists();
    let mode = source.found.permissions().mode() & 0o777;
    // Nothing is cut off before it is known that the rest can be done.
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode).clone();
    let dest = Opened::new(&arguments.dest, &options)?;
    let done = dest.require_mount_of(&source).and_then(|()| share(&source, offered, &dest, arguments.range));
    if done.is_err() && is_new {
        // It is empty; the first error is the one to tell.
        let _ = std::fs::remove_file(&arguments.dest);
    }
    done
}

fn share(source: &Opened<'_>, offered: Offered, dest: &Opened<'_>, range: Option<Range>) -> Result<()> {
    let range = match range {
        Some(Range(range)) => range,
        None if (source.found.ino(), source.found.dev()) == (dest.found.ino(), dest.found.dev()) => {
            return Err(Failure::at(exit::USAGE, dest.path, "is the source itself; name another file, or a --range"));
        }
        None => {
            let len = source.found.len();
            if dest.found.len() > len {
                dest.file.set_len(len).map_err(|error| failed(dest.path, &error))?;
            }
            SharedRange { source: 0, len, dest: 0 }
        }
    };
    control::reflink(offered, dest.file.as_fd(), range).map_err(|error| failed(dest.path, &error))
}

/// Runs `dedupe`: all files, even if one fails; gives the first failure.
pub fn dedupe(arguments: &DedupeArguments) -> Result<()> {
    let source = Opened::new(&arguments.source, OpenOptions::new().read(true))?;
    let offered = source.offer()?;
    let mut first = Ok(());
    for path in &arguments.files {
        let done = dedupe_one(&source, offered, path, arguments.range);
        first = match (first, done) {
            (Ok(()), done) => done,
            (Err(first), Err(other)) => {
                other.print("dedupe");
                Err(first)
            }
            (first, Ok(())) => first,
        };
    }
    first
}

fn dedupe_one(source: &Opened<'_>, offered: Offered, path: &Path, range: Option<Range>) -> Result<()> {
    let dest = Opened::new(path, OpenOptions::new().read(true))?;
    dest.require_mount_of(source)?;
    let whole = SharedRange { source: 0, len: source.found.len(), dest: 0 };
    if range.is_none() && dest.found.len() != whole.len {
        return Err(differs(source, path));
    }
    let range = range.map_or(whole, |range| range.0);
    match control::dedupe(offered, dest.file.as_fd(), range).map_err(|error| failed(path, &error))? {
        Deduped::Shared => {
            output::line(format!("'{}' shares {} bytes with '{}'", path.display(), range.len, source.path.display()));
            Ok(())
        }
        Deduped::Differs(_) => Err(differs(source, path)),
    }
}

fn differs(source: &Opened<'_>, path: &Path) -> Failure {
    let text = format!("differs from {}; its content stays as it is", source.path.display());
    Failure::at(exit::DIFFERS, path, text)
}

/// Errors in words, with what to do.
fn failed(path: &Path, error: &io::Error) -> Failure {
    let text = match Errno::from_io_error(error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => {
            "not on a filesystem mounted by butterfs; use cp --reflink on other filesystems"
        }
        Some(Errno::INVAL) => {
            "cannot share this range; offsets and length must be multiples of the sector size (4K) or end with the \
             source, within it and without overlap, and both files with checksums or both without"
        }
        Some(Errno::ISDIR) => "is a directory; name a file",
        Some(Errno::ROFS) => "read-only; mount it with -o rw, or choose a subvolume that can be changed",
        Some(Errno::PERM) => "not permitted; it is immutable or append-only (see lsattr)",
        Some(Errno::NOSPC) => "no space left on the filesystem; delete something",
        _ => return failure::io(exit::USAGE, path, error),
    };
    Failure::at(exit::USAGE, path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let range = Range(SharedRange { source: 0, len: 65_536, dest: 1 << 20 });
        assert_eq!("0:64K:1M".parse::<Range>(), Ok(range));
        for wrong in ["", "1:2", "1:2:3:4", "a:1:2", "1::2"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }
}
