//! `butterfs inspect-internal`: what is in an image, structure by structure; and, on a mount, where files are. Nothing
//! is written, no lock is taken: an image that is in use can be looked at, and may change meanwhile.

mod dump_super;
mod dump_tree;
mod fiemap;
mod image;
mod inode_resolve;
pub mod json;
mod list_chunks;
mod logical_resolve;
mod min_dev_size;
mod paths;
mod report;
mod rootid;
mod subvolid_resolve;
mod target;
mod tree_stats;

use std::process::ExitCode;

use clap::Subcommand;

use super::{Format, OutputFormat};
use crate::failure::Result;

/// Look at the structures of an unmounted filesystem, and at files of a mounted one.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the superblocks of devices.
    DumpSuper(dump_super::Arguments),
    /// Print the trees of a filesystem, block by block.
    DumpTree(dump_tree::Arguments),
    /// Print sizes, levels and layout of trees.
    TreeStats(tree_stats::Arguments),
    /// Print the paths of an inode.
    InodeResolve(inode_resolve::Arguments),
    /// Print the files that use a byte of the logical address space.
    LogicalResolve(logical_resolve::Arguments),
    /// Print the path of a subvolume.
    SubvolidResolve(subvolid_resolve::Arguments),
    /// Print the id of the subvolume that a path is in.
    Rootid(rootid::Arguments),
    /// Print the size that a device can be shrunk to.
    MinDevSize(min_dev_size::Arguments),
    /// Print all chunks, device by device.
    ListChunks(list_chunks::Arguments),
    /// Print where the bytes of files on a mounted filesystem are.
    Fiemap(fiemap::Arguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DumpSuper(_) => "inspect-internal dump-super",
            Self::DumpTree(_) => "inspect-internal dump-tree",
            Self::TreeStats(_) => "inspect-internal tree-stats",
            Self::InodeResolve(_) => "inspect-internal inode-resolve",
            Self::LogicalResolve(_) => "inspect-internal logical-resolve",
            Self::SubvolidResolve(_) => "inspect-internal subvolid-resolve",
            Self::Rootid(_) => "inspect-internal rootid",
            Self::MinDevSize(_) => "inspect-internal min-dev-size",
            Self::ListChunks(_) => "inspect-internal list-chunks",
            Self::Fiemap(_) => "inspect-internal fiemap",
        }
    }
}

/// Does it; `before` is the format that was given before the command.
pub fn run(command: &Command, before: Format) -> Result<ExitCode> {
    match command {
        Command::DumpSuper(arguments) => dump_super::run(arguments, before),
        Command::DumpTree(arguments) => dump_tree::run(arguments, before),
        Command::TreeStats(arguments) => tree_stats::run(arguments, before),
        Command::InodeResolve(arguments) => inode_resolve::run(arguments, before),
        Command::LogicalResolve(arguments) => logical_resolve::run(arguments, before),
        Command::SubvolidResolve(arguments) => subvolid_resolve::run(arguments, before),
        Command::Rootid(arguments) => rootid::run(arguments, before),
        Command::MinDevSize(arguments) => min_dev_size::run(arguments, before),
        Command::ListChunks(arguments) => list_chunks::run(arguments, before),
        Command::Fiemap(arguments) => fiemap::run(arguments, before),
    }
}
