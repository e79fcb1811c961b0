//! Files of the host, made beneath a directory from what a filesystem says that nobody vouches for.
//!
//! # Invariants
//! * A name is one name in one directory: `..`, a slash or a zero byte is refused, and no symbolic link
//!   is ever followed. Only the path that the user named, [`Directory::open`], is an ordinary one.
//! * What is made is new. What is in its way is never written into: neither a hard link nor a device that lies
//!   there is changed. If the user wants that, it is replaced in one step by what was made beside it, whole.
//!   Directories are entered, not replaced.
//! * Set-user-ID and set-group-ID bits are set only where owner and group could be set, too.
//! * Files are made for their owner alone, and get their permissions at the end.
//!
//! # Locking
//! None: everything works relative to a descriptor.

mod attributes;
mod directory;
mod file;
mod name;

#[cfg(test)]
mod tests;

pub use attributes::{Attributes, Lost, Policy, Preserve, Xattr, is_privileged, path_of};
pub use directory::{Directory, Existing, Node, Special};
pub use file::NewFile;
