//! Data against its checksums: every copy, in the order of the disk, in large pieces, on all cores.
//!
//! Checksums gather until they are worth a batch; then all of its data is read, copy after copy.
//!
//! Memory: the checksums of one batch, and a piece for each thread.

use std::sync::atomic::{AtomicUsize, Ordering};

use butterfs_format::Logical;

use crate::context::Context;
use crate::finding::{Finding, Kind, Place};

/// The most data read at once, in bytes.
const PIECE: u64 = 1 << 20;
/// Data of a batch, in bytes; and pieces, which may be short.
const BATCH: u64 = 256 << 20;
const BATCH_PIECES: usize = 4096;
/// So many pieces ahead the system is told what will be read.
const AHEAD: usize = 16;

/// Adjacent data within one chunk.
struct Piece {
    at: u64,
    len: u64,
    sums: Vec<u8>,
}

/// Data that waits to be read.
#[derive(Default)]
pub(crate) struct DataCheck {
    pieces: Vec<Piece>,
    bytes: u64,
}

impl DataCheck {
    /// Adds an item's checksums, which come in the order of addresses.
    pub fn add(&mut self, context: &mut Context<'_>, start: u64, sums: &[u8]) {
        let (size, sectorsize) = (context.geometry().csum_type.size(), context.sectorsize());
        let (mut at, mut rest) = (start, sums);
        while rest.len() >= size {
            // A piece must not cross from one chunk into the next, whose copies may be others.
            let contiguous = context.access.contiguous(Logical(at)).max(sectorsize);
            let joined =
                self.pieces.last().filter(|last| last.at.checked_add(last.len) == Some(at) && last.len < PIECE);
            let joins = joined.is_some_and(|last| context.access.contiguous(Logical(last.at)) > last.len);
            let room = if joins { PIECE - joined.map_or(0, |last| last.len) } else { PIECE };
            let sectors = (room.min(contiguous) / sectorsize).max(1).min((rest.len() / size) as u64);
            let (now, later) = rest.split_at(sectors as usize * size);
            let len = sectors * sectorsize;
            match self.pieces.last_mut().filter(|_| joins) {
                Some(last) => {
                    last.len += len;
                    last.sums.extend_from_slice(now);
                }
                None => self.pieces.push(Piece { at, len, sums: now.to_vec() }),
            }
            (at, rest) = (at.saturating_add(len), later);
            self.bytes += len;
        }
        if self.bytes >= BATCH || self.pieces.len() >= BATCH_PIECES {
            self.finish(context);
        }
    }

    /// Reads what waits.
    pub fn finish(&mut self, context: &mut Context<'_>) {
        let pieces = std::mem::take(&mut self.pieces);
        self.bytes = 0;
        let copies = |piece: &Piece| context.block_copies(Logical(piece.at));
        let most = pieces.iter().map(copies).max().unwrap_or(0);
        let mut jobs = Vec::new();
        for copy in 0..most {
            jobs.extend((0..pieces.len()).filter(|index| copy < copies(&pieces[*index])).map(|index| (copy, index)));
        }
        let mut done = verify_all(context, &pieces, &jobs);
        // By address first, then by copy, as if one had been read after the other.
        done.sort_by_key(|(copy, index, ..)| (*index, *copy));
        for (_, _, verified, found) in done {
            context.report.statistics.verified_bytes += verified;
            found.into_iter().for_each(|finding| context.add(finding));
        }
        context.tell();
    }
}

/// Copy, piece, bytes verified, and what was found.
type Done = (usize, usize, u64, Vec<Finding>);

fn verify_all(context: &Context<'_>, pieces: &[Piece], jobs: &[(usize, usize)]) -> Vec<Done> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut done, mut buffer) = (Vec::new(), Vec::new());
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((copy, index)) = jobs.get(at).copied() else { return done };
            if let Some((copy, index)) = jobs.get(at + AHEAD) {
                context.access.prefetch_copy(pieces[*index].at, pieces[*index].len, *copy);
            }
            let (verified, found) = verify(context, &pieces[index], copy, &mut buffer);
            if verified > 0 || !found.is_empty() {
                done.push((copy, index, verified, found));
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..context.threads().min(jobs.len())).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    })
}

fn verify(context: &Context<'_>, piece: &Piece, copy: usize, buffer: &mut Vec<u8>) -> (u64, Vec<Finding>) {
    let fault = |at: u64, problem| Finding::error(Kind::DataChecksum, Place::data(at).copy(copy), problem);
    buffer.resize(piece.len as usize, 0);
    match context.access.read_into(Logical(piece.at), buffer, copy) {
        Ok(()) => {}
        Err(unread) if unread.absence => return (0, Vec::new()),
        Err(unread) => return (0, vec![fault(piece.at, unread.problem)]),
    }
    let (csum_type, sectorsize) = (context.geometry().csum_type, context.sectorsize());
    let sectors = buffer.chunks(sectorsize as usize).zip(piece.sums.chunks(csum_type.size()));
    let wrong =
        sectors.enumerate().filter(|(_, (sector, want))| csum_type.compute(sector)[..csum_type.size()] != **want);
    let found = wrong
        .map(|(index, _)| fault(piece.at + index as u64 * sectorsize, format!("{csum_type} checksum does not match")));
    (piece.len, found.collect())
}
