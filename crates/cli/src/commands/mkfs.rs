//! `butterfs mkfs`: makes a filesystem.
//!
//! # Invariants
//! * Nothing is written before all options are understood and what is on the device was looked at.
//! * A file that was created or extended for a filesystem that could not be made is taken back.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_format::ChecksumType;
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::superblock::{CompatRo, Incompat};
use butterfs_volume::{BlockDevice, FileDevice};
use rustix::process::{getgid, getuid};
use uuid::Uuid;

use crate::failure::{self, Failure, Result};
use crate::{exit, output, signatures, size};

/// What `mkfs` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// An image file or a block device.
    #[arg(required_unless_present = "features")]
    image: Option<PathBuf>,
    /// A label, at most 255 bytes.
    #[arg(short = 'L', long)]
    label: Option<String>,
    /// The UUID of the filesystem; otherwise a random one.
    #[arg(short = 'U', long)]
    uuid: Option<Uuid>,
    /// Size of a tree block, from the sector size to 64K.
    #[arg(short, long, default_value = "16K", value_parser = size::parse, value_name = "SIZE")]
    nodesize: u64,
    /// Size of a sector.
    #[arg(short, long, default_value = "4K", value_parser = size::parse, value_name = "SIZE")]
    sectorsize: u64,
    /// Checksum algorithm: crc32c, xxhash, sha256 or blake2.
    #[arg(long, visible_alias = "checksum", default_value = "crc32c", value_name = "NAME")]
    csum: ChecksumType,
    /// Profile of metadata: dup (two copies) or single.
    #[arg(short, long, default_value = "dup", value_name = "PROFILE")]
    metadata: Profile,
    /// Profile of data: single.
    #[arg(short, long, default_value = "single", value_name = "PROFILE")]
    data: DataProfile,
    /// Overwrite a filesystem or partition table that is there.
    #[arg(short, long)]
    force: bool,
    /// Size of the filesystem; the file is created or extended if it is smaller.
    #[arg(short = 'b', long, visible_alias = "byte-count", value_parser = size::parse)]
    size: Option<u64>,
    /// Features, separated by commas; ^NAME turns one off, list-all lists them.
    #[arg(short = 'O', long, value_name = "LIST")]
    features: Vec<String>,
    /// Do not discard first: nothing ever is.
    #[arg(short = 'K', long)]
    nodiscard: bool,
    /// Print what is done, as without it.
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// Print nothing.
    #[arg(short, long)]
    quiet: bool,
}

/// How often data is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DataProfile {
    /// Once.
    #[value(alias = "SINGLE")]
    Single,
}

/// How often metadata is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// Once.
    #[value(alias = "SINGLE")]
    Single,
    /// Twice.
    #[value(alias = "DUP")]
    Dup,
}

/// A feature that can be chosen.
struct Feature {
    name: &'static str,
    short: &'static str,
    about: &'static str,
    bits: Bits,
}

#[derive(Clone, Copy)]
enum Bits {
    Incompat(Incompat),
    CompatRo(CompatRo),
}

const FEATURES: [Feature; 5] = [
    Feature {
        name: "extref",
        short: "extended-iref",
        about: "more hard links of a file in one directory",
        bits: Bits::Incompat(Incompat::EXTENDED_IREF),
    },
    Feature {
        name: "skinny-metadata",
        short: "skinny",
        about: "smaller entries for tree blocks in the extent tree",
        bits: Bits::Incompat(Incompat::SKINNY_METADATA),
    },
    Feature {
        name: "no-holes",
        short: "noholes",
        about: "no entries for holes in files",
        bits: Bits::Incompat(Incompat::NO_HOLES),
    },
    Feature {
        name: "free-space-tree",
        short: "fst",
        about: "free space kept in a tree",
        bits: Bits::CompatRo(CompatRo::FREE_SPACE_TREE.union(CompatRo::FREE_SPACE_TREE_VALID)),
    },
    Feature {
        name: "block-group-tree",
        short: "bgt",
        about: "block groups in a tree of their own",
        bits: Bits::CompatRo(CompatRo::BLOCK_GROUP_TREE),
    },
];

