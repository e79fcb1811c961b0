//! Scrubs that are started and resumed, and waited for.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use butterfs_engine::filesystem::Access;
use butterfs_engine::scrub::{ScrubEnd, ScrubMode, ScrubMonitor, ScrubOptions, ScrubProgress};
use butterfs_format::DevId;
use butterfs_fuse::control::{self, ScrubRepair, ScrubState, ScrubStatus};
use butterfs_os::signal::{TerminationSignals, Wake};
use rustix::io::Errno;

use super::print::{Speed, State, Style, text, together};
use super::record::{self, Record};
use super::target::{Device, Image, Mount, is_mount, open_image, open_mount};
use super::{NOTHING, Start, UNCORRECTABLE};
use crate::failure::{self, Failure, Result};
use crate::{exit, output, size};

/// How often the record is renewed.
const RECORD_EVERY: Duration = Duration::from_secs(5);
const ECANCELED: i32 = 125;

/// Where a scrub begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the beginning of each device.
    Beginning,
    /// Where the record says that the last one was.
    Record,
}

/// A device that is to be scrubbed, with what was done before.
struct Task {
    device: Device,
    before: Option<Record>,
}

impl Task {
    fn start(&self) -> u64 {
        self.before.map_or(0, |before| before.progress.last_physical)
    }

    /// The record after so much more was done.
    fn record(&self, progress: ScrubProgress, began: Began, stage: Stage) -> Record {
        let cancelled = stage == Stage::Cancelled;
        // As btrfs has it, one that was cancelled counts as finished, too.
        let finished = matches!(stage, Stage::Cancelled | Stage::Finished);
        let took = began.clock.elapsed().as_secs();
        let Some(before) = self.before else {
            let (devid, started) = (self.device.devid, began.at);
            return Record { devid, progress, started, resumed: 0, duration: took, cancelled, finished };
        };
        let mut values = before.progress.values();
        values.iter_mut().zip(progress.values()).for_each(|(sum, more)| *sum += more);
        values[13] = progress.last_physical.max(before.progress.last_physical);
        let progress = ScrubProgress::from_values(values);
        Record { progress, resumed: began.at, duration: before.duration + took, cancelled, finished, ..before }
    }
}

/// How far a device's scrub came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Failed,
    Cancelled,
    Finished,
}

/// When a scrub began.
#[derive(Clone, Copy)]
struct Began {
    at: u64,
    clock: Instant,
}

impl Began {
    fn now() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { at, clock: Instant::now() }
    }
}

/// How a device's scrub ended.
struct Ended {
    record: Record,
    /// An error, other than that it was cancelled.
    error: Option<String>,
    report: Vec<String>,
}

/// `start` and `resume`.
pub fn start(arguments: &Start, from: From) -> Result<ExitCode> {
    let path = arguments.target[0].as_path();
    if !is_mount(path) {
        return on_image(arguments, from);
    }
    let signals = TerminationSignals::block().map_err(|error| Failure::new(exit::USAGE, error))?;
    let mount = open_mount(path)?;
    let tasks = tasks(&mount.fsid, &mount.devices, from, path)?;
    let file = mount.file.as_fd();
    for task in &tasks {
        begin(file, path, task, arguments)?;
    }
    if !arguments.foreground {
        return in_background(arguments, path, &mount, &tasks);
    }
    say_start(arguments, &tasks);
    let outside = mount.file.try_clone().map_err(|error| failure::io(exit::USAGE, path, &error))?;
    on_signal(signals, move || drop(control::cancel_scrubs(outside.as_fd())));
    let ended = wait_for_all(&mount, &tasks, Began::now()).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    finish(arguments, &mount.fsid, &tasks, &ended)
}

