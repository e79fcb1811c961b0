//! What a command for a whole filesystem works on: a mount, or an image that is opened for it.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_format::items::ReplaceState;
use butterfs_fuse::control;
use butterfs_os::block::filesystems_under;
use butterfs_volume::{Missing, OpenMode};

use crate::commands::mount::protected::is_seed;
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;
use crate::{devices, exit};

/// What to do about a balance that does not go on by itself.
pub const BALANCE_WAITS: &str = "go on with it by balance resume, or end it by balance cancel";

/// How soon an operation that waits for another looks again.
const AGAIN: Duration = Duration::from_millis(500);

/// Which devices an image's filesystem has besides it.
#[derive(Clone, Debug, clap::Args)]
pub struct ImageDevices {
    /// Of an image: another device of its filesystem, or a directory to look for its devices in; may be given more than
    /// once. Without it they are looked for beside the image.
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,
}

/// A filesystem to work on.
pub enum WorkTarget {
    /// A mount, by its directory.
    Mount(File),
    /// One that nobody else has open.
    Image(Arc<Filesystem>),
}

impl WorkTarget {
    /// A directory is a mount, anything else an image or a device.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path, image: &ImageDevices) -> Result<Self> {
        if path.is_dir() {
            let file = File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))?;
            return Ok(Self::Mount(file));
        }
        Ok(Self::Image(Arc::new(open_image(path, image, OpenOptions::default())?)))
    }

    /// A device that comes to a mount must not lie on it, not by a loop device either: the mount would wait for itself.
    ///
    /// # Errors
    /// If it does; if it cannot be looked at.
    pub fn require_elsewhere(&self, device: &Path) -> Result<()> {
        let Self::Mount(mount) = self else { return Ok(()) };
        let io = |error| failure::io(exit::USAGE, device, &error);
        if filesystems_under(device).map_err(io)?.contains(&mount.metadata().map_err(io)?.dev()) {
            return Err(Failure::at(exit::USAGE, device, "lies on the mount itself; take a device that is elsewhere"));
        }
        Ok(())
    }

    /// The same for who adds a device: a seed is read only, and what grows from it is written.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open_to_add(path: &Path, image: &ImageDevices) -> Result<Self> {
        if path.is_dir() || !is_seed(path) {
            return Self::open(path, image);
        }
        let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
        Ok(Self::Image(Arc::new(open_image(path, image, options)?)))
    }
}

/// Opens the filesystem of an image, for nobody else, with the devices that there are.
///
/// # Errors
/// If it cannot be opened.
pub fn open_image(path: &Path, image: &ImageDevices, options: OpenOptions) -> Result<Filesystem> {
    open_image_with(path, image, &[], options)
}

/// As [`open_image`], with one device more that may be none of the filesystem's, or twice named.
///
/// # Errors
/// If it cannot be opened.
pub fn open_image_with(
    path: &Path,
    image: &ImageDevices,
    more: &[PathBuf],
    options: OpenOptions,
) -> Result<Filesystem> {
    let mut named = vec![path.to_path_buf()];
    match (image.devices.is_empty(), path.canonicalize().ok().as_deref().and_then(Path::parent)) {
        (true, Some(directory)) if path.is_file() => named.push(directory.to_path_buf()),
        _ => named.extend(image.devices.iter().cloned()),
    }
    named.extend(more.iter().cloned());
    let mode = if options.access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
    let volume = devices::open_volume(exit::USAGE, &named, &how)?;
    let opened = Filesystem::open(volume, options, Box::new(SystemEnvironment));
    opened.map_err(|error| failure::engine(exit::USAGE, path, &error))
}

/// Whether an operation waits for another one that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// It waits (`--enqueue`).
    Wait,
    /// It fails.
    Fail,
}

impl Busy {
    /// By the option.
    pub fn of(enqueue: bool) -> Self {
        if enqueue { Self::Wait } else { Self::Fail }
    }
}

/// As btrfs-progs do before they begin: nothing else is under way, or it is waited for.
///
/// # Errors
/// If something is under way.
pub fn check_exclusive(file: BorrowedFd<'_>, path: &Path, operation: &str, busy: Busy) -> Result<()> {
    let mut told = false;
    loop {
        let asked = control::exclusive_operation(file);
        let current = asked.map_err(|error| not_ours(path, &error))?;
        let is_in_the_way = |other: &&str| *other != "balance paused" || operation != "device add";
        let Some(other) = current.filter(is_in_the_way) else { return Ok(()) };
        if busy == Busy::Fail || stands_still(file, other) {
            let todo = if other == "balance paused" { format!("; {BALANCE_WAITS}") } else { String::new() };
            let text = format!("unable to start {operation}, another exclusive operation '{other}' in progress{todo}");
            return Err(Failure::at(exit::USAGE, path, text));
        }
        if !told {
            crate::output::line(format!("Waiting for another exclusive operation '{other}' to finish ..."));
            told = true;
        }
        std::thread::sleep(AGAIN);
    }
}

/// Whether an operation is paused or suspended: there is no end to wait for.
fn stands_still(file: BorrowedFd<'_>, other: &str) -> bool {
    let suspended = ReplaceState::Suspended.number();
    let is_suspended = || control::replace_status(file).is_ok_and(|[state, ..]| state == suspended);
    other == "balance paused" || other == "device replace" && is_suspended()
}

/// What is wrong with a directory that is no mount of ours.
pub fn not_ours(path: &Path, error: &std::io::Error) -> Failure {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => {
            Failure::at(exit::USAGE, path, "is on no mount of Butterfs; name its mount point, or an image")
        }
        Some(Errno::ROFS) => Failure::at(exit::USAGE, path, "is mounted read-only; mount it with -o rw"),
        _ => failure::io(exit::USAGE, path, error),
    }
}

/// Runs something in the process, and calls `each` now and then; `stop` is called once with the first Ctrl-C.
pub fn run_in_process<R: Send>(
    interrupt: &Interrupt,
    work: impl FnOnce() -> R + Send,
    stop: impl Fn(),
    mut each: impl FnMut(),
) -> R {
    const TICK: Duration = Duration::from_millis(20);
    const SHOW: Duration = Duration::from_millis(200);
    let flag = interrupt.flag();
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        let (mut stopped, mut shown) = (false, Instant::now());
        while !thread.is_finished() {
            if flag.load(Ordering::Relaxed) && !stopped {
                stop();
                stopped = true;
            }
            if shown.elapsed() >= SHOW {
                each();
                shown = Instant::now();
            }
            std::thread::sleep(TICK);
        }
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A descriptor to ask a mount by.
pub fn ask(file: &File) -> BorrowedFd<'_> {
    file.as_fd()
}
