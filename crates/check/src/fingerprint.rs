//! Fingerprints: 64-bit hashes of what refers to what, made to be added up.
//!
//! Two multisets are taken to be equal if the sums of their members' fingerprints are; by chance that
//! is wrong once in 2^64.

use xxhash_rust::xxh64::xxh64;

const K: [u64; 3] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93, 0xa076_1d64_78bd_642f];

/// Multiplies to 128 bits and folds.
const fn fold(a: u64, b: u64) -> u64 {
    let wide = (a as u128) * (b as u128);
    (wide >> 64) as u64 ^ wide as u64
}

/// The fingerprint of some numbers; their order matters. `domain` keeps kinds of facts apart.
pub(crate) fn numbers<const N: usize>(domain: u64, values: [u64; N]) -> u64 {
    let mut state = fold(domain ^ K[0], K[1]);
    for value in values {
        state = fold(state ^ value ^ K[2], (value ^ K[0]).rotate_left(32) | 1) ^ fold(value ^ K[1], state | 1);
    }
    fold(state ^ K[1], K[2])
}

/// The fingerprint of some numbers and a name.
pub(crate) fn named<const N: usize>(domain: u64, values: [u64; N], name: &[u8]) -> u64 {
    xxh64(name, numbers(domain, values))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn near_values_do_not_collide_and_sums_do_not_cancel() {
        let mut all = HashSet::new();
        for a in 0..200u64 {
            for b in 0..200u64 {
                assert!(all.insert(numbers(1, [a << 12, b])), "{a} {b}");
            }
        }
        assert_ne!(numbers(1, [1, 2]), numbers(1, [2, 1]));
        assert_ne!(numbers(1, [1, 2]), numbers(2, [1, 2]));
        let crossed = numbers(1, [1, 2]).wrapping_add(numbers(1, [3, 4]));
        assert_ne!(crossed, numbers(1, [1, 4]).wrapping_add(numbers(1, [3, 2])));
        assert_ne!(named(1, [1], b"a"), named(1, [1], b"b"));
    }
}
