//! The Btrfs on-disk format: bytes to types and back.
//!
//! This crate does no I/O, reads no clock and takes no lock. Bytes from a device become typed views
//! here, and are checked here ([`validate`]) before anything else believes them.
//!
//! * [`ids`]: addresses and numbers as newtypes.
//! * [`key`]: keys and item types, printed as `btrfs inspect-internal dump-tree` prints them.
//! * [`superblock`]: the superblock, its mirrors and feature bits.
//! * [`block`]: tree blocks: header, leaf and node views, and edits of one block.
//! * [`items`]: the items found in leaves.
//! * [`mod@print`]: structures as text, as btrfs-progs prints them.
//! * [`validate`]: the checks a tree block must pass before it is used or written.
//! * [`send`]: the streams of `btrfs send`.
//! * [`checksum`], [`hash`]: the checksums and name hashes of the format.
//! * [`compression`]: from compressed extents to the bytes of files, and back.

pub mod block;
pub mod checksum;
pub mod compression;
pub mod error;
pub mod hash;
pub mod ids;
pub mod items;
pub mod key;
pub mod print;
pub mod send;
pub mod superblock;
pub mod validate;

pub use block::{BlockHeader, KeyPtr, TreeBlock};
pub use checksum::ChecksumType;
pub use error::Corruption;
pub use ids::{DevId, Generation, Ino, Logical, TreeId};
pub use key::{ItemType, Key};
pub use superblock::Superblock;
