//! Restoring: subvolume by subvolume, each in the order of its inodes, on all cores.
//!
//! 1. The nodes of the tree give its leaves; all leaves are read once for the names in them.
//! 2. Directories are made.
//! 3. The leaves are read again; each inode is put together and made by one of the threads.
//! 4. At the very end directories get their attributes.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use bitflags::bitflags;
use butterfs_format::{Ino, ItemType, Logical, TreeId};

use crate::csums::Checksums;
use crate::error::{Error, Result};
use crate::fill::{Evidence, Filling};
use crate::inode::{Gatherer, Inode};
use crate::make::{Finished, Results, Subvolume, Worker};
use crate::names::Found;
use crate::outline::{GUESSED, Outline, Start, Trust};
use crate::places::{Places, join};
use crate::report::{Counts, Loss, LossKind, Report};
use crate::roots::{self, Roots};
use crate::sink::Sink;
use crate::source::Source;
use crate::threads;

bitflags! {
    /// What is restored besides files and directories.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Wanted: u32 {
        /// Snapshots.
        const SNAPSHOTS = 1 << 0;
        /// Symbolic links.
        const SYMLINKS = 1 << 1;
        /// Pipes, sockets and devices.
        const SPECIALS = 1 << 2;
        /// Extended attributes.
        const XATTRS = 1 << 3;
    }
}

/// What becomes of a file of which some bytes are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Damaged {
    /// It is made, with zeros in their place.
    #[default]
    Fill,
    /// It is not made.
    Skip,
}

/// Which subvolume is restored, with those in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Top {
    /// The top one.
    #[default]
    All,
    /// One by its number.
    Tree(TreeId),
    /// One by the address of its root block.
    Block(Logical),
}

/// Tells whether a path is wanted.
pub type Select<'a> = &'a (dyn Fn(&[u8]) -> bool + Sync);

/// What is asked for.
pub struct Options<'a> {
    /// Besides files and directories.
    pub wanted: Wanted,
    /// With files of which some bytes are lost.
    pub damaged: Damaged,
    /// Of which subvolume.
    pub top: Top,
    /// By which root tree, if not by the last.
    pub root_tree: Option<Logical>,
    /// Which paths; all without it.
    pub select: Option<Select<'a>>,
    /// Who wants to know how far it got.
    pub progress: Option<&'a (dyn Fn(&Counts) + Sync)>,
    /// Set when it is to end early.
    pub stop: Option<&'a AtomicBool>,
}

impl Options<'_> {
    /// Files and directories of all subvolumes that are no snapshots.
    pub fn new() -> Self {
        Self {
            wanted: Wanted::empty(),
            damaged: Damaged::Fill,
            top: Top::All,
            root_tree: None,
            select: None,
            progress: None,
            stop: None,
        }
    }

    /// Whether it is to end early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// Restores what can be had of a filesystem.
///
/// # Errors
/// If there is nothing to begin with. All else is in the report.
pub fn restore(source: &Source, options: &Options<'_>, sink: &dyn Sink) -> Result<Report> {
    let roots = roots::find(source, options.root_tree)?;
    let evidence = Evidence::new(source, roots.start(TreeId::EXTENT));
    let checksums = Checksums::new(
        source,
        roots
            .start(TreeId::CSUM)
            .map(|start| Outline::new(source, TreeId::CSUM, start, &[], Filling::Current(&evidence))),
    );
    let mut report = Report { notes: source.notes.clone(), blocks: roots.lost.clone(), ..Report::default() };
    let run = Run { source, options, sink, roots: &roots, evidence: &evidence, checksums: &checksums };
    let finished = run.all(&mut report)?;
    // Those further down first: a directory may not be writable afterwards.
    for directory in finished.iter().rev() {
        directory.finish(sink).into_iter().for_each(|loss| report.lose(loss));
    }
    report.stopped = options.is_stopped();
    report.sort();
    Ok(report)
}

