//! `butterfs device replace`: a device is replaced by another, on a mount or with images. Options, words and exit statuses are
//! those of `btrfs replace`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Filesystem, ReplaceEnd};
use butterfs_fuse::control::{self, WorkEnd};
use butterfs_volume::{BlockDevice, FileDevice};

use super::add::{Discard, Overwrite, clear, look};
use super::remove::{shown, which};
use crate::commands::work_target::{Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours, run_in_process};
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;
use crate::{exit, output};

/// What is done about a replacement.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Replace a device: what it holds is copied to another, which takes its number.
    ///
    /// A device that is missing is named by its number; what it held comes from the others.
    Start(Start),
    /// Show how far a replacement on a mount is, or how the last one ended.
    Status(Status),
    /// End a replacement on a mount: the device stays what it was.
    Cancel(Cancel),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "device replace start",
            Self::Status(_) => "device replace status",
            Self::Cancel(_) => "device replace cancel",
        }
    }
}

/// What `start` is told.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Taken as btrfs-progs takes it: what the source cannot read comes from the others in any case.
    #[arg(short = 'r')]
    read_others: bool,
    /// Overwrite what is on the target.
    #[arg(short, long)]
    force: bool,
    /// Wait for the end. (With images it is always waited for.)
    #[arg(short = 'B')]
    wait: bool,
    /// Do not tell the target that nothing on it is needed.
    #[arg(short = 'K', long)]
    nodiscard: bool,
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    #[command(flatten)]
    image: ImageDevices,
    /// The device that goes: its path or number.
    source: PathBuf,
    /// The device or image file that comes, at least as large.
    target: PathBuf,
    /// The mount point, or an image of the filesystem.
    path: PathBuf,
}

/// What `status` is told.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print once, and not again and again until the end.
    #[arg(short = '1')]
    once: bool,
    /// The mount point.
    path: PathBuf,
}

/// What `cancel` is told.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    /// The mount point.
    path: PathBuf,
}

/// Runs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Start(arguments) => start(arguments),
        Command::Status(arguments) => status(arguments),
        Command::Cancel(arguments) => cancel(arguments),
    }
}

fn start(start: &Start) -> Result<ExitCode> {
    let (path, target) = (&start.path, &start.target);
    let interrupt = Interrupt::listen().map_err(|error| failure::io(exit::SYSTEM, path, &error))?;
    let source = shown(&start.source);
    let same =
        start.source.canonicalize().ok().filter(|source| target.canonicalize().is_ok_and(|other| other == *source));
    if same.is_some() {
        return Err(Failure::at(exit::USAGE, target, "is the device that is to be replaced"));
    }
    let filesystem = WorkTarget::open(path, &start.image)?;
    if let WorkTarget::Mount(file) = &filesystem {
        check_exclusive(ask(file), path, "device replace", Busy::of(start.enqueue))?;
    }
    let opened = look(target, Overwrite::of(start.force))?;
    match filesystem {
        WorkTarget::Image(fs) => in_process(&fs, start, &source, opened, &interrupt),
        WorkTarget::Mount(file) => {
            let io = |error| failure::io(exit::USAGE, target, &error);
            let whole = target.canonicalize().map_err(io)?;
            // The daemon opens it, and looks at its size before anything is written.
            drop(opened);
            let refused =
                control::replace_device(ask(&file), &source, &whole).map_err(|error| not_ours(path, &error))?;
            if let Some(text) = refused {
                return Err(Failure::at(exit::USAGE, target, format!("error replacing device: {text}")));
            }
            if start.wait { follow(&file, path, &interrupt) } else { Ok(ExitCode::SUCCESS) }
        }
    }
}

fn in_process(
    fs: &Filesystem,
    start: &Start,
    source: &str,
    target: FileDevice,
    interrupt: &Interrupt,
) -> Result<ExitCode> {
    let failed = |error: butterfs_engine::Error| failure::engine(exit::USAGE, &start.target, &error);
    let devid = fs.find_device(&which(fs, source), &[]).map_err(failed)?;
    fs.check_replacement(devid, &target).map_err(failed)?;
    clear(&start.target, &target, Discard::of(start.nodiscard))?;
    let target: Arc<dyn BlockDevice> = Arc::new(target);
    let begun = fs.begin_replacement(devid, &target).map_err(failed)?;
    let stop = || {
        // Returns when it has ended, which is what is waited for anyway.
        let _ = fs.exclusive().cancel(Exclusive::DeviceReplace);
    };
    match run_in_process(interrupt, || fs.run_replacement(begun), stop, || {}).map_err(failed)? {
        ReplaceEnd::Done(progress) if progress.unreadable > 0 => {
            let lost = progress.unreadable;
            output::line(format!("{lost} bytes could not be read anywhere; check the filesystem"));
            Ok(ExitCode::SUCCESS)
        }
        ReplaceEnd::Done(_) => Ok(ExitCode::SUCCESS),
        ReplaceEnd::Cancelled => Err(Failure::new(exit::INTERRUPTED, "cancelled; nothing was replaced")),
    }
}

fn follow(file: &File, path: &Path, interrupt: &Interrupt) -> Result<ExitCode> {
    let flag = interrupt.flag();
    let end = control::wait_for_end(ask(file), || {
        if flag.load(Ordering::Relaxed) {
            // It may have ended by itself.
            let _ = control::cancel_replace(ask(file));
        }
    });
    match end.map_err(|error| not_ours(path, &error))? {
        WorkEnd::Failed(_, text) => Err(Failure::at(exit::USAGE, path, format!("error replacing device: {text}"))),
        WorkEnd::Cancelled => Err(Failure::new(exit::USAGE, "cancelled; nothing was replaced")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn status(status: &Status) -> Result<ExitCode> {
    const AGAIN: Duration = Duration::from_secs(1);
    let file = mount_of(&status.path)?;
    loop {
        let told = control::replace_status(ask(&file)).map_err(|error| not_ours(&status.path, &error))?;
        let [state, thousandths, _, _, writes, reads] = told;
        let errors = format!("{writes} write errs, {reads} uncorr. read errs");
        let (percent, tenth) = (thousandths / 10, thousandths % 10);
        output::line(match state {
            0 => "Never started".into(),
            1 => format!("{percent}.{tenth}% done, {errors}"),
            2 => format!("Finished, {errors}"),
            3 => format!("Canceled at {percent}.{tenth}%, {errors}"),
            _ => format!("Suspended at {percent}.{tenth}%, {errors}"),
        });
        if status.once || state != 1 {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(AGAIN);
    }
}

fn cancel(cancel: &Cancel) -> Result<ExitCode> {
    let file = mount_of(&cancel.path)?;
    match control::cancel_replace(ask(&file)).map_err(|error| not_ours(&cancel.path, &error))? {
        None => Ok(ExitCode::SUCCESS),
        Some(_) => Err(Failure::at(2, &cancel.path, "ioctl(DEV_REPLACE_CANCEL): not started")),
    }
}

fn mount_of(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))
}
