//! Bytes of files: read from any copy, verified where there is a checksum, decompressed; what cannot be had is told.
//!
//! # Invariants
//! * A byte whose checksum is known is given out only if it is right.
//! * What is lost is told in whole sectors (of a compressed extent, whole), cut to the file's size.
//! * Memory is bounded: a piece, and the last extent that was decompressed.

use std::io;
use std::ops::Range;

use butterfs_format::Logical;
use butterfs_format::compression::{MAX_COMPRESSED, MAX_UNCOMPRESSED, decompress};
use butterfs_format::items::{Compression, InodeFlags};
use butterfs_volume::Volume;

use crate::csums::Lookup;
use crate::inode::{Body, Data, Extent, Inode};
use crate::source::Source;

/// How much is read at once.
const PIECE: u64 = 1 << 20;

/// Takes bytes of a file, by offset.
pub type Write<'w> = &'w mut dyn FnMut(u64, &[u8]) -> io::Result<()>;

/// What could not be had of a file.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Bytes that are lost.
    pub lost: Ranges,
    /// Bytes that have no checksum, and should.
    pub unverified: Ranges,
    /// Why the first is lost.
    pub cause: Option<String>,
    /// How many bytes were given out.
    pub bytes: u64,
}

/// Ranges that do not touch.
#[derive(Debug, Default)]
pub struct Ranges(pub Vec<Range<u64>>);

impl Ranges {
    /// Adds a range, which joins those that it touches.
    pub fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.0.push(range),
        }
    }

    /// In order, and joined.
    pub fn settle(&mut self) {
        self.0.sort_by_key(|range| range.start);
        let all = std::mem::take(&mut self.0);
        for range in all {
            match self.0.last_mut() {
                Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                _ => self.0.push(range),
            }
        }
    }
}

/// Reads files; one for each thread.
pub struct Reader<'a> {
    volume: &'a Volume,
    sector: u64,
    lookup: Lookup<'a>,
    buffer: Vec<u8>,
    /// The compressed extent that was last read: its address, and its bytes if they could be had.
    last: Option<(u64, Result<Vec<u8>, String>)>,
}

/// A file that is being read.
struct File<'w> {
    size: u64,
    has_checksums: bool,
    write: Write<'w>,
    outcome: Outcome,
}

impl<'a> Reader<'a> {
    /// With checksums from there.
    pub fn new(source: &'a Source, lookup: Lookup<'a>) -> Self {
        let sector = u64::from(source.geometry().sectorsize);
        Self { volume: source.volume(), sector, lookup, buffer: Vec::new(), last: None }
    }

    /// Reads all of a file of this size.
    ///
    /// # Errors
    /// If the bytes cannot be written.
    pub fn read(&mut self, inode: &Inode, size: u64, write: Write<'_>) -> io::Result<Outcome> {
        let flags = inode.item.map(|item| item.flags());
        let has_checksums = flags.is_none_or(|flags| !flags.contains(InodeFlags::NODATASUM));
        let mut file = File { size, has_checksums, write, outcome: Outcome::default() };
        self.last = None;
        // Older extents first: current ones are written over them.
        let mut order: Vec<&Extent> = inode.extents.iter().collect();
        order.sort_by_key(|extent| std::cmp::Reverse(extent.trust));
        for extent in order.into_iter().filter(|extent| extent.start < size) {
            match &extent.body {
                Body::Zeros => {}
                Body::Inline { bytes, compression } => self.inline(extent, bytes, *compression, &mut file)?,
                Body::Data(data) if data.compression == Compression::None => self.plain(extent, data, &mut file)?,
                Body::Data(data) => self.compressed(extent, data, &mut file)?,
            }
        }
        file.outcome.lost.settle();
        file.outcome.unverified.settle();
        Ok(file.outcome)
    }

    fn inline(&self, extent: &Extent, input: &[u8], kind: Compression, file: &mut File<'_>) -> io::Result<()> {
        let mut bytes = vec![0; extent.len.min(MAX_UNCOMPRESSED) as usize];
        match decompress(kind, input, self.sector as u32, &mut bytes) {
            Ok(_) => file.give(extent.start, &bytes),
            Err(problem) => file.lose(extent.start..extent.start.saturating_add(extent.len), || problem),
        }
    }

    /// An extent that is stored as it is, a piece at a time.
    fn plain(&mut self, extent: &Extent, data: &Data, file: &mut File<'_>) -> io::Result<()> {
        let most = file.size.checked_next_multiple_of(self.sector).unwrap_or(u64::MAX);
        let end = extent.start.saturating_add(extent.len).min(most);
        let mut at = extent.start;
        while at < end {
            let skip = data.offset.checked_add(at - extent.start);
            let Some(logical) = skip.and_then(|skip| data.bytenr.checked_add(skip)).map(Logical) else {
                return file.lose(at..end, || "address past 2^64".into());
            };
            let mapped = self.volume.contiguous(logical);
            if mapped == 0 {
                return file.lose(at..end, || format!("no chunk has address {logical}"));
            }
            let len = PIECE.min(end - at).min(mapped);
            self.piece(logical, at, len, file)?;
            at += len;
        }
        Ok(())
    }

    fn piece(&mut self, logical: Logical, at: u64, len: u64, file: &mut File<'_>) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(len as usize, 0);
        let checked = self.checked(logical, &mut buffer, file);
        for sectors in checked.unverified {
            file.outcome.unverified.add(file.cut(self.bytes_of(&sectors, at)));
        }
        let mut good = 0;
        for (sectors, problem) in checked.bad {
            let bytes = self.bytes_of(&sectors, 0);
            file.give(at + good, &buffer[good as usize..(bytes.start as usize).min(buffer.len())])?;
            file.lose(self.bytes_of(&sectors, at), || problem)?;
            good = bytes.end;
        }
        file.give(at + good, buffer.get(good as usize..).unwrap_or_default())?;
        self.buffer = buffer;
        Ok(())
    }

