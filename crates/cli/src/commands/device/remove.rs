//! `butterfs device remove`: what is on devices is moved to the others, and they go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Filesystem, RemovalEnd, WhichDevice};
use butterfs_format::DevId;
use butterfs_fuse::control::{self, WorkEnd};

use super::held::Held;
use super::split;
use crate::commands::space;
use crate::commands::work_target::{Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours, run_in_process};
use crate::exit;
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;

/// What `remove` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    #[command(flatten)]
    image: ImageDevices,
    /// Devices, by path or number (devid), `missing` for one that is not there, or `cancel`; at the end the mount point, or an
    /// image of the filesystem.
    #[arg(required = true, num_args = 2.., value_name = "DEVICE... PATH")]
    words: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(remove: &Arguments) -> Result<ExitCode> {
    let (path, words) = split(&remove.words)?;
    let interrupt = Interrupt::listen().map_err(|error| failure::io(exit::SYSTEM, path, &error))?;
    let target = WorkTarget::open(path, &remove.image)?;
    let removed = remove_all(remove, path, words, &target, &interrupt);
    space::warn_of_several_in(&target);
    removed
}

fn remove_all(
    remove: &Arguments,
    path: &Path,
    words: &[PathBuf],
    target: &WorkTarget,
    interrupt: &Interrupt,
) -> Result<ExitCode> {
    match target {
        WorkTarget::Mount(file) => {
            let cancels = is_cancel(words);
            if !cancels {
                check_exclusive(ask(file), path, "device remove", Busy::of(remove.enqueue))?;
            }
            let words: Vec<String> = words.iter().map(|word| shown(word)).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            require_known(file, path, &words)?;
            let held = Held::of(path, &words);
            let asked = control::remove_devices(ask(file), &words).map_err(|error| not_ours(path, &error))?;
            if let Some(text) = asked {
                return Err(failed(&words.join(" "), &text));
            }
            if cancels {
                return Ok(ExitCode::SUCCESS);
            }
            let removed = follow(file, path, &words, interrupt)?;
            held.inspect(|held| held.tell("device remove"));
            Ok(removed)
        }
        // Nobody else has it open, so none runs.
        WorkTarget::Image(_) if is_cancel(words) => Err(failed("cancel", "not running")),
        WorkTarget::Image(fs) => in_process(fs, words, interrupt),
    }
}

/// A number that is no device's is refused in the words of btrfs-progs.
fn require_known(file: &std::fs::File, path: &Path, words: &[&str]) -> Result<()> {
    let failed = |error: std::io::Error| not_ours(path, &error);
    let info = control::filesystem_info(ask(file)).map_err(failed)?;
    let devices = control::devices_of(ask(file), &info).map_err(failed)?;
    let unknown = |devid: &u64| !devices.iter().any(|device| device.devid == *devid);
    words.iter().filter_map(|word| word.parse().ok()).find(unknown).map_or(Ok(()), |devid| Err(no_device(DevId(devid))))
}

fn no_device(devid: DevId) -> Failure {
    Failure::new(exit::USAGE, format!("error removing devid {devid}: No such file or directory"))
}

fn is_cancel(words: &[PathBuf]) -> bool {
    words.iter().any(|word| word.as_os_str() == "cancel")
}

fn failed(what: &str, text: &str) -> Failure {
    Failure::new(exit::USAGE, format!("error removing device '{what}': {text}"))
}

/// A path as the daemon knows it: whole; numbers and words as they are.
pub(super) fn shown(word: &Path) -> String {
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
    let failed = |error: butterfs_engine::Error| match error {
        butterfs_engine::Error::NoDevice(devid) => no_device(devid),
        error => failed(&names.join(" "), &error.to_string()),
    };
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

pub(super) fn which(fs: &Filesystem, name: &str) -> WhichDevice {
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
