//! Reading compressed extents: whole from the device, checked, then decompressed.
//!
//! # Invariants
//! * Checksums are of the bytes on disk: they are right before a decoder sees a byte.
//! * An extent that claims to be larger than the format allows is corrupt: nothing is allocated for it.
//! * Within one read, an extent that other extents have cut into pieces is decompressed once.
//!
//! # Locking
//! That of [`mod@super::read`].

use butterfs_format::Logical;
use butterfs_format::compression::{MAX_COMPRESSED, MAX_UNCOMPRESSED, decompress};
use butterfs_format::items::Compression;

use super::extents::{DataExtent, InlineExtent};

/// The last extent that a read has decompressed, as far as the read needs it.
#[derive(Default)]
pub(super) struct Last {
    disk_bytenr: u64,
    bytes: Vec<u8>,
}

impl Last {
    /// The bytes of an extent's part, if they are here.
    pub fn part(&self, data: &DataExtent) -> Option<&[u8]> {
        let (start, len) = (usize::try_from(data.offset).ok()?, usize::try_from(data.num_bytes).ok()?);
        let bytes = self.bytes.get(start..start.checked_add(len)?)?;
        (self.disk_bytenr == data.disk_bytenr).then_some(bytes)
    }

    /// Makes `bytes` the extent's first ones.
    pub fn set(&mut self, data: &DataExtent, bytes: Vec<u8>) {
        *self = Self { disk_bytenr: data.disk_bytenr, bytes };
    }
}

/// What must be read of an extent, so that the part that `data` is can be read: address and length.
///
/// # Errors
/// What is wrong with a compressed extent's lengths.
pub(super) fn on_disk(data: &DataExtent) -> Result<(Logical, u64), String> {
    if data.compression == Compression::None {
        let at = data.disk_bytenr.checked_add(data.offset).ok_or("address past 2^64")?;
        return Ok((Logical(at), data.num_bytes));
    }
    let DataExtent { disk_bytenr, disk_num_bytes, offset, num_bytes, ram_bytes, compression, .. } = *data;
    if disk_num_bytes > MAX_COMPRESSED || ram_bytes > MAX_UNCOMPRESSED {
        return Err(format!("{compression} extent of {disk_num_bytes} bytes on disk for {ram_bytes}: too long"));
    }
    if offset.checked_add(num_bytes).is_none_or(|end| end > ram_bytes) {
        return Err(format!("range {offset}+{num_bytes} is outside the {compression} extent of {ram_bytes} bytes"));
    }
    Ok((Logical(disk_bytenr), disk_num_bytes))
}

/// An extent's first `end` bytes from its bytes on disk.
///
/// # Errors
/// What is wrong with the stream.
pub(super) fn unpack(data: &DataExtent, input: &[u8], sectorsize: u32, end: u64) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; end.min(MAX_UNCOMPRESSED) as usize];
    decompress(data.compression, input, sectorsize, &mut bytes)?;
    Ok(bytes)
}

/// An inline extent's bytes. Its stream may be that of a whole block: `ram_bytes` count.
///
/// # Errors
/// What is wrong with the stream or the length.
pub(super) fn unpack_inline(inline: &InlineExtent, sectorsize: u32) -> Result<Vec<u8>, String> {
    if inline.ram_bytes > MAX_UNCOMPRESSED {
        return Err(format!("inline extent for {} bytes: too long", inline.ram_bytes));
    }
    let mut bytes = vec![0; inline.ram_bytes as usize];
    decompress(inline.compression, &inline.data, sectorsize, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent() -> DataExtent {
        DataExtent {
            ram_bytes: 131_072,
            compression: Compression::Zstd,
            ..DataExtent::new(Logical(1 << 20), 8192).part(65536, 4096)
        }
    }

    #[test]
    fn a_compressed_extent_is_read_whole() {
        assert_eq!(on_disk(&extent()), Ok((Logical(1 << 20), 8192)));
        let plain = DataExtent { compression: Compression::None, ..extent() };
        assert_eq!(on_disk(&plain), Ok((Logical((1 << 20) + 65536), 4096)));
    }

    #[test]
    fn lengths_that_no_writer_makes_are_corrupt() {
        for bad in [
            DataExtent { disk_num_bytes: 131_072 + 4096, ..extent() },
            DataExtent { ram_bytes: 1 << 40, ..extent() },
            DataExtent { offset: 131_072, ..extent() },
            DataExtent { num_bytes: u64::MAX, ..extent() },
        ] {
            assert!(on_disk(&bad).is_err(), "{bad:?}");
        }
        let inline = InlineExtent { data: vec![0; 10], ram_bytes: 1 << 40, compression: Compression::Lzo };
        assert!(unpack_inline(&inline, 4096).is_err());
    }

    #[test]
    fn the_last_extent_is_found_by_its_address() {
        let mut last = Last::default();
        assert_eq!(last.part(&extent()), None);
        last.set(&extent(), vec![7; 70_000]);
        assert_eq!(last.part(&extent()), Some(&[7; 4096][..]));
        assert_eq!(last.part(&DataExtent { disk_bytenr: 2 << 20, ..extent() }), None);
        assert_eq!(last.part(&DataExtent { offset: 69_000, ..extent() }), None);
    }
}
