//! What is already on a device, by its magic bytes: enough to not overwrite it by mistake.

use std::io;

use crate::device::BlockDevice;
use butterfs_format::superblock::{MAGIC, SUPERBLOCK_OFFSETS};

/// Where the magic lies within a Btrfs superblock.
const BTRFS_MAGIC_AT: u64 = 64;

/// Bytes that give away what a device holds.
struct Signature {
    name: &'static str,
    offset: u64,
    magic: &'static [u8],
}

const fn signature(name: &'static str, offset: u64, magic: &'static [u8]) -> Signature {
    Signature { name, offset, magic }
}

/// The more telling first: a FAT or NTFS boot sector ends like a partition table.
const TABLE: [Signature; 26] = [
    signature("a Btrfs filesystem", SUPERBLOCK_OFFSETS[0] + BTRFS_MAGIC_AT, &MAGIC),
    signature("an ext2, ext3 or ext4 filesystem", 1080, &[0x53, 0xef]),
    signature("an XFS filesystem", 0, b"XFSB"),
    signature("an F2FS filesystem", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    signature("a bcachefs filesystem", 4096 + 24, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    signature("an EROFS filesystem", 1024, &[0xe2, 0xe1, 0xf5, 0xe0]),
    signature("a SquashFS filesystem", 0, b"hsqs"),
    signature("an ISO 9660 filesystem", 32769, b"CD001"),
    signature("a UDF filesystem", 32769, b"BEA01"),
    signature("an NTFS filesystem", 3, b"NTFS    "),
    signature("an exFAT filesystem", 3, b"EXFAT   "),
    signature("a FAT filesystem", 82, b"FAT32   "),
    signature("a FAT filesystem", 54, b"FAT16   "),
    signature("a FAT filesystem", 54, b"FAT12   "),
    signature("a FAT filesystem", 54, b"FAT     "),
    signature("a swap area", 4086, b"SWAPSPACE2"),
    signature("a swap area", 4086, b"SWAP-SPACE"),
    signature("a swap area", 16374, b"SWAPSPACE2"),
    signature("a swap area", 65526, b"SWAPSPACE2"),
    signature("a LUKS volume", 0, b"LUKS\xba\xbe"),
    signature("an LVM volume", 512, b"LABELONE"),
    signature("a RAID member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    signature("a JFS filesystem", 32768, b"JFS1"),
    signature("a GPT partition table", 512, b"EFI PART"),
    signature("a GPT partition table", 4096, b"EFI PART"),
    signature("an MBR partition table or boot sector", 510, &[0x55, 0xaa]),
];

impl Signature {
    fn is_on(&self, device: &dyn BlockDevice) -> io::Result<bool> {
        if self.offset + self.magic.len() as u64 > device.len() {
            return Ok(false);
        }
        let mut bytes = vec![0; self.magic.len()];
        device.read_at(self.offset, &mut bytes)?;
        Ok(bytes == self.magic)
    }
}

/// What the device holds, in words, if it is known.
pub fn find(device: &dyn BlockDevice) -> io::Result<Option<&'static str>> {
    for signature in &TABLE {
        if signature.is_on(device)? {
            return Ok(Some(signature.name));
        }
    }
    Ok(None)
}

/// Erases what [`find`] knows, so that the device is not taken for what it was: the magic bytes
/// before a Btrfs superblock, and the GPT copy at the end.
pub fn erase_others(device: &dyn BlockDevice) -> io::Result<()> {
    let last_sector = device.len().saturating_sub(512);
    let at_end = signature("", last_sector, b"EFI PART");
    let before = TABLE.iter().filter(|signature| signature.offset < SUPERBLOCK_OFFSETS[0]);
    for signature in before.chain([&at_end]) {
        if signature.is_on(device)? {
            device.write_at(signature.offset, &vec![0; signature.magic.len()])?;
        }
    }
    device.flush()
}

#[cfg(test)]
mod tests {
    use crate::MemDevice;

    use super::*;

    #[test]
    fn each_is_found_and_erased() {
        for signature in &TABLE {
            let device = MemDevice::new(1 << 20);
            assert_eq!(find(&device).unwrap(), None);
            device.write_at(signature.offset, signature.magic).unwrap();
            assert_eq!(find(&device).unwrap(), Some(signature.name));
            erase_others(&device).unwrap();
            let ours = signature.magic == MAGIC;
            assert_eq!(find(&device).unwrap().is_some(), ours, "{}", signature.name);
        }
    }

    #[test]
    fn a_small_device_holds_nothing() {
        assert_eq!(find(&MemDevice::new(0)).unwrap(), None);
    }
}
