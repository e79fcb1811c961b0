//! Our mount over several images.

use butterfs_testkit::command::run;
use butterfs_testkit::unmount::patiently;
use std::path::{Path, PathBuf};
use std::process::Command;

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");

/// A mount of ours over all images, unmounted when dropped.
pub struct Ours(PathBuf);

impl Ours {
    #[track_caller]
    pub fn new(images: &[PathBuf], dir: &Path, options: &str) -> Self {
        run(Command::new(BUTTERFS).args(["mount", "-o", options]).args(images).arg(dir)).ok();
        Self(dir.into())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let finished = patiently(|| run(Command::new(BUTTERFS).arg("umount").arg(&self.0)));
        assert!(std::thread::panicking() || finished.status.success(), "{finished}");
    }
}