struct Run<'a> {
    source: &'a Source,
    options: &'a Options<'a>,
    sink: &'a dyn Sink,
    roots: &'a Roots,
    evidence: &'a Evidence<'a>,
    checksums: &'a Checksums<'a>,
}

/// A subvolume that waits for its turn: its number, where it begins, where it goes.
struct Waiting {
    tree: TreeId,
    /// None without a trace of its root: it may still have leaves.
    start: Option<Start>,
    /// How far that is to be believed.
    trust: Trust,
    base: Vec<u8>,
}

impl Run<'_> {
    fn all(&self, report: &mut Report) -> Result<Vec<Finished>> {
        let mut waiting = vec![self.first()?];
        let mut seen: HashSet<TreeId> = waiting.iter().map(|one| one.tree).collect();
        let mut finished = Vec::new();
        while let Some(next) = waiting.pop() {
            let below = self.one(next, report, &mut finished);
            for (tree, base) in below {
                if let Some(one) = self.below(tree, base, &mut seen, report) {
                    waiting.push(one);
                }
            }
            if waiting.is_empty() && self.options.top == Top::All {
                waiting.extend(self.unreached(&mut seen, report));
            }
            if self.options.is_stopped() {
                break;
            }
        }
        finished.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(finished)
    }

    fn first(&self) -> Result<Waiting> {
        let base = Vec::new();
        match self.options.top {
            Top::Block(at) => {
                let start = roots::start_at(self.source, at)?;
                Ok(Waiting { tree: TreeId::FS, start: Some(start), trust: Trust::Current, base })
            }
            Top::Tree(tree) => {
                let root = self.roots.trees.get(&tree);
                let root = root.ok_or_else(|| Error::Unknown(format!("there is no subvolume {tree}")))?;
                Ok(Waiting { tree, start: Some(root.start), trust: root.trust, base })
            }
            Top::All => {
                let root = self.roots.trees.get(&TreeId::FS);
                let trust = root.map_or(Trust::Older, |root| root.trust);
                Ok(Waiting { tree: TreeId::FS, start: root.map(|root| root.start), trust, base })
            }
        }
    }

    /// A subvolume that has an entry, if it is wanted and was not met before.
    fn below(&self, tree: TreeId, base: Vec<u8>, seen: &mut HashSet<TreeId>, report: &mut Report) -> Option<Waiting> {
        let Some(root) = self.roots.trees.get(&tree) else {
            let cause = "its root item is lost, or it was deleted".into();
            let (kind, ino, ranges) = (LossKind::Subvolume, Ino::ROOT_DIR, Vec::new());
            report.lose(Loss { kind, tree, ino, path: base, ranges, cause });
            return None;
        };
        if root.is_snapshot() && !self.options.wanted.contains(Wanted::SNAPSHOTS) {
            report.counts.snapshots += u64::from(seen.insert(tree));
            return None;
        }
        seen.insert(tree).then_some(Waiting { tree, start: Some(root.start), trust: root.trust, base })
    }

    /// Subvolumes that no entry leads to.
    fn unreached(&self, seen: &mut HashSet<TreeId>, report: &mut Report) -> Vec<Waiting> {
        let rest = self.roots.trees.keys().filter(|tree| tree.is_subvolume() && !seen.contains(tree));
        // Those in a snapshot that is not wanted are not wanted either.
        let in_skipped = |tree: &TreeId| {
            let parent = self.roots.hooks.get(tree).map(|(parent, ..)| *parent);
            parent.is_some_and(|parent| parent != TreeId::FS && self.roots.trees.contains_key(&parent))
        };
        let rest: Vec<TreeId> = rest.filter(|tree| !in_skipped(tree)).copied().collect();
        let mut waiting = Vec::new();
        for tree in rest {
            let base = join(b"lost+found", format!("subvolume-{tree}").as_bytes());
            if let Some(one) = self.below(tree, base.clone(), seen, report) {
                let (kind, ino, ranges) = (LossKind::Name, Ino::ROOT_DIR, Vec::new());
                let cause = "no entry leads to the subvolume".into();
                report.lose(Loss { kind, tree, ino, path: base, ranges, cause });
                waiting.push(one);
            }
        }
        waiting
    }

    /// Restores one subvolume; gives those that lie in it.
    fn one(&self, next: Waiting, report: &mut Report, finished: &mut Vec<Finished>) -> Vec<(TreeId, Vec<u8>)> {
        let (source, options, sink, checksums) = (self.source, self.options, self.sink, self.checksums);
        let Waiting { tree, start, trust, base } = next;
        let filling = Filling::Older(self.evidence);
        let kin = self.roots.kin(tree);
        let mut outline = match start.filter(|_| trust == Trust::Current) {
            Some(start) => Outline::new(source, tree, start, &kin, filling),
            None => Outline::guessed(source, tree, start, &kin),
        };
        if trust != Trust::Current {
            let (kind, ino, path, ranges) = (LossKind::Root, Ino::ROOT_DIR, base.clone(), Vec::new());
            report.lose(Loss { kind, tree, ino, path, ranges, cause: GUESSED.into() });
        }
        let parts = outline.sweep(source, filling, Found::take);
        report.blocks.append(&mut outline.lost.clone());
        let found = Found::settle(parts, &outline);
        let places = Places::new(&found);
        let subvolume = Subvolume { source, sink, options, checksums, tree, base, outline, found, places };
        self.make_directories(&subvolume, report);
        let results = run(&subvolume);
        for part in results {
            report.counts.add(&part.counts);
            part.losses.into_iter().for_each(|loss| report.lose(loss));
            finished.extend(part.directories);
        }
        tell_listings(&subvolume, report);
        report.counts.subvolumes += 1;
        self.inside(&subvolume, report, finished)
    }

    fn make_directories(&self, subvolume: &Subvolume<'_>, report: &mut Report) {
        for ino in subvolume.places.in_order() {
            if self.options.is_stopped() {
                return;
            }
            let path = subvolume.dir_path(ino);
            if !path.is_empty() && self.options.select.is_some_and(|select| !select(&path)) {
                continue;
            }
            match self.sink.directory(&path) {
                Ok(()) => report.counts.directories += 1,
                Err(error) => {
                    let (kind, tree, ranges) = (LossKind::NotWritten, subvolume.tree, Vec::new());
                    report.lose(Loss { kind, tree, ino: Ino(ino), path, ranges, cause: error.to_string() });
                }
            }
        }
    }

    /// The subvolumes that have entries in this one. An entry that is not where its subvolume hangs is what a snapshot
    /// has of one: an empty directory.
    fn inside(
        &self,
        subvolume: &Subvolume<'_>,
        report: &mut Report,
        finished: &mut Vec<Finished>,
    ) -> Vec<(TreeId, Vec<u8>)> {
        let mut inside = Vec::new();
        for name in &subvolume.found.subvolumes {
            let path = join(&subvolume.dir_path(name.parent), &name.bytes);
            let hook = self.roots.hooks.get(&name.tree);
            let is_here = |(tree, dir, _): &crate::roots::Hook| (*tree, *dir) == (subvolume.tree, name.parent);
            if hook.is_none_or(is_here) || !self.roots.trees.contains_key(&name.tree) && hook.is_none() {
                inside.push((name.tree, path));
            } else if self.sink.directory(&path).is_ok() {
                report.counts.directories += 1;
                finished.push(Finished::placeholder(path, (subvolume.tree, Ino::ROOT_DIR)));
            }
        }
        inside
    }
}

