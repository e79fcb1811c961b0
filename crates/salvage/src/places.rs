//! Where each directory of a subvolume goes.
//!
//! # Invariants
//! * Every directory has one place, and every chain of places ends at the top or in the folder of what lost its name.
//! * A path is at most [`LONGEST`] bytes long, and leads through at most [`LEVELS`] directories; one that would lie deeper
//!   goes by its number. What the system takes as one path is no limit: each directory is entered from the one above.
//!
//! # Memory
//! A chain of directories that has no other end than what is in the image costs paths whose lengths add up: those that
//! are longer than a system takes have a bound together, [`LONG_TOGETHER`].

use std::collections::{HashMap, HashSet};

use butterfs_format::Ino;

use crate::names::{Found, Name};
use crate::outline::Trust;

/// The longest path below a subvolume, in bytes.
const LONGEST: usize = 256 << 10;
/// The most directories within each other.
const LEVELS: usize = 1750;
/// A path that is longer is a long one.
const LONG: usize = 3500;
/// The most bytes that the long paths of directories may take together.
const LONG_TOGETHER: usize = 64 << 20;

/// The folder, in the top directory of the subvolume, for what lost its name.
const FOLDER: &[u8] = b"lost+found";
/// Its name where the subvolume has one of its own.
const OTHER_FOLDER: &[u8] = b"lost+found.salvaged";

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Top,
    /// In the folder, by number.
    Lost,
    In(u64, Box<[u8]>),
}

/// How far down a directory is.
#[derive(Clone, Copy, Debug)]
struct Extent {
    bytes: usize,
    levels: usize,
}

/// Where all are.
pub struct Places {
    dirs: HashMap<u64, Place>,
    folder: &'static [u8],
}

impl Places {
    /// Finds a place for each directory.
    pub fn new(found: &Found) -> Self {
        let top = Ino::ROOT_DIR.0;
        let is_folder = |parent: u64, bytes: &[u8]| parent == top && bytes == FOLDER;
        let taken = found.names.iter().any(|name| is_folder(name.parent, &name.bytes))
            || found.subvolumes.iter().any(|name| is_folder(name.parent, &name.bytes));
        let mut places = Self { dirs: HashMap::new(), folder: if taken { OTHER_FOLDER } else { FOLDER } };
        for ino in directories(found) {
            let name = names_of(&found.names, ino).iter().filter(|name| name.parent != ino).min_by_key(|n| n.trust);
            let place = name.map_or(Place::Lost, |name| Place::In(name.parent, name.bytes.clone()));
            places.dirs.insert(ino, if ino == top { Place::Top } else { place });
        }
        places.cut();
        places
    }

    /// Circles and chains that are too long are cut.
    fn cut(&mut self) {
        let lost = Extent { bytes: self.folder.len() + 21, levels: 2 };
        let mut extents: HashMap<u64, Extent> = HashMap::new();
        let mut together = 0;
        let mut inos: Vec<u64> = self.dirs.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            let (mut chain, mut seen, mut at) = (Vec::new(), HashSet::new(), ino);
            let mut extent = loop {
                match self.dirs.get(&at) {
                    _ if extents.contains_key(&at) => break extents[&at],
                    Some(Place::In(parent, name)) if seen.insert(at) => {
                        chain.push((at, name.len() + 1));
                        at = *parent;
                    }
                    Some(Place::Top) => break Extent { bytes: 0, levels: 0 },
                    Some(Place::Lost) => break lost,
                    // A circle, or a directory that is none.
                    _ => {
                        let last = chain.pop().map_or(at, |(last, _)| last);
                        self.dirs.insert(last, Place::Lost);
                        break lost;
                    }
                }
            };
            for (dir, own) in chain.into_iter().rev() {
                extent = Extent { bytes: extent.bytes + own, levels: extent.levels + 1 };
                together += if extent.bytes > LONG { extent.bytes } else { 0 };
                if extent.bytes > LONGEST || extent.levels > LEVELS || extent.bytes > LONG && together > LONG_TOGETHER {
                    self.dirs.insert(dir, Place::Lost);
                    extent = lost;
                }
                extents.insert(dir, extent);
            }
        }
    }

    /// Whether this is a directory.
    pub fn is_dir(&self, ino: u64) -> bool {
        self.dirs.contains_key(&ino)
    }

    /// All directories, those above before those below.
    pub fn in_order(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.dirs.keys().map(|ino| (self.dir(*ino), *ino)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, ino)| ino).collect()
    }

    /// The path of a directory below the subvolume's top, which is the empty path.
    pub fn dir(&self, ino: u64) -> Vec<u8> {
        let (mut names, mut at): (Vec<&[u8]>, u64) = (Vec::new(), ino);
        let base = loop {
            match self.dirs.get(&at) {
                Some(Place::In(parent, name)) => {
                    names.push(name);
                    at = *parent;
                }
                Some(Place::Top) => break Vec::new(),
                Some(Place::Lost) | None => break self.lost(at),
            }
        };
        names.into_iter().rev().fold(base, |path, name| join(&path, name))
    }

    /// The path of a name.
    pub fn name(&self, name: &Name) -> Vec<u8> {
        join(&self.dir(name.parent), &name.bytes)
    }

    /// The path of what lost its name.
    pub fn lost(&self, ino: u64) -> Vec<u8> {
        join(self.folder, ino.to_string().as_bytes())
    }

    /// Whether a directory lost its name.
    pub fn has_lost_name(&self, ino: u64) -> bool {
        self.dirs.get(&ino) == Some(&Place::Lost)
    }

    /// The folder for what lost its name.
    pub fn folder(&self) -> &'static [u8] {
        self.folder
    }
}

