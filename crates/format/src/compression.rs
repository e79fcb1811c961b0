//! Compression of file extents: [`decompress`] from bytes as they are on disk to bytes as the file has
//! them, a [`Compressor`] the other way, and what decides whether to try ([`worth_trying`], [`Choice`]).
//!
//! # Invariants of decompression
//! * Memory is bounded: nothing grows past the output that the caller brings, but for a sector and
//!   what zstd needs for a window of [`MAX_UNCOMPRESSED`].
//! * Any input ends in bytes or in an error. What follows a stream (padding to a sector) is never
//!   looked at, and a stream may give fewer bytes than there is room for: those are zeros.

mod choice;
mod compressor;
mod heuristic;
mod lzo;
mod lzo1x;
mod zlib;
mod zstd;

pub use choice::{Choice, Method, UnknownChoice, ZlibLevel, ZstdLevel};
pub use compressor::{Compressor, Place};
pub use heuristic::worth_trying;

use crate::items::Compression;

/// What a compressed extent takes on disk at most, in bytes.
pub const MAX_COMPRESSED: u64 = 128 << 10;

/// What a compressed extent gives at most, in bytes.
pub const MAX_UNCOMPRESSED: u64 = 128 << 10;

/// Decompresses an extent, as far as `output` has room; gives how many bytes the stream had for it.
/// The rest of `output` is zeros then.
///
/// # Errors
/// What is wrong with the stream; `output` holds nothing of use then.
pub fn decompress(kind: Compression, input: &[u8], sectorsize: u32, output: &mut [u8]) -> Result<usize, String> {
    let count = match kind {
        Compression::None => copy(input, output),
        Compression::Zlib => zlib::decompress(input, output)?,
        Compression::Lzo => lzo::decompress(input, sectorsize as usize, output)?,
        Compression::Zstd => zstd::decompress(input, output)?,
    };
    // A decoder may leave anything past what it gives.
    output[count..].fill(0);
    Ok(count)
}

/// Copies as much as there is, and there is room for.
fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let count = from.len().min(to.len());
    to[..count].copy_from_slice(&from[..count]);
    count
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(super) const SECTOR: u32 = 4096;
    const KINDS: [Compression; 3] = [Compression::Zlib, Compression::Lzo, Compression::Zstd];

    /// SplitMix64: the same noise everywhere.
    pub struct Noise(pub u64);

    impl Noise {
        pub fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        pub fn bytes(&mut self, len: usize) -> Vec<u8> {
            (0..len).map(|_| self.next() as u8).collect()
        }

        /// Text-like: compressible, and not the same all over.
        pub fn text(&mut self, len: usize) -> Vec<u8> {
            let words = ["butter", "fat ", "churn\n", "cream, ", "milk "];
            let mut text = Vec::with_capacity(len + 8);
            while text.len() < len {
                text.extend_from_slice(words[self.next() as usize % words.len()].as_bytes());
            }
            text.truncate(len);
            text
        }
    }

    fn compress(kind: Compression, bytes: &[u8]) -> Vec<u8> {
        match kind {
            Compression::None => bytes.to_vec(),
            Compression::Zlib => zlib::tests::compress(bytes),
            Compression::Lzo => lzo::tests::compress(bytes, SECTOR as usize),
            Compression::Zstd => zstd::tests::compress(bytes),
        }
    }

    fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        bytes
    }

    #[test]
    fn every_kind_gives_back_what_went_in() {
        let mut noise = Noise(1);
        for kind in [&KINDS[..], &[Compression::None]].concat() {
            for len in [1, 100, 4095, 4096, 4097, 65536, 100_001, 131_072] {
                for bytes in [noise.text(len), noise.bytes(len), vec![0; len]] {
                    let mut output = vec![9; len];
                    let input = padded(compress(kind, &bytes));
                    assert_eq!(decompress(kind, &input, SECTOR, &mut output), Ok(len), "{kind} {len}");
                    assert!(output == bytes, "{kind} {len}");
                }
            }
        }
    }

    /// A stream that ends early leaves zeros.
    #[test]
    fn what_a_short_stream_does_not_give_is_zeros() {
        for kind in KINDS {
            let bytes = Noise(2).text(5000);
            let mut output = vec![9; 131_072];
            let count = decompress(kind, &padded(compress(kind, &bytes)), SECTOR, &mut output).unwrap();
            assert_eq!((count, &output[..5000]), (5000, &bytes[..]), "{kind}");
            assert!(output[5000..].iter().all(|byte| *byte == 0), "{kind}");
        }
    }

    /// An inline extent's stream may be that of a whole block, and a read may want a part.
    #[test]
    fn a_long_stream_is_cut() {
        for kind in KINDS {
            let bytes = Noise(3).text(20_000);
            let input = compress(kind, &bytes);
            for len in [0, 1, 1000, 4096, 4097, 19_999] {
                let mut output = vec![9; len];
                assert_eq!(decompress(kind, &input, SECTOR, &mut output), Ok(len), "{kind} {len}");
                assert_eq!(output, bytes[..len], "{kind} {len}");
            }
        }
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        for kind in KINDS {
            let bytes = Noise(4).text(9000);
            let input = compress(kind, &bytes);
            for len in 0..input.len() {
                let mut output = vec![9; bytes.len()];
                match decompress(kind, &input[..len], SECTOR, &mut output) {
                    // zlib's last bytes are its checksum.
                    Ok(count) => assert!(count == bytes.len() && output == bytes, "{kind} {len}: {count}"),
                    Err(problem) => assert!(!problem.is_empty()),
                }
            }
            assert!(decompress(kind, &[], SECTOR, &mut [0; 1]).is_err(), "{kind}");
            assert!(decompress(kind, &input[..input.len() / 2], SECTOR, &mut [0; 9000]).is_err(), "{kind}");
        }
    }

    #[test]
    fn noise_and_damage_end_in_bytes_or_an_error() {
        let mut noise = Noise(5);
        let mut output = vec![0; 131_072];
        for kind in KINDS {
            let input = compress(kind, &Noise(6).text(30_000));
            for _ in 0..3000 {
                let len = noise.next() as usize % 5000;
                let _ = decompress(kind, &noise.bytes(len), SECTOR, &mut output);
                let mut damaged = input.clone();
                for _ in 0..=noise.next() % 4 {
                    let place = noise.next() as usize % damaged.len();
                    damaged[place] = noise.next() as u8;
                }
                let room = noise.next() as usize % 40_000;
                if let Ok(count) = decompress(kind, &damaged, SECTOR, &mut output[..room]) {
                    assert!(count <= room);
                }
            }
        }
    }
}
