//! `inspect-internal logical-resolve`: the files that a byte of the logical address space belongs to.
//!
//! The back references of the extent tell which inodes to look at; a leaf that snapshots share names one
//! of them, so that each of these inodes is then looked for in all subvolumes.

use std::collections::BTreeSet;
use std::process::ExitCode;

use butterfs_format::items::{BackRef, ExtentFlags, ExtentItem, FileExtent, FileExtentBody, InlineRef};
use butterfs_format::validate::Expected;
use butterfs_format::{Ino, ItemType, Key, Logical, TreeId};
use serde_json::{Value, json};

use super::image::{Flow, Image};
use super::paths::{self, Place};
use super::report::{failure, output_failure, warn};
use super::target::Target;
use super::{OutputFormat, json};
use crate::commands::Format;
use crate::failure::Result;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  butterfs inspect-internal logical-resolve 13631488 disk.img
  butterfs inspect-internal logical-resolve -P -o 13631488 disk.img

Files in all subvolumes and snapshots are found. Addresses are those of `dump-tree`, of the kernel's messages
and of `check`.";

/// What it is told.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The logical address, in bytes.
    logical: u64,
    #[command(flatten)]
    target: Target,
    /// Print inode, file offset and subvolume instead of paths.
    #[arg(short = 'P')]
    inodes: bool,
    /// Print all files that refer to the extent, not only those that refer to this byte of it.
    #[arg(short = 'o')]
    ignore_offset: bool,
    /// Room for results, in bytes: taken, but there is always enough.
    #[arg(short = 's', value_name = "BUFSIZE")]
    _bufsize: Option<u64>,
    #[command(flatten)]
    output: OutputFormat,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    tree: TreeId,
    ino: Ino,
    offset: u64,
}

/// Runs the command.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let (image, _) = arguments.target.open()?;
    let fail = |problem: String| failure(arguments.target.image(), problem);
    let extent = Extent::containing(&image, arguments.logical).map_err(fail)?;
    let uses = extent.uses(&image, arguments);
    let entries: Vec<_> = uses.iter().map(|one| (one, paths_of(&image, one, arguments))).collect();
    output::stream(|out| match arguments.output.or(before) {
        Format::Text => entries.iter().try_for_each(|(one, paths)| match arguments.inodes {
            true => writeln!(out, "inode {} offset {} root {}", one.ino, one.offset, one.tree),
            false => paths.iter().try_for_each(|path| out.write_all(path).and_then(|()| out.write_all(b"\n"))),
        }),
        Format::Json => {
            let entries: Vec<_> = entries.iter().map(|(one, paths)| entry(one, paths)).collect();
            json::list(out, "inspect-logical-resolve", &entries)
        }
    })
    .map_err(|error| output_failure(&error))?;
    Ok(ExitCode::from(u8::from(image.lost() > 0)))
}

fn paths_of(image: &Image, one: &Use, arguments: &Arguments) -> Vec<Vec<u8>> {
    if arguments.inodes {
        return Vec::new();
    }
    paths::full_paths(image, Place { tree: one.tree, ino: one.ino }).unwrap_or_else(|problem| {
        warn(problem);
        Vec::new()
    })
}

fn entry(one: &Use, paths: &[Vec<u8>]) -> Value {
    let paths: Vec<_> = paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
    json!({ "inode": one.ino.0, "offset": one.offset, "root": one.tree.0, "paths": paths })
}

/// A data extent.
struct Extent {
    start: u64,
    /// Where in it the byte is that was asked for.
    within: u64,
    refs: Vec<InlineRef>,
}

