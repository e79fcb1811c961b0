//! `butterfs mount`: opens a filesystem and serves it, in the background unless told otherwise.
//! The command returns when the mount can be used, or says why it cannot.
//!
//! The order matters: signals are blocked and the daemon is forked before any thread starts; the
//! image is opened, and so locked, before anything is mounted.

mod again;
pub(super) mod protected;
mod remount;

use std::fs::{File, OpenOptions};
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{self, Access, AccessTimeRule, Filesystem, SubvolumeChoice};
use butterfs_fuse::adapter::{AdapterOptions, EngineFrontEnd, OnError, OnRemount, OpenFiles};
use butterfs_fuse::daemon::{self, Background, Outcome, Ready};
use butterfs_fuse::mount::{
    BdiTuning, Mount, MountEntry, MountError, MountKind, MountOptions, MountPoint, MountSource, Presence,
};
use butterfs_fuse::session::{Caching, Session, SessionOptions};
use butterfs_fuse::stop::SignalStop;
use butterfs_os::signal::TerminationSignals;
use butterfs_volume::{BlockDevice, OpenMode, Volume};

use crate::failure::{self, Failure, Result};
use crate::logging::{self, Destination};
use crate::mount_options::{self, EnospcLog, FatalErrors, Options, Request, Unknown, UuidTree};
use crate::{devices, exit, output, run_dir};

/// More workers than this wait for each other.
const MOST_THREADS: usize = 8;

/// What `mount` is told.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "butterfs mount [OPTIONS] <IMAGE>... <DIRECTORY>",
    after_help = mount_options::help(),
    after_long_help = mount_options::long_help(),
)]
pub struct Arguments {
    /// An image file or a block device; of a filesystem on several devices, any number of them.
    image: PathBuf,
    /// Where to mount it.
    #[arg(required = true, value_name = "DIRECTORY")]
    rest: Vec<PathBuf>,
    /// Options, separated by commas.
    #[arg(short, long, value_name = "LIST")]
    options: Vec<String>,
    /// Stay in the foreground, until unmounted or interrupted.
    #[arg(short, long)]
    foreground: bool,
    /// Log more; twice for details.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Write the daemon's log to this file, not to syslog.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Ignore unknown options.
    #[arg(long, hide = true)]
    sloppy: bool,
}

/// What to do, understood.
struct Plan<'a> {
    image: &'a Path,
    /// The image, and what else was named.
    named: Vec<PathBuf>,
    directory: &'a Path,
    options: Options,
    /// As the user gave them.
    shown_options: String,
    verbose: u8,
    log: Option<File>,
    /// It is mounted read-only though nobody asked for that.
    is_protected: bool,
}

impl Plan<'_> {
    fn tell_protection(&self) {
        if self.is_protected {
            protected::tell(self.directory);
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let plan = plan(arguments)?;
    if plan.options.request == Request::Remount {
        return remount::run(&plan).map(|()| ExitCode::SUCCESS);
    }
    if let Some(first) = again::find(plan.image)? {
        return again::run(&plan, &first).map(|()| ExitCode::SUCCESS);
    }
    let signals = TerminationSignals::block().map_err(|error| Failure::new(exit::SYSTEM, error))?;
    if arguments.foreground {
        plan.tell_protection();
        return foreground(&plan, signals);
    }
    match daemon::start() {
        Ok(Background::Launcher(Outcome { code: 0, .. })) => {
            plan.tell_protection();
            Ok(ExitCode::SUCCESS)
        }
        Ok(Background::Launcher(Outcome { code, message })) => {
            Err(Failure::new(code, message.unwrap_or_else(|| "the daemon did not start".into())))
        }
        Ok(Background::Daemon(ready)) => Ok(background(&plan, signals, ready)),
        Err(error) => Err(Failure::new(exit::SYSTEM, format!("cannot start the daemon: {error}"))),
    }
}

/// Everything that can be wrong before there is a daemon.
fn plan(arguments: &Arguments) -> Result<Plan<'_>> {
    let unknown = if arguments.sloppy { Unknown::Ignore } else { Unknown::Refuse };
    let mut given = arguments.options.clone();
    let is_protected = follow_protection(arguments, &mut given, unknown);
    let options = Options::parse(&given, unknown).map_err(|text| Failure::new(exit::USAGE, text))?;
    options.warnings.iter().for_each(|warning| output::complain("mount", format!("warning: {warning}")));
    let log = arguments.log.as_deref().map(open_log).transpose()?;
    let image = arguments.image.as_path();
    let Some((directory, images)) = arguments.rest.split_last() else {
        return Err(Failure::new(exit::USAGE, "name a directory to mount on"));
    };
    // Others are told of them, who may be elsewhere.
    let whole = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let named = std::iter::once(&arguments.image).chain(images).chain(&options.devices).map(whole).collect();
    let shown_options = arguments.options.join(",");
    Ok(Plan { image, named, directory, options, shown_options, verbose: arguments.verbose, log, is_protected })
}

