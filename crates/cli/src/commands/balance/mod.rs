//! `butterfs balance`: block groups are written anew, on a mount or in an image. Options, words and exit statuses are
//! those of btrfs-progs.

mod filters;
mod print;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use butterfs_engine::Error;
use butterfs_engine::filesystem::{BalanceEnd, BalanceProgress, Filesystem};
use butterfs_format::items::{BalanceArgs, BalanceFlags, BalanceItem};
use butterfs_fuse::control::{self, MountBalance, WorkEnd};
use butterfs_volume::Profile;
use rustix::io::Errno;

use super::space;
use super::work_target::{
    BALANCE_WAITS, Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours, run_in_process,
};
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;
use crate::{exit, output};

/// Seconds that a user has to think again.
const DELAY: u64 = 10;

/// What to do about a balance.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Write block groups anew that pass all filters.
    Start(Box<Start>),
    /// Have a running balance pause.
    Pause(Target),
    /// End a running or paused balance.
    Cancel(Target),
    /// Go on with a paused balance.
    Resume(Target),
    /// Show a running or paused balance.
    Status(Status),
}

/// A mount or an image.
#[derive(Debug, clap::Args)]
pub struct Target {
    #[command(flatten)]
    image: ImageDevices,
    /// Print only errors.
    #[arg(short, long)]
    quiet: bool,
    /// The mount point, or an image or device.
    path: PathBuf,
}

/// What `status` is told.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print the filters.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    target: Target,
}

/// What `start` is told.
#[derive(Debug, clap::Args)]
pub struct Start {
    /// Act on data, with filters: profiles=, usage=, devid=, drange=, vrange=, convert=, soft, limit=, stripes=.
    #[arg(short = 'd', long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = filters::parse, value_name = "FILTERS")]
    data: Option<BalanceArgs>,
    /// Act on metadata, and with -f or -s on the chunk tree, with filters.
    #[arg(short = 'm', long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = filters::parse, value_name = "FILTERS")]
    metadata: Option<BalanceArgs>,
    /// Act on the chunk tree, with filters (only with -f).
    #[arg(short = 's', long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_parser = filters::parse, value_name = "FILTERS")]
    system: Option<BalanceArgs>,
    /// Allow metadata to be less redundant afterwards.
    #[arg(short, long)]
    force: bool,
    /// Do not warn of a full balance, and do not wait.
    #[arg(long)]
    full_balance: bool,
    /// Return at once; the mount goes on by itself.
    #[arg(long, visible_alias = "bg")]
    background: bool,
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    /// Print what is done.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    target: Target,
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "balance start",
            Self::Pause(_) => "balance pause",
            Self::Cancel(_) => "balance cancel",
            Self::Resume(_) => "balance resume",
            Self::Status(_) => "balance status",
        }
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Start(start) => begin(start),
        Command::Pause(target) => pause(target),
        Command::Cancel(target) => cancel(target),
        Command::Resume(target) => resume(target),
        Command::Status(status) => show(status),
    }
}

fn begin(start: &Start) -> Result<ExitCode> {
    let path = start.target.path.as_path();
    let item = item(start).map_err(|text| Failure::at(exit::USAGE, path, text))?;
    let is_full = start.data.is_none() && start.metadata.is_none() && start.system.is_none();
    if is_full && !start.full_balance {
        warn();
    }
    if start.verbose {
        print::filters(&item, 0);
    }
    let interrupt = listen(path)?;
    match WorkTarget::open(path, &start.target.image)? {
        WorkTarget::Mount(file) => {
            check_exclusive(ask(&file), path, "balance", Busy::of(start.enqueue))?;
            let devices = || control::filesystem_info(ask(&file)).ok().map(|info| info.devices as usize);
            control::begin_balance(ask(&file), Some(&item)).map_err(|error| refused(path, &error, &item, devices()))?;
            if start.background { Ok(ExitCode::SUCCESS) } else { follow(&file, &start.target, &interrupt) }
        }
        WorkTarget::Image(fs) => {
            if fs.balance_status().is_some() {
                return Err(Failure::at(exit::USAGE, path, format!("a balance was interrupted; {BALANCE_WAITS}")));
            }
            in_process(&fs, &start.target, &interrupt, || fs.balance(&item))
        }
    }
}

fn listen(path: &Path) -> Result<Interrupt> {
    Interrupt::listen().map_err(|error| failure::io(exit::SYSTEM, path, &error))
}

