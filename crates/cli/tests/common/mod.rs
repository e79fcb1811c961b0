//! What the root tests share: the subject under test.

#![allow(dead_code, missing_docs)]

pub mod both;
pub mod ours;

use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::workdir::WorkDir;

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// Butterfs as built for this test, or the kernel with `BUTTERFS_TEST_MOUNTER=kernel`.
pub fn subject() -> Mounter {
    Mounter::subject(env!("CARGO_BIN_EXE_butterfs"))
}

/// The kernel, which is the judge.
pub fn kernel() -> Mounter {
    Mounter::Kernel
}

/// A work directory with a mount point `mnt`, or none with the skip reported.
pub fn setup(test: &str) -> Option<WorkDir> {
    if !butterfs_testkit::report::is_root(test) {
        return None;
    }
    let work = WorkDir::new(test);
    work.dir("mnt");
    Some(work)
}

/// Builds the library of `butterfs compat`, which lies beside the program, where only the program was built.
pub fn compat_library() {
    const BINARY: &str = env!("CARGO_BIN_EXE_butterfs");
    let path = std::path::Path::new(BINARY).with_file_name("libbutterfs_compat.so");
    if !path.exists() {
        let profile = if BINARY.contains("/release/") { "release" } else { "dev" };
        let build = ["build", "-q", "-p", "butterfs-compat", "--profile", profile];
        butterfs_testkit::command::run(std::process::Command::new(env!("CARGO")).args(build)).ok();
    }
}
