//! Image files as the devices of one filesystem, for the kernel.

use crate::unmount::unmount;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{Finished, run};
use crate::mounter::create_sparse;

/// Makes a filesystem by `mkfs.btrfs` over new image files of these sizes.
#[track_caller]
pub fn mkfs(dir: &Path, sizes: &[u64], arguments: &[&str]) -> Vec<PathBuf> {
    let image = |(number, size): (usize, &u64)| {
        let path = dir.join(format!("disk{number}"));
        create_sparse(&path, *size);
        path
    };
    let images: Vec<PathBuf> = sizes.iter().enumerate().map(image).collect();
    run(Command::new("mkfs.btrfs").args(["-q", "-f"]).args(arguments).args(&images)).ok();
    images
}

/// A loop device, let go when dropped.
#[derive(Debug)]
pub struct Loop(PathBuf);

impl Loop {
    /// A loop device over a file.
    #[track_caller]
    pub fn over(image: &Path) -> Self {
        let made = run(Command::new("losetup").args(["--find", "--show"]).arg(image)).ok();
        Self(made.stdout.trim().into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // The kernel remembers devices that it has seen, and the next to have this number is another.
        run(Command::new("btrfs").args(["device", "scan", "--forget"]).arg(&self.0));
        run(Command::new("losetup").arg("-d").arg(&self.0));
    }
}

/// `btrfs check` finds nothing wrong with the filesystem on these images, its data included. Where it grew from seeds, the first is
/// that which is no seed.
#[track_caller]
pub fn assert_clean(images: &[PathBuf]) {
    let loops: Vec<_> = images.iter().map(|image| Loop::over(image)).collect();
    let first = loops.first().expect("there are devices");
    run(Command::new("btrfs").args(["check", "--check-data-csum"]).arg(first.path())).ok();
}

/// A filesystem on several devices, mounted by the kernel; unmounted when dropped.
#[derive(Debug)]
pub struct KernelMount {
    dir: PathBuf,
    loops: Vec<Loop>,
}

impl KernelMount {
    /// Mounts the filesystem on these images.
    #[track_caller]
    pub fn new(images: &[PathBuf], dir: &Path, options: &str) -> Self {
        let loops: Vec<Loop> = images.iter().map(|image| Loop::over(image)).collect();
        let mut words: Vec<String> = loops.iter().map(|device| format!("device={}", device.path().display())).collect();
        words.extend((!options.is_empty()).then(|| options.to_owned()));
        let command = ["-t", "btrfs", "-o", &words.join(",")];
        run(Command::new("mount").args(command).arg(loops[0].path()).arg(dir)).ok();
        Self { dir: dir.into(), loops }
    }

    /// Below the mount point.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// Runs `btrfs ARGUMENTS MOUNTPOINT`.
    #[track_caller]
    pub fn btrfs(&self, arguments: &[&str]) -> Finished {
        run(Command::new("btrfs").args(arguments).arg(&self.dir)).ok()
    }

    /// The loop devices.
    pub fn loops(&self) -> &[Loop] {
        &self.loops
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        let unmounted = unmount(&self.dir);
        if !unmounted.status.success() {
            eprintln!("{unmounted}");
        }
    }
}
