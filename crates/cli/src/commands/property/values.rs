//! The properties there are, and where each is kept.
//!
//! `nodatacow`, `nodatasum` and, of a subvolume, `compression` hold for new files in all directories of the subvolume;
//! they are one attribute of its top directory together. The kernel has nothing like it.

use std::io;

use butterfs_engine::file::{COMPRESSION_PROPERTY, DataRule};
use butterfs_engine::subvolume::{RULE_ATTRIBUTE, SubvolumeRule};
use butterfs_format::compression::Choice;
use butterfs_fuse::control::{self, Access};

use super::Received;
use super::object::{Kind, Object, words};
use crate::exit;
use crate::failure::{Failure, Result};

/// A property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// Whether a subvolume can be changed.
    ReadOnly,
    /// The filesystem's label.
    Label,
    /// How data is compressed.
    Compression,
    /// New files of a subvolume are overwritten in place.
    NoDataCow,
    /// New files of a subvolume have no checksums.
    NoDataSum,
}

/// A property's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// There is none.
    Unset,
    /// This one.
    Is(String),
}

impl Property {
    /// In the order in which they are listed.
    pub const ALL: [Self; 5] = [Self::ReadOnly, Self::Label, Self::Compression, Self::NoDataCow, Self::NoDataSum];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::Label => "label",
            Self::Compression => "compression",
            Self::NoDataCow => "nodatacow",
            Self::NoDataSum => "nodatasum",
        }
    }

    /// What it says.
    pub fn description(self, of: Kind) -> &'static str {
        match (self, of) {
            (Self::ReadOnly, _) => "read-only status of a subvolume",
            (Self::Label, _) => "label of the filesystem",
            (Self::Compression, Kind::Subvol) => "compression algorithm for new files of the whole subvolume",
            (Self::Compression, _) => "compression algorithm for the file or directory",
            (Self::NoDataCow, _) => "new files of the whole subvolume are overwritten in place",
            (Self::NoDataSum, _) => "new files of the whole subvolume have no checksums",
        }
    }

    /// What can have it. What is several of these has it as the first.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::ReadOnly | Self::NoDataCow | Self::NoDataSum => &[Kind::Subvol],
            Self::Label => &[Kind::Filesystem, Kind::Device],
            Self::Compression => &[Kind::Inode, Kind::Subvol],
        }
    }

    /// Whether other tools know nothing of it.
    pub fn is_own(self) -> bool {
        matches!(self, Self::NoDataCow | Self::NoDataSum)
    }

    /// What to do where an object cannot have it; nothing for what other tools know, whose words these are.
    pub fn advice(self) -> &'static str {
        match self {
            Self::NoDataCow => "; it is of whole subvolumes: name a top directory; for a directory alone use chattr +C",
            Self::NoDataSum => "; it is of whole subvolumes: name a top directory",
            _ => "",
        }
    }

    /// Whether something is so, from its value.
    fn truth(self, value: &str) -> Result<Truth> {
        match value {
            "true" => Ok(Truth::True),
            "false" => Ok(Truth::False),
            _ => {
                let advice = if self.is_own() { "; write true or false" } else { "" };
                Err(Failure::new(exit::USAGE, format!("invalid value for property: {value}{advice}")))
            }
        }
    }

    /// Its value.
    pub fn get(self, object: &Object<'_>, of: Kind) -> Result<Value> {
        let truth = |value: bool| Value::Is(if value { "true" } else { "false" }.into());
        match (self, of) {
            (Self::ReadOnly, _) => Ok(truth(access(object)? == Access::ReadOnly)),
            (Self::Label, _) => label(object).map(Value::Is),
            (Self::Compression, Kind::Subvol) => Ok(rule(object)?.compression.map_or(Value::Unset, Value::Is)),
            (Self::Compression, _) => compression(object),
            (Self::NoDataCow, _) => Ok(truth(rule(object)?.data == DataRule::InPlace)),
            (Self::NoDataSum, _) => Ok(truth(rule(object)?.data != DataRule::Usual)),
        }
    }

    /// Sets its value.
    pub fn set(self, object: &Object<'_>, of: Kind, value: &str, received: Received) -> Result<()> {
        match (self, of) {
            (Self::ReadOnly, _) => set_access(object, self.truth(value)?, received),
            (Self::Label, _) => set_label(object, value),
            (Self::Compression, Kind::Subvol) => {
                let compression = (!value.is_empty()).then(|| value.to_owned());
                if let Some(value) = &compression {
                    // Of a file it is the kernel that takes any level; this is our own.
                    Choice::parse_exactly(value).map_err(|error| Failure::new(exit::USAGE, error))?;
                }
                set_rule(object, &SubvolumeRule { compression, ..rule(object)? })
            }
            (Self::Compression, _) => set_compression(object, value),
            (Self::NoDataCow, _) => set_data_rule(object, DataRule::InPlace, self.truth(value)?),
            (Self::NoDataSum, _) => set_data_rule(object, DataRule::NoChecksums, self.truth(value)?),
        }
    }
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    True,
    False,
}