/// As btrfs-progs: what is done to metadata is done to the chunk tree, which goes alone only by force.
fn item(start: &Start) -> std::result::Result<BalanceItem, String> {
    let mut item = BalanceItem::default();
    let mut flags = BalanceFlags::empty();
    if start.force {
        flags |= BalanceFlags::FORCE;
    }
    if start.system.is_some() && !start.force {
        return Err(
            "Refusing to explicitly operate on system chunks.\nPass --force if you really want to do that.".into()
        );
    }
    for (args, place, flag) in [
        (&start.data, &mut item.data, BalanceFlags::DATA),
        (&start.metadata, &mut item.metadata, BalanceFlags::METADATA),
        (&start.system, &mut item.system, BalanceFlags::SYSTEM),
    ] {
        if let Some(args) = args {
            *place = *args;
            flags |= flag;
        }
    }
    if start.metadata.is_some() && start.system.is_none() {
        item.system = item.metadata;
        flags |= BalanceFlags::SYSTEM;
    }
    if start.data.is_none() && start.metadata.is_none() && start.system.is_none() {
        flags |= BalanceFlags::DATA | BalanceFlags::METADATA | BalanceFlags::SYSTEM;
    }
    item.flags = flags.bits().into();
    Ok(item)
}

fn warn() {
    output::line("WARNING:\n");
    output::line("\tFull balance without filters requested. This operation is very");
    output::line("\tintense and takes potentially very long. It is recommended to");
    output::line("\tuse the balance filters to narrow down the scope of balance.");
    output::line("\tUse 'btrfs balance start --full-balance' option to skip this");
    output::line(format!("\twarning. The operation will start in {DELAY} seconds."));
    output::line("\tUse Ctrl-C to stop it.");
    for left in (1..=DELAY).rev() {
        let mut out = std::io::stdout();
        let _ = write!(out, "{left:2}").and_then(|()| out.flush());
        std::thread::sleep(Duration::from_secs(1));
    }
    output::line("\nStarting balance without any filters.");
}

/// Waits for a balance of a mount. Ctrl-C pauses it.
fn follow(file: &std::fs::File, target: &Target, interrupt: &Interrupt) -> Result<ExitCode> {
    let path = target.path.as_path();
    let flag = interrupt.flag();
    let mut line = ProgressLine::new(target.quiet);
    let end = control::wait_for_end(ask(file), || {
        if flag.load(std::sync::atomic::Ordering::Relaxed) {
            // It may have ended by itself.
            let _ = control::pause_balance(ask(file));
        }
        if let Ok(Some(balance)) = control::balance_status(ask(file)) {
            line.show(balance.completed, balance.expected, balance.considered);
        }
    });
    line.clear();
    match end.map_err(|error| not_ours(path, &error))? {
        WorkEnd::Paused => Ok(by_user("paused")),
        WorkEnd::Cancelled => Ok(by_user("canceled")),
        WorkEnd::Failed(_, text) => Err(failed(path, &text)),
        WorkEnd::Done(completed, considered) => {
            done(completed, considered, target.quiet);
            Ok(ExitCode::SUCCESS)
        }
        WorkEnd::Unknown => Ok(ExitCode::SUCCESS),
    }
}

fn in_process(
    fs: &Filesystem,
    target: &Target,
    interrupt: &Interrupt,
    work: impl FnOnce() -> butterfs_engine::Result<(BalanceEnd, BalanceProgress)> + Send,
) -> Result<ExitCode> {
    let mut line = ProgressLine::new(target.quiet);
    let show = || {
        if let Some(status) = fs.balance_status() {
            let BalanceProgress { expected, considered, completed } = status.progress;
            line.show(completed, expected, considered);
        }
    };
    let ended = run_in_process(interrupt, work, || fs.ask_balance_to_pause(), show);
    line.clear();
    match ended {
        Ok((BalanceEnd::Done, progress)) => {
            done(progress.completed, progress.considered, target.quiet);
            Ok(ExitCode::SUCCESS)
        }
        Ok((BalanceEnd::Paused, _)) => Ok(by_user("paused")),
        Ok((BalanceEnd::Cancelled, _)) => Ok(by_user("canceled")),
        Err(error) => Err(failed(&target.path, &error.to_string())),
    }
}

fn done(completed: u64, considered: u64, quiet: bool) {
    if !quiet {
        output::line(format!("Done, had to relocate {completed} out of {considered} chunks"));
    }
}

fn by_user(what: &str) -> ExitCode {
    eprintln!("balance {what} by user");
    ExitCode::SUCCESS
}

fn failed(path: &Path, text: &str) -> Failure {
    Failure::new(exit::USAGE, format!("error during balancing '{}': {text}", path.display()))
}

/// Why a mount with so many devices refuses a balance; it tells no more than a number.
fn refused(path: &Path, error: &std::io::Error, item: &BalanceItem, devices: Option<usize>) -> Failure {
    match Errno::from_io_error(error) {
        Some(Errno::NOTTY | Errno::ROFS) => not_ours(path, error),
        Some(Errno::INVAL) => match too_few_devices(item, devices) {
            Some(why) => failed(path, &why.to_string()),
            None => failed(path, "refused; metadata would be less redundant: use --force if that is wanted"),
        },
        _ => failed(path, &error.to_string()),
    }
}

