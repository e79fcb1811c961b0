//! A byte buffer whose start, or one place in it, lies on a page boundary: direct I/O to and
//! from it needs no copy.

/// Alignment that every device's direct I/O is content with.
const PAGE: usize = 4096;

/// A fixed buffer, zeroed at first.
pub struct PageBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageBuffer {
    /// A buffer of `len` bytes in which the byte at `aligned` lies on a page boundary.
    pub fn new(len: usize, aligned: usize) -> Self {
        let bytes = vec![0; len + 2 * PAGE];
        let to_page = bytes.as_ptr().align_offset(PAGE) % PAGE;
        let start = (to_page + PAGE - aligned % PAGE) % PAGE;
        Self { bytes, start, len }
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }

    /// The bytes, to read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_place_is_aligned() {
        for aligned in [0, 80, 4096, 5000] {
            let mut buffer = PageBuffer::new(8192, aligned);
            assert_eq!(buffer.bytes_mut()[aligned..].as_ptr().align_offset(PAGE), 0);
            assert_eq!(buffer.bytes().len(), 8192);
        }
    }
}
