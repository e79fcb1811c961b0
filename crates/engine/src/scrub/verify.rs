//! Whether bytes that were read are right, and what is done about those that are not.
//!
//! # Invariants
//! * What is wrong is looked at again first: an extent that was freed meanwhile is nobody's trouble.
//! * A repair is written while the trees are held shared: no commit returns the extent's space meanwhile, so nothing
//!   else is there. It is the one place where they are held while a device is waited for.

use butterfs_format::items::STRIPE_LEN;
use butterfs_format::validate::{Checksum, Expected, Geometry, check_block};
use butterfs_format::{Generation, Logical, TreeBlock};
use butterfs_volume::DeviceExtent;

use super::gather::{Piece, Sum, What, is_still};
use super::load::Loaded;
use super::progress::{Remedy, ScrubFinding, Trouble};
use super::{Run, ScrubMode, mirrors};
use crate::cores::on_all_cores;
use crate::error::Result;

/// Checksums are computed in jobs of so many bytes.
const JOB: u64 = 256 << 10;
/// So many sectors are repaired at once.
const RUN: usize = 16;

/// A part of a piece for one core.
struct Job<'a> {
    piece: &'a Piece,
    /// Its first sector in the piece, and how many bytes it has.
    first: usize,
    len: u64,
}

/// A sector that is wrong, or a tree block.
pub(super) struct Bad {
    /// Its number in the piece.
    index: usize,
    trouble: Trouble,
}

/// Looks at all pieces, and sees to what is wrong.
pub(super) fn verify(run: &Run<'_>, extent: &DeviceExtent, pieces: &[Piece], loaded: &Loaded) -> Result<()> {
    let jobs: Vec<Job<'_>> = pieces.iter().flat_map(|piece| jobs(run, piece)).collect();
    let bad = on_all_cores(jobs.len(), |job| look(run, &jobs[job], loaded));
    for (job, bad) in jobs.iter().zip(bad) {
        see_to(run, job.piece, bad)?;
    }
    for piece in pieces {
        count(run, piece);
        mirrors::compare(run, extent, piece, loaded)?;
    }
    Ok(())
}

fn jobs<'a>(run: &Run<'_>, piece: &'a Piece) -> Vec<Job<'a>> {
    if let What::Block { .. } = piece.what {
        return vec![Job { piece, first: 0, len: piece.len }];
    }
    let per_job = (JOB / run.sector) as usize;
    let starts = (0..piece.len).step_by(JOB as usize).enumerate();
    starts.map(|(number, start)| Job { piece, first: number * per_job, len: JOB.min(piece.len - start) }).collect()
}

/// Counts what was read.
pub(super) fn count(run: &Run<'_>, piece: &Piece) {
    run.monitor.count(|progress| match &piece.what {
        What::Block { .. } => {
            progress.tree_extents += 1;
            progress.tree_bytes += piece.len;
        }
        What::Data { sums } => {
            // One for each stripe that an extent has a part of, as the kernel counts them.
            let stripes = (piece.at.0 + piece.len).div_ceil(STRIPE_LEN) - piece.at.0 / STRIPE_LEN;
            progress.data_extents += stripes;
            progress.data_bytes += piece.len;
            progress.no_csum += sums.iter().filter(|sum| sum.is_none()).count() as u64;
        }
    });
}

/// What is wrong with a job's bytes.
fn look(run: &Run<'_>, job: &Job<'_>, loaded: &Loaded) -> Vec<Bad> {
    let piece = job.piece;
    let What::Data { sums } = &piece.what else {
        let unread = loaded.is_unread(piece.physical, piece.len);
        let bytes = || loaded.bytes(piece.physical, piece.len);
        let trouble = if unread { Some(Trouble::Unread) } else { block_trouble(run, piece, bytes()) };
        return trouble.map(|trouble| Bad { index: 0, trouble }).into_iter().collect();
    };
    let start = piece.physical + job.first as u64 * run.sector;
    let mut bad = Vec::new();
    for (number, bytes) in loaded.bytes(start, job.len).chunks(run.sector as usize).enumerate() {
        let index = job.first + number;
        if loaded.is_unread(piece.physical + index as u64 * run.sector, run.sector) {
            bad.push(Bad { index, trouble: Trouble::Unread });
        } else if !is_good(run, sums[index].as_ref(), bytes) {
            bad.push(Bad { index, trouble: Trouble::Checksum });
        }
    }
    bad
}

/// Whether a sector has the checksum that it is to have; without one, any bytes are as good.
pub(super) fn is_good(run: &Run<'_>, sum: Option<&Sum>, bytes: &[u8]) -> bool {
    sum.is_none_or(|sum| run.geometry.csum_type.compute(bytes) == *sum)
}

/// What is wrong with a tree block.
pub(super) fn block_trouble(run: &Run<'_>, piece: &Piece, bytes: &[u8]) -> Option<Trouble> {
    let What::Block { level } = piece.what else { return None };
    let expected = Expected { level, generation: Some(Generation(piece.generation)), ..Expected::at(piece.at) };
    trouble_of(&run.geometry, &expected, bytes)
}

/// What is wrong with bytes that should be this tree block.
pub(super) fn trouble_of(geometry: &Geometry, expected: &Expected, bytes: &[u8]) -> Option<Trouble> {
    if !geometry.csum_type.matches_block(bytes) {
        return Some(Trouble::Checksum);
    }
    let checked = check_block(&TreeBlock::from_bytes(bytes.to_vec()), geometry, expected, Checksum::Skip);
    checked.err().map(|corruption| Trouble::Block(corruption.problem))
}

