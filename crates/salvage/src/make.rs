//! One inode of a subvolume, made at its place in the sink; and what of it is lost.
//!
//! # Invariants
//! * Nothing is told as lost of an inode that no lost block can have a part of, unless its data is.
//!
//! # Locking
//! Each thread has a [`Worker`] of its own.

use std::io;
use std::ops::Range;

use butterfs_format::items::{FileType, InodeItem};
use butterfs_format::{Ino, ItemType, Key, TreeId};

use crate::csums::Checksums;
use crate::data::{Outcome, Ranges, Reader};
use crate::inode::Inode;
use crate::names::{Found, Name};
use crate::outline::{Outline, Trust};
use crate::places::{Places, join, names_of};
use crate::report::{Counts, Loss, LossKind};
use crate::restore::{Damaged, Options, Wanted};
use crate::sink::{About, Made, Sink, Xattr};
use crate::source::Source;

/// The longest target of a symbolic link that a system takes, in bytes.
const LONGEST_TARGET: u64 = 4095;
/// The size of the largest file that a system knows.
const LARGEST: u64 = i64::MAX as u64;

/// What came of an inode under its first name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// It is there.
    There,
    /// It is lost, and that was told.
    Lost,
    /// It is not wanted, or not wanted any more.
    Unwanted,
}

/// A subvolume that is being restored.
pub struct Subvolume<'a> {
    /// Where it is read from.
    pub source: &'a Source,
    /// Where it goes.
    pub sink: &'a dyn Sink,
    /// What was asked for.
    pub options: &'a Options<'a>,
    /// Checksums of data.
    pub checksums: &'a Checksums<'a>,
    /// Its number.
    pub tree: TreeId,
    /// Where its top directory goes.
    pub base: Vec<u8>,
    /// Its leaves, and what is missing.
    pub outline: Outline,
    /// Its names.
    pub found: Found,
    /// Where its directories go.
    pub places: Places,
}

/// A directory whose attributes are set last.
pub struct Finished {
    /// Where it is.
    pub path: Vec<u8>,
    item: Option<InodeItem>,
    xattrs: Vec<Xattr>,
    tree: TreeId,
    ino: u64,
}

/// What a thread came to.
#[derive(Default)]
pub struct Results {
    /// What was made.
    pub counts: Counts,
    /// What was not.
    pub losses: Vec<Loss>,
    /// Directories that were met.
    pub directories: Vec<Finished>,
}

/// Makes inodes; one for each thread.
pub struct Worker<'a> {
    subvolume: &'a Subvolume<'a>,
    reader: Reader<'a>,
    /// What it came to so far.
    pub results: Results,
}

impl Subvolume<'_> {
    fn path(&self, below: &[u8]) -> Vec<u8> {
        if below.is_empty() { self.base.clone() } else { join(&self.base, below) }
    }

    /// Where a directory goes.
    pub fn dir_path(&self, ino: u64) -> Vec<u8> {
        self.path(&self.places.dir(ino))
    }

    /// All names of an inode.
    pub fn names(&self, ino: u64) -> &[Name] {
        names_of(&self.found.names, ino)
    }

    fn is_wanted(&self, path: &[u8]) -> bool {
        self.options.select.is_none_or(|select| select(path))
    }

    /// What may be lost of an inode's items of these kinds, and why.
    pub fn missing(&self, ino: u64, kinds: Range<ItemType>) -> Option<String> {
        let keys = Key::new(ino, kinds.start, 0)..Key::new(ino, kinds.end, 0);
        let (_, block) = self.outline.missing_in(&keys).next()?;
        let (at, generation) = block.name;
        let what = if block.level == 0 { "leaf" } else { "node" };
        Some(format!("{what} {at} of generation {generation} is lost: {}", block.problem))
    }
}

/// The kind of item after this.
fn after(kind: ItemType) -> ItemType {
    ItemType(kind.0 + 1)
}

impl<'a> Worker<'a> {
    /// For a subvolume.
    pub fn new(subvolume: &'a Subvolume<'a>) -> Self {
        let reader = Reader::new(subvolume.source, subvolume.checksums.lookup());
        Self { subvolume, reader, results: Results::default() }
    }