/// What is to be done for each device.
fn tasks(fsid: &[u8; 16], devices: &[Device], from: From, path: &Path) -> Result<Vec<Task>> {
    let devices = devices.iter().cloned();
    if from == From::Beginning {
        return Ok(devices.map(|device| Task { device, before: None }).collect());
    }
    let records = record::read(fsid);
    let resumable = |device: Device| {
        let before = records.iter().find(|record| record.devid == device.devid && record.can_be_resumed());
        before.map(|before| Task { device, before: Some(*before) })
    };
    let tasks: Vec<Task> = devices.filter_map(resumable).collect();
    if tasks.is_empty() {
        let fsid = record::text_of(fsid);
        let text = format!("nothing to resume for {}, fsid {fsid}", path.display());
        return Err(Failure::new(NOTHING, text));
    }
    Ok(tasks)
}

fn begin(file: BorrowedFd<'_>, path: &Path, task: &Task, arguments: &Start) -> Result<()> {
    let devid = task.device.devid;
    if let Some(limit) = arguments.limit {
        control::set_scrub_limit(file, devid, limit).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    }
    let repair = if arguments.read_only { ScrubRepair::No } else { ScrubRepair::Yes };
    match control::start_scrub(file, devid, task.start(), repair) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => Err(Failure::at(
            exit::USAGE,
            path,
            "scrub is already running; stop it with scrub cancel, or look at it with scrub status",
        )),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ROFS) => Err(Failure::at(
            exit::USAGE,
            path,
            "is mounted read-only, and a scrub repairs; only look with scrub start -r, or mount it with -o rw",
        )),
        // As the kernel, which goes on with the others.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => {
            output::complain("scrub start", format!("device {devid} ({}) is not there", task.device.path));
            Ok(())
        }
        result => result.map_err(|error| failure::io(exit::USAGE, path, &error)),
    }
}

fn say_start(arguments: &Start, tasks: &[Task]) {
    if arguments.quiet {
        return;
    }
    let note = match arguments.limit {
        Some(limit) if limit > 0 => format!(" (limit {}/s)", size::display(limit)),
        _ => String::new(),
    };
    tasks.iter().for_each(|task| output::line(format!("Starting scrub on devid {}{note}", task.device.devid)));
}

