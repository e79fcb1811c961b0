//! One inode: its item and all that hangs on it, in key order, then the rules they keep together.
//!
//! The rules are written once, for two kinds of listeners: a checker that tells of each fault, and one
//! that only wants to know whether there is any ([`Suspicion`]).

use butterfs_format::items::{Compression, FileExtent, FileExtentBody, FileType, InodeFlags, InodeItem};
use butterfs_format::superblock::Incompat;
use butterfs_format::{Key, TreeId};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::finding::{Kind, Place};

/// What the rules depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub sectorsize: u64,
    pub generation: u64,
    /// Holes need no items.
    pub no_holes: bool,
}

impl Rules {
    pub fn of(context: &Context<'_>) -> Self {
        let no_holes = context.has(Incompat::NO_HOLES);
        Self { sectorsize: context.sectorsize(), generation: context.generation(), no_holes }
    }
}

/// Who hears of broken rules.
pub(crate) trait Listener {
    fn error(&mut self, kind: Kind, place: Place, problem: String);
}

impl Listener for Context<'_> {
    fn error(&mut self, kind: Kind, place: Place, problem: String) {
        Context::error(self, kind, place, problem);
    }
}

/// Whether any rule is broken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Suspicion(pub bool);

impl Listener for Suspicion {
    fn error(&mut self, _: Kind, _: Place, _: String) {
        self.0 = true;
    }
}

/// What was met of one inode so far.
#[derive(Clone, Default)]
pub(crate) struct Inode {
    pub ino: u64,
    pub item: Option<InodeItem>,
    /// Some of its items could not be read, so that nothing can be judged.
    pub partial: bool,
    /// Names in INODE_REF and INODE_EXTREF.
    pub names: u32,
    /// DIR_ITEM and DIR_INDEX entries.
    pub items: Entries,
    pub indexes: Entries,
    extents: Extents,
    /// What was met is not the beginning: the leaf before has more of it.
    continued: bool,
}

/// A sum over directory entries.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    pub count: u64,
    pub name_bytes: u64,
    pub sum: u64,
}

/// What was met of the file extents.
#[derive(Clone, Copy, Default)]
struct Extents {
    bytes: u64,
    count: u64,
    /// Where the first begins and the last ends.
    first: u64,
    end: u64,
    inline: bool,
    /// The inline bytes end with a zero.
    zero_at_end: bool,
    /// The first hole without an item.
    gap: Option<(u64, u64)>,
}

