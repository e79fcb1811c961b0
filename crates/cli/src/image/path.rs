//! From paths in an image to inodes.
//!
//! # Invariants
//! * A path begins at the top that was chosen, and so does a symbolic link with a leading slash; `..` there
//!   leads nowhere. No path of the host is ever looked at.

use std::collections::VecDeque;

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::Filesystem;
use butterfs_engine::inode::InodeId;
use butterfs_engine::{Error, Result};
use butterfs_format::items::FileType;

/// As many symbolic links as Linux follows in one path.
const MOST_LINKS: usize = 40;

/// What is done with a symbolic link at a path's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It is followed.
    Follow,
    /// It is what was meant.
    Keep,
}

/// The inode that a path leads to from the top.
///
/// # Errors
/// As the engine's.
pub fn resolve(fs: &Filesystem, path: &[u8], last: Last) -> Result<InodeId> {
    resolve_from(fs, fs.root(), path, last)
}

/// The inode that a path leads to from a directory.
///
/// # Errors
/// As the engine's.
pub fn resolve_from(fs: &Filesystem, from: InodeId, path: &[u8], last: Last) -> Result<InodeId> {
    let mut at = if path.first() == Some(&b'/') { fs.root() } else { from };
    let mut names: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
    // What a slash follows is meant to be a directory.
    let must_be_dir = path.last() == Some(&b'/');
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        let found = fs.lookup(Place::new(at, &name))?;
        let file_type = fs.attributes(found)?.file_type;
        if file_type != FileType::Symlink || (names.is_empty() && last == Last::Keep && !must_be_dir) {
            at = found;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::Invalid("too many levels of symbolic links"));
        }
        let target = fs.read_link(found)?;
        if target.first() == Some(&b'/') {
            at = fs.root();
        }
        for name in components(&target).rev() {
            names.push_front(name.to_vec());
        }
    }
    if must_be_dir && fs.attributes(at)?.file_type != FileType::Directory {
        return Err(Error::NotDirectory);
    }
    Ok(at)
}

/// The names in a path.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A path's last name; `None` if it ends in `.` or `..`, or has none: then a directory is meant for what is
/// in it.
pub fn last_name(path: &[u8]) -> Option<&[u8]> {
    let name = path.split(|byte| *byte == b'/').rfind(|name| !name.is_empty())?;
    (name != b"." && name != b"..").then_some(name)
}

/// The path without its last name.
pub fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
    let name = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    &path[..name]
}

/// A path with a name behind it.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.is_empty() || path.ends_with(b"/") { b"" } else { b"/" };
    [path, slash, name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_apart() {
        for (path, name, above) in [
            (&b"a"[..], Some(&b"a"[..]), &b""[..]),
            (b"/a", Some(b"a"), b"/"),
            (b"a/b//", Some(b"b"), b"a/"),
            (b"a/.", None, b"a/"),
            (b"/", None, b""),
            (b"", None, b""),
            (b"a/..", None, b"a/"),
        ] {
            assert_eq!((last_name(path), parent(path)), (name, above), "{path:?}");
        }
        assert_eq!(components(b"//a/./b/..").collect::<Vec<_>>(), [&b"a"[..], b"b", b".."]);
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"a", b"b"), b"a/b");
    }
}
