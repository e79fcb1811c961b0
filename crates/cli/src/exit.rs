//! Exit statuses: those of mount(8), and of fsck(8) for `check`.

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

/// `check` found something.
pub const FOUND: u8 = 1;
/// `check` could not be done.
pub const NOT_CHECKED: u8 = 8;
/// `check` was called wrongly.
pub const CHECK_USAGE: u8 = 16;
