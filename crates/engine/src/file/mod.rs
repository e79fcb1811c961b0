//! Data of files: dirty bytes in memory, extents in trees, and the way between them.
//!
//! * [`budget`], `runs`, [`delalloc`]: bytes that are not on a device yet.
//! * [`extents`]: EXTENT_DATA items: look at them, drop them, put them in.
//! * [`mod@read`], `compressed`, [`mod@write`], [`mod@writeback`], [`compress`]: the data paths.
//! * [`truncate`], [`fallocate`], [`mod@seek`]: size, preallocation and holes.
//! * [`mod@clone`], `share`, [`mod@dedupe`]: extents that several ranges share; [`users`]: who shares them; [`memory_map`]: where all is.
//! * [`defrag`]: small extents, written anew.
//! * `place`: where dirty bytes go; [`data_rule`]: whether that may be where others are.
//!
//! # Invariants
//! * Dirty and in-flight runs start and end at sector boundaries; bytes past the file's end in its
//!   last sector are zeros, in memory and on disk.
//! * An inline extent is the file's only extent below its end: whatever makes such a file grow makes
//!   its first sector dirty.
//! * The size on disk is never below the end of a written extent, and never above the true size.
//!
//! # Locking
//! `FileData::settle` (one at a time puts extents into the tree or takes them out) before
//! `Shared::in_place` before `Inode::range` before `Inode::state` before the gate; `FileData`'s own mutex is a leaf: nothing
//! is taken and nobody is waited for while it is held.

pub mod budget;
pub mod clone;
pub mod compress;
pub mod data_rule;
pub mod dedupe;
pub mod defrag;
pub mod delalloc;
pub mod delete;
pub mod errors;
pub mod extents;
pub mod fallocate;
pub mod memory_map;
pub mod read;
pub mod seek;
pub mod truncate;
pub mod users;
pub mod write;
pub mod writeback;

mod compressed;
mod grow;
mod place;
mod runs;
mod sectors;
mod share;
mod update;

pub use budget::DirtyBudget;
pub use clone::{CloneLen, Place, clone_range};
pub use compress::{CompressRule, Compressors, PROPERTY as COMPRESSION_PROPERTY, may_be_compressed};
pub use data_rule::DataRule;
pub use dedupe::{Dedupe, dedupe_range};
pub use defrag::{Defrag, SharedExtents, defragment};
pub use delalloc::FileData;
pub use delete::wait_for_users;
pub use errors::{ErrorCursor, WriteErrors};
pub use extents::{Dropped, HoleStyle, MappedExtent, MappedKind, delete_all_extents, drop_range, map, truncate_items};
pub use fallocate::{SizeMode, preallocate, punch_hole, zero_range};
pub use read::read;
pub use seek::{Seek, seek};
pub use truncate::set_size;
pub use users::{ExtentUse, FileExtentUse, Stretch, StretchKind};
pub use write::{MAX_FILE_SIZE, write};
pub use writeback::{sync_data, writeback};
