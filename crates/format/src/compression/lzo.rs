//! LZO1X in Btrfs's own frames.
//!
//! First the length of it all, these four bytes too; then segments, each with its length before it,
//! and each giving a sector, but for the last. Lengths are 32-bit little-endian. A segment's length
//! never crosses a sector's boundary, counted from the stream's start: where fewer than four bytes
//! are left in a sector, they are padding. The segment itself may cross.

use super::copy;
use super::lzo1x;

/// Bytes in a length.
const LEN: usize = 4;

/// Input that has shrunk by nothing after more sectors than these is given up, as the kernel does.
const PATIENCE: usize = 2;

/// Memory to compress with.
#[derive(Default)]
pub(super) struct Encoder {
    encoder: lzo1x::Encoder,
    /// Where a segment goes before its length is known to fit.
    segment: Vec<u8>,
}

impl Encoder {
    /// Compresses `input` as far as `output` has room; gives the length.
    pub fn compress(&mut self, input: &[u8], sectorsize: usize, output: &mut [u8]) -> Option<usize> {
        self.segment.resize(lzo1x::worst_case(sectorsize), 0);
        let mut at = LEN;
        for (index, sector) in input.chunks(sectorsize).enumerate() {
            let len = self.encoder.encode(sector, &mut self.segment)?;
            at = put_segment(output, at, &self.segment[..len], sectorsize)?;
            if index >= PATIENCE && at > index * sectorsize + sector.len() {
                return None;
            }
        }
        put(output, 0, &length(at))?;
        Some(at)
    }
}

/// Puts a segment with its length before it at `at`; gives where the next one goes. The padding belongs
/// to the stream after the last segment too.
fn put_segment(output: &mut [u8], at: usize, segment: &[u8], sectorsize: usize) -> Option<usize> {
    put(output, at, &length(segment.len()))?;
    put(output, at + LEN, segment)?;
    let end = at + LEN + segment.len();
    let next = skip_padding(end, sectorsize);
    output.get_mut(end..next)?.fill(0);
    Some(next)
}

fn put(output: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    output.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    Some(())
}

fn length(len: usize) -> [u8; LEN] {
    (len as u32).to_le_bytes()
}

pub(super) fn decompress(input: &[u8], sectorsize: usize, output: &mut [u8]) -> Result<usize, String> {
    let total = length_at(input, 0).ok_or("LZO stream without its length")?;
    let input = input
        .get(..total)
        .filter(|input| input.len() >= LEN)
        .ok_or_else(|| format!("LZO stream of {total} bytes in {}", input.len()))?;
    let mut sector = vec![0; sectorsize];
    let (mut at, mut given) = (LEN, 0);
    while at < input.len() && given < output.len() {
        let segment = segment_at(input, at).ok_or_else(|| format!("LZO stream breaks off at {at}"))?;
        let count = lzokay::decompress::decompress(segment, &mut sector)
            .map_err(|error| format!("bad LZO segment at {at}: {error}"))?;
        given += copy(&sector[..count], &mut output[given..]);
        at = skip_padding(at + LEN + segment.len(), sectorsize);
    }
    Ok(given)
}