impl Entries {
    fn join(&mut self, other: &Self) {
        self.count += other.count;
        self.name_bytes = self.name_bytes.saturating_add(other.name_bytes);
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

impl Extents {
    /// Takes the extents of the next leaf in; gives whether they may follow.
    fn join(&mut self, right: &Self) -> bool {
        let fits = self.count == 0 || right.first >= self.end && !self.inline;
        let between = (right.first > self.end).then_some((self.end, right.first));
        self.gap = self.gap.or(between).or(right.gap);
        self.first = if self.count == 0 { right.first } else { self.first };
        self.bytes = self.bytes.saturating_add(right.bytes);
        self.count += right.count;
        self.end = right.end;
        self.inline |= right.inline;
        self.zero_at_end |= right.zero_at_end;
        fits
    }
}

impl Inode {
    pub fn new(ino: u64, partial: bool) -> Self {
        Self { ino, partial, ..Self::default() }
    }

    /// An inode of which a leaf shows the middle or the end.
    pub fn continued(ino: u64) -> Self {
        Self { continued: true, ..Self::new(ino, false) }
    }

    /// Takes what the next leaf has of the same inode; gives whether the two fit.
    pub fn join(&mut self, right: &Self) -> bool {
        let mut fits = right.item.is_none() && right.continued;
        self.partial |= right.partial;
        self.names = self.names.saturating_add(right.names);
        self.items.join(&right.items);
        self.indexes.join(&right.indexes);
        match (self.extents.count, right.extents.count) {
            (_, 0) => {}
            (0, _) if self.continued => self.extents = right.extents,
            _ => fits &= self.extents.join(&right.extents),
        }
        fits
    }

    /// Takes an EXTENT_DATA item in; its checksums are another matter.
    pub fn extent(
        &mut self,
        listener: &mut dyn Listener,
        rules: &Rules,
        tree: TreeId,
        key: &Key,
        extent: &FileExtent<'_>,
    ) {
        let place = || Place::inode(tree, self.ino).file_offset(key.offset);
        if self.extents.count == 0 {
            self.extents.first = key.offset;
            if self.continued {
                self.extents.end = key.offset;
            }
        }
        if self.extents.count > 0 && (key.offset < self.extents.end || self.extents.inline) {
            let problem = format!("overlaps the extent before, which ends at {}", self.extents.end);
            // Old kernels left a regular extent behind an inline one of the first sector.
            if !self.extents.inline || key.offset < rules.sectorsize {
                listener.error(Kind::FileExtent, place(), problem);
            }
        }
        if key.offset > self.extents.end && self.extents.gap.is_none() {
            self.extents.gap = Some((self.extents.end, key.offset));
        }
        if extent.generation > rules.generation.saturating_add(1) {
            listener.error(Kind::FileExtent, place(), format!("generation {} is in the future", extent.generation));
        }
        self.extents.count += 1;
        match extent.body {
            FileExtentBody::Inline(bytes) => {
                if let Some(problem) = inline_problem(rules, extent, bytes.len() as u64) {
                    listener.error(Kind::FileExtent, place(), problem);
                }
                self.extents.inline = true;
                self.extents.zero_at_end = bytes.last() == Some(&0);
                self.extents.bytes = self.extents.bytes.saturating_add(extent.ram_bytes);
                let sector = rules.sectorsize;
                self.extents.end = extent.ram_bytes.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
            }
            FileExtentBody::Extent { disk_bytenr, num_bytes, .. } => {
                if let Some(problem) = length_problem(extent) {
                    listener.error(Kind::FileExtent, place(), problem);
                }
                self.extents.end = key.offset.saturating_add(num_bytes);
                if disk_bytenr != 0 {
                    self.extents.bytes = self.extents.bytes.saturating_add(num_bytes);
                }
            }
        }
    }

    /// Looks at the checksums of an extent, in key order behind the inode's item.
    pub fn checksums(
        &self,
        context: &mut Context<'_>,
        tree: TreeId,
        sums: &Checksums,
        key: &Key,
        extent: &FileExtent<'_>,
    ) {
        let place = Place::inode(tree, self.ino).file_offset(key.offset);
        let problem = self.item.and_then(|item| checksum_problem(context, &item, extent, sums));
        if let Some(problem) = problem {
            context.error(Kind::Checksum, place.clone(), problem);
        }
        if let (Some((start, len)), FileExtentBody::Extent { disk_bytenr, .. }) =
            (preallocated_range(extent), extent.body)
            && sums.covered(context, start, len) > 0
        {
            context.preallocated(place, disk_bytenr);
        }
    }

    /// The rules that can be judged once all items of the inode are known, but for links.
    pub fn check(&self, listener: &mut dyn Listener, rules: &Rules, tree: TreeId) {
        let Some(item) = self.item else { return };
        let place = Place::inode(tree, self.ino);
        if item.transid.get() > rules.generation || item.generation.get() > rules.generation {
            let problem = format!("generation {}, transid {}: in the future", item.generation, item.transid);
            listener.error(Kind::InodeGeneration, place.clone(), problem);
        }
        if item.flags.get() & !InodeFlags::all().bits() != 0 {
            listener.error(Kind::InodeFlags, place.clone(), format!("unknown flags {:#x}", item.flags.get()));
        }
        let frozen = InodeFlags::IMMUTABLE | InodeFlags::APPEND;
        if FileType::from_mode(item.mode.get()) == FileType::Symlink && item.flags().intersects(frozen) {
            listener.error(Kind::InodeFlags, place.clone(), "a symbolic link that is immutable or append-only".into());
        }
        if FileType::from_mode(item.mode.get()) == FileType::Unknown {
            listener.error(Kind::InodeMode, place.clone(), format!("mode {:#o} has no file type", item.mode.get()));
        }
        // While an inode is being deleted its items are ahead of its counters.
        if item.nlink.get() == 0 {
            return;
        }
        match FileType::from_mode(item.mode.get()) {
            FileType::Directory => self.check_directory(listener, &place, &item),
            FileType::Regular => self.check_file(listener, rules, &place, &item),
            FileType::Symlink => self.check_symlink(listener, &place, &item),
            _ => self.check_without_extents(listener, &place),
        }
        if self.indexes.count > 0 && !item.is_dir() {
            listener.error(Kind::DirectoryEntry, place, "not a directory, but has entries".into());
        }
    }

    fn check_directory(&self, listener: &mut dyn Listener, place: &Place, item: &InodeItem) {
        let want = self.indexes.name_bytes.saturating_mul(2);
        if self.items != self.indexes {
            let (items, indexes) = (self.items.count, self.indexes.count);
            let problem = format!("{items} DIR_ITEM entries and {indexes} DIR_INDEX entries disagree");
            listener.error(Kind::DirectoryEntry, place.clone(), problem);
        } else if item.size.get() != want {
            listener.error(Kind::InodeSize, place.clone(), format!("directory size is {}, want {want}", item.size));
        }
        if item.nlink.get() != 1 {
            listener.error(Kind::LinkCount, place.clone(), format!("directory with {} links", item.nlink));
        }
        self.check_without_extents(listener, place);
    }

    fn check_without_extents(&self, listener: &mut dyn Listener, place: &Place) {
        if self.extents.count > 0 {
            listener.error(Kind::FileExtent, place.clone(), "has file extents, but is no file".into());
        }
    }

    fn check_file(&self, listener: &mut dyn Listener, rules: &Rules, place: &Place, item: &InodeItem) {
        self.check_bytes(listener, place, item);
        if rules.no_holes {
            return;
        }
        let size = item.size.get().checked_next_multiple_of(rules.sectorsize).unwrap_or(u64::MAX);
        let tail = (self.extents.end < size).then_some((self.extents.end, size));
        if let Some((start, end)) = self.extents.gap.filter(|gap| gap.0 < size).or(tail) {
            let problem = format!("no item for the hole {start} to {end}, and the filesystem lacks NO_HOLES");
            listener.error(Kind::FileHole, place.clone(), problem);
        }
    }

    fn check_bytes(&self, listener: &mut dyn Listener, place: &Place, item: &InodeItem) {
        if item.nbytes.get() != self.extents.bytes {
            let problem = format!("nbytes is {}, the extents have {}", item.nbytes, self.extents.bytes);
            listener.error(Kind::InodeBytes, place.clone(), problem);
        }
    }

    /// Whether the inline bytes are the target of a symbolic link of this size. What mkfs.btrfs makes of a directory has a
    /// zero behind it, which kernel and stock check take.
    fn is_target_of(&self, size: u64) -> bool {
        let extra = self.extents.bytes.checked_sub(size);
        size > 0 && (extra == Some(0) || extra == Some(1) && self.extents.zero_at_end)
    }

    fn check_symlink(&self, listener: &mut dyn Listener, place: &Place, item: &InodeItem) {
        if !self.extents.inline || self.extents.count != 1 {
            listener.error(Kind::FileExtent, place.clone(), "a symbolic link without its one inline extent".into());
        } else if !self.is_target_of(item.size.get()) {
            let problem = format!("size is {}, the target has {} bytes", item.size, self.extents.bytes);
            listener.error(Kind::InodeSize, place.clone(), problem);
        }
        self.check_bytes(listener, place, item);
    }
}

/// What is wrong with an inline extent that holds so many bytes: data that fills a sector is not inline.
fn inline_problem(rules: &Rules, extent: &FileExtent<'_>, bytes: u64) -> Option<String> {
    let sector = rules.sectorsize;
    let (ram, compressed) = (extent.ram_bytes, extent.compression != Compression::None);
    let most = if compressed { sector } else { sector.saturating_sub(1) };
    if ram == 0 {
        return Some("inline extent of no bytes".into());
    }
    (ram > most || bytes > sector).then(|| format!("inline extent of {bytes} bytes, ram_bytes is {ram}"))
}

/// A file's range lies within the extent as it is in memory.
fn length_problem(extent: &FileExtent<'_>) -> Option<String> {
    let FileExtentBody::Extent { offset, num_bytes, .. } = extent.body else { return None };
    (extent.ram_bytes < offset.saturating_add(num_bytes))
        .then(|| format!("ram_bytes is {}, the range {offset}+{num_bytes} ends above", extent.ram_bytes))
}

/// How the checksums of some file extents are, before it is known how they should be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coverage {
    compressed: bool,
    some: bool,
    lacking: bool,
    preallocated: bool,
}

impl Coverage {
    pub fn add(&mut self, context: &Context<'_>, extent: &FileExtent<'_>, sums: &Checksums) {
        if let Some((start, len)) = extent.checksummed_range() {
            let covered = sums.covered(context, start, len);
            self.compressed |= extent.compression != Compression::None;
            self.some |= covered > 0;
            self.lacking |= covered < len;
        }
        if let Some((start, len)) = preallocated_range(extent) {
            self.preallocated |= sums.covered(context, start, len) > 0;
        }
    }

