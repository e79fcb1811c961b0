//! What a filesystem held after each operation of a workload, as plain maps.
//!
//! # Invariants
//! * Step 0 is the open of the empty filesystem; each operation adds one step, done or failed.
//! * A file has one number for life; its versions are in the order of the steps that made them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A subvolume that is written to.
    Subvolume,
    /// The n-th snapshot.
    Snapshot(usize),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A file.
    File(usize),
}

/// An entry, and the step since which this path has led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it leads to.
    pub node: Node,
    /// Since when.
    pub since: usize,
}

/// All entries by path from the top, without a leading slash.
pub type Names = BTreeMap<String, Entry>;

/// Whose data is on the devices when an operation has returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Nobody's.
    Nothing,
    /// Everything.
    Everything,
    /// All files outside of nested subvolumes.
    TopLevel,
    /// One file, with its names.
    File(usize),
    /// The names in one directory; empty for the top.
    Directory(String),
}

/// One operation and what was there after it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The operation in words.
    pub what: String,
    /// How many events there were before it.
    pub begun: usize,
    /// How many there were when it had returned; `None` if it failed half-way.
    pub ended: Option<usize>,
    /// The last generation on the devices then.
    pub generation: u64,
    /// All names.
    pub names: Arc<Names>,
    /// What it made durable.
    pub durable: Durable,
}

/// A value and from which step on it was so; in the order of the steps.
#[derive(Clone, Debug, Default)]
pub struct Versions(Vec<(usize, Arc<[u8]>)>);

/// A file's life.
#[derive(Clone, Debug)]
pub struct FileHistory {
    /// It lies in a nested subvolume.
    pub nested: bool,
    /// Its content.
    pub content: Versions,
    /// Its extended attribute; empty for none.
    pub xattr: Versions,
}

/// A device that was away: it may lack what was written since, until it was brought up to date.
#[derive(Clone, Copy, Debug)]
pub struct Away {
    /// Its place among all devices.
    pub device: usize,
    /// How many events there were when it went.
    pub from: usize,
    /// How many there were when it was up to date again.
    pub to: usize,
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// How many events mkfs made.
    pub made: usize,
    /// Files are overwritten in place: what is newer than a commit may show with it.
    pub in_place: bool,
    /// The steps.
    pub steps: Vec<Step>,
    /// The files.
    pub files: Vec<FileHistory>,
    /// For each snapshot the step that made it; it holds what the step before left.
    pub snapshots: Vec<usize>,
    /// Which devices were away, and when.
    pub away: Vec<Away>,
    /// When a device came or went, by the events.
    pub device_changes: Vec<Range<usize>>,
}

impl Versions {
    /// A first version.
    pub fn new(step: usize, value: &[u8]) -> Self {
        Self(vec![(step, value.into())])
    }

    /// Another version.
    pub fn push(&mut self, step: usize, value: &[u8]) {
        self.0.push((step, value.into()));
    }

    /// The versions that were current at some moment from one step to another; without a first step, from the first
    /// version on.
    pub fn between(&self, from: Option<usize>, to: usize) -> Vec<Arc<[u8]>> {
        let up_to = |limit| self.0.partition_point(|(step, _)| *step <= limit);
        let first = from.map_or(0, |from| up_to(from).saturating_sub(1));
        let last = up_to(to).max(first + 1);
        self.0[first..last].iter().map(|(_, value)| Arc::clone(value)).collect()
    }

    /// The version at a step.
    pub fn at(&self, step: usize) -> Arc<[u8]> {
        self.between(Some(step), step).pop().expect("there is a first version")
    }

    /// The newest version.
    pub fn last(&self) -> Arc<[u8]> {
        self.at(usize::MAX)
    }
}

impl History {
    /// The last step up to `step` that made a file durable.
    pub fn durable_step(&self, file: usize, step: usize) -> Option<usize> {
        let nested = self.files[file].nested;
        (0..=step).rev().find(|step| match &self.steps[*step].durable {
            Durable::Nothing | Durable::Directory(_) => false,
            Durable::Everything => true,
            Durable::TopLevel => !nested,
            Durable::File(durable) => *durable == file,
        })
    }

    /// The last step that had returned before the cut; `None` before the first.
    pub fn done_at(&self, cut: usize) -> Option<usize> {
        self.steps.iter().rposition(|step| step.ended.is_some_and(|ended| ended <= cut))
    }

    /// The place of a device that was away at the cut.
    pub fn away_at(&self, cut: usize) -> Option<usize> {
        self.away.iter().find(|away| (away.from..away.to).contains(&cut)).map(|away| away.device)
    }

    /// Whether a device was about to come or to go at the cut.
    pub fn changes_devices_at(&self, cut: usize) -> bool {
        self.device_changes.iter().any(|events| events.contains(&cut))
    }

    /// The last step that had begun before the cut.
    pub fn begun_at(&self, cut: usize) -> usize {
        self.steps.iter().rposition(|step| step.begun < cut).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_between_steps() {
        let mut file = Versions::new(3, &[0]);
        file.push(5, &[1]);
        file.push(9, &[2]);
        let found = |from, to| file.between(Some(from), to).iter().map(|bytes| bytes[0]).collect::<Vec<_>>();
        assert_eq!(found(5, 8), [1]);
        assert_eq!(found(4, 9), [0, 1, 2]);
        assert_eq!(found(0, 3), [0]);
        assert_eq!(file.between(None, 5).len(), 2);
        assert_eq!((file.at(20)[0], file.last()[0]), (2, 2));
    }
}