/// How many inodes go to a thread at once.
const BATCH: usize = 32;
/// How many batches wait for a thread.
const WAITING: usize = 16;

/// Makes all inodes of a subvolume.
fn run(subvolume: &Subvolume<'_>) -> Vec<Results> {
    let (sender, receiver) = sync_channel::<Vec<Inode>>(WAITING);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let receiver = &receiver;
        let workers: Vec<_> = (0..threads::count()).map(|_| scope.spawn(move || work(subvolume, receiver))).collect();
        read(subvolume, sender);
        let join = |worker: std::thread::ScopedJoinHandle<'_, Results>| match worker.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().map(join).collect()
    })
}

/// Reads the leaves in order. Inodes that have names and no items come too, with nothing in them.
fn read(subvolume: &Subvolume<'_>, sender: SyncSender<Vec<Inode>>) {
    let named = subvolume.found.names.iter().map(|name| name.ino);
    let listed: Vec<u64> = if subvolume.outline.has_all() {
        Vec::new()
    } else {
        // Directories that have no name and no item are known by what lies in them.
        subvolume.places.in_order()
    };
    let mut all: Vec<u64> = named.chain(listed).collect();
    all.sort_unstable();
    all.dedup();
    let mut expected = all.into_iter().peekable();
    let mut batch = Vec::with_capacity(BATCH);
    let mut emit = |inode: Inode| {
        while let Some(ino) = expected.next_if(|ino| *ino < inode.ino) {
            push(&mut batch, Inode::new(ino), &sender);
        }
        expected.next_if_eq(&inode.ino);
        push(&mut batch, inode, &sender);
    };
    let mut gatherer = Gatherer::default();
    for leaf in &subvolume.outline.leaves {
        if subvolume.options.is_stopped() {
            return;
        }
        if let Ok(block) = leaf.read(subvolume.source) {
            gatherer.take(leaf, &block, &mut emit);
        }
    }
    gatherer.finish(&mut emit);
    for ino in expected {
        push(&mut batch, Inode::new(ino), &sender);
    }
    let _ = sender.send(batch);
}

