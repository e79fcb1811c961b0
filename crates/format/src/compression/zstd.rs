//! zstd: one frame, with a window no larger than an extent.

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, compress_bound, get_error_name};

use super::{MAX_UNCOMPRESSED, ZstdLevel};

/// Memory to compress with.
pub(super) struct Encoder {
    context: CCtx<'static>,
    /// Where a frame goes before its length is known to fit: zstd does without room to spare only by
    /// luck.
    frame: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { context: CCtx::create(), frame: Vec::new() }
    }
}

impl Encoder {
    /// Compresses `input` as far as `output` has room; gives the length.
    ///
    /// zstd knows the length beforehand, and chooses no window that is larger. What fails for want of
    /// memory is left as it is, like what does not fit.
    pub fn compress(&mut self, input: &[u8], level: ZstdLevel, output: &mut [u8]) -> Option<usize> {
        self.context.set_parameter(CParameter::CompressionLevel(level.number().into())).ok()?;
        let room = compress_bound(input.len());
        if self.frame.len() < room {
            self.frame.resize(room, 0);
        }
        let len = self.context.compress2(&mut self.frame[..], input).ok()?;
        output.get_mut(..len)?.copy_from_slice(&self.frame[..len]);
        Some(len)
    }
}

pub(super) fn decompress(input: &[u8], output: &mut [u8]) -> Result<usize, String> {
    let mut context = DCtx::try_create().ok_or("no memory for zstd")?;
    let window = DParameter::WindowLogMax(MAX_UNCOMPRESSED.ilog2());
    context.set_parameter(window).map_err(|code| problem(0, code))?;
    let room = output.len();
    let mut output = OutBuffer::around(output);
    let mut input = InBuffer::around(input);
    loop {
        let before = (input.pos, output.pos());
        if output.pos() == room {
            return Ok(room);
        }
        let hint = context.decompress_stream(&mut output, &mut input).map_err(|code| problem(before.1, code))?;
        match hint {
            0 => return Ok(output.pos()),
            _ if (input.pos, output.pos()) != before => {}
            _ => return Err(format!("zstd frame breaks off after {} bytes", output.pos())),
        }
    }
}

fn problem(given: usize, code: usize) -> String {
    format!("bad zstd frame after {given} bytes: {}", get_error_name(code))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn compress(bytes: &[u8]) -> Vec<u8> {
        compress_with(bytes, 17)
    }

    fn compress_with(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut context = CCtx::create();
        context.set_parameter(CParameter::WindowLog(window_log)).unwrap();
        let mut packed = Vec::with_capacity(bytes.len() + 1000);
        // Streamed without a length, a frame has a window descriptor.
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(&mut packed);
        while input.pos < bytes.len() {
            context.compress_stream(&mut output, &mut input).unwrap();
        }
        assert_eq!(context.end_stream(&mut output), Ok(0));
        packed
    }

    /// The header of a frame decides how much memory its reader needs.
    #[test]
    fn a_larger_window_is_refused() {
        let bytes = vec![7; 100_000];
        let mut output = vec![0; 100_000];
        assert_eq!(decompress(&compress_with(&bytes, 17), &mut output), Ok(100_000));
        let problem = decompress(&compress_with(&bytes, 18), &mut output).unwrap_err();
        assert!(problem.contains("zstd"), "{problem}");
    }

    /// Only the first frame counts.
    #[test]
    fn a_second_frame_is_not_read() {
        let two = [compress(b"butter"), compress(b"milk")].concat();
        let mut output = [9; 20];
        assert_eq!(decompress(&two, &mut output), Ok(6));
        assert_eq!(&output[..6], b"butter");
    }
}