/// Adds `ro` if the devices can only be read and it is missing; says whether it did.
fn follow_protection(arguments: &Arguments, given: &mut Vec<String>, unknown: Unknown) -> bool {
    // Some options are an error without it.
    let asked = Options::parse(given, unknown).ok();
    let follows =
        asked.as_ref().is_none_or(|options| options.access == Access::ReadWrite && options.request != Request::Remount);
    let further = asked.map(|options| options.devices).unwrap_or_default();
    let images = arguments.rest.iter().rev().skip(1);
    let all: Vec<PathBuf> = std::iter::once(&arguments.image).chain(images).chain(&further).cloned().collect();
    let follows = follows && protected::are_protected(&all);
    if follows {
        given.push("ro".into());
    }
    follows
}

fn open_log(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|error| failure::io(exit::USAGE, path, &error))
}

/// Serves in this process.
fn foreground(plan: &Plan<'_>, signals: TerminationSignals) -> Result<ExitCode> {
    start_log(plan, destination(plan, Destination::Stderr)?);
    serve(plan, signals, || ()).map(|()| ExitCode::SUCCESS)
}

/// Serves as the daemon. Until the mount works, the launcher hears of failures; then, the log.
fn background(plan: &Plan<'_>, signals: TerminationSignals, ready: Ready) -> ExitCode {
    let mut ready = Some(ready);
    let served = destination(plan, Destination::Syslog).and_then(|destination| {
        start_log(plan, destination);
        serve(plan, signals, || {
            if let Some(Err(error)) = ready.take().map(|ready| ready.mounted(plan.log.as_ref())) {
                tracing::warn!(%error, "the launcher did not hear that the filesystem is mounted");
            }
        })
    });
    let Err(failure) = served else { return ExitCode::SUCCESS };
    match ready {
        Some(ready) => {
            let code = NonZeroU8::new(failure.code).unwrap_or(NonZeroU8::MIN);
            // Without a launcher there is nobody left to tell.
            let _ = ready.failed(code, &failure.line());
        }
        None => tracing::error!("{}", failure.line()),
    }
    ExitCode::from(failure.code)
}

fn start_log(plan: &Plan<'_>, destination: Destination) {
    let more: &[&str] = match plan.options.enospc {
        EnospcLog::Quiet => &[],
        EnospcLog::Verbose => &["enospc=debug"],
    };
    logging::start(destination, plan.verbose, more);
}

/// The log file, or what is usual.
fn destination(plan: &Plan<'_>, usual: Destination) -> Result<Destination> {
    let Some(file) = &plan.log else { return Ok(usual) };
    let copy = file.try_clone().map_err(|error| Failure::new(exit::SYSTEM, format!("cannot use the log: {error}")))?;
    Ok(Destination::File(copy))
}

/// Opens, mounts and serves until unmounted.
fn serve(plan: &Plan<'_>, signals: TerminationSignals, ready: impl FnOnce()) -> Result<()> {
    let target = check_directory(plan.directory)?;
    butterfs_os::process::reuse_freed_memory();
    let (filesystem, device) = open(plan)?;
    let filesystem = Arc::new(filesystem);
    let mount = mount(plan, &target, &*device)?;
    tune(plan, &mount);
    let presence = announce(&mount);
    let front_end = front_end(plan, filesystem, &mount);
    let session = Session::new(mount, front_end, session_options(&plan.options));
    let failed = |error: &dyn std::fmt::Display| Failure::at(exit::FAILED, plan.image, error);
    let stop = SignalStop::spawn(signals, session.stop_handle()).map_err(|error| failed(&error))?;
    let result = session.run_then(ready).map_err(|error| failed(&error));
    drop(stop);
    if let (Err(failure), Some(presence)) = (&result, &presence) {
        // Who does not hear of it here finds it in the log.
        let _ = presence.leave_word(&failure.line());
    }
    // Last: who waits for it may use the image now.
    drop(presence);
    result
}