    /// Makes an inode under all its names.
    pub fn make(&mut self, inode: &Inode) {
        let all = self.subvolume;
        // What an older leaf has of an inode that was deleted since.
        let item_keys = Key::new(inode.ino, ItemType::INODE_ITEM, 0);
        let is_known = all.outline.is_whole(&(item_keys..item_keys.next()));
        if !inode.has_current && (all.found.deleted.contains(&inode.ino) || inode.item.is_none() && is_known) {
            return self.no_inode(inode.ino);
        }
        if all.places.is_dir(inode.ino) {
            return self.directory(inode);
        }
        let names = all.names(inode.ino);
        if names.is_empty() && inode.item.is_some_and(|item| item.nlink.get() == 0) {
            // Deleted while it was open: its end was only not come yet.
            return;
        }
        let paths = match names {
            [] => vec![all.path(&all.places.lost(inode.ino))],
            names => names.iter().map(|name| all.path(&all.places.name(name))).collect(),
        };
        let wanted: Vec<&Vec<u8>> = paths.iter().filter(|path| all.is_wanted(path)).collect();
        let Some((first, others)) = wanted.split_first() else { return };
        if names.is_empty() && all.sink.directory(&all.path(all.places.folder())).is_err() {
            return self.lose(LossKind::NotWritten, inode.ino, first, "the folder for it cannot be made".into());
        }
        let came = match self.one(inode, first) {
            Ok(came) => came,
            Err(error) => {
                // None of its names is there.
                for path in &wanted {
                    self.lose(LossKind::NotWritten, inode.ino, path, error.to_string());
                }
                return;
            }
        };
        self.tell(inode, first, names);
        for other in others {
            match came {
                Came::There => self.link(inode.ino, other, first),
                Came::Lost => {
                    self.lose(LossKind::Inode, inode.ino, other, "its other name could not be made either".into());
                }
                Came::Unwanted => {}
            }
        }
    }

    /// An inode that has names and nothing else.
    pub fn no_inode(&mut self, ino: u64) {
        let all = self.subvolume;
        if all.places.is_dir(ino) {
            return self.directory(&Inode::new(ino));
        }
        let cause = all.missing(ino, ItemType::INODE_ITEM..after(ItemType::INODE_ITEM));
        for name in all.names(ino) {
            if cause.is_none() && name.trust == Trust::Older {
                continue;
            }
            let path = all.path(&all.places.name(name));
            if all.is_wanted(&path) {
                let cause = cause.clone().unwrap_or_else(|| "an entry names it, and there is no such inode".into());
                self.lose(LossKind::Inode, ino, &path, cause);
            }
        }
    }

    fn directory(&mut self, inode: &Inode) {
        let all = self.subvolume;
        let path = all.dir_path(inode.ino);
        if !all.is_wanted(&path) && !path.is_empty() {
            return;
        }
        let names = all.names(inode.ino);
        self.tell(inode, &path, names);
        let (tree, ino) = (all.tree, inode.ino);
        self.results.directories.push(Finished { path, item: inode.item, xattrs: inode.xattrs.clone(), tree, ino });
    }

