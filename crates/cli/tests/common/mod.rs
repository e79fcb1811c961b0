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

/// Builds the library of `butterfs compat`, which lies beside the program. Always: where it is up to date that takes a moment,
/// and one that is there may be of older sources, because nothing that is built for tests depends on it.
pub fn compat_library() {
    const BINARY: &str = env!("CARGO_BIN_EXE_butterfs");
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let folder = std::path::Path::new(BINARY).parent().expect("programs lie in folders");
        let profile = if folder.ends_with("release") { "release" } else { "dev" };
        let mut build = std::process::Command::new(env!("CARGO"));
        build.args(["build", "-q", "-p", "butterfs-compat", "--profile", profile]);
        // Where the program lies, even if the environment says something else by now.
        build.arg("--target-dir").arg(folder.parent().expect("profiles have folders"));
        butterfs_testkit::command::run(&mut build).ok();
        assert!(folder.join("libbutterfs_compat.so").exists(), "{}", folder.display());
    });
}
