//! Hashes that are part of the format: of names, and of back references.

use crate::ids::{Ino, TreeId};

/// Raw CRC-32C register update, without the inversions before and after.
pub(crate) fn crc32c_raw(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// The key offset of DIR_ITEM and XATTR_ITEM for a name.
pub fn name_hash(name: &[u8]) -> u64 {
    u64::from(crc32c_raw(!1, name))
}

/// The key offset of INODE_EXTREF for a name in the directory `parent`.
pub fn extref_hash(parent: Ino, name: &[u8]) -> u64 {
    u64::from(crc32c_raw(parent.0 as u32, name))
}

/// The key offset of a keyed EXTENT_DATA_REF, and the order of inline ones (descending).
pub fn extent_data_ref_hash(root: TreeId, objectid: Ino, offset: u64) -> u64 {
    let high = crc32c_raw(u32::MAX, &root.0.to_le_bytes());
    let low = crc32c_raw(u32::MAX, &objectid.0.to_le_bytes());
    let low = crc32c_raw(low, &offset.to_le_bytes());
    (u64::from(high) << 31) ^ u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of "default" is in every filesystem: the key of the root tree directory's entry.
    #[test]
    fn name_hash_of_default() {
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