    fn one(&mut self, inode: &Inode, path: &[u8]) -> io::Result<Came> {
        let all = self.subvolume;
        if all.options.select.is_some() {
            let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
            all.sink.directory(parent)?;
        }
        let kind = inode.item.map_or(FileType::Regular, |item| FileType::from_mode(item.mode.get()));
        match kind {
            FileType::Symlink if !all.options.wanted.contains(Wanted::SYMLINKS) => {
                self.results.counts.unwanted += 1;
                Ok(Came::Unwanted)
            }
            FileType::Symlink => self.symlink(inode, path),
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                if !all.options.wanted.contains(Wanted::SPECIALS) {
                    self.results.counts.unwanted += 1;
                    return Ok(Came::Unwanted);
                }
                let made = all.sink.special(path, &about(inode))?;
                self.results.counts.specials += u64::from(matches!(made, Made::New(_)));
                let came = if made == Made::Unwanted { Came::Unwanted } else { Came::There };
                self.made(inode.ino, path, made);
                Ok(came)
            }
            _ => self.file(inode, path),
        }
    }

    fn file(&mut self, inode: &Inode, path: &[u8]) -> io::Result<Came> {
        let all = self.subvolume;
        let told = inode.item.map_or_else(|| inode.end(), |item| item.size.get());
        // What has no such size gets what there is of it.
        let size = if told > LARGEST { inode.end().min(LARGEST) } else { told };
        let lost = self.lost_extents(inode, size);
        let Some(mut file) = all.sink.file(path)? else {
            self.results.counts.existing += 1;
            return Ok(Came::There);
        };
        let read = self.reader.read(inode, size, &mut |offset, bytes| file.write(offset, bytes));
        let outcome = match read {
            Ok(outcome) => outcome,
            Err(error) => {
                file.discard();
                return Err(error);
            }
        };
        self.results.counts.bytes += outcome.bytes;
        let damaged = !outcome.lost.0.is_empty() || !lost.0.is_empty() || told != size;
        let skipped = damaged && all.options.damaged == Damaged::Skip;
        if skipped || all.options.is_stopped() {
            file.discard();
        } else {
            let notes = file.finish(size, &about(inode))?;
            self.results.counts.files += 1;
            self.made(inode.ino, path, Made::New(notes));
        }
        if told != size {
            let kind = if skipped { LossKind::Inode } else { LossKind::Data };
            let cause = format!("its size, {told} bytes, is more than a file can have");
            self.lose(kind, inode.ino, path, cause);
        }
        self.tell_data(inode, path, lost, outcome);
        Ok(match (skipped, all.options.is_stopped()) {
            (true, _) => Came::Lost,
            (false, true) => Came::Unwanted,
            (false, false) => Came::There,
        })
    }

    /// Bytes whose extents are lost: those of the file that a lost block may have, if some must be missing.
    fn lost_extents(&self, inode: &Inode, size: u64) -> Ranges {
        let mut lost = Ranges::default();
        if inode.item.is_some_and(|item| item.nbytes.get() == inode.bytes) {
            return lost;
        }
        let kind = ItemType::EXTENT_DATA;
        let keys = Key::new(inode.ino, kind, 0)..Key::new(inode.ino, after(kind), 0);
        let mut covered: Vec<Range<u64>> = Vec::new();
        let current = inode.extents.iter().filter(|extent| extent.trust == Trust::Current);
        covered.extend(current.map(|extent| extent.start..extent.start.saturating_add(extent.len)));
        covered.extend(
            inode
                .extents
                .iter()
                .filter(|extent| extent.trust == Trust::Older)
                .map(|extent| extent.start..extent.start.saturating_add(extent.len)),
        );
        covered.sort_by_key(|range| range.start);
        for (missing, _) in self.subvolume.outline.missing_in(&keys) {
            let within = |key: &Key| if key.item_type == kind { key.offset } else { u64::MAX };
            uncovered(within(&missing.start)..within(&missing.end).min(size), &covered, &mut lost);
        }
        lost.settle();
        lost
    }

    fn tell_data(&mut self, inode: &Inode, path: &[u8], mut lost: Ranges, outcome: Outcome) {
        let kind = ItemType::EXTENT_DATA;
        let why_extents = (!lost.0.is_empty()).then(|| self.subvolume.missing(inode.ino, kind..after(kind))).flatten();
        lost.0.extend(outcome.lost.0);
        lost.settle();
        if !lost.0.is_empty() {
            let skipped = self.subvolume.options.damaged == Damaged::Skip;
            let kind = if skipped { LossKind::Inode } else { LossKind::Data };
            let cause = outcome.cause.or(why_extents).unwrap_or_default();
            self.lose_ranges(kind, inode.ino, path, cause, lost.0);
        }
        if !outcome.unverified.0.is_empty() {
            let cause = "its checksums cannot be read, or there are none".into();
            self.lose_ranges(LossKind::Unverified, inode.ino, path, cause, outcome.unverified.0);
        }
    }

    fn symlink(&mut self, inode: &Inode, path: &[u8]) -> io::Result<Came> {
        let size = inode.item.map_or(0, |item| item.size.get());
        let mut target = Vec::new();
        if size > 0 && size <= LONGEST_TARGET {
            let outcome = self.reader.read(inode, size, &mut |offset, bytes| {
                target.resize(offset as usize, 0);
                target.extend_from_slice(bytes);
                Ok(())
            })?;
            if let Some(cause) = outcome.cause {
                self.lose(LossKind::Inode, inode.ino, path, cause);
                return Ok(Came::Lost);
            }
        }
        if target.len() as u64 != size || size == 0 || target.contains(&0) {
            let kind = ItemType::EXTENT_DATA;
            let cause = self.subvolume.missing(inode.ino, kind..after(kind));
            let cause =
                cause.unwrap_or_else(|| format!("a symbolic link of {size} bytes has a target of {}", target.len()));
            self.lose(LossKind::Inode, inode.ino, path, cause);
            return Ok(Came::Lost);
        }
        let made = self.subvolume.sink.symlink(path, &target, &about(inode))?;
        self.results.counts.symlinks += u64::from(matches!(made, Made::New(_)));
        self.made(inode.ino, path, made);
        Ok(Came::There)
    }

    fn link(&mut self, ino: u64, path: &[u8], first: &[u8]) {
        let all = self.subvolume;
        let parent = path.iter().rposition(|byte| *byte == b'/').map_or(&b""[..], |at| &path[..at]);
        let made = match all.options.select {
            Some(_) => all.sink.directory(parent).and_then(|()| all.sink.link(path, first)),
            None => all.sink.link(path, first),
        };
        match made {
            Ok(made) => {
                self.results.counts.links += u64::from(matches!(made, Made::New(_)));
                self.made(ino, path, made);
            }
            Err(error) => self.lose(LossKind::NotWritten, ino, path, error.to_string()),
        }
    }

    fn made(&mut self, ino: u64, path: &[u8], made: Made) {
        match made {
            Made::New(notes) => {
                notes.into_iter().for_each(|note| self.lose(LossKind::NotWritten, ino, path, note));
            }
            Made::Existing => self.results.counts.existing += 1,
            Made::Unwanted => self.results.counts.unwanted += 1,
        }
    }

    /// Tells what of an inode, besides its data, is lost or old.
    fn tell(&mut self, inode: &Inode, path: &[u8], names: &[Name]) {
        let all = self.subvolume;
        let ino = inode.ino;
        if all.outline.has_all() {
            if inode.item.is_none() {
                self.lose(LossKind::InodeItem, ino, path, "there is no inode item".into());
            }
            return self.tell_name(inode, path, names);
        }
        let item_kind = ItemType::INODE_ITEM;
        if inode.item.is_none() {
            let cause = all.missing(ino, item_kind..after(item_kind));
            self.lose(LossKind::InodeItem, ino, path, cause.unwrap_or_else(|| "there is no inode item".into()));
        }
        if inode.trust == Trust::Older {
            let cause = all.missing(ino, ItemType::INODE_ITEM..ItemType(u8::MAX)).unwrap_or_default();
            // Any of its names may be one that was taken away since.
            for name in names.iter().map(|name| all.path(&all.places.name(name))).filter(|name| name != path) {
                self.lose(LossKind::Outdated, ino, &name, cause.clone());
            }
            self.lose(LossKind::Outdated, ino, path, cause);
        } else if all.options.wanted.contains(Wanted::XATTRS)
            && let Some(cause) = all.missing(ino, ItemType::XATTR_ITEM..after(ItemType::XATTR_ITEM))
        {
            self.lose(LossKind::Xattrs, ino, path, cause);
        }
        self.tell_name(inode, path, names);
    }

    fn tell_name(&mut self, inode: &Inode, path: &[u8], names: &[Name]) {
        let all = self.subvolume;
        let ino = inode.ino;
        let has_one = ino == Ino::ROOT_DIR.0 || !names.is_empty() && !all.places.has_lost_name(ino);
        let wanted = inode.item.map_or(0, |item| item.nlink.get() as usize);
        let lost = wanted.saturating_sub(names.len());
        let refs = ItemType::INODE_REF..after(ItemType::INODE_EXTREF);
        if !has_one {
            let cause = all.missing(ino, refs).unwrap_or_else(|| "no entry leads to it".into());
            self.lose(LossKind::Name, ino, path, cause);
        } else if lost > 0
            && ino != Ino::ROOT_DIR.0
            && !all.places.is_dir(ino)
            && let Some(cause) = all.missing(ino, refs)
        {
            self.lose(LossKind::Name, ino, path, format!("{lost} of its {wanted} names are lost; {cause}"));
        }
    }

    fn lose(&mut self, kind: LossKind, ino: u64, path: &[u8], cause: String) {
        self.lose_ranges(kind, ino, path, cause, Vec::new());
    }

    fn lose_ranges(&mut self, kind: LossKind, ino: u64, path: &[u8], cause: String, ranges: Vec<Range<u64>>) {
        let tree = self.subvolume.tree;
        self.results.losses.push(Loss { kind, tree, ino: Ino(ino), path: path.to_vec(), ranges, cause });
    }
}

