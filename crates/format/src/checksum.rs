//! The four checksums of the format.

use std::fmt;
use std::str::FromStr;

use blake2::digest::Digest;
use blake2::digest::consts::U32;

/// The size of the checksum field of superblocks and tree blocks, in bytes.
pub const CSUM_FIELD_SIZE: usize = 32;

/// A checksum algorithm; one per filesystem, named in the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u16)]
pub enum ChecksumType {
    /// CRC-32C, 4 bytes.
    Crc32c = 0,
    /// XXH64, 8 bytes.
    Xxhash64 = 1,
    /// SHA-256, 32 bytes.
    Sha256 = 2,
    /// BLAKE2b with 256 bits, 32 bytes.
    Blake2b = 3,
}

/// A checksum value: [`ChecksumType::size`] bytes, the rest zero.
pub type Checksum = [u8; CSUM_FIELD_SIZE];

impl ChecksumType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Crc32c, Self::Xxhash64, Self::Sha256, Self::Blake2b];

    /// The type of a number in the superblock's `csum_type`.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|t| *t as u16 == number)
    }

    /// How many bytes a checksum takes in a checksum item.
    pub const fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// The checksum of `bytes`.
    pub fn compute(self, bytes: &[u8]) -> Checksum {
        let mut out = [0; CSUM_FIELD_SIZE];
        match self {
            Self::Crc32c => out[..4].copy_from_slice(&crc32c::crc32c(bytes).to_le_bytes()),
            Self::Xxhash64 => out[..8].copy_from_slice(&xxhash_rust::xxh64::xxh64(bytes, 0).to_le_bytes()),
            Self::Sha256 => out.copy_from_slice(&sha2::Sha256::digest(bytes)),
            Self::Blake2b => out.copy_from_slice(&blake2::Blake2b::<U32>::digest(bytes)),
        }
        out
    }

    /// The checksum of a superblock or tree block: of all that follows the checksum field.
    pub fn compute_block(self, block: &[u8]) -> Checksum {
        self.compute(&block[CSUM_FIELD_SIZE..])
    }

    /// Whether a superblock's or tree block's own checksum is right.
    pub fn matches_block(self, block: &[u8]) -> bool {
        let size = self.size();
        block.len() > CSUM_FIELD_SIZE && self.compute_block(block)[..size] == block[..size]
    }
}

impl fmt::Display for ChecksumType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Crc32c => "crc32c",
            Self::Xxhash64 => "xxhash64",
            Self::Sha256 => "sha256",
            Self::Blake2b => "blake2b",
        })
    }
}

/// Takes the names that `mkfs.btrfs --csum` takes.
impl FromStr for ChecksumType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "crc32c" => Ok(Self::Crc32c),
            "xxhash64" | "xxhash" => Ok(Self::Xxhash64),
            "sha256" => Ok(Self::Sha256),
            "blake2b" | "blake2" => Ok(Self::Blake2b),
            _ => Err(format!("unknown checksum '{name}'; known are crc32c, xxhash, sha256 and blake2")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published vectors: RFC 3720 for CRC-32C, the reference tools for the others.
    #[test]
    fn known_values() {
        let crc = ChecksumType::Crc32c.compute(b"123456789");
        assert_eq!(u32::from_le_bytes(crc[..4].try_into().unwrap()), 0xe306_9283);
        let xxh = ChecksumType::Xxhash64.compute(b"");
        assert_eq!(u64::from_le_bytes(xxh[..8].try_into().unwrap()), 0xef46_db37_51d8_e999);
        assert_eq!(ChecksumType::Sha256.compute(b"")[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(ChecksumType::Blake2b.compute(b"")[..4], [0x0e, 0x57, 0x51, 0xc0]);
    }
}
