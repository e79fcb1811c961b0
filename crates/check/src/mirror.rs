//! Copies of tree blocks against each other, before the blocks are walked.
//!
//! Once the extent tree has told where tree blocks are, all copies of them are read from the start of the
//! disk to its end, in large pieces on all cores, and compared. Blocks whose copies are the same need no
//! second look later: the walk reads the first copy only, which the system still has in memory.
//!
//! Memory: two pieces for each thread, and the addresses of one round.

use std::sync::atomic::{AtomicUsize, Ordering};

use butterfs_format::Logical;

use crate::context::Context;

/// The most read at once, in bytes.
const PIECE: u64 = 1 << 20;
/// Gaps that are read with what lies around them.
const GAP: u64 = 64 << 10;
/// So many pieces ahead the system is told what will be read.
const AHEAD: usize = 8;

/// Blocks that are listed at once.
const ROUND: usize = 1 << 16;

/// Blocks that are read together.
struct Piece {
    start: u64,
    end: u64,
    blocks: Vec<u64>,
}

/// Compares the copies of all blocks that were not checked yet.
pub(crate) fn compare(context: &mut Context<'_>) {
    let mut from = Some(0);
    while let Some(start) = from {
        let known = context.allocated.iter_from(start).take(ROUND).collect::<Vec<_>>();
        from = known.last().filter(|_| known.len() == ROUND).and_then(|last| last.checked_add(1));
        let pieces = pieces(context, &known);
        for bytenr in compare_all(context, &pieces) {
            context.mirrored.insert(bytenr);
        }
    }
}

fn compare_all(context: &Context<'_>, pieces: &[Piece]) -> Vec<u64> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut same, mut buffers) = (Vec::new(), [Vec::new(), Vec::new()]);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(at) else { return same };
            if let Some(ahead) = pieces.get(at + AHEAD) {
                context.access.prefetch(ahead.start, ahead.end - ahead.start);
            }
            compare_piece(context, piece, &mut buffers, &mut same);
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..context.threads().min(pieces.len())).map(|_| scope.spawn(work)).collect();
        let mut same = work();
        for helper in helpers {
            same.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        same
    })
}

fn pieces(context: &Context<'_>, blocks: &[u64]) -> Vec<Piece> {
    let nodesize = context.nodesize();
    let mut pieces: Vec<Piece> = Vec::new();
    for bytenr in blocks.iter().copied().filter(|at| !context.seen.contains(*at)) {
        let end = bytenr.saturating_add(nodesize);
        match pieces.last_mut() {
            Some(last) if joins(context, last, bytenr, end) => {
                last.end = end;
                last.blocks.push(bytenr);
            }
            _ if context.access.copies(Logical(bytenr)) < 2 => {}
            _ => pieces.push(Piece { start: bytenr, end, blocks: vec![bytenr] }),
        }
    }
    pieces
}

fn joins(context: &Context<'_>, piece: &Piece, bytenr: u64, end: u64) -> bool {
    let near = bytenr.saturating_sub(piece.end) <= GAP && end.saturating_sub(piece.start) <= PIECE;
    near && context.access.contiguous(Logical(piece.start)) >= end.saturating_sub(piece.start)
}

fn compare_piece(context: &Context<'_>, piece: &Piece, buffers: &mut [Vec<u8>; 2], same: &mut Vec<u64>) {
    let (copies, nodesize) = (context.access.copies(Logical(piece.start)), context.nodesize() as usize);
    let len = (piece.end - piece.start) as usize;
    buffers.iter_mut().for_each(|buffer| buffer.resize(len, 0));
    let [first, other] = buffers;
    if context.access.read_into(Logical(piece.start), first, 0).is_err() {
        return;
    }
    let mut equal = piece.blocks.clone();
    for copy in 1..copies {
        if context.access.read_into(Logical(piece.start), other, copy).is_err() {
            return;
        }
        equal.retain(|bytenr| {
            let from = (bytenr - piece.start) as usize;
            first[from..from + nodesize] == other[from..from + nodesize]
        });
    }
    same.extend(equal);
}
