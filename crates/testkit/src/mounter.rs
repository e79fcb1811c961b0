//! Makes, mounts and unmounts filesystems, by the kernel or by Butterfs, behind one set of verbs.
//!
//! Every test is written against this, so that it can be proved on the kernel first:
//! `BUTTERFS_TEST_MOUNTER=kernel` puts the kernel in the place of Butterfs. `BUTTERFS_TEST_TRANSPORT=uring` (or `device`)
//! is how requests come to Butterfs.

use crate::command::{Finished, run, run_program};
use crate::unmount::{patiently, unmount};
use crate::{daemon, workdir};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The variable that says how requests come, as the mount option `transport`.
pub const TRANSPORT: &str = "BUTTERFS_TEST_TRANSPORT";

/// Who makes and mounts.
#[derive(Clone, Debug)]
pub enum Mounter {
    /// The kernel's btrfs over a loop device, and btrfs-progs.
    Kernel,
    /// Butterfs.
    Butterfs {
        /// The program under test.
        binary: PathBuf,
    },
}

impl Mounter {
    /// The subject of a test: `binary`, unless `BUTTERFS_TEST_MOUNTER=kernel`.
    pub fn subject(binary: &str) -> Self {
        match std::env::var("BUTTERFS_TEST_MOUNTER").as_deref() {
            Ok("kernel") => Self::Kernel,
            _ => Self::Butterfs { binary: binary.into() },
        }
    }

    /// True for Butterfs.
    pub fn is_butterfs(&self) -> bool {
        matches!(self, Self::Butterfs { .. })
    }

    /// Runs the program's own command line (`butterfs ARGUMENTS`; for the kernel, `btrfs ARGUMENTS`).
    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Finished {
        match self {
            Self::Kernel => run_program("btrfs", arguments),
            Self::Butterfs { binary } => run(Command::new(binary).args(arguments)),
        }
    }

    /// Makes a filesystem of `size` bytes in the file `image`, which is created.
    #[track_caller]
    pub fn mkfs(&self, image: &Path, size: u64, arguments: &[&str]) {
        match self {
            Self::Kernel => {
                create_sparse(image, size);
                run(Command::new("mkfs.btrfs").arg("-q").arg("-f").args(arguments).arg(image)).ok();
            }
            Self::Butterfs { binary } => {
                let size = size.to_string();
                run(Command::new(binary).args(["mkfs", "--size", &size]).args(arguments).arg(image)).ok();
            }
        }
    }

    /// Mounts, and gives back whatever the program said.
    pub fn try_mount(&self, image: &Path, dir: &Path, options: &str) -> Result<Mounted, Finished> {
        let finished = match self {
            Self::Kernel => {
                let mut all = String::from("loop");
                if !options.is_empty() {
                    all = format!("{all},{options}");
                }
                run(Command::new("mount").args(["-t", "btrfs", "-o", &all]).arg(image).arg(dir))
            }
            Self::Butterfs { binary } => {
                let mut command = Command::new(binary);
                command.args(["mount", "--log"]).arg(log_of(image));
                if let Ok(transport) = std::env::var(TRANSPORT) {
                    command.args(["-o", &format!("transport={transport}")]);
                }
                if !options.is_empty() {
                    command.args(["-o", options]);
                }
                run(command.arg(image).arg(dir))
            }
        };
        if !finished.status.success() {
            return Err(finished);
        }
        assert!(is_mounted(dir), "mounted by its own word, but nothing is there: {finished}");
        Ok(Mounted { mounter: self.clone(), image: image.into(), dir: dir.into(), active: true })
    }

    /// Mounts or panics.
    #[track_caller]
    pub fn mount(&self, image: &Path, dir: &Path, options: &str) -> Mounted {
        self.try_mount(image, dir, options).unwrap_or_else(|finished| panic!("{finished}"))
    }

    /// Runs `subvolume ARGUMENTS`.
    #[track_caller]
    pub fn subvolume<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Finished {
        let mut all: Vec<&OsStr> = vec!["subvolume".as_ref()];
        all.extend(arguments.iter().map(AsRef::as_ref));
        self.command(&all).ok()
    }

