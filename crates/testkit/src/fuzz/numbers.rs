//! Numbers that programs stumble over.

use crate::random::Random;

/// A number that may be wrong in an interesting way, near `old` or far from it, for a field of `size` bytes.
pub fn number(random: &mut Random, old: u64, size: usize) -> u64 {
    let most = u64::MAX >> (64 - 8 * size.min(8));
    let value = match random.below(10) {
        0 => 0,
        1 => random.below(4),
        2 => most,
        3 => most.wrapping_sub(random.below(4096)),
        4 => (most >> 1).wrapping_add(random.below(3)).wrapping_sub(1),
        5 => 1 << random.below(8 * size as u64),
        6 => old.wrapping_add(random.between(1, 3)).wrapping_sub(random.below(6)),
        7 => old ^ 1 << random.below(8 * size as u64),
        8 => old.wrapping_add(*random.pick(&[4096, 16384, 65536, 1 << 20]).expect("there are some")),
        _ => random.bits(),
    };
    value & most
}

/// Puts a number somewhere into bytes, aligned as often as not, in place of what is there.
pub fn disturb(random: &mut Random, bytes: &mut [u8]) {
    let size = (*random.pick(&[1_usize, 2, 4, 8, 8]).expect("there are some")).min(bytes.len());
    if size == 0 {
        return;
    }
    let mut at = random.below((bytes.len() - size + 1) as u64) as usize;
    if random.percent(50) {
        at -= at % size;
    }
    let field = &mut bytes[at..at + size];
    let mut old = [0; 8];
    old[..size].copy_from_slice(field);
    let new = number(random, u64::from_le_bytes(old), size);
    field.copy_from_slice(&new.to_le_bytes()[..size]);
}
