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

/// No copy is looked for that begins so near the end: it would save little.
const TAIL: usize = 16;

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
        if input.len() > MAX_INPUT {
            return None;
        }
        self.table.fill(0);
        let mut search = Search { table: &mut self.table, input, end: input.len().saturating_sub(TAIL) };
        // Nothing is before the first byte.
        let mut next = search.find(0, 1);
        let before = next.as_ref().map_or(input.len(), |copy| copy.at);
        let mut stream = Stream { at: first_literals(output, &input[..before])?, bytes: output };
        while let Some(copy) = next {
            let end = copy.at + copy.len;
            next = search.find(end, end);
            let until = next.as_ref().map_or(input.len(), |copy| copy.at);
            stream.copy(&copy, &input[end..], until - end)?;
        }
        put(stream.bytes, stream.at, &END)
    }
}

/// The input, and what is known of it.
struct Search<'a> {
    table: &'a mut [u16; SLOTS],
    input: &'a [u8],
    /// Where it ends.
    end: usize,
}

impl Search<'_> {
    /// The next copy at or after `at`; all before `from` is written.
    ///
    /// Where nothing was noted, the first bytes are compared: they are as good as others, and asking whether there is a
    /// note would cost more.
    #[inline(always)]
    fn find(&mut self, from: usize, mut at: usize) -> Option<Copy> {
        while at < self.end {
            let word = word_at(self.input, at)?;
            let source = usize::from(std::mem::replace(&mut self.table[hash(word)], at as u16));
            if word_at(self.input, source)? == word && at - source <= MAX_DISTANCE {
                return Some(Copy { at, len: MIN_COPY, distance: at - source }.widened(self.input, from));
            }
            at += 1 + ((at - from) >> PATIENCE);
        }
        None
    }
}

#[inline(always)]
fn hash(word: u32) -> usize {
    (word.wrapping_mul(0x9e37_79b1) >> (u32::BITS - SLOT_BITS)) as usize
}

#[inline(always)]
fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk().map(|four| u32::from_le_bytes(*four))
}

#[inline(always)]
fn eight_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.first_chunk().map(|eight| u64::from_le_bytes(*eight))
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
        self.len += common(input, self.at - self.distance + self.len, self.at + self.len);
        // Before the search took longer steps each place was looked at.
        if self.at - from >= 1 << PATIENCE {
            self.widen_back(input, from);
        }
        self
    }

    /// Kept apart, as all that is seldom: it leaves the rest the registers.
    #[inline(never)]
    fn widen_back(&mut self, input: &[u8], from: usize) {
        let source = self.at - self.distance;
        let before = input[from..self.at].iter().rev().zip(input[..source].iter().rev());
        let back = before.take_while(|(a, b)| a == b).count();
        self.at -= back;
        self.len += back;
    }

    /// The instruction, which knows of `few` literals behind it, and how many bytes it takes, unless it is a long one.
    #[inline(always)]
    fn code(&self, few: u32) -> Option<(u32, usize)> {
        let (len, far) = (self.len as u32, self.distance as u32 - 1);
        if far >= 0x4000 {
            let far = far - 0x3fff;
            return (len <= 9).then_some((0x10 | far >> 11 & 8 | (len - 2) | ((far << 2 | few) & 0xffff) << 8, 3));
        }
        if len > 33 {
            return (len <= 288).then_some((0x20 | (len - 33) << 8 | (far << 2 | few) << 16, 4));
        }
        // Without a branch between the two, which nobody could predict.
        let is_near = u32::from(len <= 8) & u32::from(far < 0x800);
        let near = (len - 1) << 5 | (far & 7) << 2 | few | far >> 3 << 8;
        let other = 0x20 | (len - 2) | (far << 2 | few) << 8;
        let mask = 0_u32.wrapping_sub(is_near);
        Some((near & mask | other & !mask, 3 - is_near as usize))
    }
}

/// How many bytes there are in common at `source` and at `at`, which is behind it.
#[inline(always)]
fn common(input: &[u8], source: usize, at: usize) -> usize {
    if let Some(here) = eight_at(input, at)
        && let Some(there) = eight_at(input, source)
        && here != there
    {
        return ((here ^ there).trailing_zeros() / 8) as usize;
    }
    many_in_common(input, source, at)
}

