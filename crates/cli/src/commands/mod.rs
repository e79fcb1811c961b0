//! The commands, one file each.

mod balance;
mod cat;
mod check;
mod compat;
mod cp;
mod defragment;
mod device;
mod filesystem;
mod find_root;
mod fstrim;
mod inspect;
mod ls;
mod manual;
mod mkfs;
mod mount;
mod property;
mod receive;
mod rescue;
mod resize;
mod restore;
mod scrub;
mod share;
mod space;
mod stat;
mod status;
mod subvolume;
mod sync;
mod tree;
mod umount;
mod units;
mod work_target;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use inspect::json;

use crate::exit;
use crate::failure::{Failure, Result};

/// Btrfs in user space: make, mount, check.
#[derive(Debug, Parser)]
#[command(name = "butterfs", version, about, arg_required_else_help = true, infer_subcommands = true)]
pub struct Cli {
    /// How to print: for people or for programs; for commands that know both.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<Format>,
    #[command(subcommand)]
    pub command: Command,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Text for people, or JSON for programs.
#[derive(Debug, clap::Args)]
struct OutputFormat {
    /// How to print: for people or for programs.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
}

impl OutputFormat {
    /// The format, or that which was given before the command.
    fn or(&self, before: Format) -> Format {
        self.format.unwrap_or(before)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a filesystem on a device or in an image file.
    Mkfs(mkfs::Arguments),
    /// Mount a filesystem.
    Mount(mount::Arguments),
    /// Unmount a filesystem, and wait until everything is on disk.
    Umount(umount::Arguments),
    /// Create, snapshot, delete and list subvolumes of a mounted filesystem.
    #[command(subcommand, visible_alias = "sub")]
    Subvolume(subvolume::Command),
    /// Get, set and list properties of files, subvolumes and filesystems, on mounts and in images.
    #[command(subcommand)]
    Property(property::Command),
    /// Work on a filesystem as a whole.
    #[command(subcommand, visible_alias = "fi")]
    Filesystem(filesystem::Command),
    /// Write block groups of a filesystem anew, in the same profile or in another one; on a mount or in an image.
    #[command(subcommand, infer_subcommands = true)]
    Balance(balance::Command),
    /// Commit a mounted filesystem: everything written so far is on disk afterwards.
    Sync(sync::Arguments),
    /// Work on devices: add and remove them, look for them, and at what is on them and went wrong with them.
    #[command(subcommand, infer_subcommands = true, visible_alias = "dev")]
    Device(device::Command),
    /// Read all that devices hold, compare it with its checksums, and repair it.
    #[command(subcommand, infer_subcommands = true)]
    Scrub(scrub::Command),
    /// Tell the devices of a mounted filesystem what space is free, as fstrim(8).
    Fstrim(fstrim::Arguments),
    /// Make a file share the extents of another, as cp --reflink does.
    Reflink(share::ReflinkArguments),
    /// Make files with the same bytes share extents. The bytes are compared first.
    Dedupe(share::DedupeArguments),
    /// Show how mounted filesystems are, and what went wrong.
    Status(status::Arguments),
    /// Run a program for which a mount is Btrfs: it can clone, deduplicate and map files, and use btrfs(8).
    Compat(compat::Arguments),
    /// List directories of an image that is not mounted.
    Ls(ls::Arguments),
    /// Print files of an image that is not mounted.
    Cat(cat::Arguments),
    /// Copy out of an image that is not mounted, or into it.
    Cp(cp::Arguments),
    /// Draw directories of an image that is not mounted.
    Tree(tree::Arguments),
    /// Show all there is to know of files of an image that is not mounted.
    Stat(stat::Arguments),
    /// Print what a send stream would do. (Receiving it is not supported yet.)
    Receive(receive::Arguments),
    /// Check an unmounted filesystem, and repair it if that is asked for.
    Check(check::Arguments),
    /// Look at the structures of an unmounted filesystem. Nothing is written.
    ///
    /// Images and devices are opened for reading only and without a lock: one that is in use can be looked at,
    /// and may change meanwhile. Of a filesystem on several devices, name all; what lies on missing ones is told
    /// of on standard error and left out. See docs/inspect.md for how the text differs from that of btrfs-progs.
    #[command(subcommand, visible_alias = "inspect", infer_subcommands = true)]
    InspectInternal(inspect::Command),
    /// Single operations for known kinds of trouble, on an unmounted filesystem.
    #[command(subcommand)]
    Rescue(rescue::Command),
    /// Copy files out of a damaged filesystem, and list what is lost. Nothing is written to it.
    ///
    /// Exit status: 0 if all that was asked for was restored, 2 if some of it is lost (0 with -i), 1 if there is
    /// nothing to begin with. See docs/restore.md.
    Restore(restore::Arguments),
    /// Find root blocks of trees, of the last commit and of older ones, for restore -t and -f.
    FindRoot(find_root::Arguments),
    /// Write the manual, a page for each command, to a directory.
    Man(manual::ManArguments),
    /// Print completions for a shell.
    Completions(manual::CompletionsArguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mkfs(_) => "mkfs",
            Self::Mount(_) => "mount",
            Self::Umount(_) => "umount",
            Self::Subvolume(command) => command.name(),
            Self::Property(command) => command.name(),
            Self::Filesystem(command) => command.name(),
            Self::Balance(command) => command.name(),
            Self::Sync(_) => "sync",
            Self::Device(command) => command.name(),
            Self::Scrub(command) => command.name(),
            Self::Fstrim(_) => "fstrim",
            Self::Reflink(_) => "reflink",
            Self::Dedupe(_) => "dedupe",
            Self::Status(_) => "status",
            Self::Compat(_) => "compat",
            Self::Ls(_) => "ls",
            Self::Cat(_) => "cat",
            Self::Cp(_) => "cp",
            Self::Tree(_) => "tree",
            Self::Stat(_) => "stat",
            Self::Receive(_) => "receive",
            Self::Check(_) => "check",
            Self::InspectInternal(command) => command.name(),
            Self::Rescue(command) => command.name(),
            Self::Restore(_) => "restore",
            Self::FindRoot(_) => "find-root",
            Self::Man(_) => "man",
            Self::Completions(_) => "completions",
        }
    }

