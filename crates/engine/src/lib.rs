//! Trees, transactions, allocation and files: the Btrfs filesystem as a library.
//!
//! Imports run one way, from the bottom of this list to the top:
//!
//! * [`error`], [`environment`]: errors; the clock and the seed, passed in.
//! * `id`: the identity of an inode, subvolume and number.
//! * [`tree`]: search and edit of trees over a block store it does not know.
//! * `space`: block groups and their free space, in memory.
//! * [`tx`]: the running transaction: copy on write, delayed references, the extent tree, the free
//!   space tree, chunks, commit; and the gate that lets others change trees.
//! * [`inode`], [`mod@file`], [`dir`]: inodes, their data, their names.
//! * [`subvolume`]: subvolumes and snapshots.
//! * `log`, `replay`: what fsync puts into log trees; and how it comes into subvolumes at mount.
//! * [`relocate`]: block groups, emptied and removed; [`scrub`]: devices, read and repaired.
//! * [`filesystem`]: [`filesystem::Filesystem`], what users of this crate hold.

pub mod dir;
pub mod environment;
pub mod error;
pub mod file;
pub mod filesystem;
mod id;
pub mod inode;
pub mod mkfs;
pub mod subvolume;
pub mod tree;
pub mod tx;

mod cores;
mod log;
pub mod relocate;
mod replay;
pub mod scrub;
mod space;

pub use error::{Error, Result};
