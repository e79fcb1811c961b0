//! What a filesystem consists of and how full it is: `filesystem df|usage|show|label|du` and `device usage`, with the
//! words, numbers and output of btrfs-progs 6.14, on mounts (ours and the kernel's) and on what is not mounted.

mod df;
mod du;
mod label;
mod mounted;
mod picture;
mod several;
mod show;
mod sums;
mod table;
mod usage;

pub use mounted::{MountedFilesystem, stands_for};
pub use several::warn_of_several_in;

pub use df::Arguments as DfArguments;
pub use du::Arguments as DuArguments;
pub use label::Arguments as LabelArguments;
pub use show::Arguments as ShowArguments;
pub use usage::{Arguments as UsageArguments, DeviceArguments as DeviceUsageArguments};

pub use df::run as df;
pub use du::run as du;
pub use label::run as label;

pub use show::run as show;
pub use usage::{run as usage, run_devices as device_usage};
