//! Where daemons announce themselves, and how to wait until one is gone.
//!
//! A daemon holds a lock on a file in its user's directory ([`Presence`]); when the lock is free
//! everything is on disk. Then its process is waited for, too.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use butterfs_fuse::mount::{MountEntry, Presence, Watch};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const NAME: &str = "butterfs";
/// From the last lock given back to the end of the process.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// The directory for daemons of this user.
pub fn own() -> PathBuf {
    let uid = rustix::process::geteuid();
    let user = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    if uid.is_root() {
        Path::new("/run").join(NAME)
    } else if user.is_dir() {
        user.join(NAME)
    } else {
        PathBuf::from(format!("/tmp/{NAME}-{}", uid.as_raw()))
    }
}

/// All directories in which a daemon may be announced.
fn all() -> Vec<PathBuf> {
    let below = |parent: &str, wanted: fn(&str) -> bool| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_str().is_some_and(wanted)).map(|entry| entry.path()).collect()
    };
    let mut directories = vec![own(), Path::new("/run").join(NAME)];
    directories.extend(below("/run/user", |_| true).into_iter().map(|path| path.join(NAME)));
    directories.extend(below("/tmp", |name| name.starts_with("butterfs-")));
    directories.sort();
    directories.dedup();
    directories
}

/// The daemons behind a mount.
pub struct Daemons {
    watches: Vec<Watch>,
    processes: Vec<Pid>,
}

impl Daemons {
    /// Finds the daemons of a mount. Call it before unmounting.
    pub fn of(mount: &MountEntry) -> Self {
        let mut daemons = Self { watches: Vec::new(), processes: Vec::new() };
        for directory in all() {
            // Directories of other users need not be readable.
            daemons.watches.extend(Presence::find(&directory, mount.device).unwrap_or_default());
            daemons.processes.extend(processes(&directory, mount.device));
        }
        daemons
    }

    /// Waits until all are gone, at most `limit`; gives what one of them failed to do.
    pub fn wait(&self, limit: Duration) -> std::io::Result<Option<String>> {
        let end = Instant::now() + limit;
        for watch in &self.watches {
            watch.wait(end.saturating_duration_since(Instant::now()))?;
        }
        self.processes.iter().for_each(|process| wait_for_exit(*process));
        self.watches.iter().find_map(|watch| watch.word().transpose()).transpose()
    }
}

/// The processes that announced themselves for the mount: the last part of the file's name.
fn processes(directory: &Path, (major, minor): (u32, u32)) -> Vec<Pid> {
    let prefix = format!("mount-{major}-{minor}-");
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let numbers = names.filter_map(|name| name.strip_prefix(&prefix)?.strip_suffix(".lock")?.parse().ok());
    numbers.filter_map(Pid::from_raw).filter(|pid| is_ours(*pid)).collect()
}

/// Whether the number is still that of a daemon, not of another process that got it later.
fn is_ours(pid: Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
    name.is_ok_and(|name| name.trim_end() == NAME)
}

fn wait_for_exit(pid: Pid) {
    let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
    let limit = rustix::event::Timespec { tv_sec: EXIT_LIMIT.as_secs() as i64, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit));
}
