//! INODE_ITEM, INODE_REF, INODE_EXTREF.

use std::fmt::Formatter;

use super::fields::{Fields, Printed};
use super::name::Escaped;
use super::time::TimeText;
use super::{Names, Options, inode_flags};
use crate::items::{InodeItem, NAME_MAX};

pub(super) fn inode_item(f: &mut Formatter<'_>, mut fields: Fields<'_>, options: &Options) -> Printed {
    let i: InodeItem = fields.take()?;
    writeln!(f, "\t\tgeneration {} transid {} size {} nbytes {}", i.generation, i.transid, i.size, i.nbytes)?;
    writeln!(
        f,
        "\t\tblock group {} mode {:o} links {} uid {} gid {} rdev {}",
        i.block_group,
        i.mode.get(),
        i.nlink,
        i.uid,
        i.gid,
        i.rdev
    )?;
    let flags = i.flags.get();
    writeln!(f, "\t\tsequence {} flags 0x{flags:x}({})", i.sequence, inode_flags(flags))?;
    for (name, time) in [("atime", &i.atime), ("ctime", &i.ctime), ("mtime", &i.mtime), ("otime", &i.otime)] {
        writeln!(f, "\t\t{name} {}", TimeText(time, options.local_time))?;
    }
    Ok(())
}

pub(super) fn inode_ref(f: &mut Formatter<'_>, mut fields: Fields<'_>, options: &Options) -> Printed {
    while !fields.is_empty() {
        let (index, len) = (fields.u64()?, fields.u16()?);
        write!(f, "\t\tindex {index} namelen {len} ")?;
        name(f, &mut fields, len, options)?;
    }
    Ok(())
}

pub(super) fn inode_extref(f: &mut Formatter<'_>, mut fields: Fields<'_>, options: &Options) -> Printed {
    while !fields.is_empty() {
        let (parent, index, len) = (fields.u64()?, fields.u64()?, fields.u16()?);
        write!(f, "\t\tindex {index} parent {parent} namelen {len} ")?;
        name(f, &mut fields, len, options)?;
    }
    Ok(())
}

/// `name: NAME`; of a name that is too long, what a name can have.
pub(super) fn name(f: &mut Formatter<'_>, fields: &mut Fields<'_>, len: u16, options: &Options) -> Printed {
    let name = fields.up_to(usize::from(len));
    let printed = match options.names {
        Names::Hidden => writeln!(f, "name: HIDDEN"),
        Names::Shown => writeln!(f, "name: {}", Escaped(&name[..name.len().min(NAME_MAX)])),
    };
    Ok(printed?)
}