/// A receiver that is gone has panicked, and that is told when its thread is joined.
fn push(batch: &mut Vec<Inode>, inode: Inode, sender: &SyncSender<Vec<Inode>>) {
    batch.push(inode);
    if batch.len() >= BATCH {
        let _ = sender.send(std::mem::replace(batch, Vec::with_capacity(BATCH)));
    }
}

fn work(subvolume: &Subvolume<'_>, receiver: &Mutex<Receiver<Vec<Inode>>>) -> Results {
    let mut worker = Worker::new(subvolume);
    loop {
        let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return worker.results };
        for inode in batch {
            if subvolume.options.is_stopped() {
                continue;
            }
            match inode.item.is_none() && inode.extents.is_empty() && inode.xattrs.is_empty() {
                true => worker.no_inode(inode.ino),
                false => worker.make(&inode),
            }
        }
        if let Some(progress) = subvolume.options.progress {
            progress(&worker.results.counts);
        }
    }
}

/// Tells of directories that may have had more entries: the size of a directory is twice the length of its names.
fn tell_listings(subvolume: &Subvolume<'_>, report: &mut Report) {
    if subvolume.outline.has_all() {
        return;
    }
    let kinds = || ItemType::DIR_ITEM..ItemType(ItemType::DIR_INDEX.0 + 1);
    let mut lengths: HashMap<u64, (u64, String)> = HashMap::new();
    for ino in subvolume.places.in_order() {
        if let Some(cause) = subvolume.missing(ino, kinds()) {
            lengths.insert(ino, (0, cause));
        }
    }
    let names = subvolume.found.names.iter().map(|name| (name.parent, name.bytes.len()));
    let subvolumes = subvolume.found.subvolumes.iter().map(|name| (name.parent, name.bytes.len()));
    for (parent, len) in names.chain(subvolumes) {
        if let Some((sum, _)) = lengths.get_mut(&parent) {
            *sum += 2 * len as u64;
        }
    }
    for (ino, (sum, cause)) in lengths {
        let item = subvolume.found.dirs.get(&ino);
        let is_whole =
            item.is_some_and(|(trust, item)| *trust == crate::outline::Trust::Current && item.size.get() == sum);
        let path = subvolume.dir_path(ino);
        let is_wanted = subvolume.options.select.is_none_or(|select| select(&path));
        if !is_whole && is_wanted {
            let (kind, tree, ranges) = (LossKind::Listing, subvolume.tree, Vec::new());
            report.lose(Loss { kind, tree, ino: Ino(ino), path, ranges, cause });
        }
    }
}
