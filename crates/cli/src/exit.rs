//! Exit statuses: those of mount(8), of fsck(8) for `check`, and of ls(1) for those that look into images.

/// Wrong usage, no permission; for commands other than `mount` and `umount`, any failure.
pub const USAGE: u8 = 1;
/// `dedupe`: files differ.
pub const DIFFERS: u8 = 1;
/// `status`: a filesystem is read-only because of an error, or lost data.
pub const IN_ERROR: u8 = 1;
/// The system lacks something: memory, loop devices, FUSE.
pub const SYSTEM: u8 = 2;
/// The mount or unmount failed.
pub const FAILED: u8 = 32;

/// `restore`: some of what was asked for is lost.
pub const LOSSES: u8 = 2;
/// `ls`, `cat`, `cp`, `tree`, `stat`: something could not be read or copied; the rest was.
pub const NOT_COPIED: u8 = 1;
/// They were called wrongly.
pub const COPY_USAGE: u8 = 2;
/// `cp` was interrupted: 128 and the number of SIGINT, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// `compat`: there is no such command; it cannot be run. As shells have it.
pub const NO_COMMAND: u8 = 127;
/// See [`NO_COMMAND`].
pub const NOT_RUN: u8 = 126;

/// `check` found something.
pub const FOUND: u8 = 1;
/// `check` could not be done.
pub const NOT_CHECKED: u8 = 8;
/// `check` was called wrongly.
pub const CHECK_USAGE: u8 = 16;