    fn bytes_of(&self, sectors: &Range<usize>, at: u64) -> Range<u64> {
        at + sectors.start as u64 * self.sector..at + sectors.end as u64 * self.sector
    }

    /// Reads sectors and holds them against their checksums.
    fn checked(&mut self, at: Logical, buffer: &mut [u8], file: &File<'_>) -> Checked {
        let has_checksums = file.has_checksums;
        let sector = self.sector as usize;
        let count = buffer.len().div_ceil(sector);
        let sums = if has_checksums { self.lookup.get(at, count) } else { vec![None; count] };
        let csum_type = self.volume.geometry().csum_type;
        let size = csum_type.size();
        let good = |first: usize, index: usize, bytes: &[u8]| {
            sums[first + index].is_none_or(|sum| csum_type.compute(bytes)[..size] == sum[..size])
        };
        let mut checked = Checked::default();
        if has_checksums {
            let without = (0..count).filter(|index| sums[*index].is_none());
            without.for_each(|index| push(&mut checked.unverified, index));
        }
        let read = |first: usize, part: &mut [u8]| {
            let at = Logical(at.0 + (first * sector) as u64);
            if sums[first..first + part.len().div_ceil(sector)].iter().all(Option::is_none) {
                return self.volume.read(at, part);
            }
            self.volume.read_verified(at, part, &|index, bytes| good(first, index, bytes))
        };
        if read(0, buffer).is_err() {
            for (index, part) in buffer.chunks_mut(sector).enumerate() {
                if let Err(error) = read(index, part) {
                    checked.lose(index, error.to_string());
                }
            }
        }
        checked
    }

    /// An extent that is read whole, and decompressed.
    fn compressed(&mut self, extent: &Extent, data: &Data, file: &mut File<'_>) -> io::Result<()> {
        if self.last.as_ref().is_none_or(|(bytenr, _)| *bytenr != data.bytenr) {
            let bytes = self.unpack(extent, data, file);
            self.last = Some((data.bytenr, bytes));
        }
        let range = extent.start..extent.start.saturating_add(extent.len);
        let whole = self.last.as_ref().map(|(_, bytes)| bytes.as_ref().map_err(Clone::clone));
        let part = match whole {
            Some(Ok(bytes)) => {
                let from = usize::try_from(data.offset).unwrap_or(usize::MAX);
                let to = from.saturating_add(usize::try_from(extent.len).unwrap_or(usize::MAX));
                bytes.get(from..to).ok_or_else(|| "it reaches past the end of the compressed extent".into())
            }
            Some(Err(problem)) => Err(problem),
            None => Err(String::new()),
        };
        match part {
            Ok(bytes) => file.give(extent.start, bytes),
            Err(problem) => file.lose(range, || problem),
        }
    }

    fn unpack(&mut self, extent: &Extent, data: &Data, file: &mut File<'_>) -> Result<Vec<u8>, String> {
        if data.disk_len > MAX_COMPRESSED || data.ram_len > MAX_UNCOMPRESSED {
            return Err(format!("compressed extent of {} bytes for {}: too long", data.disk_len, data.ram_len));
        }
        let mut input = vec![0; data.disk_len as usize];
        let checked = self.checked(Logical(data.bytenr), &mut input, file);
        if !checked.unverified.is_empty() {
            let range = extent.start..extent.start.saturating_add(extent.len);
            file.outcome.unverified.add(file.cut(range));
        }
        if let Some((_, problem)) = checked.bad.into_iter().next() {
            return Err(problem);
        }
        let mut bytes = vec![0; data.ram_len as usize];
        decompress(data.compression, &input, self.sector as u32, &mut bytes)
            .map_err(|problem| format!("extent at logical {}: {problem}", data.bytenr))?;
        Ok(bytes)
    }
}

/// What is wrong with sectors that were read, by their numbers.
#[derive(Default)]
struct Checked {
    bad: Vec<(Range<usize>, String)>,
    unverified: Vec<Range<usize>>,
}

impl Checked {
    fn lose(&mut self, index: usize, problem: String) {
        match self.bad.last_mut() {
            Some((range, _)) if range.end == index => range.end += 1,
            _ => self.bad.push((index..index + 1, problem)),
        }
    }
}

fn push(ranges: &mut Vec<Range<usize>>, index: usize) {
    match ranges.last_mut() {
        Some(range) if range.end == index => range.end += 1,
        _ => ranges.push(index..index + 1),
    }
}

impl File<'_> {
    fn cut(&self, range: Range<u64>) -> Range<u64> {
        range.start.min(self.size)..range.end.min(self.size)
    }

    fn give(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let count = self.size.saturating_sub(offset).min(bytes.len() as u64) as usize;
        if count > 0 {
            (self.write)(offset, &bytes[..count])?;
            self.outcome.bytes += count as u64;
        }
        Ok(())
    }

    fn lose(&mut self, range: Range<u64>, problem: impl FnOnce() -> String) -> io::Result<()> {
        let range = self.cut(range);
        if !range.is_empty() {
            self.outcome.lost.add(range);
            self.outcome.cause.get_or_insert_with(problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join() {
        let mut ranges = Ranges::default();
        for range in [8..12, 12..16, 0..4, 5..5, 2..6] {
            ranges.add(range);
        }
        ranges.settle();
        assert_eq!(ranges.0, [0..6, 8..16]);
    }
}
