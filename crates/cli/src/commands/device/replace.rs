//! `butterfs device replace`: a device is replaced by another, on a mount or with images. Options, words and exit statuses are
//! those of `btrfs replace`. One that was interrupted goes on with the next mount; with images, by the same command again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions, ReplaceEnd, ReplaceStatus, Replacement};
use butterfs_format::items::{DevReplaceItem, ReadSource, ReplaceState};
use butterfs_fuse::control::{self, WorkEnd};
use butterfs_volume::{BlockDevice, FileDevice, scan};
use rustix::io::Errno;

use super::add::{Discard, Overwrite, clear, look};
use super::held::Held;
use super::remove::{shown, which};
use crate::commands::work_target::{
    Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours, open_image, open_image_with, run_in_process,
};
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;
use crate::wall_clock::WALL_CLOCK;
use crate::{exit, output};

/// What is done about a replacement.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Replace a device: what it holds is copied to another, which takes its number.
    ///
    /// A device that is missing is named by its number; what it held comes from the others. After a crash, a power cut or the
    /// end of the mount it goes on where it was: by itself with the next mount, with images by the same command.
    Start(Start),
    /// Show how far a replacement is, or how the last one ended.
    Status(Status),
    /// End a replacement, also one that was interrupted: the device stays what it was, and the target holds no filesystem.
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
    /// Read from the source only what no other device has. (What the source has bad comes from the others in any case.)
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
    #[command(flatten)]
    image: ImageDevices,
    /// The mount point, or an image of the filesystem.
    path: PathBuf,
}

/// What `cancel` is told.
#[derive(Debug, clap::Args)]
pub struct Cancel {
    #[command(flatten)]
    image: ImageDevices,
    /// The mount point, or an image of the filesystem.
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
    let filesystem = open(start)?;
    filesystem.require_elsewhere(target)?;
    if let WorkTarget::Mount(file) = &filesystem {
        check_exclusive(ask(file), path, "device replace", Busy::of(start.enqueue))?;
    }
    match filesystem {
        WorkTarget::Image(fs) if fs.replace_status().is_under_way() => go_on(&fs, start, &source, &interrupt),
        WorkTarget::Image(fs) => {
            let opened = look(target, Overwrite::of(start.force))?;
            in_process(&fs, start, &source, opened, &interrupt)
        }
        WorkTarget::Mount(file) => {
            let opened = look(target, Overwrite::of(start.force))?;
            require_size(&file, start, &source, opened.len())?;
            let io = |error| failure::io(exit::USAGE, target, &error);
            let whole = target.canonicalize().map_err(io)?;
            // The daemon opens it.
            drop(opened);
            let accept = |asked: std::io::Result<Option<String>>| match asked.map_err(|error| refused(path, &error))? {
                Some(text) => Err(Failure::at(exit::USAGE, target, format!("error replacing device: {text}"))),
                None => Ok(()),
            };
            // What is refused is refused before anything is written.
            accept(control::check_replacement(ask(&file), &source, &whole))?;
            clear(target, &look(target, Overwrite::Accept)?, Discard::of(start.nodiscard))?;
            let held = Held::of(path, &[&source]);
            accept(control::replace_device(ask(&file), start.read_source(), &source, &whole))?;
            held.inspect(|held| held.tell("device replace start"));
            if start.wait { follow(&file, path, &interrupt) } else { Ok(ExitCode::SUCCESS) }
        }
    }
}

/// Why a replacement is not begun.
fn refused(path: &Path, error: &std::io::Error) -> Failure {
    match Errno::from_io_error(error) {
        Some(Errno::ROFS) if output::is_stock_tool() => {
            let path = path.display();
            Failure::new(exit::USAGE, format!("ioctl(DEV_REPLACE_START) failed on \"{path}\": Read-only file system"))
        }
        _ => not_ours(path, error),
    }
}

impl Start {
    fn read_source(&self) -> ReadSource {
        if self.read_others { ReadSource::Avoid } else { ReadSource::Always }
    }
}

/// Opens the filesystem, with a target that was being filled before.
fn open(start: &Start) -> Result<WorkTarget> {
    if start.path.is_dir() {
        return WorkTarget::open(&start.path, &start.image);
    }
    let [target, own] = [&start.target, &start.path].map(|path| scan([path.clone()]).pop());
    let goes_on = target
        .zip(own)
        .is_some_and(|(target, own)| target.id.devid.0 == DevReplaceItem::TARGET && target.fsid == own.fsid);
    let more: &[PathBuf] = if goes_on { std::slice::from_ref(&start.target) } else { &[] };
    let fs = open_image_with(&start.path, &start.image, more, OpenOptions::default())?;
    Ok(WorkTarget::Image(Arc::new(fs)))
}

/// Goes on with a replacement that was interrupted, if it is the same.
fn go_on(fs: &Filesystem, start: &Start, source: &str, interrupt: &Interrupt) -> Result<ExitCode> {
    let volume = fs.shared().gate.volume();
    let same_source = fs.find_device(&which(fs, source), &[]).ok() == fs.replace_status().source;
    let is_target = |name: String| {
        start.target.canonicalize().is_ok_and(|target| Path::new(&name).canonicalize().is_ok_and(|own| own == target))
    };
    let Some(target) = volume.target_name() else {
        let text = "device replace is suspended, and its target is missing; name it with --device, or cancel that";
        return Err(Failure::at(exit::USAGE, &start.path, text));
    };
    if !same_source || !is_target(target.clone()) {
        let text = format!("device replace is suspended, with the target {target}; go on with that, or cancel it");
        return Err(Failure::at(exit::USAGE, &start.path, text));
    }
    let failed = |error: butterfs_engine::Error| failure::engine(exit::USAGE, &start.target, &error);
    let begun = fs.begin_resumed_replacement().map_err(failed)?;
    output::line(format!(
        "Going on at {}.{}%",
        fs.replace_status().thousandths / 10,
        fs.replace_status().thousandths % 10
    ));
    run_to_the_end(fs, start, begun, interrupt)
}

