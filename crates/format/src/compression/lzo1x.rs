//! The LZO1X-1 encoder: one segment of Btrfs's LZO, with no frame around it.
//!
//! A stream is instructions: literals, and copies of what was written before. `docs/format/lzo.md` has
//! their encoding, and what this encoder chooses among them.
//!
//! # Invariants
//! * The same input gives the same stream, whatever the encoder had before.
//! * A stream fits into [`worst_case`] of its input: a copy takes at most three bytes of what it stands
//!   for, which is four at least, so that it pays for the header of the literals before it.

/// The longest input: what the table can count.
const MAX_INPUT: usize = 1 << u16::BITS;

/// Places in the table, which stays in a core's first cache, and is soon cleared.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 12;

/// The shortest copy that is looked for.
const MIN_COPY: usize = 4;

/// How far back a copy may reach.
const MAX_DISTANCE: usize = 0xbfff;

/// After so many bytes without a copy (as a power of two) the search takes longer steps.
const PATIENCE: u32 = 5;

/// The instruction that ends a stream: a copy over the distance that no other one has.
const END: [u8; 3] = [0x11, 0, 0];

/// How many literals a copy can take along in its own instruction.
const FEW_LITERALS: usize = 3;

/// How many bytes are copied at once, past the end of short literals.
const STRIDE: usize = 16;

/// The bytes that a stream of `len` bytes needs at most, and a little room to copy in strides.
pub(super) const fn worst_case(len: usize) -> usize {
    len + len / 128 + 4 * STRIDE
}

/// What is kept between segments, so that none allocates.
pub(super) struct Encoder {
    /// By the hash of four bytes: where they were last, or 0.
    table: Box<[u16; SLOTS]>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: Box::new([0; SLOTS]) }
    }
}

impl Encoder {
    /// Compresses `input`, which is at most [`MAX_INPUT`], into `output`; gives the length.
    /// `None` when it is too long or there is no room: not with [`worst_case`].
    pub fn encode(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        let mut stream = Stream { bytes: output, at: 0 };
        let mut written = 0;
        if input.len() > MAX_INPUT {
            return None;
        }
        self.table.fill(0);
        while let Some(copy) = self.find(input, written) {
            stream.literals(input, written, copy.at)?;
            stream.copy(copy.len, copy.distance)?;
            written = copy.at + copy.len;
            self.note(input, written - 2);
        }
        stream.literals(input, written, input.len())?;
        stream.put(&END)?;
        Some(stream.at)
    }

    /// The next copy at or after `from`, before which all is written.
    #[inline(always)]
    fn find(&mut self, input: &[u8], from: usize) -> Option<Copy> {
        // Nothing is before the first byte. Where nothing was noted, the first bytes are compared: they
        // are as good as others, and asking whether there is a note would cost more.
        let mut at = from.max(1);
        loop {
            let word = word_at(input, at)?;
            let source = usize::from(std::mem::replace(&mut self.table[hash(word)], at as u16));
            if word_at(input, source)? == word && at - source <= MAX_DISTANCE {
                return Some(Copy { at, len: MIN_COPY, distance: at - source }.widened(input, from));
            }
            at += 1 + ((at - from) >> PATIENCE);
        }
    }

    /// Notes the place of the four bytes at `at`.
    #[inline(always)]
    fn note(&mut self, input: &[u8], at: usize) {
        if let Some(word) = word_at(input, at) {
            self.table[hash(word)] = at as u16;
        }
    }
}

#[inline(always)]
fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - SLOT_BITS)) as usize
}

#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_le_bytes(*four))
}

/// `len` bytes at `at` that are also `distance` before it.
struct Copy {
    at: usize,
    len: usize,
    distance: usize,
}

impl Copy {
    /// The same, as long as it can be without reaching before `from`.
    #[inline(always)]
    fn widened(mut self, input: &[u8], from: usize) -> Self {
        let source = self.at - self.distance;
        self.len += common(&input[source + self.len..], &input[self.at + self.len..]);
        let before = input[from..self.at].iter().rev().zip(input[..source].iter().rev());
        let back = before.take_while(|(a, b)| a == b).count();
        self.at -= back;
        self.len += back;
        self
    }
}

/// How many bytes `a` and `b` have in common at their start; `b` is the shorter one.
#[inline(always)]
fn common(a: &[u8], b: &[u8]) -> usize {
    let mut count = 0;
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        let word = |eight: &[u8]| eight.try_into().map_or(0, u64::from_le_bytes);
        let difference = word(a) ^ word(b);
        if difference != 0 {
            return count + (difference.trailing_zeros() / 8) as usize;
        }
        count += 8;
    }
    count + a[count..].iter().zip(&b[count..]).take_while(|(a, b)| a == b).count()
}

/// The stream as far as it is written.
struct Stream<'o> {
    bytes: &'o mut [u8],
    at: usize,
}

