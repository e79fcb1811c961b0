//! `butterfs device`: devices come and go, on a mount or with images. Options, words and exit statuses are those of
//! btrfs-progs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Filesystem, RemovalEnd, WhichDevice};
use butterfs_format::DevId;
use butterfs_fuse::control::{self, WorkEnd};
use butterfs_volume::{BlockDevice, FileDevice};

use super::work_target::{Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours, run_in_process};
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;
use crate::{exit, output, signatures, size};

/// A device is told of so many bytes at a time that it may forget.
const DISCARD: u64 = 1 << 30;

/// What to do with devices.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add devices to a filesystem. What they hold is lost.
    Add(Add),
    /// Remove devices from a filesystem: what is on them is moved to the others first, all in one pass.
    #[command(visible_alias = "delete")]
    Remove(Remove),
}

/// What `add` is told.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// Do not tell the devices that nothing on them is needed.
    #[arg(short = 'K', long)]
    nodiscard: bool,
    /// Overwrite what is on them.
    #[arg(short, long)]
    force: bool,
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    #[command(flatten)]
    image: ImageDevices,
    /// Devices or image files, and at the end the mount point, or an image of the filesystem.
    #[arg(required = true, num_args = 2.., value_name = "DEVICE... PATH")]
    paths: Vec<PathBuf>,
}

/// What `remove` is told.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    #[command(flatten)]
    image: ImageDevices,
    /// Devices, by path or number, `missing` for one that is not there, or `cancel`; at the end the mount point, or an
    /// image of the filesystem.
    #[arg(required = true, num_args = 2.., value_name = "DEVICE... PATH")]
    words: Vec<PathBuf>,
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "device add",
            Self::Remove(_) => "device remove",
        }
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Add(add) => run_add(add),
        Command::Remove(remove) => run_remove(remove),
    }
}

fn split(paths: &[PathBuf]) -> Result<(&Path, &[PathBuf])> {
    let (path, devices) = paths.split_last().ok_or_else(|| Failure::new(exit::USAGE, "no path was named"))?;
    Ok((path, devices))
}