fn length_at(input: &[u8], at: usize) -> Option<usize> {
    let bytes = input.get(at..at.checked_add(LEN)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
}

fn segment_at(input: &[u8], at: usize) -> Option<&[u8]> {
    let start = at + LEN;
    input.get(start..start.checked_add(length_at(input, at)?)?)
}

/// Where the next segment's length is.
fn skip_padding(at: usize, sectorsize: usize) -> usize {
    let left = sectorsize - at % sectorsize;
    if left < LEN { at + left } else { at }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::Noise;
    use super::*;

    pub fn compress(bytes: &[u8], sectorsize: usize) -> Vec<u8> {
        frame(bytes.chunks(sectorsize).map(|sector| lzokay::compress::compress(sector).unwrap()), sectorsize)
    }

    fn frame(segments: impl Iterator<Item = Vec<u8>>, sectorsize: usize) -> Vec<u8> {
        let mut framed = vec![0; LEN];
        for segment in segments {
            framed.resize(skip_padding(framed.len(), sectorsize), 0xee);
            framed.extend_from_slice(&(segment.len() as u32).to_le_bytes());
            framed.extend_from_slice(&segment);
        }
        let total = framed.len() as u32;
        framed[..LEN].copy_from_slice(&total.to_le_bytes());
        framed
    }

    /// A segment of `bytes` literals: its length is told beforehand.
    fn literals(bytes: &[u8]) -> Vec<u8> {
        assert!((4..=238).contains(&bytes.len()));
        [&[bytes.len() as u8 + 17], bytes, &[0x11, 0, 0]].concat()
    }

    /// Segments of all lengths put the next one's length at every distance from a boundary.
    #[test]
    fn a_length_never_crosses_a_boundary() {
        const SECTOR: usize = 256;
        for len in 4..=238 {
            let parts: Vec<Vec<u8>> = (0..20).map(|part| vec![part; len]).collect();
            let framed = frame(parts.iter().map(|part| literals(part)), SECTOR);
            let mut output = vec![0; len * 20];
            assert_eq!(decompress(&framed, SECTOR, &mut output), Ok(len * 20), "{len}");
            assert_eq!(output, parts.concat(), "{len}");
        }
    }

    #[test]
    fn padding_is_skipped_only_when_it_is_less_than_a_length() {
        let at = |at| skip_padding(at, 4096);
        assert_eq!((at(4091), at(4092), at(4093), at(4095), at(4096), at(4097)), (4091, 4092, 4096, 4096, 4096, 4097));
        assert_eq!(skip_padding(4093, 65536), 4093);
    }

    /// The total may end with the padding after the last segment.
    #[test]
    fn padding_at_the_end_belongs_to_the_total() {
        const SECTOR: usize = 32;
        let mut framed = frame([literals(&[5; 18])].into_iter(), SECTOR);
        assert_eq!(framed.len(), 30);
        framed.extend_from_slice(&[0; 2]);
        framed[0] = 32;
        let mut output = [0; 100];
        assert_eq!(decompress(&framed, SECTOR, &mut output), Ok(18));
    }

    #[test]
    fn the_sector_size_decides_the_framing() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        for sectorsize in [4096, 16384, 65536] {
            let mut output = vec![0; bytes.len()];
            assert_eq!(decompress(&compress(&bytes, sectorsize), sectorsize, &mut output), Ok(bytes.len()));
            assert_eq!(output, bytes);
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let good = frame([literals(&[5; 30])].into_iter(), 4096);
        let with = |at: usize, value: u32| {
            let mut bad = good.clone();
            bad[at..at + LEN].copy_from_slice(&value.to_le_bytes());
            decompress(&bad, 4096, &mut [0; 100])
        };
        assert_eq!(with(0, good.len() as u32), Ok(30));
        for total in [0, 3, 5, 9, good.len() as u32 - 1, good.len() as u32 + 1, u32::MAX] {
            assert!(with(0, total).is_err(), "total {total}");
        }
        for segment in [0, 1, 33, 35, u32::MAX] {
            assert!(with(LEN, segment).is_err(), "segment {segment}");
        }
        // Nothing but the total: a stream that gives nothing.
        assert_eq!(with(0, 4), Ok(0));
    }

    /// More than a sector from one segment.
    #[test]
    fn a_segment_gives_no_more_than_a_sector() {
        let long = lzokay::compress::compress(&[1; 5000]).unwrap();
        assert!(decompress(&frame([long].into_iter(), 4096), 4096, &mut [0; 8000]).is_err());
    }

    /// Where segments end near a sector's end there is padding, which is zeros, and part of the total.
    #[test]
    fn frames_are_whole() {
        let (mut noise, mut encoder, mut paddings) = (Noise(41), Encoder::default(), [0; LEN]);
        let mut output = vec![0xee; 200_000];
        for _ in 0..3000 {
            let first = 300 + noise.next() as usize % 400;
            let second = 930 - first + noise.next() as usize % 100;
            let parts = [noise.bytes(first), vec![7; 1024 - first], noise.bytes(second), vec![7; 1024 - second]];
            let input = parts.concat();
            let len = encoder.compress(&input, 1024, &mut output).unwrap();
            assert_eq!(length_at(&output, 0), Some(len));
            let mut at = LEN;
            for _ in 0..2 {
                assert!(at % 1024 <= 1024 - LEN);
                let end = at + LEN + length_at(&output, at).unwrap();
                at = skip_padding(end, 1024);
                assert!(output[end..at].iter().all(|byte| *byte == 0));
                paddings[at - end] += 1;
            }
            assert_eq!(at, len);
        }
        assert!(paddings.iter().all(|count| *count > 0), "{paddings:?}");
    }

    /// Nothing is written for long that does not shrink.
    #[test]
    fn noise_is_given_up_early() {
        let mut output = vec![0xee; 200_000];
        let result = Encoder::default().compress(&Noise(42).bytes(131_072), 4096, &mut output);
        assert_eq!(result, None);
        assert!(output[4 * 4096..].iter().all(|byte| *byte == 0xee));
    }
}
