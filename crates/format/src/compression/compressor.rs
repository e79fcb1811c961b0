//! Compression of one extent: bytes as the file has them to bytes as they are on disk.
//!
//! # Invariants
//! * A result is worth having: a regular extent takes a sector less than its bytes would, an inline
//!   one fewer bytes.
//! * What is compressed here is what [`decompress`](super::decompress) gives back.
//! * Between calls a compressor keeps nothing but memory: the same input gives the same result.

use super::{MAX_UNCOMPRESSED, Method, lzo, zlib, zstd};

/// Where the result goes, which decides how small it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Into an extent of its own, padded to whole sectors: one of them must be saved.
    Regular,
    /// Into the file extent item: of bytes that are no more than a sector, one must be saved.
    Inline,
}

/// What compressing needs besides the bytes. One for each thread: it takes its memory when a method is
/// first used, and keeps it.
#[derive(Default)]
pub struct Compressor {
    zlib: Option<zlib::Encoder>,
    lzo: Option<lzo::Encoder>,
    zstd: Option<zstd::Encoder>,
}

impl Compressor {
    /// One that has no memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compresses `input`, at most 128 KiB that begin at a sector of the file, into `output`; gives the
    /// length, which the caller pads to sectors with zeros when the place is an extent of its own.
    ///
    /// `None` says that it is not worth it: the result would save too little for its place, or is longer
    /// than `output`, which the caller makes as long as may be used (for an inline extent, the limit
    /// there is for it). `output` holds nothing of use then.
    pub fn compress(
        &mut self,
        method: Method,
        input: &[u8],
        place: Place,
        sectorsize: u32,
        output: &mut [u8],
    ) -> Option<usize> {
        let sectorsize = sectorsize as usize;
        let most = most(input.len(), place, sectorsize)?.min(output.len());
        let output = &mut output[..most];
        match method {
            Method::Zlib(level) => zlib::Encoder::at(&mut self.zlib, level).compress(input, output),
            Method::Lzo => self.lzo.get_or_insert_default().compress(input, sectorsize, output),
            Method::Zstd(level) => self.zstd.get_or_insert_default().compress(input, level, output),
        }
    }
}