impl Feature {
    fn is_in(&self, options: &MakeOptions) -> bool {
        match self.bits {
            Bits::Incompat(bits) => options.incompat.contains(bits),
            Bits::CompatRo(bits) => options.compat_ro.contains(bits),
        }
    }

    fn set(&self, options: &mut MakeOptions, on: bool) {
        match self.bits {
            Bits::Incompat(bits) => options.incompat.set(bits, on),
            Bits::CompatRo(bits) => options.compat_ro.set(bits, on),
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.features.iter().any(|list| list == "list-all") {
        list_features();
        return Ok(());
    }
    let Some(image) = arguments.image.as_deref() else {
        return Err(Failure::new(exit::USAGE, "no image was named; see butterfs mkfs --help"));
    };
    // Wrong options must not even create the file.
    let mut options = options(arguments).map_err(|text| Failure::at(exit::USAGE, image, text))?;
    let (target, device) = Target::prepare(image, arguments)?;
    let total = arguments.size.unwrap_or(device.len());
    options.total_bytes = total / u64::from(options.sectorsize) * u64::from(options.sectorsize);
    let device = Arc::new(device);
    make(device.clone(), &options).map_err(|error| failure::engine(exit::USAGE, image, &make_error(error)))?;
    signatures::erase_others(&*device).map_err(|error| failure::io(exit::USAGE, image, &error))?;
    target.keep();
    if !arguments.quiet {
        summary(image, &options);
    }
    Ok(())
}

/// Errors that mean something special here.
fn make_error(error: butterfs_engine::Error) -> butterfs_engine::Error {
    match error {
        butterfs_engine::Error::NoSpace => {
            butterfs_engine::Error::Invalid("too small for its metadata; make it larger, or use -m single")
        }
        other => other,
    }
}

/// All that does not depend on the device.
fn options(arguments: &Arguments) -> std::result::Result<MakeOptions, String> {
    let mut options = MakeOptions::new(0, &SystemEnvironment);
    let narrow = |bytes: u64| u32::try_from(bytes).map_err(|_| format!("{bytes} is too large for a block"));
    options.label = arguments.label.clone().unwrap_or_default().into_bytes();
    if let Some(uuid) = arguments.uuid {
        options.fsid = uuid.into_bytes();
    }
    options.nodesize = narrow(arguments.nodesize)?;
    options.sectorsize = narrow(arguments.sectorsize)?;
    options.csum_type = arguments.csum;
    if arguments.metadata == Profile::Single {
        options.metadata_profile = BlockGroupFlags::empty();
    }
    // Who makes a filesystem can use it.
    (options.uid, options.gid) = (getuid().as_raw(), getgid().as_raw());
    choose_features(&mut options, &arguments.features)?;
    Ok(options)
}

/// Applies `-O`. What needs a feature goes with it, unless it was asked for.
fn choose_features(options: &mut MakeOptions, lists: &[String]) -> std::result::Result<(), String> {
    let mut asked_for_bgt = false;
    for word in lists.iter().flat_map(|list| list.split(',')).filter(|word| !word.is_empty()) {
        let (name, on) = word.strip_prefix('^').map_or((word, true), |name| (name, false));
        let feature = FEATURES.iter().find(|feature| feature.name == name || feature.short == name);
        let feature = feature.ok_or_else(|| format!("unknown feature '{name}'; see -O list-all"))?;
        feature.set(options, on);
        asked_for_bgt |= on && feature.short == "bgt";
    }
    let modern = options.incompat.contains(Incompat::NO_HOLES) && options.compat_ro.contains(CompatRo::FREE_SPACE_TREE);
    if !modern && !asked_for_bgt {
        options.compat_ro.remove(CompatRo::BLOCK_GROUP_TREE);
    }
    Ok(())
}

/// The image file or device, with what was done to it so far.
struct Target<'a> {
    path: &'a Path,
    undo: Undo,
}

enum Undo {
    Nothing,
    Remove,
    Truncate(u64),
}

impl<'a> Target<'a> {
    /// Opens the device, alone, and makes it large enough, unless it holds something.
    fn prepare(path: &'a Path, arguments: &Arguments) -> Result<(Self, FileDevice)> {
        let mut target = Self { path, undo: Undo::Nothing };
        if !path.exists() {
            target.create(arguments.size)?;
        }
        let device = target.open()?;
        let error = |error| failure::io(exit::USAGE, path, &error);
        if !arguments.force
            && let Some(found) = signatures::find(&device).map_err(error)?
        {
            return Err(Failure::at(exit::USAGE, path, format!("holds {found}; use -f to overwrite it")));
        }
        match arguments.size {
            Some(size) if size > device.len() => {
                let old = device.len();
                drop(device);
                target.extend(old, size)?;
                let device = target.open()?;
                Ok((target, device))
            }
            _ => Ok((target, device)),
        }
    }