/// The first profile to convert to that needs more devices.
fn too_few_devices(item: &BalanceItem, devices: Option<usize>) -> Option<Error> {
    let left = devices?;
    let targets = [&item.data, &item.metadata, &item.system].into_iter().filter_map(BalanceArgs::target_profile);
    let profile = targets.filter_map(Profile::of).find(|profile| profile.min_devices > left)?;
    Some(Error::TooFewDevices { profile: profile.flags.profile_name(), needed: profile.min_devices, left })
}

/// One line on a terminal, written over.
struct ProgressLine {
    on: bool,
    shown: bool,
}

impl ProgressLine {
    fn new(quiet: bool) -> Self {
        Self { on: !quiet && std::io::stderr().is_terminal(), shown: false }
    }

    fn show(&mut self, completed: u64, expected: u64, considered: u64) {
        if self.on {
            eprint!("\r{completed} out of about {expected} chunks balanced ({considered} considered)\x1b[K");
            self.shown = true;
        }
    }

    fn clear(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// What pause and cancel print if there is nothing to pause or cancel, and the exit status of that.
fn not_there(path: &Path, what: &str, why: &str) -> Result<ExitCode> {
    const NOT_THERE: u8 = 2;
    Err(Failure::new(NOT_THERE, format!("balance {what} on '{}' failed: {why}", path.display())))
}

fn pause(target: &Target) -> Result<ExitCode> {
    let path = target.path.as_path();
    let opened = WorkTarget::open(path, &target.image)?;
    let paused = match &opened {
        WorkTarget::Mount(file) => control::pause_balance(ask(file)),
        // Nobody else has it open, so none runs.
        WorkTarget::Image(_) => Err(Errno::NOTCONN.into()),
    };
    space::warn_of_several_in(&opened);
    match paused {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => not_there(path, "pause", "Not running"),
        Err(error) => Err(not_ours(path, &error)),
    }
}

fn cancel(target: &Target) -> Result<ExitCode> {
    let path = target.path.as_path();
    let opened = WorkTarget::open(path, &target.image)?;
    let cancelled = match &opened {
        WorkTarget::Mount(file) => control::cancel_balance(ask(file)),
        WorkTarget::Image(fs) => match fs.cancel_balance() {
            Err(Error::NotRunning) => Err(Errno::NOTCONN.into()),
            result => Ok(result.map_err(|error| failure::engine(exit::USAGE, path, &error))?),
        },
    };
    space::warn_of_several_in(&opened);
    match cancelled {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => {
            not_there(path, "cancel", "Not in progress")
        }
        Err(error) => Err(not_ours(path, &error)),
    }
}

fn resume(target: &Target) -> Result<ExitCode> {
    let path = target.path.as_path();
    let interrupt = listen(path)?;
    match WorkTarget::open(path, &target.image)? {
        WorkTarget::Mount(file) => match control::begin_balance(ask(&file), None) {
            Ok(()) => follow(&file, target, &interrupt),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOTCONN) => not_there(path, "resume", "Not in progress"),
                Some(Errno::INPROGRESS) => Err(Failure::new(
                    exit::USAGE,
                    format!("balance resume on '{}' failed: Already running", path.display()),
                )),
                _ => Err(not_ours(path, &error)),
            },
        },
        WorkTarget::Image(fs) if fs.balance_status().is_none() => not_there(path, "resume", "Not in progress"),
        WorkTarget::Image(fs) => in_process(&fs, target, &interrupt, || fs.resume_balance()),
    }
}

fn show(status: &Status) -> Result<ExitCode> {
    /// There is a balance.
    const THERE: u8 = 1;
    let path = status.target.path.as_path();
    let found = match WorkTarget::open(path, &status.target.image)? {
        WorkTarget::Mount(file) => control::balance_status(ask(&file)).map_err(|error| not_ours(path, &error))?,
        WorkTarget::Image(fs) => fs.balance_status().map(|found| MountBalance {
            item: found.item,
            running: found.running,
            pausing: false,
            cancelling: false,
            expected: found.progress.expected,
            considered: found.progress.considered,
            completed: found.progress.completed,
        }),
    };
    let Some(found) = found else {
        output::line(format!("No balance found on '{}'", path.display()));
        return Ok(ExitCode::SUCCESS);
    };
    let state = match (found.running, found.cancelling, found.pausing) {
        (false, ..) => "is paused",
        (true, true, _) => "is running, cancel requested",
        (true, _, true) => "is running, pause requested",
        _ => "is running",
    };
    output::line(format!("Balance on '{}' {state}", path.display()));
    let (completed, expected) = (found.completed, found.expected);
    let left = 100.0 * (1.0 - completed as f64 / expected as f64);
    let left = if expected == 0 { "-nan".into() } else { format!("{left:3.0}") };
    output::line(format!(
        "{completed} out of about {expected} chunks balanced ({} considered), {left}% left",
        found.considered
    ));
    if status.verbose {
        print::filters(&found.item, print::state_of(&found));
    }
    Ok(ExitCode::from(THERE))
}