/// Sectors that follow each other and have the same trouble, a few at a time.
fn runs(bad: Vec<Bad>) -> Vec<Vec<Bad>> {
    let mut runs: Vec<Vec<Bad>> = Vec::new();
    for bad in bad {
        match runs.last_mut() {
            Some(run)
                if run.len() < RUN && run[0].trouble == bad.trouble && run[run.len() - 1].index + 1 == bad.index =>
            {
                run.push(bad);
            }
            _ => runs.push(vec![bad]),
        }
    }
    runs
}

/// A stretch of a piece that is wrong.
struct Wrong<'a> {
    piece: &'a Piece,
    physical: u64,
    at: Logical,
    len: u64,
    trouble: Trouble,
    /// Of data: the checksums.
    sums: &'a [Option<Sum>],
}

impl Wrong<'_> {
    /// How many bytes are right or wrong together.
    fn unit(&self, run: &Run<'_>) -> u64 {
        if let What::Block { .. } = self.piece.what { self.len } else { run.sector }
    }
}

/// What is wrong with a piece.
pub(super) fn look_at(run: &Run<'_>, piece: &Piece, loaded: &Loaded) -> Vec<Bad> {
    look(run, &Job { piece, first: 0, len: piece.len }, loaded)
}

/// Repairs and reports what is wrong with a piece.
pub(super) fn see_to(run: &Run<'_>, piece: &Piece, bad: Vec<Bad>) -> Result<()> {
    runs(bad).into_iter().try_for_each(|bad| see_to_run(run, piece, bad))
}

fn see_to_run(run: &Run<'_>, piece: &Piece, bad: Vec<Bad>) -> Result<()> {
    if !run.gate.view(|tx| is_still(tx, piece))? {
        return Ok(());
    }
    let (first, count) = (bad[0].index, bad.len());
    let trouble = bad[0].trouble.clone();
    let wrong = match &piece.what {
        What::Block { .. } => {
            Wrong { piece, physical: piece.physical, at: piece.at, len: piece.len, trouble, sums: &[] }
        }
        What::Data { sums } => {
            let skip = first as u64 * run.sector;
            let (physical, at, len) = (piece.physical + skip, Logical(piece.at.0 + skip), count as u64 * run.sector);
            Wrong { piece, physical, at, len, trouble, sums: &sums[first..first + count] }
        }
    };
    note(run, &wrong);
    let (good, bytes) = find_good(run, &wrong);
    remedy(run, &wrong, &good, &bytes)
}

/// Counts what is wrong for the device. (It has counted reads that failed itself.)
fn note(run: &Run<'_>, wrong: &Wrong<'_>) {
    for _ in 0..wrong.len / wrong.unit(run) {
        match &wrong.trouble {
            Trouble::Unread => {}
            Trouble::Block(problem) if problem.contains("generation") => run.volume.note_stale(run.devid),
            _ => run.volume.note_corruption(run.devid),
        }
    }
}

/// Tries all ways to the bytes; says of each unit whether it was found.
fn find_good(run: &Run<'_>, wrong: &Wrong<'_>) -> (Vec<bool>, Vec<u8>) {
    let unit = wrong.unit(run) as usize;
    let mut bytes = vec![0; wrong.len as usize];
    let mut good = vec![false; bytes.len() / unit];
    let mut attempt = vec![0; bytes.len()];
    // Without a checksum, the copy that could not be read is no source of itself.
    for way in 0..run.volume.copies(wrong.at).unwrap_or(0) {
        if good.iter().all(|good| *good) {
            break;
        }
        if run.volume.read_copy(wrong.at, &mut attempt, way).is_err() {
            continue;
        }
        let found = attempt.chunks(unit).zip(bytes.chunks_mut(unit)).zip(&mut good).enumerate();
        for (number, ((from, to), good)) in found.filter(|(_, (_, good))| !**good) {
            let is_right = match wrong.piece.what {
                What::Block { .. } => block_trouble(run, wrong.piece, from).is_none(),
                What::Data { .. } => is_good(run, wrong.sums[number].as_ref(), from),
            };
            if is_right {
                to.copy_from_slice(from);
                *good = true;
            }
        }
    }
    (good, bytes)
}

/// Repairs what was found, and reports all.
fn remedy(run: &Run<'_>, wrong: &Wrong<'_>, good: &[bool], bytes: &[u8]) -> Result<()> {
    let unit = wrong.unit(run);
    let mut skip = 0;
    for same in good.chunk_by(|a, b| a == b) {
        let len = same.len() as u64 * unit;
        let physical = wrong.physical + skip;
        let part = &bytes[skip as usize..(skip + len) as usize];
        let remedy = if same[0] { repair(run, wrong.piece, physical, part)? } else { Remedy::None };
        let finding = ScrubFinding {
            devid: run.devid,
            physical,
            len,
            logical: Some(Logical(wrong.at.0 + skip)),
            is_data: matches!(wrong.piece.what, What::Data { .. }),
            trouble: wrong.trouble.clone(),
            remedy,
        };
        run.monitor.report(finding, run.sector);
        skip += len;
    }
    Ok(())
}

/// Writes good bytes, unless nothing is to be written or they are not wanted any more.
fn repair(run: &Run<'_>, piece: &Piece, physical: u64, bytes: &[u8]) -> Result<Remedy> {
    if run.mode == ScrubMode::ReadOnly {
        return Ok(Remedy::Possible);
    }
    run.gate.view(|tx| {
        if !is_still(tx, piece)? {
            return Ok(Remedy::Repaired);
        }
        Ok(write(run, physical, bytes))
    })
}

pub(super) fn write(run: &Run<'_>, physical: u64, bytes: &[u8]) -> Remedy {
    match run.volume.repair_device(run.devid, physical, bytes) {
        Ok(()) => Remedy::Repaired,
        Err(error) => {
            tracing::error!("scrub: repair of device {} physical {physical} failed: {error}", run.devid);
            Remedy::None
        }
    }
}
