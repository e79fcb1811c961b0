//! `butterfs filesystem resize`: a device of a filesystem becomes larger or smaller. Options, words and exit statuses
//! are those of btrfs-progs; the filesystem may be an image, which grows and shrinks with it.

use std::path::{Path, PathBuf};

use butterfs_engine::filesystem::ResizeWish;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_fuse::control::{self, WorkEnd};

use super::work_target::{Busy, ImageDevices, WorkTarget, ask, check_exclusive, not_ours, run_in_process};
use crate::failure::{self, Failure, Result};
use crate::transfer::interrupt::Interrupt;
use crate::{exit, output, size};

/// What `resize` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Wait if another such operation is under way.
    #[arg(long)]
    enqueue: bool,
    /// Work on an image that is not mounted, as is done with any that is named.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    image: ImageDevices,
    // As an attribute: its brackets are no links.
    #[arg(
        allow_hyphen_values = true,
        value_name = "SIZE",
        help = "[devid:][+|-]SIZE with K, M, G, T, P or E, [devid:]max for all there is, or cancel"
    )]
    size: String,
    /// The mount point, or an image or device.
    path: PathBuf,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.path.as_path();
    let wish: ResizeWish =
        arguments.size.parse().map_err(|error: butterfs_engine::Error| failure::engine(exit::USAGE, path, &error))?;
    let interrupt = Interrupt::listen().map_err(|error| failure::io(exit::SYSTEM, path, &error))?;
    match WorkTarget::open(path, &arguments.image)? {
        WorkTarget::Mount(file) => {
            if wish != ResizeWish::Cancel {
                check_exclusive(ask(&file), path, "resize", Busy::of(arguments.enqueue))?;
            }
            let refused = control::resize(ask(&file), &arguments.size).map_err(|error| not_ours(path, &error))?;
            if let Some(text) = refused {
                return Err(failed(path, &text));
            }
            if wish == ResizeWish::Cancel {
                output::line("Request to cancel resize");
                return Ok(());
            }
            follow(&file, path, &interrupt)
        }
        WorkTarget::Image(fs) => {
            let ResizeWish::To(devid, length) = wish else { return Err(failed(path, "not running")) };
            let stop = || {
                // Returns when it has ended, which is what is waited for anyway.
                let _ = fs.exclusive().cancel(Exclusive::Resize);
            };
            let resized = run_in_process(&interrupt, || fs.resize_device(devid, length), stop, || {});
            let (before, after) = resized.map_err(|error| failed(path, &error.to_string()))?;
            let (before, after) = (size::display(before), size::display(after));
            let name = fs.shared().gate.volume().device_name(devid).unwrap_or_default();
            output::line(format!("Resize device id {devid} ({name}) from {before} to {after}"));
            Ok(())
        }
    }
}

fn failed(path: &Path, text: &str) -> Failure {
    Failure::new(exit::USAGE, format!("unable to resize '{}': {text}", path.display()))
}

fn follow(file: &std::fs::File, path: &Path, interrupt: &Interrupt) -> Result<()> {
    let flag = interrupt.flag();
    let end = control::wait_for_end(ask(file), || {
        if flag.load(std::sync::atomic::Ordering::Relaxed) {
            // It may have ended by itself.
            let _ = control::resize(ask(file), "cancel");
        }
    });
    match end.map_err(|error| not_ours(path, &error))? {
        WorkEnd::Failed(_, text) => Err(failed(path, &text)),
        WorkEnd::Cancelled => Err(failed(path, "cancelled")),
        _ => Ok(()),
    }
}
