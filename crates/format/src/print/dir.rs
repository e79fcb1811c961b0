//! DIR_ITEM, DIR_INDEX and XATTR_ITEM; ranges of directories in log trees.

use std::fmt::{self, Display, Formatter};

use super::fields::{Fields, Printed};
use super::inode::name;
use super::name::Escaped;
use super::{KeyText, Names, Options};
use crate::items::{DirEntryHeader, FileType, NAME_MAX};

/// The type of an entry; also one that nobody knows.
struct TypeText(u8);

impl Display for TypeText {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match FileType::from_number(self.0) {
            Some(known) if known != FileType::Unknown => known.fmt(f),
            _ => write!(f, "DIR_ITEM.{}", self.0),
        }
    }
}

pub(super) fn entries(f: &mut Formatter<'_>, mut fields: Fields<'_>, options: &Options) -> Printed {
    while !fields.is_empty() {
        let header: DirEntryHeader = fields.take()?;
        let (name_len, data_len) = (header.name_len.get(), header.data_len.get());
        writeln!(f, "\t\tlocation {} type {}", KeyText(header.location.into()), TypeText(header.file_type))?;
        if usize::from(name_len) + usize::from(data_len) > fields.rest().len() {
            // progs says this on standard error.
            writeln!(f, "\t\tname of {name_len} and data of {data_len} bytes do not fit")?;
            return Ok(());
        }
        writeln!(f, "\t\ttransid {} data_len {data_len} name_len {name_len}", header.transid)?;
        f.write_str("\t\t")?;
        name(f, &mut fields, name_len, options)?;
        value(f, fields.up_to(usize::from(data_len)), options)?;
    }
    Ok(())
}

/// The value of an extended attribute; of a long one the front.
fn value(f: &mut Formatter<'_>, value: &[u8], options: &Options) -> Printed {
    let printed = match options.names {
        _ if value.is_empty() => Ok(()),
        Names::Hidden => f.write_str("\t\tdata HIDDEN\n"),
        Names::Shown => writeln!(f, "\t\tdata {}", Escaped(&value[..value.len().min(NAME_MAX)])),
    };
    Ok(printed?)
}

pub(super) fn log(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    Ok(writeln!(f, "\t\tdir log end {}", fields.u64()?)?)
}
