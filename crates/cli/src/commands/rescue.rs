//! `butterfs rescue`: single operations for known kinds of trouble. Words, messages and exit statuses are those of
//! `btrfs rescue`; besides, each can be shown first and undone.

use std::path::PathBuf;
use std::process::ExitCode;

use butterfs_repair::rescue::SpaceCache;
use butterfs_repair::{Devices, Error, Options, Plan, Rescue, Step, Verdict, rescue};
use butterfs_volume::OpenMode;
use serde_json::json;

use super::Format;
use super::check::plan::{confirm, fsid, step_json, undo_file_beside};
use crate::failure::{self, Failure, Result};
use crate::{devices, exit, output};

/// Single operations for known kinds of trouble, on an unmounted filesystem.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write the newest good superblock over copies that are bad or older.
    ///
    /// Exit status: 0 if all are good, 2 if some were replaced, 1 for wrong usage or no good copy, 4 if it was not
    /// wanted after all.
    SuperRecover(Careful),
    /// Make the chunk tree anew from what is found on the devices; the rest is repaired after it.
    ChunkRecover(Careful),
    /// Forget the log tree, if it keeps the filesystem from being mounted. What was fsynced after the last commit
    /// is lost.
    ZeroLog(Plain),
    /// Align the sizes of devices, and make the superblock's total that of the devices.
    FixDeviceSize(Plain),
    /// Remove the v1 or v2 free space cache; the next mount makes it anew.
    ClearSpaceCache {
        /// Which.
        version: Version,
        #[command(flatten)]
        plain: Plain,
    },
    /// Remove the UUID tree; the next mount makes it anew.
    ClearUuidTree(Plain),
    /// Remove what the inode number cache of old kernels left.
    ClearInoCache(Plain),
}

/// What every rescue is told.
#[derive(Debug, clap::Args)]
pub struct Plain {
    /// Show what would be done, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Where the undo file is written; without it beside the image, under its name with `.butterfs-undo`
    /// (for a block device, in the current directory). `butterfs check --undo` takes it.
    #[arg(long, value_name = "FILE")]
    undo_file: Option<PathBuf>,
    /// How to print: for people or for programs.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// An image file or a block device, not mounted; of a filesystem on several devices, all of them, or a
    /// directory to look for the others in.
    #[arg(required = true)]
    images: Vec<PathBuf>,
}

/// What a rescue is told that asks before it writes.
#[derive(Debug, clap::Args)]
pub struct Careful {
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
    /// Say more; everything is said anyway.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    plain: Plain,
}

/// A free space cache.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Version {
    /// Files of the root tree.
    V1,
    /// The free space tree.
    V2,
}

/// `super-recover` replaced something.
const RECOVERED: u8 = 2;
/// `super-recover` was not wanted after all.
const ABORTED: u8 = 4;

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SuperRecover(_) => "rescue super-recover",
            Self::ChunkRecover(_) => "rescue chunk-recover",
            Self::ZeroLog(_) => "rescue zero-log",
            Self::FixDeviceSize(_) => "rescue fix-device-size",
            Self::ClearSpaceCache { .. } => "rescue clear-space-cache",
            Self::ClearUuidTree(_) => "rescue clear-uuid-tree",
            Self::ClearInoCache(_) => "rescue clear-ino-cache",
        }
    }

    fn what(&self) -> Rescue {
        match self {
            Self::SuperRecover(_) => Rescue::Superblocks,
            Self::ChunkRecover(_) => Rescue::Chunks,
            Self::ZeroLog(_) => Rescue::ZeroLog,
            Self::FixDeviceSize(_) => Rescue::DeviceSize,
            Self::ClearSpaceCache { version: Version::V1, .. } => Rescue::ClearSpaceCache(SpaceCache::V1),
            Self::ClearSpaceCache { version: Version::V2, .. } => Rescue::ClearSpaceCache(SpaceCache::V2),
            Self::ClearUuidTree(_) => Rescue::ClearUuidTree,
            Self::ClearInoCache(_) => Rescue::ClearInodeCache,
        }
    }

    fn plain(&self) -> &Plain {
        match self {
            Self::SuperRecover(careful) | Self::ChunkRecover(careful) => &careful.plain,
            Self::ClearSpaceCache { plain, .. }
            | Self::ZeroLog(plain)
            | Self::FixDeviceSize(plain)
            | Self::ClearUuidTree(plain)
            | Self::ClearInoCache(plain) => plain,
        }
    }

    fn asks(&self) -> bool {
        matches!(self, Self::SuperRecover(careful) | Self::ChunkRecover(careful) if !careful.yes)
    }

    /// What is said when there was nothing to do, and when it was done.
    fn outcomes(&self) -> (&'static str, &'static str) {
        match self {
            Self::SuperRecover(_) => {
                ("All supers are valid, no need to recover", "Recovered bad superblocks successful")
            }
            Self::ChunkRecover(_) => ("Check chunks successfully with no orphans", "Chunk tree recovered successfully"),
            Self::ZeroLog(_) => ("There is no log", "Log cleared"),
            Self::FixDeviceSize(_) => {
                ("No device size related problem found", "Fixed total_bytes of devices and superblock")
            }
            Self::ClearSpaceCache { version: Version::V1, .. } => {
                ("Free space cache cleared", "Free space cache cleared")
            }
            Self::ClearSpaceCache { version: Version::V2, .. } => {
                ("no free space cache v2 to clear", "free space cache v2 cleared")
            }
            Self::ClearUuidTree(_) => ("There is no UUID tree", "UUID tree cleared"),
            Self::ClearInoCache(_) => ("Successfully cleared ino cache", "Successfully cleared ino cache"),
        }
    }
}

