//! Bytes that were read by one way, put right by the others.

use std::ops::Range;

use butterfs_format::Logical;

use super::Run;
use super::gather::{Piece, What};
use super::verify::{block_trouble, is_good};

/// Takes what is bad of a piece from the ways from `first` on. `bytes` begins at the address `start`, and may have a part of the
/// piece only. Gives the parts of it that nobody has right: they are left as they were.
pub(super) fn mend(run: &Run<'_>, piece: &Piece, first: usize, start: u64, bytes: &mut [u8]) -> Vec<Range<usize>> {
    let unit = if let What::Block { .. } = piece.what { piece.len } else { run.sector };
    let mut bad = Vec::new();
    for number in 0..piece.len / unit {
        let at = piece.at.0 + number * unit;
        let Some(from) = at.checked_sub(start).map(|from| from as usize) else { continue };
        let range = from..from + unit as usize;
        let Some(bytes) = bytes.get_mut(range.clone()) else { continue };
        let good = |bytes: &[u8]| match &piece.what {
            What::Block { .. } => block_trouble(run, piece, bytes).is_none(),
            What::Data { sums } => is_good(run, sums[number as usize].as_ref(), bytes),
        };
        if good(bytes) {
            continue;
        }
        let before = bytes.to_vec();
        if !take_good(run, Logical(at), first, bytes, good) {
            bytes.copy_from_slice(&before);
            bad.push(range);
        }
    }
    bad
}

/// Tries the ways from `first` on; says whether one was good.
pub(super) fn take_good(
    run: &Run<'_>,
    at: Logical,
    first: usize,
    bytes: &mut [u8],
    good: impl Fn(&[u8]) -> bool,
) -> bool {
    let ways = run.volume.ways(at).unwrap_or_default();
    let mut ways = ways.into_iter().filter(|way| *way >= first);
    ways.any(|way| run.volume.read_copy(at, bytes, way).is_ok() && good(bytes))
}