    /// Makes a subvolume.
    #[track_caller]
    pub fn create_subvolume(&self, path: &Path) {
        self.subvolume(&["create".as_ref(), path.as_os_str()]);
    }

    /// Makes a writable snapshot of `source` at `path`.
    #[track_caller]
    pub fn snapshot(&self, source: &Path, path: &Path) {
        self.subvolume(&["snapshot".as_ref(), source.as_os_str(), path.as_os_str()]);
    }

    /// Makes a read-only snapshot of `source` at `path`.
    #[track_caller]
    pub fn snapshot_read_only(&self, source: &Path, path: &Path) {
        self.subvolume(&["snapshot".as_ref(), "-r".as_ref(), source.as_os_str(), path.as_os_str()]);
    }

    /// Deletes a subvolume.
    #[track_caller]
    pub fn delete_subvolume(&self, path: &Path) {
        self.subvolume(&["delete".as_ref(), path.as_os_str()]);
    }
}

/// A mounted filesystem, unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    mounter: Mounter,
    image: PathBuf,
    dir: PathBuf,
    active: bool,
}

impl Mounted {
    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// A path below the mount point.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// Who mounted it.
    pub fn mounter(&self) -> &Mounter {
        &self.mounter
    }

    /// The daemon that serves it; none for the kernel.
    pub fn daemon(&self) -> Option<u32> {
        daemon::find_below(&self.image).first().copied()
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_of(&self.image)).unwrap_or_default()
    }

    /// Waits until everything is durable.
    pub fn sync(&self) {
        let dir = std::fs::File::open(&self.dir).expect("the mount point opens");
        rustix::fs::syncfs(&dir).expect("syncfs succeeds");
    }

    /// Unmounts; afterwards everything is in the image and nobody holds it.
    #[track_caller]
    pub fn unmount(mut self) {
        self.active = false;
        if let Err(finished) = self.try_unmount() {
            panic!("{finished}");
        }
    }

    /// Kills the daemon with SIGKILL and takes the dead mount away.
    pub fn kill(mut self) {
        self.active = false;
        for pid in daemon::find_below(&self.image) {
            daemon::kill(pid);
        }
        run(Command::new("umount").arg("-l").arg(&self.dir));
        wait_until("the loop device is let go", || workdir::loops_below(&self.image).is_empty());
    }

    fn try_unmount(&self) -> Result<(), Finished> {
        let finished = match &self.mounter {
            Mounter::Kernel => unmount(&self.dir),
            Mounter::Butterfs { binary } => patiently(|| run(Command::new(binary).arg("umount").arg(&self.dir))),
        };
        if !finished.status.success() {
            return Err(finished);
        }
        if self.mounter.is_butterfs() {
            let left = daemon::find_below(&self.image);
            assert!(left.is_empty(), "umount returned before the daemon {left:?} was gone");
        }
        wait_until("the loop device is let go", || workdir::loops_below(&self.image).is_empty());
        Ok(())
    }
}

/// Where the daemon of an image writes its log.
fn log_of(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".log");
    name.into()
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        if !self.active {
            return;
        }
        if std::thread::panicking() && self.mounter.is_butterfs() {
            daemon::find_below(&self.image).into_iter().for_each(daemon::kill);
            run(Command::new("umount").arg("-l").arg(&self.dir));
        } else if let Err(finished) = self.try_unmount() {
            eprintln!("{finished}");
            run(Command::new("umount").arg("-l").arg(&self.dir));
        }
    }
}

/// Polls `condition` for up to ten seconds.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True if something is mounted on `dir`.
pub fn is_mounted(dir: &Path) -> bool {
    workdir::mounts_below(dir).iter().any(|point| point == dir)
}

/// Makes `path` a file of `size` bytes without data.
pub fn create_sparse(path: &Path, size: u64) {
    let file = std::fs::File::create(path).expect("an image file can be made");
    file.set_len(size).expect("an image file can be sized");
}
