//! The few places that need `unsafe`: raw ioctls, fork, signal masks, local time.
//!
//! Each function here is a safe wrapper around one system call that rustix does not offer
//! safely. Nothing here knows what a filesystem is. Each `unsafe` block says why it is sound.

pub mod block;
pub mod caller_memory;
pub mod cpus;
pub mod flat_ioctl;
pub mod fuse_device;
pub mod fuse_ring;
pub mod idle_class;
pub mod loop_device;
pub mod page_buffer;
pub mod process;
pub mod signal;
pub mod time;
