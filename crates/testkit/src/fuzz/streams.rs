//! Compressed streams, good ones and bad ones.

use butterfs_format::items::Compression;
use flate2::{Compress, FlushCompress};

use super::input::Input;
use super::numbers::disturb;
use crate::random::Random;

const KINDS: [Compression; 3] = [Compression::Zlib, Compression::Lzo, Compression::Zstd];

/// A stream as Btrfs writes it.
pub fn compress(compression: Compression, bytes: &[u8], sectorsize: usize) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Zlib => {
            let mut packed = Vec::with_capacity(bytes.len() + bytes.len() / 100 + 100);
            let mut stream = Compress::new(flate2::Compression::new(3), true);
            stream.compress_vec(bytes, &mut packed, FlushCompress::Finish).expect("there is room");
            packed
        }
        Compression::Lzo => lzo(bytes, sectorsize),
        Compression::Zstd => zstd::bulk::compress(bytes, 3).expect("memory for zstd"),
    }
}

/// Segments of a sector each; a length never crosses the end of a sector.
fn lzo(bytes: &[u8], sectorsize: usize) -> Vec<u8> {
    let mut framed = vec![0; 4];
    for sector in bytes.chunks(sectorsize) {
        let left = sectorsize - framed.len() % sectorsize;
        if left < 4 {
            framed.resize(framed.len() + left, 0);
        }
        let segment = lzokay::compress::compress(sector).expect("memory for LZO");
        framed.extend_from_slice(&(segment.len() as u32).to_le_bytes());
        framed.extend_from_slice(&segment);
    }
    let total = framed.len() as u32;
    framed[..4].copy_from_slice(&total.to_le_bytes());
    framed
}

/// Text, with some noise in it.
pub fn text(random: &mut Random, len: usize) -> Vec<u8> {
    const WORDS: [&[u8]; 6] = [b"butter ", b"cream, ", b"churn\n", b"\0\0\0\0\0\0\0\0", b"whey. ", b"milk "];
    let mut text = Vec::with_capacity(len + 64);
    while text.len() < len {
        match random.percent(4) {
            true => text.extend(random.bytes(40)),
            false => text.extend_from_slice(random.pick(&WORDS).expect("there are words")),
        }
    }
    text.truncate(len);
    text
}

/// A good stream with something wrong about it.
pub fn bad(random: &mut Random) -> Input {
    let compression = *random.pick(&KINDS).expect("there are kinds");
    let sectorsize = *random.pick(&[4096_u32, 4096, 16384, 65536]).expect("there are sizes");
    let len = *random.pick(&[10_u64, 1000, 4096, 9000, 20_000]).expect("there are lengths");
    let len = random.between(1, len) as usize;
    let plain = text(random, len);
    let mut bytes = compress(compression, &plain, sectorsize as usize);
    for _ in 0..random.below(4) {
        damage(random, &mut bytes);
    }
    let room = match random.below(4) {
        0 => random.below(200_000) as usize,
        1 => 131_072,
        _ => len,
    };
    Input::Stream { compression, sectorsize, room, bytes }
}

/// Damages a stream once more.
pub fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    let some = |random: &mut Random, most: usize| random.below(most as u64 + 1) as usize;
    match random.below(6) {
        // The front tells of what follows.
        0 => {
            let front = bytes.len().min(24);
            disturb(random, &mut bytes[..front]);
        }
        1 => bytes.truncate(some(random, bytes.len())),
        2 => bytes.resize(bytes.len().next_multiple_of(4096), 0),
        3 => {
            let (from, to) = (some(random, bytes.len()), some(random, bytes.len()));
            bytes.drain(from.min(to)..from.max(to));
        }
        _ => disturb(random, bytes),
    }
}