    fn open(&self) -> Result<FileDevice> {
        FileDevice::open_read_write(self.path).map_err(|error| failure::volume(exit::USAGE, self.path, &error))
    }

    fn create(&mut self, size: Option<u64>) -> Result<()> {
        if size.is_none() {
            return Err(Failure::at(exit::USAGE, self.path, "no such file; give --size to create it, for example 2G"));
        }
        File::create_new(self.path).map_err(|error| failure::io(exit::USAGE, self.path, &error))?;
        self.undo = Undo::Remove;
        Ok(())
    }

    fn extend(&mut self, old: u64, size: u64) -> Result<()> {
        let error = |error| failure::io(exit::USAGE, self.path, &error);
        let file = OpenOptions::new().write(true).open(self.path).map_err(error)?;
        if !file.metadata().map_err(error)?.is_file() {
            let text = format!("has {old} bytes, {size} were asked for; a device cannot be extended");
            return Err(Failure::at(exit::USAGE, self.path, text));
        }
        file.set_len(size).map_err(error)?;
        if matches!(self.undo, Undo::Nothing) {
            self.undo = Undo::Truncate(old);
        }
        Ok(())
    }

    /// The filesystem is made.
    fn keep(mut self) {
        self.undo = Undo::Nothing;
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        let _ = match self.undo {
            Undo::Nothing => Ok(()),
            Undo::Remove => std::fs::remove_file(self.path),
            Undo::Truncate(old) => OpenOptions::new().write(true).open(self.path).and_then(|file| file.set_len(old)),
        };
    }
}

fn list_features() {
    output::line("Features, all on by default; ^NAME turns one off:");
    for feature in &FEATURES {
        output::line(format!("{:20} {} (also {})", feature.name, feature.about, feature.short));
    }
}

/// What was made.
fn summary(image: &Path, options: &MakeOptions) {
    let profile = if options.metadata_profile == BlockGroupFlags::DUP { "DUP" } else { "single" };
    let features: Vec<_> = FEATURES.iter().filter(|feature| feature.is_in(options)).map(|f| f.name).collect();
    let rows = [
        ("Label:", String::from_utf8_lossy(&options.label).into_owned()),
        ("UUID:", Uuid::from_bytes(options.fsid).to_string()),
        ("Node size:", options.nodesize.to_string()),
        ("Sector size:", options.sectorsize.to_string()),
        ("Filesystem size:", size::display(options.total_bytes)),
        ("Data:", "single".into()),
        ("Metadata:", profile.into()),
        ("System:", profile.into()),
        ("Checksum:", options.csum_type.to_string()),
        ("Features:", features.join(", ")),
        ("Path:", image.display().to_string()),
    ];
    for (name, value) in rows {
        output::line(format!("{name:<19}{value}").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(list: &str) -> std::result::Result<MakeOptions, String> {
        let mut options = MakeOptions::new(1 << 30, &SystemEnvironment);
        choose_features(&mut options, &[list.into()]).map(|()| options)
    }

    #[test]
    fn each_feature_can_be_turned_off() {
        for feature in &FEATURES {
            let options = features(&format!("^{}", feature.name)).unwrap();
            assert!(!feature.is_in(&options), "{}", feature.name);
        }
        assert!(features("raid56").unwrap_err().contains("'raid56'"));
    }

    /// Without the free space tree there is no block group tree, unless someone insists.
    #[test]
    fn block_group_tree_goes_with_what_it_needs() {
        assert!(!features("^fst").unwrap().compat_ro.contains(CompatRo::BLOCK_GROUP_TREE));
        assert!(features("^fst,bgt").unwrap().compat_ro.contains(CompatRo::BLOCK_GROUP_TREE));
    }
}