impl Extent {
    /// Finds the extent that an address lies in.
    fn containing(image: &Image, logical: u64) -> std::result::Result<Self, String> {
        let none = || format!("no data extent has the logical address {logical}");
        let tree = image.tree(TreeId::EXTENT).ok_or("there is no extent tree")?;
        // Extents lie in chunks: none that begins before this one reaches into it.
        let (chunk, _) = image.volume().chunk_containing(Logical(logical)).ok_or_else(none)?;
        let mut found = None;
        let mut keyed = Vec::new();
        image.items(&tree, Key::new(chunk.0, ItemType::UNTYPED, 0), &mut |key, data| {
            if key.objectid > logical {
                return Flow::Break(());
            }
            match key.item_type {
                ItemType::EXTENT_ITEM | ItemType::METADATA_ITEM => {
                    keyed.clear();
                    found = Some((*key, ExtentItem::parse(key, data)));
                }
                ItemType::EXTENT_DATA_REF | ItemType::SHARED_DATA_REF => {
                    keyed.extend(BackRef::parse_keyed(key, data));
                }
                _ => {}
            }
            Flow::Continue(())
        });
        let (key, item) = found.ok_or_else(none)?;
        let item = item.map_err(|problem| format!("{key}: {problem}"))?;
        let length = match key.item_type {
            ItemType::METADATA_ITEM => u64::from(image.geometry().nodesize),
            _ => key.offset,
        };
        if logical - key.objectid >= length {
            return Err(none());
        }
        if !item.flags.contains(ExtentFlags::DATA) {
            return Err(format!("{logical} is in the tree block at {}, not in a file", key.objectid));
        }
        let refs = item.inline.into_iter().chain(keyed).collect();
        Ok(Self { start: key.objectid, within: logical - key.objectid, refs })
    }

    /// All uses of the extent, or of the byte.
    fn uses(&self, image: &Image, arguments: &Arguments) -> BTreeSet<Use> {
        let inodes: BTreeSet<Ino> = self.refs.iter().flat_map(|one| self.inodes(image, one)).collect();
        let mut uses = BTreeSet::new();
        for (tree, root) in image.subvolumes() {
            for ino in &inodes {
                self.uses_by(image, (tree, &root), *ino, arguments, &mut uses);
            }
        }
        uses
    }

    /// The inodes that a reference is about.
    fn inodes(&self, image: &Image, one: &InlineRef) -> Vec<Ino> {
        let parent = match one.back_ref {
            BackRef::Data { objectid, .. } => return vec![objectid],
            BackRef::SharedData { parent } => parent,
            BackRef::TreeBlock { .. } | BackRef::SharedBlock { .. } => return Vec::new(),
        };
        let leaf = match image.block(&Expected { level: Some(0), ..Expected::at(parent) }) {
            Ok(leaf) => leaf,
            Err(problem) => {
                image.lose(problem);
                return Vec::new();
            }
        };
        let refers = |slot: &usize| self.position(&leaf.key(*slot), leaf.data(*slot)).is_some();
        (0..leaf.len()).filter(refers).map(|slot| Ino(leaf.key(slot).objectid)).collect()
    }

    fn uses_by(
        &self,
        image: &Image,
        (tree, root): (TreeId, &Expected),
        ino: Ino,
        arguments: &Arguments,
        uses: &mut BTreeSet<Use>,
    ) {
        image.items(root, Key::new(ino.0, ItemType::EXTENT_DATA, 0), &mut |key, data| {
            if key.objectid != ino.0 || key.item_type != ItemType::EXTENT_DATA {
                return Flow::Break(());
            }
            if let Some(offset) = self.position(key, data).and_then(|part| part.offset(self.within, key, arguments)) {
                uses.insert(Use { tree, ino, offset });
            }
            Flow::Continue(())
        });
    }

    /// The part of this extent that an item refers to.
    fn position(&self, key: &Key, data: &[u8]) -> Option<Part> {
        if key.item_type != ItemType::EXTENT_DATA {
            return None;
        }
        let extent = FileExtent::parse(data).ok()?;
        let compressed = extent.compression != butterfs_format::items::Compression::None;
        match extent.body {
            FileExtentBody::Extent { disk_bytenr, offset, num_bytes, .. } if disk_bytenr == self.start => {
                Some(if compressed { Part::Whole } else { Part::Range(offset, num_bytes) })
            }
            _ => None,
        }
    }
}

/// What of an extent a file uses.
enum Part {
    /// It is compressed: every byte matters for all.
    Whole,
    /// Offset and length, in bytes.
    Range(u64, u64),
}

impl Part {
    /// Where in the file the byte is, if the file uses it.
    fn offset(&self, within: u64, key: &Key, arguments: &Arguments) -> Option<u64> {
        match *self {
            _ if arguments.ignore_offset => Some(key.offset),
            Self::Whole => Some(key.offset),
            Self::Range(offset, length) if within >= offset && within - offset < length => {
                Some(key.offset.wrapping_add(within - offset))
            }
            Self::Range(..) => None,
        }
    }
}
