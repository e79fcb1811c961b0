//! `butterfs mkfs`: makes a filesystem.
//!
//! # Invariants
//! * Nothing is written before all options are understood and what is on the device was looked at.
//! * A file that was created or extended for a filesystem that could not be made is taken back.
//! * A filesystem that is to begin with content and cannot have all of it is none.

mod content;
mod features;
mod profiles;
mod target;

use std::path::PathBuf;
use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::mkfs::{MakeOptions, NewDevice, make_on};
use butterfs_format::ChecksumType;
use butterfs_format::superblock::Incompat;
use butterfs_volume::BlockDevice;
use rustix::process::{getgid, getuid};
use uuid::Uuid;

use self::content::Content;
use self::features::{FEATURES, choose_features, list_features};
use self::profiles::{ProfileName, shown};
use self::target::{Target, Wish};
use crate::failure::{self, Failure, Result};
use crate::{devices, exit, output, size};

/// What `mkfs` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Image files or block devices, one or more.
    #[arg(required_unless_present = "features", value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A label, at most 255 bytes.
    #[arg(short = 'L', long)]
    label: Option<String>,
    /// The UUID of the filesystem; otherwise a random one.
    #[arg(short = 'U', long)]
    uuid: Option<Uuid>,
    /// Size of a tree block, from the sector size to 64K: 16K, or with -M the sector size, unless named.
    #[arg(short, long, value_parser = size::parse, value_name = "SIZE")]
    nodesize: Option<u64>,
    /// Size of a sector.
    #[arg(short, long, default_value = "4K", value_parser = size::parse, value_name = "SIZE")]
    sectorsize: u64,
    /// Checksum algorithm: crc32c, xxhash, sha256 or blake2.
    #[arg(long, visible_alias = "checksum", default_value = "crc32c", value_name = "NAME")]
    csum: ChecksumType,
    /// Profile of metadata: dup on one device, raid1 on several, unless named.
    #[arg(short, long, value_name = "PROFILE")]
    metadata: Option<ProfileName>,
    /// Profile of data: single unless named.
    #[arg(short, long, value_name = "PROFILE")]
    data: Option<ProfileName>,
    /// Data and metadata in the same block groups, with one profile: for small devices.
    #[arg(short = 'M', long)]
    mixed: bool,
    /// Overwrite a filesystem or partition table that is there.
    #[arg(short, long)]
    force: bool,
    /// Size of the filesystem on each device; a file is created or extended if it is smaller.
    #[arg(short = 'b', long, visible_alias = "byte-count", value_parser = size::parse)]
    size: Option<u64>,
    /// Features, separated by commas; ^NAME turns one off, list-all lists them.
    #[arg(short = 'O', long, value_name = "LIST")]
    features: Vec<String>,
    #[command(flatten)]
    content: Content,
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

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.features.iter().any(|list| list == "list-all") {
        list_features();
        return Ok(());
    }
    let Some(first) = arguments.images.first().map(PathBuf::as_path) else {
        return Err(Failure::new(exit::USAGE, "no image was named; see butterfs mkfs --help"));
    };
    // Wrong options must not even create a file.
    let mut options = options(arguments).map_err(|text| Failure::at(exit::USAGE, first, text))?;
    let mut targets = Vec::new();
    let mut opened: Vec<Arc<dyn BlockDevice>> = Vec::new();
    options.devices.clear();
    arguments.content.check(arguments.images.len())?;
    devices::require_each_once(&arguments.images)?;
    let wish = Wish { size: arguments.size, least: arguments.content.needs(&options), force: arguments.force };
    for (number, image) in arguments.images.iter().enumerate() {
        let (target, device) = Target::prepare(image, &wish)?;
        let size = arguments.size.unwrap_or(device.len());
        let mut new = NewDevice::new(size, &SystemEnvironment);
        new.total_bytes -= new.total_bytes % u64::from(options.sectorsize);
        options.devices.push(new);
        options.check_device(number).map_err(|error| failure::engine(exit::USAGE, image, &error))?;
        targets.push(target);
        opened.push(Arc::new(device));
    }
    let stage = arguments.content.stage(opened, first)?;
    make_on(&stage.devices, &options).map_err(|error| failure::engine(exit::USAGE, first, &make_error(error)))?;
    let cut = arguments.content.copy(&stage, &arguments.images)?;
    targets.into_iter().for_each(Target::keep);
    if !arguments.quiet {
        let total = options.devices.iter().map(|device| device.total_bytes).sum();
        summary(arguments, &options, cut.unwrap_or(total));
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
    options.sectorsize = narrow(arguments.sectorsize)?;
    choose_features(&mut options, &arguments.features)?;
    if arguments.mixed {
        options.incompat |= Incompat::MIXED_GROUPS;
    }
    options.nodesize = match arguments.nodesize {
        Some(nodesize) => narrow(nodesize)?,
        None if options.is_mixed() => options.sectorsize,
        None => options.nodesize.max(options.sectorsize),
    };
    options.csum_type = arguments.csum;
    let devices = arguments.images.len();
    let metadata = match arguments.metadata {
        Some(metadata) => metadata,
        None if options.is_mixed() => ProfileName::Single,
        None => ProfileName::of_metadata(devices),
    };
    options.data_profile = arguments.data.unwrap_or(ProfileName::Single).on(devices, "data")?;
    options.metadata_profile = metadata.on(devices, "metadata")?;
    // Who makes a filesystem can use it.
    (options.uid, options.gid) = (getuid().as_raw(), getgid().as_raw());
    Ok(options)
}

/// What was made.
fn summary(arguments: &Arguments, options: &MakeOptions, total: u64) {
    let features: Vec<_> = FEATURES.iter().filter(|feature| feature.is_in(options)).map(|f| f.name).collect();
    let mut rows = vec![
        ("Label:", String::from_utf8_lossy(&options.label).into_owned()),
        ("UUID:", Uuid::from_bytes(options.fsid).to_string()),
        ("Node size:", options.nodesize.to_string()),
        ("Sector size:", options.sectorsize.to_string()),
        ("Filesystem size:", arguments.content.size(total)),
    ];
    match options.is_mixed() {
        true => rows.push(("Data+Metadata:", shown(options.data_profile))),
        false => {
            rows.push(("Data:", shown(options.data_profile)));
            rows.push(("Metadata:", shown(options.metadata_profile)));
        }
    }
    rows.extend([
        ("System:", shown(options.metadata_profile)),
        ("Checksum:", options.csum_type.to_string()),
        ("Features:", features.join(", ")),
    ]);
    rows.extend(arguments.content.rows());
    rows.extend(arguments.images.iter().map(|image| ("Path:", image.display().to_string())));
    for (name, value) in rows {
        output::line(format!("{name:<19}{value}").trim_end());
    }
}
