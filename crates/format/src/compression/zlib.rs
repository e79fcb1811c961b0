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
        place.get_or_insert_with(|| {
            let stream = Compress::new(Compression::new(level.number().into()), true);
            Self { stream, level }
        })
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