/// The daemon scrubs; a process of ours keeps the record.
fn in_background(arguments: &Start, path: &Path, mount: &Mount, tasks: &[Task]) -> Result<ExitCode> {
    let program = std::env::current_exe().map_err(|error| Failure::new(exit::USAGE, error))?;
    let mut command = std::process::Command::new(program);
    command.args(["scrub", "record"]).arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // So that resuming counts on: the record says what was done before.
    let began = Began::now();
    let records: Vec<Record> =
        tasks.iter().map(|task| task.record(ScrubProgress::default(), began, Stage::Running)).collect();
    keep(&mount.fsid, &records);
    let child = command.spawn().map_err(|error| Failure::new(exit::USAGE, error))?;
    if !arguments.quiet {
        let fsid = record::text_of(&mount.fsid);
        output::line(format!("scrub started on {}, fsid {fsid} (pid={})", path.display(), child.id()));
        say_start(arguments, tasks);
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for the scrubs of a mount that run, and keeps the record.
pub fn record(path: &Path) -> Result<()> {
    let mount = open_mount(path)?;
    let records = record::read(&mount.fsid);
    let task = |device: &Device| {
        let found = records.iter().find(|record| record.devid == device.devid)?;
        let before = (found.resumed > 0).then_some(*found);
        Some(Task { device: device.clone(), before })
    };
    let tasks: Vec<Task> = mount.devices.iter().filter_map(task).collect();
    let ended = wait_for_all(&mount, &tasks, Began::now()).map_err(|error| failure::io(exit::USAGE, path, &error))?;
    keep(&mount.fsid, &ended.iter().map(|ended| ended.record).collect::<Vec<_>>());
    Ok(())
}

fn keep(fsid: &[u8; 16], records: &[Record]) {
    if let Err(error) = record::write(fsid, records) {
        output::complain("scrub", format!("the record cannot be written, resuming is not possible: {error}"));
    }
}

/// Waits for all devices of a mount.
fn wait_for_all(mount: &Mount, tasks: &[Task], began: Began) -> std::io::Result<Vec<Ended>> {
    let file = mount.file.as_fd();
    let mut ended = Vec::new();
    let mut renewed = Instant::now();
    for task in tasks {
        let devid = task.device.devid;
        let status = control::wait_for_scrub(file, devid, |_| {
            if renewed.elapsed() >= RECORD_EVERY {
                renewed = Instant::now();
                keep(&mount.fsid, &running(file, tasks, began));
            }
        })?;
        let cancelled = status.error == ECANCELED;
        let error = (status.error != 0 && !cancelled).then(|| std::io::Error::from_raw_os_error(status.error));
        let error = match status.state {
            ScrubState::None => Some("no such scrub".to_owned()),
            _ => error.map(|error| error.to_string()),
        };
        let stage = if error.is_some() { Stage::Failed } else { stage_of(&status) };
        let record = task.record(ScrubProgress::from_values(status.progress), began, stage);
        ended.push(Ended { record, error, report: control::scrub_report(file, devid)? });
    }
    Ok(ended)
}

fn stage_of(status: &ScrubStatus) -> Stage {
    match (status.state, status.error) {
        (ScrubState::Running, _) => Stage::Running,
        (_, 0) => Stage::Finished,
        (_, ECANCELED) => Stage::Cancelled,
        _ => Stage::Failed,
    }
}

/// The records as they are at this moment.
fn running(file: BorrowedFd<'_>, tasks: &[Task], began: Began) -> Vec<Record> {
    let record = |task: &Task| {
        let status = control::scrub_status(file, task.device.devid).ok()?;
        Some(task.record(ScrubProgress::from_values(status.progress), began, stage_of(&status)))
    };
    tasks.iter().filter_map(record).collect()
}

/// An image is scrubbed here, all its devices at once.
fn on_image(arguments: &Start, from: From) -> Result<ExitCode> {
    let signals = TerminationSignals::block().map_err(|error| Failure::new(exit::USAGE, error))?;
    let path = arguments.target[0].as_path();
    let access = if arguments.read_only { Access::ReadOnly } else { Access::ReadWrite };
    let image = open_image(&arguments.target, access)?;
    let tasks = tasks(&image.fsid, &image.devices, from, path)?;
    for task in &tasks {
        let limit = arguments.limit.unwrap_or(0);
        image
            .filesystem
            .set_scrub_limit(DevId(task.device.devid), limit)
            .map_err(|error| Failure::at(exit::USAGE, path, error))?;
    }
    say_start(arguments, &tasks);
    let outside = Arc::clone(&image.filesystem);
    on_signal(signals, move || {
        outside.cancel_scrubs();
    });
    let ended = scrub_image(&image, &tasks, arguments);
    if !arguments.read_only {
        image.filesystem.sync().map_err(|error| Failure::at(exit::USAGE, path, error))?;
    }
    finish(arguments, &image.fsid, &tasks, &ended)
}

/// A scrub that has begun, or why not.
type Begun = (ScrubOptions, Arc<ScrubMonitor>, butterfs_engine::Result<()>);

fn scrub_image(image: &Image, tasks: &[Task], arguments: &Start) -> Vec<Ended> {
    let mode = if arguments.read_only { ScrubMode::ReadOnly } else { ScrubMode::Repair };
    let began = Began::now();
    let renewed: Mutex<BTreeMap<u64, Record>> = Mutex::default();
    // All begin before the first one reads, so that rows with parity are read once.
    let begin = |task: &Task| {
        let monitor = Arc::new(ScrubMonitor::default());
        let options = ScrubOptions { start: task.start(), ..ScrubOptions::whole(mode) };
        let begun = image.filesystem.begin_scrub(DevId(task.device.devid), &options, &monitor);
        (options, monitor, begun)
    };
    let begun: Vec<_> = tasks.iter().map(begin).collect();
    let one = |task: &Task, (options, monitor, begun): Begun| {
        let devid = DevId(task.device.devid);
        let end = begun.and_then(|()| image.filesystem.run_scrub(devid, &options, &monitor));
        let stage = match end {
            Ok(ScrubEnd::Finished) => Stage::Finished,
            Ok(ScrubEnd::Cancelled) => Stage::Cancelled,
            Err(_) => Stage::Failed,
        };
        let error = end.err().map(|error| error.to_string());
        let record = task.record(monitor.progress(), began, stage);
        let mut records = renewed.lock().unwrap_or_else(PoisonError::into_inner);
        records.insert(record.devid, record);
        keep(&image.fsid, &records.values().copied().collect::<Vec<_>>());
        drop(records);
        let report = image.filesystem.scrub_outcome(devid).map_or(Vec::new(), |outcome| outcome.report);
        Ended { record, error, report }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            tasks.iter().zip(begun).map(|(task, begun)| scope.spawn(move || one(task, begun))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

/// Calls `act` when the process is asked to end, from a thread of its own.
fn on_signal(signals: TerminationSignals, act: impl FnOnce() + Send + 'static) {
    let Ok((never, keep_open)) = std::io::pipe() else { return };
    let wait = move || {
        let _keep_open = keep_open;
        if let Ok(Wake::Signal(_)) = signals.wait(never.as_fd()) {
            act();
        }
    };
    // Without it the scrub runs to its end.
    drop(std::thread::Builder::new().name("signals".into()).spawn(wait));
}

/// Keeps the record, prints what was found; gives the exit status.
fn finish(arguments: &Start, fsid: &[u8; 16], tasks: &[Task], ended: &[Ended]) -> Result<ExitCode> {
    let records: Vec<Record> = ended.iter().map(|ended| ended.record).collect();
    keep(fsid, &records);
    if !arguments.quiet {
        print(arguments, fsid, tasks, ended);
    }
    let sum = together(&records).progress;
    if let Some(error) = ended.iter().find_map(|ended| ended.error.as_ref()) {
        return Err(Failure::new(exit::USAGE, error));
    }
    let command = "scrub start";
    if sum.uncorrectable_errors > 0 {
        if !arguments.quiet {
            output::complain(command, format!("there are {} uncorrectable errors", sum.uncorrectable_errors));
        }
        return Ok(ExitCode::from(UNCORRECTABLE));
    }
    if sum.corrected_errors > 0 && !arguments.quiet {
        let what = if arguments.read_only { "could be corrected" } else { "corrected" };
        output::complain(command, format!("errors detected during scrubbing, {} {what}", sum.corrected_errors));
    }
    Ok(if records.iter().any(|record| record.cancelled) { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS })
}

fn print(arguments: &Start, fsid: &[u8; 16], tasks: &[Task], ended: &[Ended]) {
    let style = if arguments.raw { Style::Raw } else { Style::Summary };
    let is_limited = arguments.limit.is_some_and(|limit| limit > 0);
    let speed = if is_limited { Speed::Limited } else { Speed::Free };
    ended.iter().flat_map(|ended| &ended.report).for_each(|line| output::complain("scrub", line));
    let word = |cancelled: bool| if cancelled { "canceled" } else { "done" };
    let state = |record: &Record| if record.cancelled { State::Cancelled } else { State::Finished };
    if arguments.by_device {
        for (task, ended) in tasks.iter().zip(ended) {
            let (record, Device { devid, path, .. }) = (&ended.record, &task.device);
            output::line(format!("\nScrub device {path} (id {devid}) {}", word(record.cancelled)));
            output::line(text(record, state(record), style, None, speed).trim_end());
        }
        return;
    }
    let sum = together(&ended.iter().map(|ended| ended.record).collect::<Vec<_>>());
    output::line(format!("scrub {} for {}", word(sum.cancelled), record::text_of(fsid)));
    output::line(text(&sum, state(&sum), style, None, speed).trim_end());
}
