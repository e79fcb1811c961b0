//! Maps by address, which are looked into at each step of each search.
//!
//! Addresses of tree blocks are multiples of a sector that we, or a device's chunks, chose; who could choose them to
//! collide could also make the tree as deep as he likes. So they are hashed by one multiplication.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use butterfs_format::{Logical, TreeBlock};

/// A map by address.
pub type AddressMap<T> = HashMap<Logical, T, BuildHasherDefault<AddressHasher>>;

/// Tree blocks by address.
pub type BlockMap = AddressMap<Arc<TreeBlock>>;

/// Hashes one address.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        // The high bits, which a map needs as much as the low ones, depend on all others; the low ones after the turn.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    #[test]
    fn neighbours_are_far_apart() {
        let hash = |number: u64| BuildHasherDefault::<AddressHasher>::default().hash_one(Logical(number << 14));
        let low: HashSet<u64> = (0..4096).map(|number| hash(number) & 0xfff).collect();
        let high: HashSet<u64> = (0..4096).map(|number| hash(number) >> 57).collect();
        assert!(low.len() > 2000 && high.len() == 128, "{} {}", low.len(), high.len());
    }
}
