//! One inode: its item and all that hangs on it, in key order, then the rules they keep together.

use butterfs_format::items::{Compression, FileExtent, FileExtentBody, FileType, InodeFlags, InodeItem};
use butterfs_format::superblock::Incompat;
use butterfs_format::{Key, TreeId};

use crate::checksums::Checksums;
use crate::context::Context;
use crate::finding::{Kind, Place};

/// What was met of one inode so far.
#[derive(Default)]
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
}

/// A sum over directory entries.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    pub count: u64,
    pub name_bytes: u64,
    pub sum: u64,
}

/// What was met of the file extents.
#[derive(Default)]
struct Extents {
    bytes: u64,
    count: u64,
    end: u64,
    inline: bool,
    /// The first hole without an item.
    gap: Option<(u64, u64)>,
}

impl Inode {
    pub fn new(ino: u64, partial: bool) -> Self {
        Self { ino, partial, ..Self::default() }
    }

    /// Takes an EXTENT_DATA item in. Without `sums`, checksums are not looked at.
    pub fn extent(
        &mut self,
        context: &mut Context<'_>,
        tree: TreeId,
        sums: Option<&Checksums>,
        key: &Key,
        data: &[u8],
    ) {
        let Ok(extent) = FileExtent::parse(data) else {
            self.partial = true;
            return;
        };
        let place = || Place::inode(tree, self.ino).file_offset(key.offset);
        if self.extents.count > 0 && (key.offset < self.extents.end || self.extents.inline) {
            let problem = format!("overlaps the extent before, which ends at {}", self.extents.end);
            // Old kernels left a regular extent behind an inline one of the first sector.
            if !self.extents.inline || key.offset < context.sectorsize() {
                context.error(Kind::FileExtent, place(), problem);
            }
        }
        if key.offset > self.extents.end && self.extents.gap.is_none() {
            self.extents.gap = Some((self.extents.end, key.offset));
        }
        if extent.generation > context.generation().saturating_add(1) {
            context.error(Kind::FileExtent, place(), format!("generation {} is in the future", extent.generation));
        }
        self.extents.count += 1;
        match extent.body {
            FileExtentBody::Inline(bytes) => {
                if let Some(problem) = inline_problem(context, &extent, bytes.len() as u64) {
                    context.error(Kind::FileExtent, place(), problem);
                }
                self.extents.inline = true;
                self.extents.bytes = self.extents.bytes.saturating_add(extent.ram_bytes);
                let sector = context.sectorsize();
                self.extents.end = extent.ram_bytes.checked_next_multiple_of(sector).unwrap_or(u64::MAX);
            }
            FileExtentBody::Extent { disk_bytenr, num_bytes, .. } => {
                self.extents.end = key.offset.saturating_add(num_bytes);
                if disk_bytenr != 0 {
                    self.extents.bytes = self.extents.bytes.saturating_add(num_bytes);
                    let problem = self.item.zip(sums).and_then(|(item, sums)| checksum_problem(&item, &extent, sums));
                    if let Some(problem) = problem {
                        context.error(Kind::Checksum, place(), problem);
                    }
                    if let (Some((start, len)), Some(sums)) = (preallocated_range(&extent), sums)
                        && sums.covered(start, len) > 0
                    {
                        context.preallocated_with_sums.push((place(), disk_bytenr));
                    }
                }
            }
        }
    }

    /// The rules that can be judged once all items of the inode are known, but for links.
    pub fn check(&self, context: &mut Context<'_>, tree: TreeId) {
        let Some(item) = self.item else { return };
        let place = Place::inode(tree, self.ino);
        if item.transid.get() > context.generation() || item.generation.get() > context.generation() {
            let problem = format!("generation {}, transid {}: in the future", item.generation, item.transid);
            context.error(Kind::InodeGeneration, place.clone(), problem);
        }
        if item.flags.get() & !InodeFlags::all().bits() != 0 {
            context.error(Kind::InodeFlags, place.clone(), format!("unknown flags {:#x}", item.flags.get()));
        }
        let frozen = InodeFlags::IMMUTABLE | InodeFlags::APPEND;
        if FileType::from_mode(item.mode.get()) == FileType::Symlink && item.flags().intersects(frozen) {
            context.error(Kind::InodeFlags, place.clone(), "a symbolic link that is immutable or append-only");
        }
        if FileType::from_mode(item.mode.get()) == FileType::Unknown {
            context.error(Kind::InodeMode, place.clone(), format!("mode {:#o} has no file type", item.mode.get()));
        }
        // While an inode is being deleted its items are ahead of its counters.
        if item.nlink.get() == 0 {
            return;
        }
        match FileType::from_mode(item.mode.get()) {
            FileType::Directory => self.check_directory(context, &place, &item),
            FileType::Regular => self.check_file(context, &place, &item),
            FileType::Symlink => self.check_symlink(context, &place, &item),
            _ => self.check_without_extents(context, &place),
        }
        if self.indexes.count > 0 && !item.is_dir() {
            context.error(Kind::DirectoryEntry, place, "not a directory, but has entries");
        }
    }

