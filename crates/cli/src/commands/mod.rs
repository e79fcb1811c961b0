//! The commands, one file each.

mod check;
mod mkfs;
mod mount;
mod subvolume;
mod sync;
mod umount;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Result;

/// Btrfs in user space: make, mount, check.
#[derive(Debug, Parser)]
#[command(name = "butterfs", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
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
    /// Work on a mounted filesystem as a whole.
    #[command(subcommand, visible_alias = "fi")]
    Filesystem(Filesystem),
    /// Commit a mounted filesystem: everything written so far is on disk afterwards.
    Sync(sync::Arguments),
    /// Check an unmounted filesystem, and repair it if that is asked for.
    Check(check::Arguments),
}

/// Work on a mounted filesystem as a whole.
#[derive(Debug, Subcommand)]
pub enum Filesystem {
    /// Commit: everything written so far is on disk afterwards.
    Sync(sync::Arguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mkfs(_) => "mkfs",
            Self::Mount(_) => "mount",
            Self::Umount(_) => "umount",
            Self::Subvolume(command) => command.name(),
            Self::Filesystem(Filesystem::Sync(_)) => "filesystem sync",
            Self::Sync(_) => "sync",
            Self::Check(_) => "check",
        }
    }

    /// Does it.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Mkfs(arguments) => mkfs::run(&arguments),
            Self::Mount(arguments) => return mount::run(&arguments),
            Self::Umount(arguments) => umount::run(&arguments),
            Self::Subvolume(command) => subvolume::run(&command),
            Self::Filesystem(Filesystem::Sync(arguments)) | Self::Sync(arguments) => sync::run(&arguments),
            Self::Check(arguments) => return check::run(&arguments),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
