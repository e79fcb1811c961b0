//! The FUSE front end: a filesystem served to the kernel.
//!
//! [`FrontEnd`] is what a filesystem implements: one method per operation, inodes instead of
//! paths, no word of Btrfs. [`mount`] puts a FUSE filesystem into the tree and gives the
//! descriptor that [`session::Session`] serves. [`daemon`] is for programs that go into the
//! background.
//!
//! ```text
//! kernel ─► transport ─► request (parse) ─► dispatch ─► FrontEnd
//!    ▲                                          │
//!    └────────────── reply ◄────────────────────┘
//! ```

pub mod abi;
pub mod adapter;
mod caller;
pub mod control;
pub mod daemon;
mod dispatch;
mod errno;
mod front_end;
pub mod mount;
mod negotiate;
mod notify;
mod reply;
pub mod request;
pub mod session;
mod sinks;
pub mod stop;
mod thread;
mod transport;
mod types;

pub use errno::Errno;
pub use front_end::{FrontEnd, Result};
pub use negotiate::Negotiated;
pub use notify::Notifier;
pub use sinks::{DirSink, Full, PlusSink, ReadSink};
pub use types::*;
