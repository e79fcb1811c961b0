//! Whether bytes look as if compressing them were worth it, judged by a sample of a sixteenth.
//!
//! The measures and thresholds are the kernel's, so that both leave the same data as it is.

use super::MAX_UNCOMPRESSED;

/// Of each [`INTERVAL`] so many bytes are looked at.
const PIECE: usize = 16;
const INTERVAL: usize = 256;
const MAX_SAMPLE: usize = MAX_UNCOMPRESSED as usize / INTERVAL * PIECE;

/// Fewer different bytes than this are text, or as good as that.
const FEW_BYTES: usize = 64;
/// That few bytes make up most of the sample: compressible.
const SMALL_CORE: usize = 64;
/// It takes that many to make up most of the sample: as good as random.
const LARGE_CORE: usize = 200;
/// How much of the sample is its core, in percent.
const CORE_PERCENT: usize = 90;
/// From here on, in percent of eight bits a byte, entropy is too high.
const HIGH_ENTROPY: u32 = 80;

/// Whether it is worth trying to compress `bytes`, of which only the first 128 KiB are looked at.
/// A quick guess: what it lets through may turn out not to shrink.
pub fn worth_trying(bytes: &[u8]) -> bool {
    let mut sample = [0; MAX_SAMPLE];
    let sample = take_sample(bytes, &mut sample);
    if repeats(sample) {
        return true;
    }
    let mut counts = [0_u16; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    if counts.iter().filter(|count| **count > 0).count() < FEW_BYTES {
        return true;
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    match core_size(&counts, sample.len()) {
        ..=SMALL_CORE => true,
        LARGE_CORE.. => false,
        _ => entropy(&counts, sample.len()) < HIGH_ENTROPY,
    }
}

fn take_sample<'s>(bytes: &[u8], sample: &'s mut [u8; MAX_SAMPLE]) -> &'s [u8] {
    let pieces = bytes.chunks(INTERVAL).filter_map(|part| part.first_chunk::<PIECE>());
    let places = sample.as_chunks_mut::<PIECE>().0;
    let taken = places.iter_mut().zip(pieces).map(|(place, piece)| *place = *piece).count();
    &sample[..taken * PIECE]
}

/// Whether the second half of the sample is the first one again.
fn repeats(sample: &[u8]) -> bool {
    let (first, second) = sample.split_at(sample.len() / 2);
    first == second
}

/// How many of the most frequent bytes make up most of the sample, as far as that matters.
fn core_size(descending: &[u16; 256], sample: usize) -> usize {
    let most = sample * CORE_PERCENT / 100;
    let mut sum = 0;
    let sums = descending[..LARGE_CORE].iter().map(|count| {
        sum += usize::from(*count);
        sum
    });
    // The size does not matter below the lower threshold.
    let too_little = sums.take_while(|sum| *sum <= most).count();
    too_little.max(SMALL_CORE)
}

/// Shannon's entropy of the sample in percent of what random bytes have, with logarithms in quarters.
fn entropy(counts: &[u16; 256], sample: usize) -> u32 {
    let log = |count: u32| u64::from(count).pow(4).ilog2();
    let sample = sample as u32;
    let of = |count: u32| count * (log(sample) - log(count));
    let sum: u32 = counts.iter().filter(|count| **count > 0).map(|count| of(u32::from(*count))).sum();
    sum / sample * 100 / (8 * log(2))
}

#[cfg(test)]
mod tests {
    use super::super::tests::Noise;
    use super::*;

    fn of_values(values: u64) -> Vec<u8> {
        let mut noise = Noise(21);
        (0..MAX_UNCOMPRESSED).map(|_| (noise.next() % values) as u8).collect()
    }

    #[test]
    fn zeros_text_and_what_is_too_short_to_tell_are_worth_trying() {
        assert!(worth_trying(&[0; 131_072]));
        assert!(worth_trying(&Noise(22).text(131_072)));
        for len in [0, 1, 15] {
            assert!(worth_trying(&Noise(23).bytes(len)), "{len}");
        }
    }

    #[test]
    fn noise_is_not() {
        for len in [16_384, 100_001, 131_072, 300_000] {
            assert!(!worth_trying(&Noise(24).bytes(len)), "{len}");
        }
    }

    /// Noise in its bytes, but the second half is the first.
    #[test]
    fn what_repeats_is() {
        let half = Noise(25).bytes(65_536);
        let twice = [&half[..], &half].concat();
        assert!(worth_trying(&twice));
        let mut almost = twice;
        almost[65_536] ^= 1;
        assert!(!worth_trying(&almost));
    }

    /// Only the sample is looked at, and only in the first 128 KiB.
    #[test]
    fn what_lies_between_samples_does_not_count() {
        let mut bytes = Noise(26).bytes(200_000);
        for piece in bytes.chunks_mut(INTERVAL).take(512) {
            let end = piece.len().min(PIECE);
            piece[..end].fill(7);
        }
        assert!(worth_trying(&bytes));
    }

    /// Evenly spread values: few are text, more a small core, then entropy decides, then a large core.
    #[test]
    fn each_threshold_decides() {
        let expected = [(63, true), (70, true), (73, true), (100, false), (190, false), (256, false)];
        for (values, worth) in expected {
            assert_eq!(worth_trying(&of_values(values)), worth, "{values} values");
        }
    }

    #[test]
    fn cores_and_entropy_are_measured() {
        let even = |values: usize| std::array::from_fn(|at| if at < values { 32 } else { 0 });
        assert_eq!(core_size(&even(64), 2048), SMALL_CORE);
        assert_eq!(core_size(&even(100), 3200), 90);
        assert_eq!(core_size(&even(256), 8192), LARGE_CORE);
        assert_eq!((entropy(&even(256), 8192), entropy(&even(16), 512), entropy(&even(1), 32)), (100, 50, 0));
    }
}