/// The mount point; no filesystem may be mounted there yet.
fn check_directory(directory: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::at(exit::FAILED, directory, "no such mount point; create the directory first")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            let text = "busy: what is mounted there has lost its daemon; run butterfs umount on it first";
            Failure::at(exit::FAILED, directory, text)
        }
        _ => failure::io(exit::FAILED, directory, &error),
    };
    let target = directory.canonicalize().map_err(failed)?;
    if !target.metadata().map_err(failed)?.is_dir() {
        return Err(Failure::at(exit::FAILED, directory, "not a directory; name a directory to mount on"));
    }
    // Over a part of a filesystem, as a directory bound to itself, mounts are as usual as over a directory.
    if let Ok(Some(entry)) = MountEntry::at(&target)
        && entry.root == Path::new("/")
    {
        let text = format!("busy: {} is mounted there already; unmount it, or use another directory", entry.source);
        return Err(Failure::at(exit::FAILED, directory, text));
    }
    Ok(target)
}

/// Opens the filesystem, and gives the first of its devices, too. They are locked from now on.
fn open(plan: &Plan<'_>) -> Result<(Filesystem, Arc<dyn BlockDevice>)> {
    let mode = match plan.options.access {
        Access::ReadOnly => OpenMode::ReadOnly,
        Access::ReadWrite => OpenMode::ReadWrite,
    };
    let how = butterfs_volume::OpenOptions {
        mode,
        missing: plan.options.missing,
        bad_chunks: plan.options.rescue.bad_chunks(),
        block_checksums: plan.options.rescue.block_checksums(),
    };
    let failed = |path: &Path, error| failure::volume(exit::FAILED, path, &error);
    let devices = devices::find_and_open(&plan.named, how.mode).map_err(|(path, error)| failed(&path, error))?;
    let first = Arc::clone(devices.first().ok_or_else(|| Failure::new(exit::USAGE, "name a device"))?);
    let volume = Volume::open_with(devices, &how).map_err(|error| failed(plan.image, error))?;
    let mut options = filesystem::OpenOptions {
        access: plan.options.access,
        subvolume: plan.options.subvolume.clone(),
        log_tree: plan.options.log_tree,
        rescue: plan.options.rescue,
        generation: plan.options.generation,
        fsync: plan.options.fsync,
        access_times: plan.options.access_times,
        returning: filesystem::Returning::CatchUp,
        ..Default::default()
    };
    (options.compress, options.new_data) = (plan.options.compress, plan.options.new_data);
    options.space = plan.options.space;
    options.autodefrag = plan.options.autodefrag;
    if let Some(bytes) = plan.options.cache_size {
        options.set_cache_size(bytes);
    }
    if let Some(bytes) = plan.options.max_inline {
        options.max_inline = bytes;
    }
    let filesystem = Filesystem::open(volume, options, Box::new(SystemEnvironment));
    let filesystem = filesystem.map_err(|error| open_failed(plan, &error))?;
    if (plan.options.uuid_tree, plan.options.access) == (UuidTree::Rescan, Access::ReadWrite) {
        filesystem.rescan_uuid_tree().map_err(|error| failure::engine(exit::FAILED, plan.image, &error))?;
    }
    match plan.options.subvolume_id {
        Some(id) if id != filesystem.root().tree => {
            let text =
                format!("subvol= names subvolume {}, subvolid= says {id}; leave one out", filesystem.root().tree);
            Err(Failure::at(exit::FAILED, plan.image, text))
        }
        _ => Ok((filesystem, first)),
    }
}

/// Errors that mean something special here.
fn open_failed(plan: &Plan<'_>, error: &butterfs_engine::Error) -> Failure {
    use butterfs_engine::Error;
    let option = match &plan.options.subvolume {
        SubvolumeChoice::Default => return failure::engine(exit::FAILED, plan.image, error),
        SubvolumeChoice::Id(tree) => format!("subvolid={}", tree.0),
        SubvolumeChoice::Path(path) => format!("subvol={}", String::from_utf8_lossy(path)),
    };
    let problem = match error {
        Error::NotFound => "no such subvolume",
        Error::NotDirectory | Error::Invalid(_) => "not a subvolume",
        other => return failure::engine(exit::FAILED, plan.image, other),
    };
    let todo = "mount without the option, and see butterfs subvolume list";
    Failure::at(exit::FAILED, plan.image, format!("{option}: {problem}; {todo}"))
}

