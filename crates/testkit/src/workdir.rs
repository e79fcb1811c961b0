//! A directory for one test's images and mount points, and the clean-up of everything that hangs on it.
//!
//! A directory carries the process id of its owner in its name. One whose owner is gone (killed by a timeout) is swept
//! by the next test.

use crate::command::run_program;
use crate::daemon;
use crate::unmount::unmount;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "bfs.";
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A test's own directory, removed when dropped, with all mounts, loop devices and daemons below it.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    /// Makes a new one, below `BUTTERFS_TEST_DIR` if that is set.
    pub fn new(name: &str) -> Self {
        let base = base();
        std::fs::create_dir_all(&base).expect("the base directory for tests can be made");
        sweep(&base);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{}.{number}.{name}", std::process::id()));
        std::fs::create_dir(&path).expect("a work directory can be made");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it; nothing is made.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// An empty directory in it, made if need be.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).expect("a directory can be made");
        path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("BUTTERFS_TEST_KEEP").is_some() {
            eprintln!("kept for inspection: {}", self.path.display());
            release(&self.path);
            return;
        }
        clean(&self.path);
    }
}

/// `BUTTERFS_TEST_DIR`; else memory, when there is plenty (a commit there costs no disk); else `/var/tmp`.
fn base() -> PathBuf {
    if let Some(path) = std::env::var_os("BUTTERFS_TEST_DIR") {
        return path.into();
    }
    let memory = Path::new("/dev/shm");
    match rustix::fs::statvfs(memory) {
        Ok(stat) if stat.f_bavail * stat.f_frsize >= 8 << 30 => memory.into(),
        _ => "/var/tmp".into(),
    }
}

fn sweep(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|rest| rest.split('.').next());
        if let Some(owner) = owner
            && !Path::new("/proc").join(owner).exists()
        {
            clean(&entry.path());
        }
    }
}

fn clean(path: &Path) {
    release(path);
    // A daemon's log may lie beside the directory.
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("cannot remove {}: {error}", path.display());
    }
}

/// Ends daemons, mounts and loop devices below `path`; what is still mounted now is unmounted the hard way.
fn release(path: &Path) {
    for pid in daemon::find_below(path) {
        daemon::kill(pid);
    }
    for mount in mounts_below(path).iter().rev() {
        if !unmount(mount).status.success() {
            run_program("umount", &["-l".as_ref(), mount.as_os_str()]);
        }
    }
    for device in loops_below(path) {
        run_program("losetup", &["-d", &device]);
    }
}

/// The mount points at or below `path`, in the order in which they were mounted.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(point.replace("\\040", " "))).filter(|point| point.starts_with(path)).collect()
}

/// The loop devices whose backing file is at or below `path`.
pub fn loops_below(path: &Path) -> Vec<String> {
    let listing = run_program("losetup", &["-l", "-n", "-O", "NAME,BACK-FILE"]).stdout;
    let fields = listing.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    fields
        .filter(|(_, file)| Path::new(file.trim().trim_end_matches(" (deleted)")).starts_with(path))
        .map(|(name, _)| name.to_owned())
        .collect()
}
