//! Quotas: status, usage and limits. A relation is all in its key.

use std::fmt::Formatter;

use super::fields::{Fields, Printed};
use super::{Options, qgroup_status_flags};

pub(super) fn status(f: &mut Formatter<'_>, mut fields: Fields<'_>, options: &Options) -> Printed {
    let (version, generation, flags, scan) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let flags = qgroup_status_flags(flags);
    write!(f, "\t\tversion {version} generation {generation} flags {flags} scan {scan}")?;
    if options.simple_quota {
        write!(f, " enable_gen {}", fields.u64()?)?;
    }
    Ok(f.write_str("\n")?)
}

pub(super) fn info(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    writeln!(f, "\t\tgeneration {}", fields.u64()?)?;
    writeln!(f, "\t\treferenced {} referenced_compressed {}", fields.u64()?, fields.u64()?)?;
    Ok(writeln!(f, "\t\texclusive {} exclusive_compressed {}", fields.u64()?, fields.u64()?)?)
}

/// Limits are printed signed: -1 is none.
pub(super) fn limit(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    writeln!(f, "\t\tflags {:x}", fields.u64()?)?;
    let (referenced, exclusive) = (fields.u64()? as i64, fields.u64()? as i64);
    writeln!(f, "\t\tmax_referenced {referenced} max_exclusive {exclusive}")?;
    let (referenced, exclusive) = (fields.u64()? as i64, fields.u64()? as i64);
    Ok(writeln!(f, "\t\trsv_referenced {referenced} rsv_exclusive {exclusive}")?)
}