impl Stream<'_> {
    /// Writes `input[from..to]` as literals.
    #[inline(always)]
    fn literals(&mut self, input: &[u8], from: usize, to: usize) -> Option<()> {
        let count = to - from;
        match count {
            0 => return Some(()),
            // Only the first instruction can be one of literals that are few.
            1..=238 if self.at == 0 => self.put(&[count as u8 + 17])?,
            // In the two lowest bits of the copy before, which are in the last byte but one.
            1..=FEW_LITERALS => self.bytes[self.at - 2] |= count as u8,
            4..=18 => self.put(&[count as u8 - 3])?,
            _ => self.long(0, count - 18)?,
        }
        self.put_some(input, from, count)
    }

    /// Copies `count` bytes of the input.
    #[inline(always)]
    fn put_some(&mut self, input: &[u8], from: usize, count: usize) -> Option<()> {
        let (source, room) = (&input[from..], self.bytes.get_mut(self.at..)?);
        self.at += count;
        match (source.first_chunk::<STRIDE>(), room.first_chunk_mut::<STRIDE>()) {
            (Some(source), Some(room)) if count <= STRIDE => *room = *source,
            _ => put_many(&source[..count], room)?,
        }
        Some(())
    }

    /// Writes a copy.
    #[inline(always)]
    fn copy(&mut self, len: usize, distance: usize) -> Option<()> {
        let far = distance - 1;
        if len <= 8 && far < 0x800 {
            return self.put(&[((len - 1) << 5 | (far & 7) << 2) as u8, (far >> 3) as u8]);
        }
        if far < 0x4000 {
            self.length(0x20, len - 2, 31)?;
            return self.put(&((far << 2) as u16).to_le_bytes());
        }
        let far = distance - 0x4000;
        self.length(0x10 | (far >> 11) as u8 & 8, len - 2, 7)?;
        self.put(&((far << 2) as u16).to_le_bytes())
    }

    /// Writes an instruction with a length in its lowest bits, which hold at most `most`.
    #[inline(always)]
    fn length(&mut self, instruction: u8, len: usize, most: usize) -> Option<()> {
        if len <= most { self.put(&[instruction | len as u8]) } else { self.long(instruction, len - most) }
    }

    /// Writes an instruction whose length does not fit into it, and what is left of the length.
    #[cold]
    fn long(&mut self, instruction: u8, rest: usize) -> Option<()> {
        self.put(&[instruction])?;
        // Each zero stands for 255, and the last byte is not zero.
        let zeros = (rest - 1) / 255;
        self.bytes.get_mut(self.at..self.at + zeros)?.fill(0);
        self.at += zeros;
        self.put(&[(rest - zeros * 255) as u8])
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, bytes: &[u8; N]) -> Option<()> {
        *self.bytes.get_mut(self.at..)?.first_chunk_mut()? = *bytes;
        self.at += N;
        Some(())
    }
}

/// Kept apart, so that the few bytes that most literals are do not go through a call.
#[inline(never)]
fn put_many(source: &[u8], room: &mut [u8]) -> Option<()> {
    room.get_mut(..source.len())?.copy_from_slice(source);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Noise;
    use super::*;

    /// Encodes into exactly the room there must be, and has another's decoder read it.
    fn round_trip(encoder: &mut Encoder, input: &[u8]) -> usize {
        let mut stream = vec![0; worst_case(input.len())];
        let len = encoder.encode(input, &mut stream).expect("room");
        let mut output = vec![0; input.len()];
        let given = lzokay::decompress::decompress(&stream[..len], &mut output);
        assert_eq!(given, Ok(input.len()), "{} bytes", input.len());
        assert!(output == input, "{} bytes", input.len());
        len
    }

    /// Few different bytes give copies of all lengths, many give literals of all lengths.
    #[test]
    fn every_short_length_comes_back() {
        let (mut noise, mut encoder) = (Noise(11), Encoder::default());
        for len in 0..700 {
            for values in [1, 2, 3, 10, 256] {
                let input: Vec<u8> = (0..len).map(|_| (noise.next() % values) as u8).collect();
                round_trip(&mut encoder, &input);
            }
        }
    }

    /// Each class of copies has its own instruction: all lengths at the ends of all distances.
    #[test]
    fn copies_over_every_kind_of_distance_come_back() {
        let (mut noise, mut encoder) = (Noise(12), Encoder::default());
        for distance in [1, 2, 8, 9, 2047, 2048, 2049, 16383, 16384, 16385, 32767, 32768, 49150, 49151, 49152, 60000] {
            for len in (4..45).chain([254, 264, 265, 288, 289, 520]) {
                // Zeros between, lest the search takes long steps.
                let mut input = noise.bytes(len.min(distance));
                input.resize(distance, 0);
                (0..len).for_each(|at| input.push(input[at]));
                let stream = round_trip(&mut encoder, &input);
                let copied = stream < len + len / 2 + distance / 255 + 20;
                assert!(len <= 40 || copied == (distance <= MAX_DISTANCE), "{len} bytes over {distance}: {stream}");
            }
        }
    }

    #[test]
    fn the_longest_input_comes_back_and_a_longer_one_is_refused() {
        let (mut noise, mut encoder) = (Noise(13), Encoder::default());
        for input in [vec![0; MAX_INPUT], noise.bytes(MAX_INPUT), noise.text(MAX_INPUT)] {
            round_trip(&mut encoder, &input);
        }
        let long = vec![0; MAX_INPUT + 1];
        assert_eq!(encoder.encode(&long, &mut vec![0; worst_case(long.len())]), None);
    }

    /// Too little room is told, never overrun.
    #[test]
    fn any_room_is_kept_to() {
        let (mut noise, mut encoder) = (Noise(14), Encoder::default());
        let input = [noise.text(900), noise.bytes(300), vec![0; 800]].concat();
        let whole = round_trip(&mut encoder, &input);
        for room in 0..whole {
            assert_eq!(encoder.encode(&input, &mut vec![0; room]), None, "{room}");
        }
    }

    #[test]
    fn noise_hardly_grows() {
        let (mut noise, mut encoder) = (Noise(15), Encoder::default());
        let len = round_trip(&mut encoder, &noise.bytes(4096));
        assert!(len <= 4096 + 4096 / 255 + 5, "{len}");
    }
}