/// How long the result for `len` bytes may be.
fn most(len: usize, place: Place, sectorsize: usize) -> Option<usize> {
    let allowed = match place {
        Place::Regular => MAX_UNCOMPRESSED as usize,
        Place::Inline => sectorsize,
    };
    if len == 0 || len > allowed {
        return None;
    }
    match place {
        Place::Regular => Some(len.next_multiple_of(sectorsize) - sectorsize).filter(|most| *most > 0),
        Place::Inline => Some(len - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Noise;
    use super::super::{Choice, decompress};
    use super::*;

    const SECTORS: [u32; 5] = [4096, 8192, 16384, 32768, 65536];
    const LENGTHS: [usize; 14] = [1, 2, 3, 7, 100, 2048, 4095, 4096, 4097, 12_000, 65_535, 65_536, 100_001, 131_072];

    fn method(word: &str) -> Method {
        match word.parse() {
            Ok(Choice::With(method)) => method,
            other => panic!("{word}: {other:?}"),
        }
    }

    fn some_methods() -> Vec<Method> {
        ["zlib:1", "zlib:9", "lzo", "zstd:-15", "zstd:3", "zstd:15"].map(method).to_vec()
    }

    fn all_methods() -> Vec<Method> {
        let zlib = (1..=9).map(|level| format!("zlib:{level}"));
        let zstd = (-15..=15).map(|level| format!("zstd:{level}"));
        zlib.chain(zstd).chain(["lzo".to_owned()]).map(|word| method(&word)).collect()
    }

    /// Records with fields that change little, as in a table.
    fn records(noise: &mut Noise, len: usize) -> Vec<u8> {
        let record = |at: u64, id: u64| [&at.to_le_bytes()[..], b"name", &(id % 1000).to_be_bytes()].concat();
        let mut bytes: Vec<u8> = (0..=len as u64 / 20).flat_map(|at| record(at, noise.next())).collect();
        bytes.truncate(len);
        bytes
    }

    fn inputs(noise: &mut Noise, len: usize) -> [Vec<u8>; 5] {
        let (text, bytes) = (noise.text(len / 2), noise.bytes(len - len / 2));
        [vec![0; len], noise.text(len), records(noise, len), [text, bytes].concat(), noise.bytes(len)]
    }

    /// Compresses, and checks what there is: that it is small enough, and comes back from whole sectors.
    fn checked(compressor: &mut Compressor, method: Method, input: &[u8], place: Place, sector: u32) -> Option<usize> {
        let case = || format!("{method}, {} bytes, {place:?}, sectors of {sector}", input.len());
        let mut output = vec![0xee; 131_072];
        let len = compressor.compress(method, input, place, sector, &mut output)?;
        let sectors = |len: usize| len.div_ceil(sector as usize);
        match place {
            Place::Regular => assert!(sectors(len) < sectors(input.len()), "{}", case()),
            Place::Inline => assert!(len < input.len(), "{}", case()),
        }
        output.truncate(len);
        if place == Place::Regular {
            output.resize(sectors(len) * sector as usize, 0);
        }
        let mut back = vec![9; input.len()];
        assert_eq!(decompress(method.compression(), &output, sector, &mut back), Ok(input.len()), "{}", case());
        assert!(back == input, "{}", case());
        Some(len)
    }

    #[test]
    fn every_size_and_sector_size_comes_back() {
        let (mut noise, mut compressor) = (Noise(31), Compressor::new());
        for len in LENGTHS {
            let inputs = inputs(&mut noise, len);
            for sector in SECTORS {
                for (kind, input) in inputs.iter().enumerate() {
                    for method in some_methods() {
                        let regular = checked(&mut compressor, method, input, Place::Regular, sector);
                        let inline = checked(&mut compressor, method, input, Place::Inline, sector);
                        let case = format!("{method}, {len} bytes of kind {kind}, sectors of {sector}");
                        let sector = sector as usize;
                        // Noise never shrinks, and what is half of it need not.
                        assert!(kind < 4 || regular.is_none() && inline.is_none(), "{case}");
                        // The fastest level finds little in records.
                        let shrinks = kind < 2 || kind == 2 && method != self::method("zstd:-15");
                        assert!(!shrinks || len <= 2 * sector || regular.is_some(), "{case}");
                        assert!(!shrinks || !(2048..=sector).contains(&len) || inline.is_some(), "{case}");
                        assert!(len <= sector || inline.is_none(), "{case}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_level_comes_back() {
        let (mut noise, mut compressor) = (Noise(32), Compressor::new());
        for input in [records(&mut noise, 131_072), noise.text(50_000)] {
            for method in all_methods() {
                assert!(checked(&mut compressor, method, &input, Place::Regular, 4096).is_some(), "{method}");
            }
        }
    }

    #[test]
    fn higher_levels_give_less() {
        let (input, mut compressor) = (Noise(33).text(131_072), Compressor::new());
        let mut len = |word| checked(&mut compressor, method(word), &input, Place::Regular, 4096).unwrap();
        assert!(len("zlib:9") < len("zlib:1"));
        assert!(len("zstd:15") < len("zstd:-15"));
    }

    /// The room that the caller leaves is used to the last byte, and never more.
    #[test]
    fn the_room_decides() {
        let (input, mut compressor) = (Noise(34).text(60_000), Compressor::new());
        for method in some_methods() {
            let mut compress = |room| compressor.compress(method, &input, Place::Regular, 4096, &mut vec![0; room]);
            let len = compress(131_072).expect("text");
            assert_eq!(compress(len), Some(len), "{method}");
            for room in [0, 1, 5, len / 2, len - 1] {
                assert_eq!(compress(room), None, "{method} {room}");
            }
            assert_eq!(compress(len), Some(len), "{method} after it did not fit");
        }
    }

    /// A sector is saved, or it is not worth it: noise, with just enough zeros or not.
    #[test]
    fn a_regular_extent_saves_a_sector() {
        let (mut noise, mut compressor) = (Noise(35), Compressor::new());
        for method in some_methods() {
            let mut saves = |zeros| {
                let input = [vec![0; zeros], noise.bytes(65_536 - zeros)].concat();
                checked(&mut compressor, method, &input, Place::Regular, 4096).is_some()
            };
            assert!(saves(6000) && !saves(3000), "{method}");
        }
    }

    #[test]
    fn nothing_and_too_much_are_left_as_they_are() {
        let mut compressor = Compressor::new();
        for method in some_methods() {
            for (len, place) in
                [(0, Place::Regular), (0, Place::Inline), (131_073, Place::Regular), (4097, Place::Inline)]
            {
                let output = &mut vec![0; 200_000];
                assert_eq!(compressor.compress(method, &vec![0; len], place, 4096, output), None, "{method} {len}");
            }
        }
    }

    /// The kernel reads an inline extent of LZO only if it is one segment, and its lengths leave nothing.
    #[test]
    fn inline_lzo_is_one_segment_without_padding() {
        let (mut noise, mut compressor) = (Noise(36), Compressor::new());
        for random in (0..4096).step_by(7).chain(4000..4096) {
            let input = [noise.bytes(random), vec![0; 4096 - random]].concat();
            let mut output = vec![0; 4096];
            let Some(len) = compressor.compress(Method::Lzo, &input, Place::Inline, 4096, &mut output) else {
                assert!(random > 3800, "{random}");
                continue;
            };
            let lengths =
                [&output[..4], &output[4..8]].map(|four| u32::from_le_bytes(four.try_into().unwrap()) as usize);
            assert_eq!(lengths, [len, len - 8], "{random}");
        }
    }

    #[test]
    fn what_came_before_does_not_matter() {
        let (mut noise, mut used) = (Noise(37), Compressor::new());
        for method in all_methods() {
            let input = records(&mut noise, 20_000);
            let results = [&mut used, &mut Compressor::new()].map(|compressor| {
                let mut output = vec![0; 20_000];
                let len = compressor.compress(method, &input, Place::Regular, 4096, &mut output).unwrap();
                output.truncate(len);
                output
            });
            assert!(results[0] == results[1], "{method}");
        }
    }

    /// Threads have one each, and may hand it on.
    #[test]
    fn a_compressor_can_go_to_another_thread() {
        fn assert_send<T: Send>(_: T) {}
        assert_send(Compressor::new());
    }
}