fn failed(what: String, error: impl Into<io::Error>) -> Failure {
    Failure::new(exit::USAGE, format!("{what}: {}", words(&error.into())))
}

// ---- read-only -------------------------------------------------------------------------------------------------

fn access(object: &Object<'_>) -> Result<Access> {
    object.place.access().map_err(|error| failed("Could not get subvolume flags".into(), error))
}

/// Nothing can be received on top of a subvolume that was changed; so who makes a received one writable must say that
/// he knows.
fn set_access(object: &Object<'_>, read_only: Truth, received: Received) -> Result<()> {
    let wanted = if read_only == Truth::True { Access::ReadOnly } else { Access::ReadWrite };
    if access(object)? == wanted {
        return Ok(());
    }
    let uuid = object.place.received_uuid().map_err(|error| failed("cannot read subvolume info".into(), error))?;
    let is_received = wanted == Access::ReadWrite && uuid != [0; 16];
    if is_received && received == Received::Keep {
        return Err(Failure::new(
            exit::USAGE,
            "cannot flip ro->rw with received_uuid set, use force option -f if you really want unset the read-only \
             status. The value of received_uuid is used for incremental send, consider making a snapshot instead.",
        ));
    }
    let changed = object.place.set_access(wanted);
    changed.map_err(|error| failed("failed to set flags for subvolume".into(), error))?;
    if is_received {
        let forgotten = object.place.forget_received();
        forgotten.map_err(|error| failed("failed to unset received_uuid".into(), error))?;
    }
    Ok(())
}

// ---- label -----------------------------------------------------------------------------------------------------

fn label(object: &Object<'_>) -> Result<String> {
    let label = object.place.label().map_err(|error| failed("unable to get label".into(), error))?;
    Ok(String::from_utf8_lossy(&label).into_owned())
}

fn set_label(object: &Object<'_>, label: &str) -> Result<()> {
    if label.len() > control::LABEL_MAX {
        let most = control::LABEL_MAX;
        return Err(Failure::new(exit::USAGE, format!("label {label} is too long (max {most})")));
    }
    object.place.set_label(label.as_bytes()).map_err(|error| failed("unable to set label".into(), error))
}

// ---- attributes ------------------------------------------------------------------------------------------------

fn compression(object: &Object<'_>) -> Result<Value> {
    let path = object.path.display();
    match object.place.attribute(COMPRESSION_PROPERTY) {
        Ok(Some(value)) => Ok(Value::Is(String::from_utf8_lossy(&value).into_owned())),
        Ok(None) => Ok(Value::Unset),
        Err(error) => Err(failed(format!("failed to get compression for {path}"), error)),
    }
}

fn set_compression(object: &Object<'_>, value: &str) -> Result<()> {
    let set = object.place.set_attribute(COMPRESSION_PROPERTY, value.as_bytes());
    set.map_err(|error| failed(format!("failed to set compression for {}", object.path.display()), error))
}

fn rule(object: &Object<'_>) -> Result<SubvolumeRule> {
    // Only top directories have one.
    access(object)?;
    let stored = object.place.attribute(RULE_ATTRIBUTE);
    let stored = stored.map_err(|error| failed(format!("failed to read {}", object.path.display()), error))?;
    Ok(stored.and_then(|value| SubvolumeRule::parse(&value).ok()).unwrap_or_default())
}

fn set_data_rule(object: &Object<'_>, data: DataRule, wanted: Truth) -> Result<()> {
    let old = rule(object)?;
    let data = match (wanted, data, old.data) {
        (Truth::True, DataRule::NoChecksums, DataRule::InPlace) => return Ok(()),
        (Truth::True, data, _) => data,
        // What is overwritten in place has no checksums whatever is said.
        (Truth::False, DataRule::NoChecksums, DataRule::InPlace) => {
            return Err(Failure::new(exit::USAGE, "nodatacow is set, and implies nodatasum; unset nodatacow"));
        }
        (Truth::False, data, old) if data != old => return Ok(()),
        (Truth::False, ..) => DataRule::Usual,
    };
    set_rule(object, &SubvolumeRule { data, ..old })
}

fn set_rule(object: &Object<'_>, rule: &SubvolumeRule) -> Result<()> {
    let what = || format!("failed to set properties of subvolume {}", object.path.display());
    let text = rule.to_string();
    SubvolumeRule::parse(text.as_bytes()).map_err(|error| Failure::new(exit::USAGE, error))?;
    let done = match rule.is_empty() {
        true => object.place.remove_attribute(RULE_ATTRIBUTE),
        false => object.place.set_attribute(RULE_ATTRIBUTE, text.as_bytes()),
    };
    done.map_err(|error| failed(what(), error))
}
