//! Compression on the way to the devices: whose data, by which method, and on all cores.
//!
//! # Invariants
//! * Nothing of a file without copy-on-write or without checksums is compressed.
//! * A chunk is 128 KiB of the file at most, and begins where a dirty range or the chunk before it in
//!   the range ends: an extent reads whole, so it is never larger than the format allows.
//! * A file whose data did not become smaller is not tried again (NOCOMPRESS), as in the kernel: unless
//!   somebody insists, by `compress-force` or by the file's property.

use std::ops::Range;
use std::sync::Mutex;

use butterfs_format::compression::{Choice, Compressor, MAX_UNCOMPRESSED, Method, Place, worth_trying};
use butterfs_format::items::{Compression, InodeFlags};

use super::delalloc::TakenRun;
use super::extents::InlineExtent;
use super::sectors::{intersect, len, lock, sector_size};
use crate::cores::on_all_cores;
use crate::error::Result;
use crate::inode::{Inode, Shared, xattr};

/// The attribute that says how a file is compressed; a directory's goes to what is made in it.
pub const PROPERTY: &[u8] = b"btrfs.compression";

/// A single write is compressed in windows of so many bytes, so that what is compressed and not yet
/// written is bounded.
pub(super) const WINDOW: u64 = 8 << 20;

/// What `compress=` and `compress-force=` say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressRule {
    /// Only files that ask for it, by their flag or their property.
    #[default]
    Asked,
    /// All files that do not refuse it, as long as it makes them smaller.
    All(Method),
    /// Everything, always.
    Force(Method),
}

impl CompressRule {
    /// What a file with the flag alone is compressed with.
    pub fn method(self) -> Method {
        match self {
            Self::Asked => Method::default(),
            Self::All(method) | Self::Force(method) => method,
        }
    }
}

/// How the data of one file is compressed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    method: Method,
    effort: Effort,
    verdict: Verdict,
}

/// Whether data that looks incompressible is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    IfPromising,
    Always,
}

/// Whether the file is left alone once its data did not become smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Kept,
    Forgotten,
}

/// Bytes as they go to a device, whole sectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub bytes: Vec<u8>,
    pub kind: Compression,
}

/// Memory of compressors, kept for the next file.
#[derive(Default)]
pub struct Compressors {
    idle: Mutex<Vec<Compressor>>,
}

impl Compressors {
    fn with<R>(&self, work: impl FnOnce(&mut Compressor) -> R) -> R {
        let mut compressor = lock(&self.idle).pop().unwrap_or_default();
        let result = work(&mut compressor);
        lock(&self.idle).push(compressor);
        result
    }

    /// How many were at work at once, at most: each took memory of its own, which is kept.
    #[cfg(test)]
    pub fn most_at_once(&self) -> usize {
        lock(&self.idle).len()
    }
}

/// Whether bytes of a file that has these flags may become fewer by compression.
pub fn may_be_compressed(shared: &Shared, inode: &Inode, flags: InodeFlags) -> bool {
    let is_asked = flags.contains(InodeFlags::COMPRESS) || inode.data.compression().is_some();
    is_asked || shared.live().compress != CompressRule::Asked
}

/// How a file's data is to be compressed, if it is.
pub(super) fn plan(shared: &Shared, inode: &Inode) -> Result<Option<Plan>> {
    let flags = lock(&inode.state).item.flags();
    let rule = shared.live().compress;
    if flags.intersects(InodeFlags::NODATACOW | InodeFlags::NODATASUM) {
        return Ok(None);
    }
    match inode.data.compression() {
        Some(Choice::Never) => return Ok(None),
        Some(Choice::With(method)) => {
            return Ok(Some(Plan { method, effort: Effort::IfPromising, verdict: Verdict::Forgotten }));
        }
        None => {}
    }
    if rule == CompressRule::Asked && !flags.contains(InodeFlags::COMPRESS) {
        return Ok(None);
    }
    let property = match flags.contains(InodeFlags::COMPRESS) {
        true => property(shared, inode)?,
        false => None,
    };
    Ok(choose(rule, flags, property))
}

fn property(shared: &Shared, inode: &Inode) -> Result<Option<Method>> {
    let value = shared.gate.view(|tx| xattr::get(tx, inode.id, PROPERTY))?;
    Ok(match value.as_deref().and_then(Choice::of_property) {
        Some(Choice::With(method)) => Some(method),
        Some(Choice::Never) | None => None,
    })
}

fn choose(rule: CompressRule, flags: InodeFlags, property: Option<Method>) -> Option<Plan> {
    let method = property.unwrap_or(rule.method());
    let verdict = if property.is_some() { Verdict::Forgotten } else { Verdict::Kept };
    match rule {
        CompressRule::Force(_) => Some(Plan { method, effort: Effort::Always, verdict: Verdict::Forgotten }),
        _ if flags.contains(InodeFlags::NOCOMPRESS) => None,
        CompressRule::All(_) => Some(Plan { method, effort: Effort::IfPromising, verdict }),
        CompressRule::Asked if flags.contains(InodeFlags::COMPRESS) => {
            Some(Plan { method, effort: Effort::IfPromising, verdict })
        }
        CompressRule::Asked => None,
    }
}

/// A part of a file, and its bytes if they became smaller.
pub(super) struct Chunk {
    pub file: Range<u64>,
    pub packed: Option<Packed>,
}

impl Chunk {
    /// One whose bytes stay as they are.
    pub fn plain(file: Range<u64>) -> Self {
        Self { file, packed: None }
    }
}

