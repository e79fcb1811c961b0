//! Where blocks go: text, or elements of a JSON list. One block at a time is in memory.

use std::io::{self, Write};

use butterfs_format::print::{BlockText, KeyText, Options, UuidText};
use butterfs_format::superblock::{Incompat, RootBackup};
use butterfs_format::validate::item::check_item;
use butterfs_format::{Key, Superblock, TreeBlock};
use serde_json::{Value, json};

use crate::commands::Format;
use crate::commands::inspect::image::Image;
use crate::commands::inspect::json::{self, List};
use crate::commands::inspect::report::warn;

/// The output.
pub struct Sink<'a> {
    out: &'a mut dyn Write,
    image: &'a Image,
    options: Options,
    list: Option<List>,
    /// The tree that blocks belong to, for JSON.
    tree: Value,
    /// What follows the list in JSON.
    last: Vec<(&'static str, Value)>,
}

impl<'a> Sink<'a> {
    /// Begins with the program's version, which is where btrfs-progs has its own.
    pub fn begin(out: &'a mut dyn Write, image: &'a Image, options: Options, format: Format) -> io::Result<Self> {
        let list = match format {
            Format::Json => Some(List::begin(out, "inspect-dump-tree")?),
            Format::Text => {
                writeln!(out, "butterfs v{}", env!("CARGO_PKG_VERSION"))?;
                None
            }
        };
        Ok(Self { out, image, options, list, tree: Value::Null, last: Vec::new() })
    }

    pub fn end(self) -> io::Result<()> {
        match self.list {
            Some(list) => list.end(self.out, &self.last),
            None => Ok(()),
        }
    }

    /// So that what is said on standard error comes where it belongs.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The blocks that follow are of a tree that no root item leads to.
    pub fn special_tree(&mut self, name: &str) -> io::Result<()> {
        self.tree = json!({ "name": name });
        if self.list.is_none() { writeln!(self.out, "{name} tree") } else { Ok(()) }
    }

    /// The blocks that follow are of this tree; `end` is what follows the key in the text.
    pub fn tree(&mut self, name: &str, key: &Key, end: &str) -> io::Result<()> {
        self.tree = json!({ "name": name, "root_key": json::key(key) });
        if self.list.is_none() { writeln!(self.out, "{name} tree {}{end}", KeyText(*key)) } else { Ok(()) }
    }

    /// Where the root of a tree is.
    pub fn root(&mut self, name: &str, key: Option<&Key>, root: &TreeBlock) -> io::Result<()> {
        let (bytenr, level) = (root.bytenr(), root.level());
        let Some(list) = &mut self.list else {
            return match key {
                Some(key) => writeln!(self.out, "{name} tree {} {bytenr} level {level}", KeyText(*key)),
                None => writeln!(self.out, "{name} tree: {bytenr} level {level}"),
            };
        };
        let tree = match key {
            Some(key) => json!({ "name": name, "root_key": json::key(key) }),
            None => json!({ "name": name }),
        };
        list.entry(self.out, &json!({ "tree": tree, "bytenr": bytenr.0, "level": level }))
    }

    /// A block.
    pub fn block(&mut self, block: &TreeBlock) -> io::Result<()> {
        match &mut self.list {
            Some(list) => list.entry(self.out, &json::block(&self.tree, block, &self.options))?,
            None => write!(self.out, "{}", BlockText { block, options: &self.options })?,
        }
        self.tell_of_items(block)
    }

    fn tell_of_items(&mut self, block: &TreeBlock) -> io::Result<()> {
        for slot in (0..block.len()).filter(|_| block.is_leaf()) {
            if let Err(problem) = check_item(block, slot, self.image.geometry()) {
                self.out.flush()?;
                warn(format_args!("leaf {} slot {slot} {}: {problem}", block.bytenr(), KeyText(block.key(slot))));
            }
        }
        Ok(())
    }

    /// The backup roots of the superblock.
    pub fn backups(&mut self, sb: &Superblock) -> io::Result<()> {
        if self.list.is_some() {
            self.last.push(("backup_roots", json::backup_roots(sb)));
            return Ok(());
        }
        let v2 = sb.incompat().contains(Incompat::EXTENT_TREE_V2);
        let extent = if v2 { "block group root" } else { "extent root" };
        sb.super_roots.iter().enumerate().try_for_each(|(slot, backup)| self.backup(slot, backup, extent))
    }

    fn backup(&mut self, slot: usize, b: &RootBackup, extent: &str) -> io::Result<()> {
        writeln!(self.out, "btrfs root backup slot {slot}")?;
        writeln!(self.out, "\ttree root gen {} block {}", b.tree_root_gen, b.tree_root)?;
        let roots = [
            (extent, b.extent_root_gen, b.extent_root),
            ("chunk root", b.chunk_root_gen, b.chunk_root),
            ("device root", b.dev_root_gen, b.dev_root),
            ("csum root", b.csum_root_gen, b.csum_root),
            ("fs root", b.fs_root_gen, b.fs_root),
        ];
        for (name, generation, root) in roots {
            writeln!(self.out, "\t\t{name} gen {generation} block {root}")?;
        }
        writeln!(self.out, "\t\t{} used {} total {} devices", b.bytes_used, b.total_bytes, b.num_devices)
    }

    /// What the superblock says of the whole.
    pub fn totals(&mut self, sb: &Superblock) -> io::Result<()> {
        let uuid = UuidText(&sb.fsid);
        if self.list.is_some() {
            let totals = json!({
                "total_bytes": sb.total_bytes.get(),
                "bytes_used": sb.bytes_used.get(),
                "uuid": uuid.to_string(),
            });
            self.last.push(("filesystem", totals));
            return Ok(());
        }
        writeln!(self.out, "total bytes {}\nbytes used {}\nuuid {uuid}", sb.total_bytes, sb.bytes_used)
    }
}
