//! EXTENT_DATA and EXTENT_CSUM.

use std::fmt::{self, Display, Formatter};

use super::fields::{Fields, Printed};
use super::name::Hex;
use super::{Options, Show};
use crate::checksum::CSUM_FIELD_SIZE;
use crate::items::Compression;

/// `1 (zlib)`
struct CompressionText(u8);

impl Display for CompressionText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match Compression::from_number(self.0) {
            Some(known) => write!(f, "{} ({known})", self.0),
            None => write!(f, "{} (UNKNOWN.{})", self.0, self.0),
        }
    }
}

pub(super) fn file_extent(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let (generation, ram_bytes) = (fields.u64()?, fields.u64()?);
    let compression = CompressionText(fields.take()?);
    let (_encryption, _encoding, kind) = (fields.take::<u8>()?, fields.u16()?, fields.take::<u8>()?);
    let name = ["inline", "regular", "prealloc"].get(usize::from(kind)).unwrap_or(&"unknown");
    writeln!(f, "\t\tgeneration {generation} type {kind} ({name})")?;
    if kind == 0 {
        let size = fields.rest().len();
        writeln!(f, "\t\tinline extent data size {size} ram_bytes {ram_bytes} compression {compression}")?;
        return Ok(());
    }
    let (disk_bytenr, disk_num_bytes) = (fields.u64()?, fields.u64()?);
    let (offset, num_bytes) = (fields.u64()?, fields.u64()?);
    if kind == 2 {
        writeln!(f, "\t\tprealloc data disk byte {disk_bytenr} nr {disk_num_bytes}")?;
        writeln!(f, "\t\tprealloc data offset {offset} nr {num_bytes}")?;
        return Ok(());
    }
    writeln!(f, "\t\textent data disk byte {disk_bytenr} nr {disk_num_bytes}")?;
    writeln!(f, "\t\textent data offset {offset} nr {num_bytes} ram {ram_bytes}")?;
    Ok(writeln!(f, "\t\textent compression {compression}")?)
}

pub(super) fn csums(f: &mut Formatter<'_>, start: u64, data: &[u8], options: &Options) -> Printed {
    let size = options.csum_type.size();
    let sector = u64::from(options.sectorsize);
    let length = (data.len() / size) as u64 * sector;
    writeln!(f, "\t\trange start {start} end {} length {length}", start.wrapping_add(length))?;
    if options.item_csums == Show::No {
        return Ok(());
    }
    // As many in a line as make it about as long as one with the longest checksum.
    let in_line = (CSUM_FIELD_SIZE / size / 2).max(1);
    for (number, csum) in data.chunks_exact(size).enumerate() {
        f.write_str(match number {
            0 => "\t\t",
            _ if number.is_multiple_of(in_line) => "\n\t\t",
            _ => " ",
        })?;
        write!(f, "[{}] 0x{}", start.wrapping_add(number as u64 * sector), Hex(csum))?;
    }
    Ok(f.write_str("\n")?)
}
