//! Copying between the host and the filesystem of an image.
//!
//! * [`out`]: out of an image: one thread walks and makes names, others copy data.
//! * [`into`]: into an image: one thread reads ahead, one makes files, one writes to the devices; the engine commits.
//! * [`source`]: what is on the host, to read.
//! * [`report`], [`interrupt`]: what the user hears, and how he stops it.
//!
//! # Invariants
//! * What cannot be copied is named, and everything else is copied.
//! * A file is there whole or not at all, on either side, but for files of the host while they are written.
//! * Memory is bounded by the depth of directories and the names in one of them, not by their sum (but for
//!   hard links and the directories that were met).

pub mod interrupt;
pub mod into;
pub mod out;
pub mod report;
mod source;

use butterfs_engine::Error as EngineError;

use crate::host::{Existing, Policy};

/// Bytes that are read and written at once.
const PIECE: usize = 1 << 20;

/// What is done with directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recursion {
    /// They are refused.
    Refuse,
    /// They are copied with all that is in them.
    Descend,
}

/// What is done with symbolic links of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They are copied as links.
    Copy,
    /// What they lead to is copied.
    Follow,
}

/// What is done where a directory belongs to another filesystem (of an image: subvolume) than the one above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Borders {
    /// Nothing special.
    Cross,
    /// It is copied without what is in it.
    Stay,
}

/// How it is copied.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What is done with directories.
    pub recursion: Recursion,
    /// Which attributes are those of the source.
    pub policy: Policy,
    /// What happens to what is there already.
    pub existing: Existing,
    /// What is done with symbolic links.
    pub links: Links,
    /// What is done with other filesystems.
    pub borders: Borders,
}

/// Why something is not copied.
#[derive(Debug)]
pub enum Problem {
    /// The user does not want it.
    Skipped,
    /// The user stopped everything.
    Stopped,
    /// In words.
    Text(&'static str),
    /// The filesystem in the image.
    Image(EngineError),
    /// The host.
    Host(std::io::Error),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Skipped => f.write_str("skipped"),
            Self::Stopped => f.write_str("interrupted"),
            Self::Text(text) => f.write_str(text),
            Self::Image(error) => error.fmt(f),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::Image(error)
    }
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Host(error)
    }
}

impl From<rustix::io::Errno> for Problem {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Host(error.into())
    }
}

/// What it takes to copy one thing.
type Outcome<T> = Result<T, Problem>;

/// A directory was met where directories are refused.
const IS_DIRECTORY: Problem = Problem::Text("is a directory; use -r to copy it with what is in it");
/// The image is among what is copied.
const IS_IMAGE: Problem = Problem::Text("is the image itself");

/// Device and inode of what images are in.
fn identities(images: &[std::path::PathBuf]) -> Vec<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    images.iter().filter_map(|image| image.metadata().ok()).map(|meta| (meta.dev(), meta.ino())).collect()
}
