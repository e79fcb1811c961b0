//! A set of block addresses as bits: one for each sector, in pages that exist only where a bit is set.
//!
//! Memory: 512 bytes for each 4096 sectors with a member, so a 32,768th of metadata that lies together.

use std::collections::BTreeMap;

/// Bits in a page, and words.
const BITS: u64 = 4096;
const WORDS: usize = (BITS / 64) as usize;

/// Addresses that are multiples of the sector size; others fall into the sector they lie in.
#[derive(Clone, Debug)]
pub(crate) struct BlockSet {
    unit: u64,
    pages: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl BlockSet {
    pub fn new(sectorsize: u64) -> Self {
        Self { unit: sectorsize.max(1), pages: BTreeMap::new() }
    }

    fn place(&self, bytenr: u64) -> (u64, usize, u64) {
        let number = bytenr / self.unit;
        let bit = number % BITS;
        (number / BITS, (bit / 64) as usize, 1 << (bit % 64))
    }

    pub fn contains(&self, bytenr: u64) -> bool {
        let (page, word, bit) = self.place(bytenr);
        self.pages.get(&page).is_some_and(|words| words[word] & bit != 0)
    }

    /// Puts an address in; gives whether it was not there before.
    pub fn insert(&mut self, bytenr: u64) -> bool {
        let (page, word, bit) = self.place(bytenr);
        let words = self.pages.entry(page).or_insert_with(|| Box::new([0; WORDS]));
        let new = words[word] & bit == 0;
        words[word] |= bit;
        new
    }

    /// The addresses in order.
    #[cfg(test)]
    fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.iter_from(0)
    }

    /// The addresses from one on, in order.
    pub fn iter_from(&self, start: u64) -> impl Iterator<Item = u64> + '_ {
        let first = start / self.unit / BITS;
        let all = self.pages.range(first..).flat_map(move |(page, words)| {
            let bits = (0..BITS).filter(move |bit| words[(bit / 64) as usize] & (1 << (bit % 64)) != 0);
            bits.map(move |bit| (page * BITS + bit) * self.unit)
        });
        all.skip_while(move |at| *at < start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_out_in_order_once() {
        let mut set = BlockSet::new(4096);
        let addresses = [u64::MAX - 4095, 1 << 40, 4096, 0, 4096 * 4096];
        assert!(addresses.iter().all(|at| set.insert(*at)));
        assert!(!set.insert(4096));
        assert!(set.contains(1 << 40) && !set.contains((1 << 40) + 4096));
        assert_eq!(set.iter_from(4097).next(), Some(4096 * 4096));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 4096, 4096 * 4096, 1 << 40, u64::MAX - 4095]);
    }
}
