//! A reply on its way to the kernel: a fixed part, then segments that are not joined.

use crate::Errno;
use crate::abi;
use crate::types::{Attr, AttrReply, Entry, Timestamp};
use butterfs_os::page_buffer::PageBuffer;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{Immutable, IntoBytes};

/// Zeros for holes: one page shared by all.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// The most parts Linux takes in one write.
const MAX_PARTS: usize = 1024;

/// A part of a READ's answer.
#[derive(Debug)]
pub(crate) enum Segment {
    /// A part of the scratch buffer.
    Scratch(Range<usize>),
    /// Bytes of its own.
    Owned(Vec<u8>),
    /// A part of shared bytes.
    Shared(Arc<[u8]>, Range<usize>),
    /// That many zeros.
    Zeros(usize),
}

impl Segment {
    /// Its length.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Scratch(range) | Self::Shared(_, range) => range.len(),
            Self::Owned(bytes) => bytes.len(),
            Self::Zeros(len) => *len,
        }
    }
}

/// A reply being built; one per thread, used again and again.
pub(crate) struct Reply {
    error: i32,
    /// Structs, names and directory entries.
    pub(crate) body: Vec<u8>,
    /// Bytes of a file, behind the body.
    pub(crate) segments: Vec<Segment>,
    /// What `Segment::Scratch` refers to.
    pub(crate) scratch: PageBuffer,
}

impl Reply {
    /// An empty reply.
    pub(crate) fn new() -> Self {
        Self { error: 0, body: Vec::new(), segments: Vec::new(), scratch: PageBuffer::new(abi::MAX_WRITE as usize, 0) }
    }

    /// Empties it for the next request.
    pub(crate) fn clear(&mut self) {
        self.error = 0;
        self.body.clear();
        self.segments.clear();
    }

    /// Makes it an error.
    pub(crate) fn set_error(&mut self, errno: Errno) {
        self.clear();
        self.error = -errno.number();
    }

    /// Appends a struct.
    pub(crate) fn push<T: IntoBytes + Immutable>(&mut self, value: &T) {
        self.body.extend_from_slice(value.as_bytes());
    }

    /// Calls `send` with the parts of the finished reply.
    pub(crate) fn with_parts<R>(&mut self, unique: u64, send: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        if self.part_count() > MAX_PARTS {
            self.join();
        }
        let header = self.header(unique);
        let fixed = [IoSlice::new(header.as_bytes()), IoSlice::new(&self.body)];
        if self.segments.is_empty() {
            return send(&fixed[..1 + usize::from(!self.body.is_empty())]);
        }
        let mut parts = Vec::with_capacity(self.part_count());
        parts.extend(fixed);
        for segment in &self.segments {
            push_segment(&mut parts, segment, self.scratch.bytes());
        }
        send(&parts)
    }

    /// The header of the finished reply.
    pub(crate) fn header(&self, unique: u64) -> abi::OutHeader {
        let payload = self.body.len() + self.segments.iter().map(Segment::len).sum::<usize>();
        let len = u32::try_from(size_of::<abi::OutHeader>() + payload)
            .expect("a reply is bounded by the size the kernel asked for");
        abi::OutHeader { len, error: self.error, unique }
    }

    /// Copies all behind the header; gives how much it is, or `None` if there is no room for it.
    pub(crate) fn copy_to(&mut self, room: &mut [u8]) -> Option<usize> {
        self.join();
        room.get_mut(..self.body.len())?.copy_from_slice(&self.body);
        Some(self.body.len())
    }

    /// As [`Self::copy_to`], to the beginning of the scratch buffer: what was read is there already, in most cases.
    pub(crate) fn settle_in_scratch(&mut self) -> Option<usize> {
        if let (true, [Segment::Scratch(range)]) = (self.body.is_empty(), &self.segments[..])
            && range.start == 0
        {
            return Some(range.end);
        }
        self.join();
        self.scratch.bytes_mut().get_mut(..self.body.len())?.copy_from_slice(&self.body);
        Some(self.body.len())
    }

    /// How many parts the reply has.
    fn part_count(&self) -> usize {
        let of = |segment: &Segment| match segment {
            Segment::Zeros(len) => len.div_ceil(ZEROS.len()),
            _ => 1,
        };
        2 + self.segments.iter().map(of).sum::<usize>()
    }