fn run_add(add: &Add) -> Result<ExitCode> {
    let (path, devices) = split(&add.paths)?;
    let target = WorkTarget::open(path, &add.image)?;
    if let WorkTarget::Mount(file) = &target {
        check_exclusive(ask(file), path, "device add", Busy::of(add.enqueue))?;
    }
    for device in devices {
        let opened = prepare(device, add)?;
        let io = |error| failure::io(exit::USAGE, device, &error);
        match &target {
            WorkTarget::Mount(file) => {
                let absolute = device.canonicalize().map_err(io)?;
                // The daemon opens it.
                drop(opened);
                let refused = control::add_device(ask(file), &absolute).map_err(|error| not_ours(path, &error))?;
                if let Some(text) = refused {
                    return Err(Failure::at(exit::USAGE, device, format!("error adding device: {text}")));
                }
            }
            WorkTarget::Image(fs) => {
                let opened: Arc<dyn BlockDevice> = Arc::new(opened);
                fs.add_device(&opened).map_err(|error| failure::engine(exit::USAGE, device, &error))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens a device alone, refuses what holds something, and clears it.
fn prepare(path: &Path, add: &Add) -> Result<FileDevice> {
    let io = |error| failure::io(exit::USAGE, path, &error);
    let device = FileDevice::open_read_write(path).map_err(|error| failure::volume(exit::USAGE, path, &error))?;
    if !add.force
        && let Some(found) = signatures::find(&device).map_err(io)?
    {
        let text = format!("holds {found}; use the -f option to force overwrite of it");
        return Err(Failure::at(exit::USAGE, path, text));
    }
    if !add.nodiscard && discard(&device) {
        let (name, len) = (path.display(), size::display(device.len()));
        output::line(format!("Performing full device TRIM {name} ({len}) ..."));
    }
    signatures::erase_others(&device).map_err(io)?;
    Ok(device)
}

/// Says whether the device could do something with it.
fn discard(device: &FileDevice) -> bool {
    let len = device.len();
    let mut parts = (0..len).step_by(DISCARD as usize).map(|at| device.discard(at, DISCARD.min(len - at)));
    parts.all(|done| done.is_ok())
}

fn run_remove(remove: &Remove) -> Result<ExitCode> {
    let (path, words) = split(&remove.words)?;
    let interrupt = Interrupt::listen().map_err(|error| failure::io(exit::SYSTEM, path, &error))?;
    match WorkTarget::open(path, &remove.image)? {
        WorkTarget::Mount(file) => {
            let cancels = words.iter().any(|word| word.as_os_str() == "cancel");
            if !cancels {
                check_exclusive(ask(&file), path, "device remove", Busy::of(remove.enqueue))?;
            }
            let words: Vec<String> = words.iter().map(|word| shown(word)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let asked = control::remove_devices(ask(&file), &words).map_err(|error| not_ours(path, &error))?;
            if let Some(text) = asked {
                return Err(failed(&words.join(" "), &text));
            }
            if cancels { Ok(ExitCode::SUCCESS) } else { follow(&file, path, &words, &interrupt) }
        }
        WorkTarget::Image(fs) => in_process(&fs, words, &interrupt),
    }
}

fn failed(what: &str, text: &str) -> Failure {
    Failure::new(exit::USAGE, format!("error removing device '{what}': {text}"))
}

/// A path as the daemon knows it: whole; numbers and words as they are.
fn shown(word: &Path) -> String {
    let text = word.to_string_lossy().into_owned();
    let is_word = text.parse::<u64>().is_ok() || text == "missing" || text == "cancel";
    match word.canonicalize() {
        Ok(whole) if !is_word => whole.to_string_lossy().into_owned(),
        _ => text,
    }
}

fn follow(file: &std::fs::File, path: &Path, words: &[&str], interrupt: &Interrupt) -> Result<ExitCode> {
    let flag = interrupt.flag();
    let end = control::wait_for_end(ask(file), || {
        if flag.load(std::sync::atomic::Ordering::Relaxed) {
            // It may have ended by itself.
            let _ = control::remove_devices(ask(file), &["cancel"]);
        }
    });
    match end.map_err(|error| not_ours(path, &error))? {
        WorkEnd::Failed(_, text) => Err(failed(&words.join(" "), &text)),
        WorkEnd::Cancelled => Err(failed(&words.join(" "), "cancelled; what was moved is moved")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn in_process(fs: &Filesystem, words: &[PathBuf], interrupt: &Interrupt) -> Result<ExitCode> {
    let names: Vec<String> = words.iter().map(|word| shown(word)).collect();
    let failed = |error: butterfs_engine::Error| failed(&names.join(" "), &error.to_string());
    let wanted: Vec<_> = names.iter().map(|name| which(fs, name)).collect();
    let removal = fs.begin_removal(&wanted).map_err(failed)?;
    let stop = || {
        // Returns when it has ended, which is what is waited for anyway.
        let _ = fs.exclusive().cancel(Exclusive::DeviceRemove);
    };
    match run_in_process(interrupt, || fs.run_removal(removal), stop, || {}).map_err(failed)? {
        RemovalEnd::Done => Ok(ExitCode::SUCCESS),
        RemovalEnd::Cancelled => Err(Failure::new(exit::INTERRUPTED, "cancelled; what was moved is moved")),
    }
}

fn which(fs: &Filesystem, name: &str) -> WhichDevice {
    if let Ok(devid) = name.parse() {
        return WhichDevice::Id(DevId(devid));
    }
    if name == "missing" {
        return WhichDevice::Missing;
    }
    // The volume has it by the name that it was opened by.
    let volume = fs.shared().gate.volume();
    let items = volume.dev_items();
    let own = items.iter().map(|item| DevId(item.devid.get())).find(|devid| {
        let path = volume.device_name(*devid).map(PathBuf::from);
        path.and_then(|path| path.canonicalize().ok()).is_some_and(|path| path == Path::new(name))
    });
    own.map_or_else(|| WhichDevice::Name(name.into()), WhichDevice::Id)
}
