//! Items of devices and of work on them: statistics, balance, replace.

use std::fmt::{self, Display, Formatter};

use super::fields::{Fields, Printed};
use super::{ObjectId, Options};
use crate::checksum::ChecksumType;
use crate::ids::objectid;
use crate::key::{ItemType, Key};

pub(super) fn persistent(f: &mut Formatter<'_>, fields: Fields<'_>, key: &Key) -> Printed {
    let id = ObjectId { id: key.objectid, item_type: ItemType::PERSISTENT_ITEM };
    writeln!(f, "\t\tpersistent item objectid {id} offset {}", key.offset)?;
    match key.objectid {
        objectid::DEV_STATS => dev_stats(f, fields),
        other => Ok(writeln!(f, "\t\tunknown persistent item objectid {other}")?),
    }
}

fn dev_stats(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    f.write_str("\t\tdevice stats\n\t\t")?;
    for name in ["write_errs", "read_errs", "flush_errs", "corruption_errs"] {
        write!(f, "{name} {} ", fields.u64()?)?;
    }
    writeln!(f, "generation {}", fields.u64()?)?;
    if !fields.is_empty() {
        write!(f, "\t\tunknown stats item bytes {}", fields.rest().len())?;
    }
    let mut number = 5;
    while !fields.is_empty() {
        writeln!(f, "\t\tunknown item {number} offset {} value {}", number * 8, fields.u64()?)?;
        number += 1;
    }
    Ok(())
}

pub(super) fn temporary(f: &mut Formatter<'_>, fields: Fields<'_>, key: &Key) -> Printed {
    let (id, offset) = (ObjectId { id: key.objectid, item_type: ItemType::TEMPORARY_ITEM }, key.offset);
    writeln!(f, "\t\ttemporary item objectid {id} offset {offset}")?;
    match key.objectid {
        objectid::BALANCE => balance(f, fields),
        objectid::CSUM_CHANGE => {
            let known = u16::try_from(offset).ok().and_then(ChecksumType::from_number);
            let printed = match known {
                Some(known) => writeln!(f, "\t\ttarget csum type {known} ({offset})"),
                None => writeln!(f, "\t\tunknown csum type {offset}"),
            };
            Ok(printed?)
        }
        other => Ok(writeln!(f, "\t\tunknown temporary item objectid {other}")?),
    }
}

fn balance(f: &mut Formatter<'_>, mut fields: Fields<'_>) -> Printed {
    writeln!(f, "\t\tbalance status flags {}", fields.u64()?)?;
    for name in ["DATA", "METADATA", "SYSTEM"] {
        writeln!(f, "\t\t{name}")?;
        balance_filters(f, &mut fields)?;
    }
    Ok(())
}

fn balance_filters(f: &mut Formatter<'_>, fields: &mut Fields<'_>) -> Printed {
    let (profiles, usage_min, usage_max) = (fields.u64()?, fields.u32()?, fields.u32()?);
    let (devid, pstart, pend) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (vstart, vend, target, flags) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let (limit_min, limit_max) = (fields.u32()?, fields.u32()?);
    let (stripes_min, stripes_max) = (fields.u32()?, fields.u32()?);
    let _unused: [u8; 48] = fields.take()?;
    writeln!(f, "\t\tprofiles {profiles} devid {devid} target {target} flags {flags}")?;
    writeln!(f, "\t\tusage_min {usage_min} usage_max {usage_max} pstart {pstart} pend {pend}")?;
    writeln!(f, "\t\tvstart {vstart} vend {vend} limit_min {limit_min} limit_max {limit_max}")?;
    Ok(writeln!(f, "\t\tstripes_min {stripes_min} stripes_max {stripes_max}")?)
}

/// A number that stands for a word.
struct Word(u64, &'static [&'static str]);

impl Display for Word {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0).ok().and_then(|number| self.1.get(number)) {
            Some(word) => f.write_str(word),
            None => write!(f, "unknown({})", self.0),
        }
    }
}

pub(super) fn replace(f: &mut Formatter<'_>, mut fields: Fields<'_>, options: &Options) -> Printed {
    let (source, left, right) = (fields.u64()? as i64, fields.u64()?, fields.u64()?);
    let mode = Word(fields.u64()?, &["ALWAYS", "AVOID"]);
    let state = Word(fields.u64()?, &["NEVER_STARTED", "STARTED", "FINISHED", "CANCELED", "SUSPENDED"]);
    let (started, stopped) = (fields.u64()?, fields.u64()?);
    let (write_errors, read_errors) = (fields.u64()?, fields.u64()?);
    writeln!(f, "\t\tsrc devid {source} cursor left {left} cursor right {right} mode {mode}")?;
    writeln!(f, "\t\tstate {state} write errors {write_errors} uncorrectable read errors {read_errors}")?;
    for (name, time) in [("start", started), ("stop", stopped)] {
        writeln!(f, "\t\t{name} time {time} ({})", (options.local_time.0)(time as i64))?;
    }
    Ok(())
}
