//! Send streams: what `btrfs send` writes and `btrfs receive` carries out. The reading side.
//!
//! A stream is a header and a row of commands, each with a checksum and named attributes; see
//! `docs/format/send-stream.md` for the layout and for where each fact is from. [`Reader`] takes it from anything
//! that implements [`std::io::Read`] (a pipe, a file, a slice), one command at a time; [`Action`] says what to do.
//!
//! # Invariants
//! * What a [`Reader`] gives out has a right checksum, every attribute that its command needs, and each of them in its
//!   size; no text in it has a zero byte. Paths are *not* judged: they may be absolute or lead upwards.
//! * Memory is bounded by the longest command that is really there, and by [`MAX_COMMAND`], whatever a length says.
//! * An error names the place in the stream, the command and the attribute.

mod attribute;
mod attributes;
mod command;
mod kind;
mod parse;
mod reader;
#[cfg(test)]
mod tests;

pub use attribute::Attribute;
pub use command::{Action, CloneRange, Command, EncodedWrite, Verity};
pub use kind::CommandKind;
pub use reader::{Error, MAX_COMMAND, Reader, Version};

/// What a stream begins with; a zero byte and the version follow. Source: `btrfs_stream_header` in Linux's
/// `fs/btrfs/send.h`.
pub const MAGIC: &[u8; 13] = b"btrfs-stream\0";
/// Length of the header: the magic and a version of 32 bits.
pub const STREAM_HEADER: usize = MAGIC.len() + 4;
/// Length of what stands before each command's attributes: length (32 bits), kind (16), checksum (32). Source:
/// `btrfs_cmd_header` in `fs/btrfs/send.h`.
pub const COMMAND_HEADER: usize = 10;

/// The checksum of a whole command, in which the checksum itself counts as zeros: CRC-32C that begins at zero and is
/// not inverted. Source: `send_cmd` in Linux's `fs/btrfs/send.c`.
pub fn command_checksum(command: &[u8]) -> u32 {
    let (before, rest) = command.split_at(6.min(command.len()));
    let after = rest.get(4..).unwrap_or_default();
    [before, &[0; 4], after].into_iter().fold(0, crate::hash::crc32c_raw)
}