    /// Moves all segments into the body.
    fn join(&mut self) {
        for segment in std::mem::take(&mut self.segments) {
            match segment {
                Segment::Scratch(range) => self.body.extend_from_slice(&self.scratch.bytes()[range]),
                Segment::Owned(bytes) => self.body.extend_from_slice(&bytes),
                Segment::Shared(bytes, range) => self.body.extend_from_slice(&bytes[range]),
                Segment::Zeros(len) => self.body.resize(self.body.len() + len, 0),
            }
        }
    }
}

/// Appends the memory of a segment.
fn push_segment<'a>(parts: &mut Vec<IoSlice<'a>>, segment: &'a Segment, scratch: &'a [u8]) {
    match segment {
        Segment::Scratch(range) => parts.push(IoSlice::new(&scratch[range.clone()])),
        Segment::Owned(bytes) => parts.push(IoSlice::new(bytes)),
        Segment::Shared(bytes, range) => parts.push(IoSlice::new(&bytes[range.clone()])),
        Segment::Zeros(len) => {
            let mut left = *len;
            while left > 0 {
                let part = left.min(ZEROS.len());
                parts.push(IoSlice::new(&ZEROS[..part]));
                left -= part;
            }
        }
    }
}

/// Attributes for the kernel.
pub(crate) fn attr_out(attr: &Attr) -> abi::Attr {
    abi::Attr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.seconds.cast_unsigned(),
        mtime: attr.mtime.seconds.cast_unsigned(),
        ctime: attr.ctime.seconds.cast_unsigned(),
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev.to_fuse(),
        blksize: attr.blksize,
        flags: 0,
    }
}

/// Attributes with their time to live, for the kernel.
pub(crate) fn attr_reply_out(reply: &AttrReply) -> abi::AttrOut {
    let (attr_valid, attr_valid_nsec) = ttl(reply.ttl);
    abi::AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attr_out(&reply.attr) }
}

/// An entry for the kernel.
pub(crate) fn entry_out(entry: &Entry) -> abi::EntryOut {
    let (entry_valid, entry_valid_nsec) = ttl(entry.entry_ttl);
    let (attr_valid, attr_valid_nsec) = ttl(entry.attr_ttl);
    abi::EntryOut {
        nodeid: entry.node.map_or(0, |node| node.0),
        generation: entry.generation,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr_out(&entry.attr),
    }
}

/// A time of STATX.
pub(crate) fn sx_time(time: Timestamp) -> abi::SxTime {
    abi::SxTime { tv_sec: time.seconds, tv_nsec: time.nanos, reserved: 0 }
}

/// A time to live as seconds and nanoseconds.
fn ttl(ttl: Duration) -> (u64, u32) {
    (ttl.as_secs(), ttl.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(reply: &mut Reply) -> Vec<u8> {
        reply.with_parts(9, |parts| parts.iter().flat_map(|part| part.to_vec()).collect())
    }

    #[test]
    fn segments_follow_the_header_in_order() {
        let mut reply = Reply::new();
        reply.scratch.bytes_mut()[..3].copy_from_slice(b"abc");
        reply.segments = vec![
            Segment::Scratch(1..3),
            Segment::Zeros(2),
            Segment::Owned(b"de".to_vec()),
            Segment::Shared(Arc::from(&b"xfgx"[..]), 1..3),
        ];
        let sent = bytes(&mut reply);
        assert_eq!(&sent[16..], b"bc\0\0defg");
        assert_eq!(sent[..4], 24_u32.to_ne_bytes());
    }

    #[test]
    fn too_many_segments_are_joined() {
        let mut reply = Reply::new();
        reply.segments = (0..3000_u32).map(|n| Segment::Owned(vec![n as u8])).collect();
        let parts = reply.with_parts(1, |parts| parts.len());
        assert!(parts <= MAX_PARTS);
        let sent = bytes(&mut reply);
        assert_eq!(sent.len(), 16 + 3000);
        assert_eq!(sent[16 + 2999], 2999_u32 as u8);
    }

    #[test]
    fn an_error_drops_what_was_there() {
        let mut reply = Reply::new();
        reply.body.extend_from_slice(b"half");
        reply.set_error(Errno::EIO);
        let sent = bytes(&mut reply);
        assert_eq!(sent.len(), 16);
        assert_eq!(sent[4..8], (-5_i32).to_ne_bytes());
    }
}
