//! The FUSE protocol as Linux speaks it: structs, operation codes and flags.
//!
//! From `include/uapi/linux/fuse.h`, protocol 7.45, written anew. Byte order is the machine's.
//! Only what this crate uses is here. Every struct's size is asserted.

mod attributes;
mod files;
mod flags;
mod names;
pub mod opcode;
mod session;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::attributes::*;
pub use self::files::*;
pub use self::flags::*;
pub use self::names::*;
pub use self::session::*;

/// The protocol's major version.
pub const VERSION_MAJOR: u32 = 7;
/// The newest minor version whose structs are known here.
pub const VERSION_MINOR: u32 = 45;
/// The oldest minor version served (Linux 5.4).
pub const VERSION_MINOR_OLDEST: u32 = 31;
/// The node id of the root directory.
pub const ROOT_NODE: u64 = 1;
/// The longest WRITE and READ negotiated: 256 pages, the kernel's own default limit.
pub const MAX_WRITE: u32 = 1 << 20;
/// Room for the arguments of any request besides the bytes of a WRITE. The kernel refuses reads
/// with less than 4096 and `size of header and arguments`; names and attributes need more.
pub const MAX_ARGUMENTS: usize = 128 * 1024;

/// What every request begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct InHeader {
    /// Length of the request with this header.
    pub len: u32,
    /// What is asked, see [`opcode`].
    pub opcode: u32,
    /// Names the request in its reply.
    pub unique: u64,
    /// The inode asked about.
    pub nodeid: u64,
    /// Who asks: user.
    pub uid: u32,
    /// Who asks: group.
    pub gid: u32,
    /// Who asks: thread id, 0 for the kernel itself.
    pub pid: u32,
    /// Length of extensions behind the arguments, in units of 8 bytes.
    pub total_extlen: u16,
    /// Unused.
    pub padding: u16,
}

/// What every reply and notification begins with.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OutHeader {
    /// Length of the reply with this header.
    pub len: u32,
    /// 0, or a negative errno; in a notification, its code.
    pub error: i32,
    /// The request answered; 0 for a notification.
    pub unique: u64,
}

const _: () = assert!(size_of::<InHeader>() == 40);
const _: () = assert!(size_of::<OutHeader>() == 16);
