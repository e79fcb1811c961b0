//! Chunks, devices, device extents; stripes of the raid-stripe-tree.

use std::fmt::Formatter;

use super::block_group_flags;
use super::fields::{Fields, Printed};
use super::name::UuidText;
use crate::items::{ChunkHeader, DevExtent, DevItem, Stripe};

pub(super) fn chunk(f: &mut Formatter<'_>, data: &[u8]) -> Printed {
    let mut fields = Fields::new(data);
    let c: ChunkHeader = fields.take()?;
    let count = usize::from(c.num_stripes.get());
    if count == 0 {
        return Ok(f.write_str("invalid num_stripes: 0\n")?);
    }
    if fields.rest().len() < count * size_of::<Stripe>() {
        return Ok(f.write_str("\t\tchunk item invalid\n")?);
    }
    let flags = block_group_flags(c.chunk_type.get());
    writeln!(f, "\t\tlength {} owner {} stripe_len {} type {flags}", c.length, c.owner, c.stripe_len)?;
    writeln!(f, "\t\tio_align {} io_width {} sector_size {}", c.io_align, c.io_width, c.sector_size)?;
    writeln!(f, "\t\tnum_stripes {} sub_stripes {}", c.num_stripes, c.sub_stripes)?;
    for number in 0..count {
        let stripe: Stripe = fields.take()?;
        writeln!(f, "\t\t\tstripe {number} devid {} offset {}", stripe.devid, stripe.offset)?;
        writeln!(f, "\t\t\tdev_uuid {}", UuidText(&stripe.dev_uuid))?;
    }
    Ok(())
}

pub(super) fn dev_item(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let d: DevItem = fields.take()?;
    writeln!(f, "\t\tdevid {} total_bytes {} bytes_used {}", d.devid, d.total_bytes, d.bytes_used)?;
    writeln!(
        f,
        "\t\tio_align {} io_width {} sector_size {} type {}",
        d.io_align, d.io_width, d.sector_size, d.dev_type
    )?;
    writeln!(f, "\t\tgeneration {} start_offset {} dev_group {}", d.generation, d.start_offset, d.dev_group)?;
    writeln!(f, "\t\tseek_speed {} bandwidth {}", d.seek_speed, d.bandwidth)?;
    Ok(write!(f, "\t\tuuid {}\n\t\tfsid {}\n", UuidText(&d.uuid), UuidText(&d.fsid))?)
}

pub(super) fn dev_extent(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    let e: DevExtent = fields.take()?;
    writeln!(f, "\t\tdev extent chunk_tree {}", e.chunk_tree)?;
    writeln!(f, "\t\tchunk_objectid {} chunk_offset {} length {}", e.chunk_objectid, e.chunk_offset, e.length)?;
    Ok(writeln!(f, "\t\tchunk_tree_uuid {}", UuidText(&e.chunk_tree_uuid))?)
}

/// Pairs of device and physical address.
pub(super) fn raid_stripe(f: &mut Formatter<'_>, data: &[u8]) -> Printed {
    for (number, pair) in data.chunks_exact(16).enumerate() {
        let mut fields = Fields::new(pair);
        let (devid, physical) = (fields.u64()?, fields.u64()?);
        writeln!(f, "\t\t\tstripe {number} devid {devid} physical {physical}")?;
    }
    Ok(())
}