/// Cuts ranges into chunks and compresses each that is worth it; gives all, lowest first.
pub(super) fn pack(
    shared: &Shared,
    inode: &Inode,
    plan: Plan,
    runs: &[TakenRun],
    ranges: &[Range<u64>],
    may_pack: impl Fn(&Range<u64>) -> Result<bool>,
) -> Result<Vec<Chunk>> {
    let sector = sector_size(shared);
    let chunks: Vec<Range<u64>> = ranges.iter().flat_map(|range| cut(range, MAX_UNCOMPRESSED)).collect();
    let mut wanted = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        // A sector alone cannot become smaller.
        if len(chunk) > sector && may_pack(chunk)? {
            wanted.push(index);
        }
    }
    let results = on_all_cores(wanted.len(), |job| {
        let bytes = gather(runs, &chunks[wanted[job]]);
        (plan.effort == Effort::Always || worth_trying(&bytes))
            .then(|| shared.compressors.with(|compressor| compress(compressor, plan.method, &bytes, sector)))
    });
    if plan.verdict == Verdict::Kept && results.iter().any(|result| matches!(result, Some(None))) {
        leave_alone(inode);
    }
    let mut packed = vec![None; chunks.len()];
    for (index, result) in wanted.iter().zip(results) {
        packed[*index] = result.flatten();
    }
    Ok(chunks.into_iter().zip(packed).map(|(file, packed)| Chunk { file, packed }).collect())
}

/// The file's item is written with the extents that are being made.
fn leave_alone(inode: &Inode) {
    let mut state = lock(&inode.state);
    let flags = state.item.flags() | InodeFlags::NOCOMPRESS;
    state.item.flags = flags.bits().into();
    state.dirty = true;
}

/// Compresses a whole small file for the tree, into `limit` bytes at most.
pub(super) fn pack_inline(shared: &Shared, plan: Plan, bytes: &[u8], limit: u64) -> Option<InlineExtent> {
    let sector = sector_size(shared);
    let mut output = vec![0; limit.min(sector) as usize];
    let count = shared
        .compressors
        .with(|compressor| compressor.compress(plan.method, bytes, Place::Inline, sector as u32, &mut output))?;
    output.truncate(count);
    Some(InlineExtent { data: output, ram_bytes: bytes.len() as u64, compression: plan.method.compression() })
}

fn compress(compressor: &mut Compressor, method: Method, bytes: &[u8], sector: u64) -> Option<Packed> {
    let mut output = vec![0; bytes.len()];
    let count = compressor.compress(method, bytes, Place::Regular, sector as u32, &mut output)?;
    let padded = count.next_multiple_of(sector as usize);
    output.truncate(padded);
    output[count..].fill(0);
    Some(Packed { bytes: output, kind: method.compression() })
}

/// Ranges of at most `most` bytes, in order.
pub(super) fn cut(range: &Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (start, end) = (range.start, range.end);
    (start..end).step_by(most as usize).map(move |at| at..(at + most).min(end))
}

/// The bytes of a part of the file that the runs cover.
fn gather(runs: &[TakenRun], chunk: &Range<u64>) -> Vec<u8> {
    let first = runs.partition_point(|run| run.range().end <= chunk.start);
    let mut bytes = Vec::with_capacity(len(chunk) as usize);
    for run in runs[first..].iter().take_while(|run| run.start < chunk.end) {
        let part = intersect(&run.range(), chunk);
        bytes.extend_from_slice(&run.bytes[(part.start - run.start) as usize..(part.end - run.start) as usize]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZSTD: Method = Method::Zstd(butterfs_format::compression::ZstdLevel::DEFAULT);

    #[test]
    fn the_rule_the_flags_and_the_property_decide_together() {
        let (yes, no) = (InodeFlags::COMPRESS, InodeFlags::NOCOMPRESS);
        let (lzo, none) = (Some(Method::Lzo), InodeFlags::empty());
        let chosen = |rule, flags, property| choose(rule, flags, property).map(|plan| (plan.method, plan.effort));
        use {CompressRule::*, Effort::*};
        for (rule, flags, property, expected) in [
            (Asked, none, None, None),
            (Asked, yes, None, Some((Method::default(), IfPromising))),
            (Asked, yes, lzo, Some((Method::Lzo, IfPromising))),
            (All(ZSTD), none, None, Some((ZSTD, IfPromising))),
            (All(ZSTD), yes, lzo, Some((Method::Lzo, IfPromising))),
            (All(ZSTD), no, None, None),
            (Force(ZSTD), no, None, Some((ZSTD, Always))),
            (Force(ZSTD), yes, lzo, Some((Method::Lzo, Always))),
        ] {
            assert_eq!(chosen(rule, flags, property), expected, "{rule:?} {flags:?} {property:?}");
        }
    }

    #[test]
    fn who_insists_is_tried_again() {
        let verdict = |rule, flags, property| choose(rule, flags, property).map(|plan| plan.verdict);
        assert_eq!(verdict(CompressRule::All(ZSTD), InodeFlags::empty(), None), Some(Verdict::Kept));
        assert_eq!(verdict(CompressRule::Asked, InodeFlags::COMPRESS, Some(ZSTD)), Some(Verdict::Forgotten));
        assert_eq!(verdict(CompressRule::Force(ZSTD), InodeFlags::empty(), None), Some(Verdict::Forgotten));
    }

    #[test]
    fn ranges_are_cut_in_order() {
        assert_eq!(cut(&(4..14), 4).collect::<Vec<_>>(), [4..8, 8..12, 12..14]);
        assert_eq!(cut(&(4..4), 4).count(), 0);
    }
}
