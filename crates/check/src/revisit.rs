//! Walking trees once more, when it is known that something is wrong and not yet what: in key order, on
//! one thread. What was told of at the first walk is not told of again; what could not be used then is a
//! hole now.

use std::ops::Range;

use butterfs_format::validate::Expected;
use butterfs_format::{Key, TreeBlock};

use crate::context::Context;
use crate::walk::{TreeRoot, child, gone};

/// What is done with the blocks of a tree.
pub(crate) trait Revisitor {
    /// Whether a block and all below it are wanted.
    fn wants(&mut self, _bytenr: u64) -> bool {
        true
    }

    /// A node before its children, or a leaf.
    fn block(&mut self, context: &mut Context<'_>, block: &TreeBlock);

    fn hole(&mut self) {}
}

/// Walks a tree again.
pub(crate) fn revisit(context: &mut Context<'_>, root: &TreeRoot, visitor: &mut dyn Revisitor) {
    revisit_block(context, root, &root.expected(), None, visitor);
}

fn revisit_block(
    context: &mut Context<'_>,
    root: &TreeRoot,
    expected: &Expected,
    end: Option<Key>,
    visitor: &mut dyn Revisitor,
) {
    let bytenr = expected.bytenr.0;
    if context.bad.contains(&bytenr) || context.refused.contains(&(root.id, bytenr)) {
        return visitor.hole();
    }
    if !visitor.wants(bytenr) {
        return;
    }
    let Ok(block) = context.access.block(expected) else { return visitor.hole() };
    let last = block.len().checked_sub(1).map(|slot| block.key(slot));
    if last.zip(end).is_some_and(|(last, end)| last >= end) {
        return visitor.hole();
    }
    visitor.block(context, &block);
    if block.is_leaf() {
        return;
    }
    for slot in 0..block.len() {
        if gone(&block, slot, root.dropped) {
            continue;
        }
        let child_end = if slot + 1 < block.len() { Some(block.key(slot + 1)) } else { end };
        revisit_block(context, root, &child(&block, slot, expected.owner), child_end, visitor);
    }
}

/// Shows the items of a tree whose keys are in a range, in order, as far as they can be read.
pub(crate) fn items(context: &Context<'_>, root: &TreeRoot, keys: &Range<Key>, show: &mut dyn FnMut(&Key, &[u8])) {
    items_below(context, root, &root.expected(), keys, show);
}

fn items_below(
    context: &Context<'_>,
    root: &TreeRoot,
    expected: &Expected,
    keys: &Range<Key>,
    show: &mut dyn FnMut(&Key, &[u8]),
) {
    let bytenr = expected.bytenr.0;
    if context.bad.contains(&bytenr) || context.refused.contains(&(root.id, bytenr)) {
        return;
    }
    let Ok(block) = context.recent.block(&context.access, expected) else { return };
    let from = if block.is_leaf() {
        block.search(&keys.start).unwrap_or_else(|slot| slot)
    } else {
        block.child_slot(&keys.start)
    };
    for slot in (from..block.len()).take_while(|slot| block.key(*slot) < keys.end) {
        if block.is_leaf() {
            show(&block.key(slot), block.data(slot));
        } else {
            items_below(context, root, &child(&block, slot, expected.owner), keys, show);
        }
    }
}