/// As btrfs-progs, before anything is written to the target. The daemon looks again.
fn require_size(file: &File, start: &Start, source: &str, there: u64) -> Result<()> {
    let failed = |error: std::io::Error| not_ours(&start.path, &error);
    let info = control::filesystem_info(ask(file)).map_err(failed)?;
    for device in control::devices_of(ask(file), &info).map_err(failed)? {
        let is_source = source.parse() == Ok(device.devid) || device.path.is_some_and(|path| path == Path::new(source));
        let needed = device.total;
        if is_source && needed > there {
            let text =
                format!("target device smaller than source device: it has {there} bytes, at least {needed} are needed");
            return Err(Failure::at(exit::USAGE, &start.target, text));
        }
    }
    Ok(())
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
    let begun = fs.begin_replacement(devid, &target, start.read_source()).map_err(failed)?;
    run_to_the_end(fs, start, begun, interrupt)
}

fn run_to_the_end(fs: &Filesystem, start: &Start, begun: Replacement, interrupt: &Interrupt) -> Result<ExitCode> {
    let failed = |error: butterfs_engine::Error| failure::engine(exit::USAGE, &start.target, &error);
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
        ReplaceEnd::Cancelled | ReplaceEnd::Suspended => {
            Err(Failure::new(exit::INTERRUPTED, "cancelled; nothing was replaced"))
        }
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
        WorkEnd::Paused => Err(Failure::new(exit::USAGE, "suspended; it goes on with the next mount")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn status(status: &Status) -> Result<ExitCode> {
    const AGAIN: Duration = Duration::from_secs(1);
    if !status.path.is_dir() {
        let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
        let fs = open_image(&status.path, &status.image, options)?;
        output::line(shown_status(&fields(&fs.replace_status()), None));
        return Ok(ExitCode::SUCCESS);
    }
    let file = mount_of(&status.path)?;
    loop {
        let told = control::replace_status(ask(&file)).map_err(|error| not_ours(&status.path, &error))?;
        // A daemon of another version may not tell.
        let failure = control::replace_failure(ask(&file)).unwrap_or_default();
        output::line(shown_status(&told, failure.as_deref()));
        if status.once || told[0] != ReplaceState::Started.number() {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(AGAIN);
    }
}

/// As the kernel gives them.
fn fields(status: &ReplaceStatus) -> [u64; 6] {
    let (state, thousandths) = (status.state.number(), status.thousandths);
    [state, thousandths, status.started, status.stopped, status.write_errors, status.read_errors]
}

/// One that failed is told as that, and not as cancelled.
fn shown_status([state, thousandths, started, stopped, writes, reads]: &[u64; 6], failure: Option<&str>) -> String {
    let errors = format!("{writes} write errs, {reads} uncorr. read errs");
    let done = format!("{}.{}%", thousandths / 10, thousandths % 10);
    let is_cut = *stopped == 0;
    let (started, stopped) = (short_time(*started), short_time(*stopped));
    match (state, failure) {
        (0, _) => "Never started".into(),
        (1, _) => format!("{done} done, {errors}"),
        (2, _) => format!("Started on {started}, finished on {stopped}, {errors}"),
        (3, Some(why)) => format!("Started on {started}, failed on {stopped}, {errors}: {why}"),
        (3, None) => format!("Started on {started}, canceled on {stopped} at {done}, {errors}"),
        // Cut, and nobody knows when.
        _ if is_cut => format!("Started on {started}, suspended at {done}, {errors}"),
        _ => format!("Started on {started}, suspended on {stopped} at {done}, {errors}"),
    }
}

/// Day, month and time, as btrfs-progs prints them.
fn short_time(seconds: u64) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let clock = (WALL_CLOCK.0)(i64::try_from(seconds).unwrap_or(i64::MAX));
    let [hour, minute, second] = clock.clock;
    let month = MONTHS[usize::from(clock.month.clamp(1, 12)) - 1];
    format!("{:2}.{month} {hour:02}:{minute:02}:{second:02}", clock.day)
}

fn cancel(cancel: &Cancel) -> Result<ExitCode> {
    let not_started = || Failure::at(2, &cancel.path, "ioctl(DEV_REPLACE_CANCEL): not started");
    if !cancel.path.is_dir() {
        let fs = open_image(&cancel.path, &cancel.image, OpenOptions::default())?;
        return match fs.cancel_replacement() {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(butterfs_engine::Error::NotRunning) => Err(not_started()),
            Err(error) => Err(failure::engine(exit::USAGE, &cancel.path, &error)),
        };
    }
    let file = mount_of(&cancel.path)?;
    match control::cancel_replace(ask(&file)).map_err(|error| not_ours(&cancel.path, &error))? {
        None => Ok(ExitCode::SUCCESS),
        Some(_) => Err(not_started()),
    }
}

fn mount_of(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| failure::io(exit::USAGE, path, &error))
}