    fn check_directory(&self, context: &mut Context<'_>, place: &Place, item: &InodeItem) {
        let want = self.indexes.name_bytes.saturating_mul(2);
        if self.items != self.indexes {
            let (items, indexes) = (self.items.count, self.indexes.count);
            let problem = format!("{items} DIR_ITEM entries and {indexes} DIR_INDEX entries disagree");
            context.error(Kind::DirectoryEntry, place.clone(), problem);
        } else if item.size.get() != want {
            context.error(Kind::InodeSize, place.clone(), format!("directory size is {}, want {want}", item.size));
        }
        if item.nlink.get() != 1 {
            context.error(Kind::LinkCount, place.clone(), format!("directory with {} links", item.nlink));
        }
        self.check_without_extents(context, place);
    }

    fn check_without_extents(&self, context: &mut Context<'_>, place: &Place) {
        if self.extents.count > 0 {
            context.error(Kind::FileExtent, place.clone(), "has file extents, but is no file");
        }
    }

    fn check_file(&self, context: &mut Context<'_>, place: &Place, item: &InodeItem) {
        self.check_bytes(context, place, item);
        if context.has(Incompat::NO_HOLES) {
            return;
        }
        let size = item.size.get().checked_next_multiple_of(context.sectorsize()).unwrap_or(u64::MAX);
        let tail = (self.extents.end < size).then_some((self.extents.end, size));
        if let Some((start, end)) = self.extents.gap.filter(|gap| gap.0 < size).or(tail) {
            let problem = format!("no item for the hole {start} to {end}, and the filesystem lacks NO_HOLES");
            context.error(Kind::FileHole, place.clone(), problem);
        }
    }

    fn check_bytes(&self, context: &mut Context<'_>, place: &Place, item: &InodeItem) {
        if item.nbytes.get() != self.extents.bytes {
            let problem = format!("nbytes is {}, the extents have {}", item.nbytes, self.extents.bytes);
            context.error(Kind::InodeBytes, place.clone(), problem);
        }
    }

    fn check_symlink(&self, context: &mut Context<'_>, place: &Place, item: &InodeItem) {
        if !self.extents.inline || self.extents.count != 1 {
            context.error(Kind::FileExtent, place.clone(), "a symbolic link without its one inline extent");
        } else if item.size.get() != self.extents.bytes || item.size.get() == 0 {
            let problem = format!("size is {}, the target has {} bytes", item.size, self.extents.bytes);
            context.error(Kind::InodeSize, place.clone(), problem);
        }
        self.check_bytes(context, place, item);
    }
}

/// What is wrong with an inline extent that holds so many bytes: data that fills a sector is not inline.
fn inline_problem(context: &Context<'_>, extent: &FileExtent<'_>, bytes: u64) -> Option<String> {
    let sector = context.sectorsize();
    let (ram, compressed) = (extent.ram_bytes, extent.compression != Compression::None);
    let most = if compressed { sector } else { sector.saturating_sub(1) };
    if ram == 0 {
        return Some("inline extent of no bytes".into());
    }
    (ram > most || bytes > sector).then(|| format!("inline extent of {bytes} bytes, ram_bytes is {ram}"))
}

/// What is wrong with the checksums of a file extent.
fn checksum_problem(item: &InodeItem, extent: &FileExtent<'_>, sums: &Checksums) -> Option<String> {
    let (start, len) = extent.checksummed_range()?;
    let covered = sums.covered(start, len);
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