/// Runs the command; `before` is the format that was given before it.
pub fn run(command: &Command, before: Format) -> Result<ExitCode> {
    let plain = command.plain();
    let format = plain.format.unwrap_or(before);
    let devices = open(plain)?;
    let plan = rescue(&devices, command.what(), &Options::default()).map_err(|error| failed(plain, &error))?;
    let image = first_image(plain);
    let undo_file = plain.undo_file.clone().unwrap_or_else(|| undo_file_beside(image));
    let text = format == Format::Text;
    if text {
        plan.steps.iter().for_each(output::line);
    }
    let wanted = matches!(plan.verdict, Verdict::Repaired | Verdict::Better);
    let write = wanted && !plain.dry_run;
    if write {
        if command.asks() {
            confirm(image, &undo_file, format, "--yes").map_err(|failure| Failure { code: ABORTED, ..failure })?;
        }
        butterfs_repair::apply(&plan, &devices, &undo_file, fsid(&devices)).map_err(|error| failed(plain, &error))?;
    }
    if text {
        print_outcome(command, &plan, write.then_some(&undo_file));
    } else {
        print_json(command, &plan, write.then_some(&undo_file));
    }
    Ok(status(command, &plan, write))
}

fn status(command: &Command, plan: &Plan, written: bool) -> ExitCode {
    match (command, plan.verdict) {
        (_, Verdict::Refused) => ExitCode::from(exit::USAGE),
        (Command::SuperRecover(_), _) if written => ExitCode::from(RECOVERED),
        _ => ExitCode::SUCCESS,
    }
}

fn first_image(plain: &Plain) -> &std::path::Path {
    plain.images.first().map_or(std::path::Path::new(""), PathBuf::as_path)
}

fn open(plain: &Plain) -> Result<Devices> {
    let mode = if plain.dry_run { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let opened = devices::find_and_open(&plain.images, mode);
    opened.map_err(|(path, error)| failure::volume(exit::USAGE, &path, &error))
}

fn failed(plain: &Plain, error: &Error) -> Failure {
    match error {
        Error::Volume(error) => failure::volume(exit::USAGE, first_image(plain), error),
        _ => Failure::at(exit::USAGE, first_image(plain), error),
    }
}

fn print_outcome(command: &Command, plan: &Plan, undo_file: Option<&PathBuf>) {
    let (nothing, done) = command.outcomes();
    match (plan.verdict, undo_file) {
        (Verdict::NothingToDo, _) => output::line(nothing),
        (Verdict::Refused, _) => {
            output::line("it would be worse afterwards; nothing was written. What would be found:");
            output::line(&plan.after);
        }
        (_, None) => output::line("nothing was written"),
        (_, Some(file)) => {
            output::line(done);
            let images: Vec<_> = command.plain().images.iter().map(|image| image.display().to_string()).collect();
            output::line(format!("to undo it: butterfs check --undo {} {}", file.display(), images.join(" ")));
        }
    }
}

fn print_json(command: &Command, plan: &Plan, undo_file: Option<&PathBuf>) {
    let steps: Vec<_> = plan.steps.iter().map(|step: &Step| step_json(step)).collect();
    output::line(json!({
        "command": command.name(),
        "image": first_image(command.plain()).display().to_string(),
        "steps": steps,
        "refused": plan.verdict == Verdict::Refused,
        "written": undo_file.is_some(),
        "undo_file": undo_file,
    }));
}