    pub fn join(&mut self, other: &Self) {
        self.compressed |= other.compressed;
        self.some |= other.some;
        self.lacking |= other.lacking;
        self.preallocated |= other.preallocated;
    }

    /// Whether there is nothing to be looked at closely.
    pub fn suits(&self, item: &InodeItem) -> bool {
        let wrong =
            if item.flags().contains(InodeFlags::NODATASUM) { self.compressed || self.some } else { self.lacking };
        !wrong && !self.preallocated
    }
}

/// What is wrong with the checksums of a file extent.
fn checksum_problem(
    context: &Context<'_>,
    item: &InodeItem,
    extent: &FileExtent<'_>,
    sums: &Checksums,
) -> Option<String> {
    let (start, len) = extent.checksummed_range()?;
    let covered = sums.covered(context, start, len);
    let without = item.flags().contains(InodeFlags::NODATASUM);
    if without && extent.compression != Compression::None {
        return Some(format!("compressed with {}, but the inode has no checksums", extent.compression));
    }
    match without {
        true if covered > 0 => Some(format!("{covered} bytes of data have checksums, the inode wants none")),
        false if covered < len => Some(format!("{} of {len} bytes of data at {start} have no checksum", len - covered)),
        _ => None,
    }
}

/// The data that a file extent was given and that was not written there.
fn preallocated_range(extent: &FileExtent<'_>) -> Option<(u64, u64)> {
    match extent.body {
        FileExtentBody::Extent { disk_bytenr, offset, num_bytes, prealloc: true, .. } if disk_bytenr != 0 => {
            Some((disk_bytenr.saturating_add(offset), num_bytes))
        }
        _ => None,
    }
}