impl Finished {
    /// One that stands where a subvolume was when a snapshot was taken; nothing else is known of it.
    pub fn placeholder(path: Vec<u8>, (tree, ino): (TreeId, Ino)) -> Self {
        Self { path, item: None, xattrs: Vec::new(), tree, ino: ino.0 }
    }

    /// Sets the attributes of a directory; gives what went wrong.
    pub fn finish(&self, sink: &dyn Sink) -> Vec<Loss> {
        let about = About { item: self.item.as_ref(), xattrs: &self.xattrs };
        let notes = sink.attributes(&self.path, &about).unwrap_or_else(|error| vec![error.to_string()]);
        let loss = |cause| Loss {
            kind: LossKind::NotWritten,
            tree: self.tree,
            ino: Ino(self.ino),
            path: self.path.clone(),
            ranges: Vec::new(),
            cause,
        };
        notes.into_iter().map(loss).collect()
    }
}

fn about(inode: &Inode) -> About<'_> {
    About { item: inode.item.as_ref(), xattrs: &inode.xattrs }
}

/// Adds what of a range is in none of the others, which are in order.
fn uncovered(range: Range<u64>, covered: &[Range<u64>], lost: &mut Ranges) {
    let mut at = range.start;
    for part in covered.iter().filter(|part| part.end > range.start && part.start < range.end) {
        lost.add(at..part.start.max(at));
        at = at.max(part.end);
    }
    lost.add(at..range.end.max(at));
}