/// Mounts. All I/O goes to the image or device, never through the loop device that stands for an image.
///
/// A block device is claimed by us until the mount claims it: between the two, our own programs stay locked out, and
/// what another wrote in that moment would be seen before our first write. Where the kernel mounts no device that
/// somebody writes to, a loop device stands for it, too.
fn mount(plan: &Plan<'_>, target: &Path, device: &dyn BlockDevice) -> Result<Mount> {
    let io = |error: std::io::Error| failure::io(exit::FAILED, plan.image, &error);
    let path = plan.image.canonicalize().map_err(io)?;
    let is_root = rustix::process::geteuid().is_root();
    let mut options = if is_root { MountOptions::for_root() } else { MountOptions::for_user() };
    options.flags = plan.options.flags(options.flags);
    options.security.clone_from(&plan.options.security);
    let source = MountSource::at(&path).map_err(io)?;
    device.release_claim();
    let mounted = match Mount::new(&source, target, &options) {
        Err(MountError::DeviceBusy { .. }) if device.take_claim().is_ok() => {
            Mount::new(&MountSource::Image(path), target, &options)
        }
        mounted => mounted,
    };
    let mounted = mounted.map_err(|error| failure::mount(plan.image, &error))?;
    if mounted.kind() == MountKind::Fuse {
        device.take_claim().map_err(io)?;
    }
    Ok(mounted)
}

/// Lets the kernel keep as much to be written as of any filesystem: with the little that it allows a FUSE mount, its
/// writeback cache would be slower than none.
fn tune(plan: &Plan<'_>, mount: &Mount) {
    if plan.options.caching != Caching::Writeback {
        return;
    }
    let tuning = BdiTuning { full_writeback: true, ..BdiTuning::default() };
    if let Err(error) = mount.point().tune(&tuning) {
        tracing::warn!(%error, "the kernel's limits for the writeback cache stay low, and it may be slow");
    }
}

/// Lets `butterfs umount` find the daemon. Without it a mount works as well, but is not waited for.
fn announce(mount: &Mount) -> Option<Presence> {
    let device = mount.point().device_number()?;
    match Presence::announce(&run_dir::own(), device) {
        Ok(presence) => Some(presence),
        Err(error) => {
            tracing::warn!(%error, directory = %run_dir::own().display(), "umount will not wait for this daemon");
            None
        }
    }
}

/// Makes the kernel's side read-only; says whether it is done.
fn follow_error(point: &MountPoint) -> bool {
    match point.make_read_only() {
        // Files are open for writing.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => false,
        Err(error) => {
            tracing::warn!(%error, "the mount could not be made read-only; changes fail all the same");
            true
        }
        Ok(()) => {
            tracing::warn!("the mount is read-only for the kernel, too");
            true
        }
    }
}

/// Ends the daemon where a kernel would stop the machine: the mount answers nothing any more.
fn end() -> bool {
    tracing::error!("ending, as fatal_errors=panic asks for");
    std::process::exit(exit::FAILED.into())
}

fn session_options(options: &Options) -> SessionOptions {
    let usual = || std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST_THREADS);
    let threads = options.threads.map_or_else(usual, usize::from);
    let (transport, caching, acl) = (options.transport, options.caching, options.acl);
    SessionOptions { threads, transport, caching, acl, ..Default::default() }
}

/// What answers the kernel.
fn front_end(plan: &Plan<'_>, filesystem: Arc<Filesystem>, mount: &Mount) -> Arc<EngineFrontEnd> {
    let mut options = AdapterOptions {
        changeable: remount::changeable(&plan.options, plan.shown_options.clone()),
        on_remount: OnRemount::new(remount::Reader::new(plan).into_function()),
        acl: plan.options.acl,
        interrupted_balance: plan.options.interrupted_balance,
        open_files: match plan.options.access_times.files {
            AccessTimeRule::Always => OpenFiles::Watched,
            _ => plan.options.open_files,
        },
        ..AdapterOptions::default()
    };
    let device = plan.image.canonicalize().unwrap_or_else(|_| plan.image.to_path_buf());
    options.device = device.to_string_lossy().into_owned();
    let point = mount.point();
    options.block_device = point.block_device().map(str::to_owned);
    options.device_number = point.device_number().map(|(major, minor)| rustix::fs::makedev(major, minor));
    match plan.options.fatal_errors {
        FatalErrors::End => options.on_error = OnError::new(end),
        // Only root may do this; for others changes fail in the daemon.
        FatalErrors::ReadOnly if rustix::process::geteuid().is_root() => {
            options.on_error = OnError::new(move || follow_error(&point));
        }
        FatalErrors::ReadOnly => {}
    }
    Arc::new(EngineFrontEnd::new(filesystem, options))
}
