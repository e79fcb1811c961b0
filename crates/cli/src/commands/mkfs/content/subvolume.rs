//! `--subvol TYPE:SUBDIR`: which directories become subvolumes, and of which kind.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::exit;
use crate::failure::{self, Failure, Result};
use crate::image::path::components;

/// What kind of subvolume a directory becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubvolumeKind {
    ReadWrite,
    ReadOnly,
    Default,
    DefaultReadOnly,
}

const KINDS: [(&str, SubvolumeKind); 4] = [
    ("rw", SubvolumeKind::ReadWrite),
    ("ro", SubvolumeKind::ReadOnly),
    ("default", SubvolumeKind::Default),
    ("default-ro", SubvolumeKind::DefaultReadOnly),
];

impl SubvolumeKind {
    pub fn is_default(self) -> bool {
        matches!(self, Self::Default | Self::DefaultReadOnly)
    }

    pub fn is_read_only(self) -> bool {
        matches!(self, Self::ReadOnly | Self::DefaultReadOnly)
    }
}

impl fmt::Display for SubvolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        KINDS.iter().filter(|(_, kind)| kind == self).try_for_each(|(name, _)| f.write_str(name))
    }
}

/// A directory that becomes a subvolume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedSubvolume {
    pub kind: SubvolumeKind,
    /// From the directory that is copied.
    pub path: PathBuf,
}

impl FromStr for NamedSubvolume {
    type Err = Infallible;

    /// What has no known type in front is a path, of a subvolume that can be written.
    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        let typed = text.split_once(':').and_then(|(name, path)| {
            let (_, kind) = KINDS.iter().find(|(known, _)| *known == name)?;
            Some(Self { kind: *kind, path: path.into() })
        });
        Ok(typed.unwrap_or_else(|| Self { kind: SubvolumeKind::ReadWrite, path: text.into() }))
    }
}

fn names(path: &Path) -> Vec<&[u8]> {
    components(path.as_os_str().as_bytes()).collect()
}

/// Whether each is a directory below `dir`, and named once.
pub(super) fn check(dir: &Path, subvolumes: &[NamedSubvolume]) -> Result<()> {
    let wrong = |path: &Path, text: &str| Err(Failure::at(exit::USAGE, path, format!("{text} (--subvol)")));
    let mut seen = HashSet::new();
    for one in subvolumes {
        let names = names(&one.path);
        if one.path.is_absolute() || names.is_empty() || names.contains(&b"..".as_slice()) {
            return wrong(&one.path, "is not the path of a directory below --rootdir, from there");
        }
        if !seen.insert(names) {
            return wrong(&one.path, "is named twice");
        }
        let mut at = dir.to_path_buf();
        for name in one.path.components() {
            at.push(name);
            let meta = at.symlink_metadata().map_err(|error| failure::io(exit::USAGE, &at, &error))?;
            if !meta.is_dir() {
                return wrong(&at, "is no directory");
            }
        }
    }
    match subvolumes.iter().filter(|one| one.kind.is_default()).nth(1) {
        Some(second) => wrong(&second.path, "only one subvolume can be the default"),
        None => Ok(()),
    }
}

/// In an order in which those that hold others come first.
pub(super) fn outer_first(subvolumes: &[NamedSubvolume]) -> Vec<&NamedSubvolume> {
    let mut sorted: Vec<_> = subvolumes.iter().collect();
    sorted.sort_by_key(|one| names(&one.path).len());
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_what_stands_before_the_colon_if_it_is_one() {
        let parse =
            |text: &str| text.parse::<NamedSubvolume>().map(|one| (one.kind, one.path)).unwrap_or_else(|e| match e {});
        for (text, kind, path) in [
            ("a/b", SubvolumeKind::ReadWrite, "a/b"),
            ("rw:a", SubvolumeKind::ReadWrite, "a"),
            ("ro:a:b", SubvolumeKind::ReadOnly, "a:b"),
            ("default:a", SubvolumeKind::Default, "a"),
            ("default-ro:a", SubvolumeKind::DefaultReadOnly, "a"),
            ("odd:a", SubvolumeKind::ReadWrite, "odd:a"),
        ] {
            assert_eq!(parse(text), (kind, PathBuf::from(path)), "{text}");
        }
    }

    #[test]
    fn outer_ones_come_first() {
        let all = ["a/b/c", "d", "a/b"].map(|text| text.parse().unwrap_or_else(|e| match e {}));
        let order: Vec<_> = outer_first(&all).into_iter().map(|one| one.path.display().to_string()).collect();
        assert_eq!(order, ["d", "a/b", "a/b/c"]);
    }
}
