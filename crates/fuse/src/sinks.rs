//! Where a front end puts the answer to READ, READDIR and READDIRPLUS.

use crate::abi;
use crate::reply::{Segment, entry_out};
use crate::types::{DirEntry, Entry};
use crate::{Errno, Result};
use butterfs_os::page_buffer::PageBuffer;
use std::ops::Range;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// Takes the bytes of a READ, in order, without joining them.
pub struct ReadSink<'a> {
    room: usize,
    used: usize,
    segments: &'a mut Vec<Segment>,
    scratch: &'a mut PageBuffer,
}

impl<'a> ReadSink<'a> {
    /// A sink for up to `wanted` bytes, cut to what the scratch buffer holds.
    pub(crate) fn new(wanted: usize, segments: &'a mut Vec<Segment>, scratch: &'a mut PageBuffer) -> Self {
        let room = wanted.min(scratch.bytes().len());
        Self { room, used: 0, segments, scratch }
    }

    /// How many more bytes may be added.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Adds up to `len` bytes (or the room left) that `fill` writes. It must overwrite all of its buffer with
    /// the file's bytes: before, the buffer holds those of earlier reads. The first buffer is
    /// page-aligned. Nothing is added if it fails.
    pub fn fill<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let range = self.used..self.used + len.min(self.room);
        fill(&mut self.scratch.bytes_mut()[range.clone()])?;
        self.used = range.end;
        self.room -= range.len();
        self.segments.push(Segment::Scratch(range));
        Ok(())
    }

    /// Adds a copy of `bytes`.
    pub fn copy(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(self.room)];
        let filled: std::result::Result<(), Errno> = self.fill(bytes.len(), |buffer| {
            buffer.copy_from_slice(bytes);
            Ok(())
        });
        debug_assert!(filled.is_ok());
    }

    /// Adds bytes that are given away.
    pub fn owned(&mut self, mut bytes: Vec<u8>) {
        bytes.truncate(self.room);
        self.room -= bytes.len();
        self.segments.push(Segment::Owned(bytes));
    }

    /// Adds a part of shared bytes, for example of a cache.
    pub fn shared(&mut self, bytes: Arc<[u8]>, range: Range<usize>) {
        let end = range.end.min(bytes.len());
        let start = range.start.min(end);
        let end = start + (end - start).min(self.room);
        self.room -= end - start;
        self.segments.push(Segment::Shared(bytes, start..end));
    }

    /// Adds `len` zeros, for example for a hole.
    pub fn zeros(&mut self, len: usize) {
        let len = len.min(self.room);
        self.room -= len;
        self.segments.push(Segment::Zeros(len));
    }
}

/// Whether a sink took an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a full sink has not taken the entry"]
pub enum Full {
    /// It was taken.
    No,
    /// There was no room: stop here, the kernel comes back for it.
    Yes,
}

/// Takes the entries of a READDIR.
pub struct DirSink<'a> {
    room: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> DirSink<'a> {
    /// A sink for up to `room` bytes of records.
    pub(crate) fn new(room: usize, out: &'a mut Vec<u8>) -> Self {
        Self { room, out }
    }

    /// Adds an entry, if there is room.
    pub fn add(&mut self, entry: &DirEntry<'_>) -> Full {
        let len = record_len(size_of::<abi::Dirent>(), entry.name);
        if len > self.room {
            return Full::Yes;
        }
        self.room -= len;
        push_dirent(self.out, entry);
        Full::No
    }
}

/// Takes the entries of a READDIRPLUS.
pub struct PlusSink<'a> {
    room: usize,
    out: &'a mut Vec<u8>,
}

impl<'a> PlusSink<'a> {
    /// A sink for up to `room` bytes of records.
    pub(crate) fn new(room: usize, out: &'a mut Vec<u8>) -> Self {
        Self { room, out }
    }

    /// Adds an entry, if there is room; only then `lookup` is called. It counts a lookup, as
    /// [`FrontEnd::lookup`](crate::FrontEnd::lookup) does, or gives `None` for an entry without attributes: always so
    /// for `.` and `..`.
    pub fn add(&mut self, entry: &DirEntry<'_>, lookup: impl FnOnce() -> Result<Option<Entry>>) -> Result<Full> {
        let fixed = size_of::<abi::EntryOut>() + size_of::<abi::Dirent>();
        let len = record_len(fixed, entry.name);
        if len > self.room {
            return Ok(Full::Yes);
        }
        let found = lookup()?.map_or(EMPTY_ENTRY, |entry| entry_out(&entry));
        self.room -= len;
        self.out.extend_from_slice(found.as_bytes());
        push_dirent(self.out, entry);
        Ok(Full::No)
    }

    /// Whether nothing has been added yet: an error then has to be reported, and not hidden
    /// behind the entries that lookups were already counted for.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

/// An entry that is not looked up.
const EMPTY_ENTRY: abi::EntryOut = zerocopy::transmute!([0_u8; size_of::<abi::EntryOut>()]);

/// Length of a record: a fixed part and a name, padded to 8 bytes.
fn record_len(fixed: usize, name: &[u8]) -> usize {
    (fixed + name.len()).next_multiple_of(8)
}

/// Appends a directory entry with name and padding.
fn push_dirent(out: &mut Vec<u8>, entry: &DirEntry<'_>) {
    let header =
        abi::Dirent { ino: entry.ino, off: entry.next, namelen: entry.name.len() as u32, kind: entry.kind as u32 };
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(entry.name);
    out.resize(out.len().next_multiple_of(8), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FileKind;

    const ENTRY: DirEntry<'_> = DirEntry { ino: 7, name: b"hello", kind: FileKind::Regular, next: 1 };

    #[test]
    fn a_directory_sink_pads_and_fills_up() {
        let mut out = Vec::new();
        let mut sink = DirSink::new(70, &mut out);
        assert_eq!(sink.add(&ENTRY), Full::No);
        assert_eq!(sink.add(&ENTRY), Full::No);
        assert_eq!(sink.add(&ENTRY), Full::Yes);
        assert_eq!(out.len(), 64);
    }

    #[test]
    fn a_full_sink_does_not_look_up() {
        let mut out = Vec::new();
        let mut sink = PlusSink::new(160, &mut out);
        assert_eq!(sink.add(&ENTRY, || Ok(None)), Ok(Full::No));
        let full = sink.add(&ENTRY, || panic!("looked up without room"));
        assert_eq!(full, Ok(Full::Yes));
        assert_eq!(out.len(), 160);
    }

    #[test]
    fn a_read_sink_never_takes_more_than_asked() {
        let (mut segments, mut scratch) = (Vec::new(), PageBuffer::new(8192, 0));
        let mut sink = ReadSink::new(10, &mut segments, &mut scratch);
        sink.copy(b"abc");
        sink.owned(vec![1; 4]);
        sink.shared(Arc::from(&b"xyz"[..]), 1..9);
        sink.zeros(100);
        assert_eq!(sink.room(), 0);
        sink.copy(b"more");
        assert_eq!(segments.iter().map(Segment::len).sum::<usize>(), 10);
    }
}