    fn knows_json(&self) -> bool {
        matches!(
            self,
            Self::InspectInternal(_)
                | Self::Check(_)
                | Self::Status(_)
                | Self::Rescue(_)
                | Self::Restore(_)
                | Self::FindRoot(_)
                | Self::Ls(_)
                | Self::Tree(_)
                | Self::Stat(_)
        ) || matches!(self, Self::Subvolume(command) if command.knows_json())
            || matches!(self, Self::Filesystem(command) if command.knows_json())
    }

    /// Does it; `format` is what was given before the command.
    pub fn run(self, format: Option<Format>) -> Result<ExitCode> {
        let format = format.unwrap_or(Format::Text);
        if format == Format::Json && !self.knows_json() {
            return Err(Failure::new(exit::USAGE, "there is no JSON output of this command; leave --format out"));
        }
        match self {
            Self::Mkfs(arguments) => mkfs::run(&arguments),
            Self::Mount(arguments) => return mount::run(&arguments),
            Self::Umount(arguments) => umount::run(&arguments),
            Self::Subvolume(command) => return subvolume::run(&command, format),
            Self::Property(command) => property::run(&command),
            Self::Filesystem(command) => return filesystem::run(&command, format),
            Self::Balance(command) => return balance::run(&command),
            Self::Device(command) => return device::run(&command),
            Self::Scrub(command) => return scrub::run(&command),
            Self::Sync(arguments) => sync::run(&arguments),
            Self::Fstrim(arguments) => fstrim::run(&arguments),
            Self::Reflink(arguments) => share::reflink(&arguments),
            Self::Dedupe(arguments) => share::dedupe(&arguments),
            Self::Status(arguments) => return status::run(&arguments, format),
            Self::Receive(arguments) => receive::run(&arguments),
            Self::Compat(arguments) => compat::run(&arguments),
            Self::Ls(arguments) => return ls::run(&arguments, format),
            Self::Cat(arguments) => return cat::run(&arguments),
            Self::Cp(arguments) => return cp::run(&arguments),
            Self::Tree(arguments) => return tree::run(&arguments, format),
            Self::Stat(arguments) => return stat::run(&arguments, format),
            Self::Check(arguments) => return check::run(&arguments, format),
            Self::InspectInternal(command) => return inspect::run(&command, format),
            Self::Rescue(command) => return rescue::run(&command, format),
            Self::Restore(arguments) => return restore::run(&arguments, format),
            Self::FindRoot(arguments) => return find_root::run(&arguments, format),
            Self::Man(arguments) => manual::man(&arguments),
            Self::Completions(arguments) => manual::completions(&arguments),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
