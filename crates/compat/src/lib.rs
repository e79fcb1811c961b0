//! Preloaded into programs by `butterfs compat`: what Linux passes to no FUSE filesystem, and what Btrfs
//! shows and FUSE cannot, for mounts of Butterfs.
//!
//! * `ioctl`: FICLONE, FICLONERANGE, FIDEDUPERANGE, FIEMAP and snapshots, by commands that FUSE does pass on;
//!   the size of an image that is a device of a mount;
//! * `statfs`, `getmntent`: the type is that of Btrfs;
//! * `stat`: each subvolume has a device number of its own, as in the kernel.
//!
//! # Invariants
//! * The true function is called first, and its answer stands unless it is about a mount of Butterfs.
//!   `errno` stays what the true function made it.
//! * Functions may be called from signal handlers and between vfork and exec: no memory is allocated,
//!   no lock taken, nothing can panic.
//! * No state but caches of atomic numbers: threads and forks need no care.

#![cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]

mod clone;
mod dedupe;
mod errno;
mod fiemap;
mod images;
mod ioctl;
mod mntent;
mod mounts;
mod real;
mod scrub;
mod snapshot;
mod stat;
mod statfs;

use butterfs_wire as wire;