/// All that must be directories.
fn directories(found: &Found) -> HashSet<u64> {
    let items = found.dirs.iter().filter(|(ino, (trust, _))| *trust == Trust::Current || !found.deleted.contains(ino));
    let listed = found.names.iter().filter(|name| name.is_dir).map(|name| name.ino);
    let parents = found.names.iter().map(|name| name.parent);
    let homes = found.subvolumes.iter().map(|name| name.parent);
    let all = items.map(|(ino, _)| *ino).chain(listed).chain(parents).chain(homes);
    all.chain([Ino::ROOT_DIR.0]).collect()
}

/// The names of an inode, of names that are sorted.
pub fn names_of(names: &[Name], ino: u64) -> &[Name] {
    let from = names.partition_point(|name| name.ino < ino);
    let to = names.partition_point(|name| name.ino <= ino);
    &names[from..to]
}

/// A path and a name below it.
pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[(u64, u64, &str)]) -> Found {
        let name = |(ino, parent, text): &(u64, u64, &str)| Name {
            ino: *ino,
            parent: *parent,
            bytes: text.as_bytes().into(),
            trust: Trust::Current,
            is_dir: true,
        };
        let mut found = Found { names: names.iter().map(name).collect(), ..Found::default() };
        found.names.sort_by_key(|name| name.ino);
        found
    }

    #[test]
    fn paths_lead_from_the_top() {
        let places = Places::new(&found(&[(257, 256, "a"), (258, 257, "b"), (260, 259, "orphan")]));
        assert_eq!(places.dir(256), b"");
        assert_eq!(places.dir(258), b"a/b");
        assert_eq!(places.dir(260), b"lost+found/259/orphan");
        assert!(places.has_lost_name(259) && !places.has_lost_name(260));
        let order: Vec<_> = places.in_order().into_iter().map(|ino| places.dir(ino)).collect();
        assert_eq!(order, [&b""[..], b"a", b"a/b", b"lost+found/259", b"lost+found/259/orphan"]);
    }

    #[test]
    fn circles_and_endless_paths_are_cut() {
        let places = Places::new(&found(&[(300, 301, "x"), (301, 302, "y"), (302, 300, "z")]));
        let lost = [300, 301, 302].iter().filter(|ino| places.has_lost_name(**ino)).count();
        assert_eq!(lost, 1);
        let long = "n".repeat(255);
        let chain: Vec<_> = (0..3000u64).map(|n| (257 + n, 256 + n, long.as_str())).collect();
        let places = Places::new(&found(&chain));
        let all = || 256..3257u64;
        assert!(all().all(|ino| places.dir(ino).len() <= LONGEST));
        let long: usize = all().map(|ino| places.dir(ino).len()).filter(|len| *len > LONG).sum();
        assert!(long <= LONG_TOGETHER && all().any(|ino| places.has_lost_name(ino)));
        let chain: Vec<_> = (0..3000u64).map(|n| (257 + n, 256 + n, "n")).collect();
        let places = Places::new(&found(&chain));
        assert!(all().all(|ino| places.dir(ino).split(|byte| *byte == b'/').count() <= LEVELS));
        assert_eq!(all().filter(|ino| places.has_lost_name(*ino)).count(), 1);
    }

    /// More than a system takes as one path.
    #[test]
    fn deep_paths_are_whole() {
        let long = "n".repeat(200);
        let chain: Vec<_> = (0..300u64).map(|n| (257 + n, 256 + n, long.as_str())).collect();
        let places = Places::new(&found(&chain));
        assert!(!(256..557).any(|ino| places.has_lost_name(ino)));
        assert_eq!(places.dir(556).len(), 300 * 201 - 1);
    }

    #[test]
    fn a_folder_of_that_name_is_left_alone() {
        let places = Places::new(&found(&[(257, 256, "lost+found"), (300, 300, "self")]));
        assert_eq!(places.dir(300), b"lost+found.salvaged/300");
    }
}
