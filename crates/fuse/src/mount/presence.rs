//! Knowing when the daemon behind a mount is gone.
//!
//! On plain `fuse`, umount(2) returns before the daemon has written anything. The daemon
//! therefore holds a lock on a file named by its mount's device number; who unmounts opens the
//! file first, unmounts, and waits for the lock. A daemon that dies frees the lock.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the lock is tried.
const INTERVAL: Duration = Duration::from_millis(10);

/// A daemon's sign of life. Gone when dropped, or with the process.
#[derive(Debug)]
pub struct Presence {
    path: PathBuf,
    lock: File,
}

impl Presence {
    /// Announces the daemon of the mount with that device number in `directory` (such as
    /// `/run/butterfs`), which is made if it is missing.
    pub fn announce(directory: &Path, device: (u32, u32)) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        sweep(directory);
        let path = directory.join(format!("{}{}.lock", prefix(device), std::process::id()));
        let lock = File::create(&path)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, lock })
    }

    /// Leaves word for who waits: not everything is on disk.
    pub fn leave_word(&self, failure: &str) -> io::Result<()> {
        (&self.lock).write_all(failure.as_bytes())
    }

    /// Finds the daemons of that mount, to wait for them later. Call it before unmounting.
    pub fn find(directory: &Path, device: (u32, u32)) -> io::Result<Vec<Watch>> {
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let prefix = prefix(device);
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(Watch { lock: File::open(entry.path())? });
            }
        }
        Ok(found)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits for a daemon.
#[derive(Debug)]
pub struct Watch {
    lock: File,
}

impl Watch {
    /// What the daemon that is gone left word of: a failure.
    pub fn word(&self) -> io::Result<Option<String>> {
        let mut word = String::new();
        (&self.lock).read_to_string(&mut word)?;
        Ok(Some(word).filter(|word| !word.is_empty()))
    }

    /// Waits until the daemon is gone, at most `limit`; an error of kind `TimedOut` if it is not.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            match flock(&self.lock, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

/// Takes away the files of daemons that were killed.
fn sweep(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_lock = name.to_str().is_some_and(|name| name.starts_with("mount-") && name.ends_with(".lock"));
        // Between a daemon's file and its lock there is a moment: a young file is left alone.
        let is_old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > Duration::from_secs(60)));
        if is_lock
            && is_old
            && let Ok(lock) = File::open(entry.path())
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // Another sweep may have been faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What the names of a mount's lock files begin with.
fn prefix((major, minor): (u32, u32)) -> String {
    format!("mount-{major}-{minor}-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_daemons_left_goes() {
        let directory = tempfile::tempdir().unwrap();
        let old = |name: &str| {
            let path = directory.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(600)).unwrap();
            (path, file)
        };
        let (dead, _) = old("mount-7-1-111.lock");
        let (alive, lock) = old("mount-7-1-222.lock");
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let (other, _) = old("something else");
        let _presence = Presence::announce(directory.path(), (7, 2)).unwrap();
        assert!(!dead.exists() && alive.exists() && other.exists());
    }

    #[test]
    fn a_watch_waits_for_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let presence = Presence::announce(directory.path(), (0, 40)).unwrap();
        assert!(Presence::find(directory.path(), (0, 4)).unwrap().is_empty());
        let watches = Presence::find(directory.path(), (0, 40)).unwrap();
        let short = Duration::from_millis(30);
        assert_eq!(watches[0].wait(short).unwrap_err().kind(), io::ErrorKind::TimedOut);
        presence.leave_word("lost").unwrap();
        drop(presence);
        watches[0].wait(short).unwrap();
        assert_eq!(watches[0].word().unwrap().as_deref(), Some("lost"));
        assert!(Presence::find(directory.path(), (0, 40)).unwrap().is_empty());
    }
}
