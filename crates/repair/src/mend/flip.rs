//! One wrong bit in a block: its checksum tells which.
//!
//! A checksum of n bits that is off by the effect of exactly one bit names that bit. Copies that are bad in
//! different sectors make one good block together.

use butterfs_format::TreeBlock;
use butterfs_format::checksum::ChecksumType;
use butterfs_format::validate::Geometry;

/// Where a block's checksum begins to count: after the field itself.
const CSUM_FIELD: usize = 32;
/// The CRC-32C polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The block with its one wrong bit set right, if there is such a bit.
pub fn correct_one_bit(block: &TreeBlock, geometry: &Geometry) -> Option<TreeBlock> {
    let kind = geometry.csum_type;
    if differing_bits(block, kind) == 1 {
        return Some(sealed(block.clone(), kind));
    }
    match kind {
        ChecksumType::Crc32c => flipped(block, crc_bit(block)?, kind),
        _ => (CSUM_FIELD * 8..block.bytes().len() * 8).find_map(|bit| flipped(block, bit, kind)),
    }
}

/// Whether the checksum is missing: nothing but zeros, which no block has.
pub fn has_no_checksum(block: &TreeBlock) -> bool {
    block.header().csum == [0; 32]
}

/// A block made of the good sectors of two bad copies.
pub fn mixed(one: &TreeBlock, other: &TreeBlock, geometry: &Geometry) -> Option<TreeBlock> {
    let sector = (geometry.sectorsize as usize).min(one.bytes().len());
    let sectors = one.bytes().len() / sector;
    let range = |index: usize| index * sector..(index + 1) * sector;
    let differing: Vec<usize> = (0..sectors).filter(|i| one.bytes()[range(*i)] != other.bytes()[range(*i)]).collect();
    (1..(1usize << differing.len()).saturating_sub(1)).find_map(|choice| {
        let mut block = one.clone();
        for (bit, index) in differing.iter().enumerate().filter(|(bit, _)| choice & (1 << bit) != 0) {
            let _ = bit;
            block.bytes_mut()[range(*index)].copy_from_slice(&other.bytes()[range(*index)]);
        }
        geometry.csum_type.matches_block(block.bytes()).then_some(block)
    })
}

/// The block with the checksum that it should have.
pub fn sealed(mut block: TreeBlock, kind: ChecksumType) -> TreeBlock {
    block.header_mut().csum = kind.compute_block(block.bytes());
    block
}

fn differing_bits(block: &TreeBlock, kind: ChecksumType) -> u32 {
    let want = kind.compute_block(block.bytes());
    block.header().csum.iter().zip(want).map(|(a, b)| (a ^ b).count_ones()).sum()
}

fn flipped(block: &TreeBlock, bit: usize, kind: ChecksumType) -> Option<TreeBlock> {
    let mut block = block.clone();
    block.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
    kind.matches_block(block.bytes()).then_some(block)
}

/// The bit whose flip changes the CRC as it is changed: the effect of a bit depends only on how far from the
/// end it is, and moves on by one shift of the register for each bit.
fn crc_bit(block: &TreeBlock) -> Option<usize> {
    let crc = |csum: &[u8; 32]| csum.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let wanted = crc(&block.header().csum) ^ crc(&ChecksumType::Crc32c.compute_block(block.bytes()));
    let last = block.bytes().len() * 8;
    // The effect of the very last bit of the block, then of the one before...
    let mut effect = POLYNOMIAL;
    for bit in (CSUM_FIELD * 8..last).rev() {
        if effect == wanted {
            return Some(bit);
        }
        effect = (effect >> 1) ^ if effect & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_format::block::NewBlock;
    use butterfs_format::{Generation, Logical, TreeId};

    fn block(kind: ChecksumType) -> (TreeBlock, Geometry) {
        let new = NewBlock {
            bytenr: Logical(4096),
            generation: Generation(3),
            owner: TreeId::FS,
            level: 0,
            fsid: [1; 16],
            chunk_tree_uuid: [2; 16],
        };
        let mut block = TreeBlock::new(8192, &new);
        for (at, byte) in block.bytes_mut().iter_mut().enumerate().skip(101) {
            *byte = (at * 7) as u8;
        }
        let geometry = Geometry {
            nodesize: 8192,
            sectorsize: 4096,
            csum_type: kind,
            fsid: [1; 16],
            seeds: [None; Geometry::MAX_SEEDS],
        };
        (sealed(block, kind), geometry)
    }

    #[test]
    fn any_one_bit_is_found() {
        let (good, geometry) = block(ChecksumType::Crc32c);
        for bit in (0..32).chain(256..300).chain([4000, 30_001, 65_528, 65_535]) {
            let mut bad = good.clone();
            bad.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(correct_one_bit(&bad, &geometry), Some(good.clone()), "bit {bit}");
        }
    }

    #[test]
    fn other_checksums_find_it_too_and_two_bits_are_not_guessed() {
        let (good, geometry) = block(ChecksumType::Xxhash64);
        let mut bad = good.clone();
        bad.bytes_mut()[40] ^= 4;
        assert_eq!(correct_one_bit(&bad, &geometry), Some(good.clone()));
        let (good, geometry) = block(ChecksumType::Crc32c);
        let mut bad = good.clone();
        bad.bytes_mut()[40] ^= 6;
        assert_eq!(correct_one_bit(&bad, &geometry), None);
    }

    #[test]
    fn two_copies_torn_in_different_sectors_make_one() {
        let (good, geometry) = block(ChecksumType::Crc32c);
        let (mut one, mut other) = (good.clone(), good.clone());
        one.bytes_mut()[200..300].fill(0);
        other.bytes_mut()[5000..6000].fill(0xff);
        assert_eq!(mixed(&one, &other, &geometry), Some(good.clone()));
        other.bytes_mut()[220] ^= 1;
        assert_eq!(mixed(&one, &other, &geometry), None);
    }
}
