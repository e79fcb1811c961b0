//! The order of blocks, and what becomes of those that cannot be read.

use std::collections::HashSet;
use std::io;

use butterfs_format::validate::Expected;
use butterfs_format::{Logical, TreeBlock};

use super::sink::Sink;
use crate::commands::inspect::image::{Image, child};

/// The order in which the blocks of a tree are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Level by level from the root. The nodes above are read again for each level, so that no more than
    /// one path is in memory.
    BreadthFirst,
    /// Each node before its children.
    DepthFirst,
}

/// Prints a block and all below it.
pub fn print_tree(image: &Image, sink: &mut Sink<'_>, root: &TreeBlock, order: Order) -> io::Result<()> {
    sink.block(root)?;
    let mut walk = Walk { image, sink, seen: HashSet::new() };
    match order {
        Order::DepthFirst => walk.depth_first(root),
        Order::BreadthFirst => (0..root.level()).rev().try_for_each(|level| {
            walk.seen.clear();
            walk.level(root, level)
        }),
    }
}

/// Prints the leaves at and below a block.
pub fn print_leaves(image: &Image, sink: &mut Sink<'_>, root: &TreeBlock) -> io::Result<()> {
    if root.is_leaf() {
        return sink.block(root);
    }
    Walk { image, sink, seen: HashSet::new() }.level(root, 0)
}

struct Walk<'a, 's> {
    image: &'a Image,
    sink: &'a mut Sink<'s>,
    /// Nodes that were met in this round, so that a damaged tree is not printed for ever.
    seen: HashSet<Logical>,
}

impl Walk<'_, '_> {
    fn depth_first(&mut self, node: &TreeBlock) -> io::Result<()> {
        for slot in slots(node) {
            let Some(block) = self.read(&child(node, slot))? else { continue };
            self.sink.block(&block)?;
            self.depth_first(&block)?;
        }
        Ok(())
    }

    /// Prints all blocks of a level below a node.
    fn level(&mut self, node: &TreeBlock, level: u8) -> io::Result<()> {
        for slot in slots(node) {
            let at = child(node, slot);
            let Some(block) = self.read_for(&at, level)? else { continue };
            if block.level() == level { self.sink.block(&block)? } else { self.level(&block, level)? }
        }
        Ok(())
    }

    fn read(&mut self, at: &Expected) -> io::Result<Option<TreeBlock>> {
        self.read_for(at, at.level.unwrap_or(0))
    }

    /// Reads a block; what is wrong with it is told of in the round of its own level only.
    fn read_for(&mut self, at: &Expected, level: u8) -> io::Result<Option<TreeBlock>> {
        let own = at.level.unwrap_or(0);
        let first = own == 0 || self.seen.insert(at.bytenr);
        let problem = match self.image.block(at) {
            Ok(block) if first => return Ok(Some(block)),
            Ok(_) => format!("tree block {}: is referred to twice", at.bytenr),
            Err(problem) => problem,
        };
        if own == level {
            self.sink.flush()?;
            self.image.lose(problem);
        }
        Ok(None)
    }
}

/// The slots of a node that refer to different leaves; two keys for one leaf are damage, and could
/// multiply it endlessly.
fn slots(node: &TreeBlock) -> Vec<usize> {
    if node.is_leaf() {
        return Vec::new();
    }
    let mut seen = HashSet::new();
    (0..node.len()).filter(|slot| seen.insert(node.ptr(*slot).blockptr.get())).collect()
}
