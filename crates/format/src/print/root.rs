//! ROOT_ITEM, ROOT_REF, ROOT_BACKREF; UUIDs of subvolumes.

use std::fmt::Formatter;

use zerocopy::{FromZeros, IntoBytes};

use super::fields::{Fields, Printed, Stop};
use super::name::{Plain, UuidText};
use super::time::TimeText;
use super::{KeyText, Names, Options};
use crate::items::{RootFlags, RootItem, V1_ROOT_ITEM_SIZE};

/// What a short item lacks is zero.
pub(super) fn root_item(f: &mut Formatter<'_>, data: &[u8], options: &Options) -> Printed {
    if data.len() < V1_ROOT_ITEM_SIZE {
        return Err(Stop::Short);
    }
    let mut r = RootItem::new_zeroed();
    let len = data.len().min(size_of::<RootItem>());
    r.as_mut_bytes()[..len].copy_from_slice(&data[..len]);
    writeln!(
        f,
        "\t\tgeneration {} root_dirid {} bytenr {} byte_limit {} bytes_used {}",
        r.generation, r.root_dirid, r.bytenr, r.byte_limit, r.bytes_used
    )?;
    let flags = r.flags.get();
    let names = if r.flags().contains(RootFlags::RDONLY) { "RDONLY" } else { "none" };
    writeln!(f, "\t\tlast_snapshot {} flags 0x{flags:x}({names}) refs {}", r.last_snapshot, r.refs)?;
    writeln!(f, "\t\tdrop_progress {} drop_level {}", KeyText(r.drop_progress.into()), r.drop_level)?;
    writeln!(f, "\t\tlevel {} generation_v2 {}", r.level, r.generation_v2)?;
    if r.generation == r.generation_v2 { newer_part(f, &r, options) } else { Ok(()) }
}

/// What is valid only if the last to write the item knew of it.
fn newer_part(f: &mut Formatter<'_>, r: &RootItem, options: &Options) -> Printed {
    writeln!(f, "\t\tuuid {}", UuidText(&r.uuid))?;
    writeln!(f, "\t\tparent_uuid {}", UuidText(&r.parent_uuid))?;
    writeln!(f, "\t\treceived_uuid {}", UuidText(&r.received_uuid))?;
    writeln!(f, "\t\tctransid {} otransid {} stransid {} rtransid {}", r.ctransid, r.otransid, r.stransid, r.rtransid)?;
    for (name, time) in [("ctime", &r.ctime), ("otime", &r.otime), ("stime", &r.stime), ("rtime", &r.rtime)] {
        writeln!(f, "\t\t{name} {}", TimeText(time, options.local_time))?;
    }
    Ok(())
}

pub(super) fn root_ref(f: &mut Formatter<'_>, mut fields: Fields<'_>, tag: &str, options: &Options) -> Printed {
    let (dirid, sequence, len) = (fields.u64()?, fields.u64()?, fields.u16()?);
    write!(f, "\t\troot {tag} key dirid {dirid} sequence {sequence} name ")?;
    let name = fields.up_to(usize::from(len));
    let printed = match options.names {
        Names::Hidden => f.write_str("HIDDEN\n"),
        Names::Shown => writeln!(f, "{}", Plain(name)),
    };
    Ok(printed?)
}

pub(super) fn uuid(f: &mut Formatter<'_>, data: &[u8]) -> Printed {
    let (ids, rest) = data.as_chunks::<8>();
    if !rest.is_empty() {
        return Ok(writeln!(f, "btrfs: uuid item with illegal size {}!", data.len())?);
    }
    ids.iter().try_for_each(|id| writeln!(f, "\t\tsubvol_id {}", u64::from_le_bytes(*id)))?;
    Ok(())
}
