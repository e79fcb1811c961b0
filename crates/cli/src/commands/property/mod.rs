//! `butterfs property`: properties of files, subvolumes and filesystems, on mounts and in images. The words are those of
//! `btrfs property`; properties of whole subvolumes are our own ([`values`]).

mod object;
mod place;
mod values;

use std::path::PathBuf;

use butterfs_engine::filesystem::Access;

use crate::failure::{Failure, Result};
use crate::image::Opening;
use crate::{exit, output};
use object::{Kind, Object};
use values::{Property, Value};

/// Properties of files, subvolumes and filesystems.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print a property, or all that are set.
    Get {
        /// What the object is, where it is more than one thing.
        #[arg(short = 't', value_name = "TYPE", value_enum)]
        kind: Option<Kind>,
        #[command(flatten)]
        opening: Opening,
        /// A path on a mount; or an image or device, and after a colon a path in it.
        object: PathBuf,
        /// Which property.
        name: Option<String>,
    },
    /// Set a property.
    ///
    /// For files and directories: compression (zlib, lzo, zstd, with a level or not; none; or an empty word to take
    /// it away). For subvolumes: ro (true, false), and what holds for new files in all its directories: nodatacow,
    /// nodatasum (true, false), and with -t subvol compression. For a mount point: label.
    Set {
        /// Make a received subvolume writable, though nothing more can be received on top of it then.
        #[arg(short)]
        force: bool,
        /// What the object is, where it is more than one thing.
        #[arg(short = 't', value_name = "TYPE", value_enum)]
        kind: Option<Kind>,
        #[command(flatten)]
        opening: Opening,
        /// A path on a mount; or an image or device, and after a colon a path in it.
        object: PathBuf,
        /// Which property.
        name: String,
        /// Its new value.
        value: String,
    },
    /// List the properties that an object can have.
    List {
        /// What the object is, where it is more than one thing.
        #[arg(short = 't', value_name = "TYPE", value_enum)]
        kind: Option<Kind>,
        #[command(flatten)]
        opening: Opening,
        /// A path on a mount; or an image or device, and after a colon a path in it.
        object: PathBuf,
    },
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get { .. } => "property get",
            Self::Set { .. } => "property set",
            Self::List { .. } => "property list",
        }
    }
}

/// What is done with a received subvolume that is to become writable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// It stays as it is.
    Keep,
    /// It is one no more.
    Forget,
}

/// Runs the command.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Get { kind, opening, object, name } => {
            let object = Object::new(object, *kind, opening, Access::ReadOnly)?;
            name.as_ref().map_or_else(|| get_all(&object), |name| get(&object, name))
        }
        Command::Set { force, kind, opening, object, name, value } => {
            let received = if *force { Received::Forget } else { Received::Keep };
            set(&Object::new(object, *kind, opening, Access::ReadWrite)?, name, value, received)
        }
        Command::List { kind, opening, object } => {
            list(&Object::new(object, *kind, opening, Access::ReadOnly)?);
            Ok(())
        }
    }
}

fn find(object: &Object<'_>, name: &str) -> Result<(Property, Kind)> {
    let Some(property) = Property::ALL.into_iter().find(|property| property.name() == name) else {
        return Err(Failure::new(exit::USAGE, format!("unknown property: {name}")));
    };
    let kind = property.kinds().iter().find(|kind| object.is(**kind));
    let incompatible = || {
        let text = format!("object is not compatible with property: {name}{}", property.advice());
        Failure::new(exit::USAGE, text)
    };
    kind.map(|kind| (property, *kind)).ok_or_else(incompatible)
}

fn get(object: &Object<'_>, name: &str) -> Result<()> {
    let (property, kind) = find(object, name)?;
    print(property, &property.get(object, kind)?);
    Ok(())
}

fn get_all(object: &Object<'_>) -> Result<()> {
    for (property, kind) in object.properties() {
        let value = property.get(object, kind)?;
        // What the tools of the kernel do not know is told of only where it is so.
        if !property.is_own() || value != Value::Is("false".into()) {
            print(property, &value);
        }
    }
    Ok(())
}

fn print(property: Property, value: &Value) {
    if let Value::Is(value) = value {
        output::line(format!("{}={value}", property.name()));
    }
}

fn set(object: &Object<'_>, name: &str, value: &str, received: Received) -> Result<()> {
    let (property, kind) = find(object, name)?;
    property.set(object, kind, value, received)
}

fn list(object: &Object<'_>) {
    for (property, kind) in object.properties() {
        output::line(format!("{:20}{}", property.name(), property.description(kind)));
    }
}

impl Object<'_> {
    /// The properties that it can have, each by the first of the kinds that it is.
    fn properties(&self) -> impl Iterator<Item = (Property, Kind)> {
        let kind = |property: Property| property.kinds().iter().find(|kind| self.is(**kind)).copied();
        Property::ALL.into_iter().filter_map(move |property| kind(property).map(|kind| (property, kind)))
    }
}