#[inline(never)]
fn many_in_common(input: &[u8], source: usize, at: usize) -> usize {
    let mut count = 0;
    while let Some(here) = eight_at(input, at + count)
        && let Some(there) = eight_at(input, source + count)
    {
        if here != there {
            return count + ((here ^ there).trailing_zeros() / 8) as usize;
        }
        count += 8;
    }
    count + input[source + count..].iter().zip(&input[at + count..]).take_while(|(a, b)| a == b).count()
}

/// The stream as far as it is written.
struct Stream<'o> {
    bytes: &'o mut [u8],
    at: usize,
}

impl Stream<'_> {
    /// Writes a copy, and as literals the first `count` bytes of what follows it in the input.
    ///
    /// Short ones are written in strides, past their end; the next instruction goes over what is too much.
    #[inline(always)]
    fn copy(&mut self, copy: &Copy, behind: &[u8], count: usize) -> Option<()> {
        let few = if count <= FEW_LITERALS { count as u32 } else { 0 };
        let (code, size) = match copy.code(few) {
            Some(code) => code,
            None => {
                let (at, code) = long_copy(self.bytes, self.at, copy, few)?;
                self.at = at;
                (code, 2)
            }
        };
        let code = u64::from(code);
        if count <= FEW_LITERALS
            && let Some(literals) = behind.first_chunk()
        {
            let literals = u64::from(u32::from_le_bytes(*literals));
            self.put_part((code | literals << (8 * size)).to_le_bytes(), size + count)
        } else if count <= STRIDE
            && count > FEW_LITERALS
            && let Some(literals) = behind.first_chunk::<STRIDE>()
        {
            self.put_part((code | (count as u64 - 3) << (8 * size)).to_le_bytes(), size + 1)?;
            self.put_part(*literals, count)
        } else {
            self.put_part(code.to_le_bytes(), size)?;
            self.at = literals(self.bytes, self.at, &behind[..count])?;
            Some(())
        }
    }

    /// Writes `count` of the bytes.
    #[inline(always)]
    fn put_part<const N: usize>(&mut self, bytes: [u8; N], count: usize) -> Option<()> {
        *self.bytes.get_mut(self.at..)?.first_chunk_mut()? = bytes;
        self.at += count;
        Some(())
    }
}

/// Writes the literals before the first copy at the start; gives their end.
fn first_literals(bytes: &mut [u8], literals: &[u8]) -> Option<usize> {
    let at = match literals.len() {
        0 => 0,
        // Only the first instruction can be one of literals that are few.
        count @ 1..=238 => put(bytes, 0, &[count as u8 + 17])?,
        count => long(bytes, 0, 0, count - 18)?,
    };
    put(bytes, at, literals)
}

/// Writes literals at `at`, behind a copy that knows of them if they are few; gives their end.
#[inline(never)]
fn literals(bytes: &mut [u8], at: usize, literals: &[u8]) -> Option<usize> {
    let at = match literals.len() {
        0..=FEW_LITERALS => at,
        count @ 4..=18 => put(bytes, at, &[count as u8 - 3])?,
        count => long(bytes, at, 0, count - 18)?,
    };
    put(bytes, at, literals)
}

/// Writes the length of a long copy at `at`; gives the end, and the two bytes that follow it.
#[inline(never)]
fn long_copy(bytes: &mut [u8], at: usize, copy: &Copy, few: u32) -> Option<(usize, u32)> {
    let far = copy.distance - 1;
    if far < 0x4000 {
        return Some((long(bytes, at, 0x20, copy.len - 2 - 31)?, (far as u32) << 2 | few));
    }
    let far = copy.distance - 0x4000;
    let at = long(bytes, at, 0x10 | (far >> 11) as u8 & 8, copy.len - 2 - 7)?;
    Some((at, ((far as u32) << 2 | few) & 0xffff))
}

/// Writes an instruction whose length does not fit into it at `at`, and what is left of the length; gives its end.
fn long(bytes: &mut [u8], at: usize, instruction: u8, rest: usize) -> Option<usize> {
    let at = put(bytes, at, &[instruction])?;
    // Each zero stands for 255, and the last byte is not zero.
    let zeros = (rest - 1) / 255;
    bytes.get_mut(at..at + zeros)?.fill(0);
    put(bytes, at + zeros, &[(rest - zeros * 255) as u8])
}

/// Writes bytes at `at`; gives their end.
fn put(bytes: &mut [u8], at: usize, some: &[u8]) -> Option<usize> {
    bytes.get_mut(at..at + some.len())?.copy_from_slice(some);
    Some(at + some.len())
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
