//! Models, generators and oracles for testing Butterfs.
//!
//! Everything here is for tests: it panics, with a message that says what was expected, where a library would
//! return an error. A test owns a [`workdir::WorkDir`]; mounts, loop devices and daemons below it are gone when it is
//! dropped, also after a panic.

pub mod bench;
pub mod command;
pub mod crash;
pub mod cuts;
pub mod daemon;
pub mod damage;
pub mod device_files;
pub mod devices;
pub mod disks;
pub mod everything;
pub mod fault;
pub mod filter;
pub mod fuzz;
pub mod library_tree;
pub mod mounter;
pub mod operations;
pub mod oracle;
pub mod overlay;
pub mod populate;
pub mod random;
pub mod report;
pub mod served;
pub mod strace;
pub mod synthetic;
pub mod tree_blocks;
pub mod tree_compare;
pub mod unmount;
pub mod workdir;
