//! zlib: one stream.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::ZlibLevel;

/// Memory to compress with, at one level.
pub(super) struct Encoder {
    stream: Compress,
    level: ZlibLevel,
}

impl Encoder {
    /// The one in `place`, made anew when its level is another.
    pub fn at(place: &mut Option<Self>, level: ZlibLevel) -> &mut Self {
        place.take_if(|encoder| encoder.level != level);
        place.get_or_insert_with(|| Self { stream: stream(level), level })
    }

    /// Compresses `input` as far as `output` has room; gives the length.
    pub fn compress(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        self.stream.reset();
        // A stream that cannot end has no room: nothing else stops zlib.
        match self.stream.compress(input, output, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => Some(self.stream.total_out() as usize),
            _ => None,
        }
    }
}

/// The library's level 1 is far larger than zlib's, and of a stream that was given up zlib-rs 0.6.8 keeps an
/// open block through a reset there: what comes next is broken. Its level 2 is what zlib's level 1 is.
fn stream(level: ZlibLevel) -> Compress {
    Compress::new(Compression::new(u32::from(level.number()).max(2)), true)
}

pub(super) fn decompress(input: &[u8], output: &mut [u8]) -> Result<usize, String> {
    let mut stream = Decompress::new(true);
    loop {
        let (read, given) = (stream.total_in() as usize, stream.total_out() as usize);
        if given == output.len() {
            return Ok(given);
        }
        let status = stream
            .decompress(&input[read..], &mut output[given..], FlushDecompress::None)
            .map_err(|error| format!("bad zlib stream after {given} bytes: {error}"))?;
        let progress = stream.total_in() as usize > read || stream.total_out() as usize > given;
        match status {
            Status::StreamEnd => return Ok(stream.total_out() as usize),
            _ if progress => {}
            _ => return Err(format!("zlib stream breaks off after {given} bytes")),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn compress(bytes: &[u8]) -> Vec<u8> {
        let mut stream = Compress::new(Compression::new(3), true);
        let mut packed = Vec::with_capacity(bytes.len() + bytes.len() / 100 + 100);
        let status = stream.compress_vec(bytes, &mut packed, FlushCompress::Finish);
        assert_eq!(status.unwrap(), Status::StreamEnd);
        packed
    }

    /// What is given up leaves nothing in the stream that comes next.
    #[test]
    fn a_stream_that_is_given_up_is_forgotten() {
        let mut noise = super::super::tests::Noise(1);
        for level in 1..=9 {
            let (mut place, mut packed) = (None, vec![0; 65536]);
            let encoder = Encoder::at(&mut place, ZlibLevel::nearest(level));
            for round in 0..30 {
                let len = 60_000 - round * 1000;
                assert_eq!(encoder.compress(&noise.bytes(len), &mut packed[..len - 1000]), None);
                let text = noise.text(len);
                let count = encoder.compress(&text, &mut packed).expect("text fits");
                let mut back = vec![0; len];
                assert_eq!(super::decompress(&packed[..count], &mut back), Ok(len), "level {level}");
                assert!(back == text, "level {level}");
            }
        }
    }

    #[test]
    fn a_wrong_header_is_told() {
        let problem = decompress(&[0xff; 100], &mut [0; 100]).unwrap_err();
        assert!(problem.contains("zlib"), "{problem}");
    }

    /// A stream with a preset dictionary, which Btrfs has not.
    #[test]
    fn a_dictionary_is_refused() {
        assert!(decompress(&[0x78, 0xbb, 1, 2, 3, 4, 5, 6], &mut [0; 100]).is_err());
    }
}
