//! `butterfs restore`: copies out of a damaged filesystem whatever can be had, and lists what cannot. Nothing is
//! written to the devices. The letters of its options are those of `btrfs restore`.

mod dry;
mod host;
mod list;
mod print;
mod replay;

use std::io::{IsTerminal, stderr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use butterfs_format::{Logical, TreeId};
use butterfs_os::signal::{TerminationSignals, Wake};
use butterfs_salvage::{Begin, Counts, Damaged, Devices, Error, Options, Report, Sink, Source, Top, Wanted, restore};
use butterfs_volume::OpenMode;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use regex::bytes::{Regex, RegexBuilder};

use super::Format;
use crate::failure::{self, Failure, Result};
use crate::host::Existing;
use crate::{devices, exit, output};

/// What `restore` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The image file or block device, not mounted (of a filesystem on several devices, all of them), and the
    /// directory to restore into, which is made if need be. With --list-roots and --dry-run no directory is needed.
    #[arg(required = true, value_name = "DEVICE... DESTINATION")]
    paths: Vec<PathBuf>,
    /// Show what would be restored; everything is read, so that the list of losses is right.
    #[arg(short = 'D', long)]
    dry_run: bool,
    /// Exit with 0 though something was lost. (Nothing that is lost ends a restore anyway.)
    #[arg(short, long)]
    ignore_errors: bool,
    /// Replace files that are there already; without it they are left alone, so that a restore can go on where it
    /// was interrupted.
    #[arg(short, long)]
    overwrite: bool,
    /// Restore owner, mode and times; and pipes, sockets and devices.
    #[arg(short, long)]
    metadata: bool,
    /// Restore symbolic links.
    #[arg(short = 'S', long, visible_alias = "symlinks")]
    symlink: bool,
    /// Restore snapshots too.
    #[arg(short, long)]
    snapshots: bool,
    /// Restore extended attributes.
    #[arg(short, long)]
    xattr: bool,
    /// Restore only paths that this matches, from the top of the filesystem on, as in '^/home/user/'.
    #[arg(long, value_name = "REGEX")]
    path_regex: Option<String>,
    /// Ignore case (--path-regex only).
    #[arg(short = 'c')]
    ignore_case: bool,
    /// Leave out files of which some bytes are lost, in place of zeros for those.
    #[arg(long)]
    skip_damaged: bool,
    /// Accepted for scripts: directories are found anyway.
    #[arg(short = 'd')]
    find_dir: bool,
    /// List the roots of trees and the subvolumes, and restore nothing.
    #[arg(short, long)]
    list_roots: bool,
    /// The address of a subvolume's root block; only that is restored.
    #[arg(short = 'f', value_name = "BYTENR")]
    fs_location: Option<u64>,
    /// The number of a subvolume; only that is restored.
    #[arg(short, long, value_name = "ROOTID")]
    root: Option<u64>,
    /// The address of the root tree's root block; find-root finds some.
    #[arg(short = 't', value_name = "BYTENR")]
    tree_location: Option<u64>,
    /// Which copy of the superblock to use: 0, 1 or 2.
    #[arg(short = 'u', long = "super", value_name = "MIRROR")]
    superblock: Option<usize>,
    /// Name each file.
    #[arg(short, long)]
    verbose: bool,
    /// How to print: for people or for programs.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Restore,
    Show,
}

/// What the paths of a command line mean.
struct Places<'a> {
    images: &'a [PathBuf],
    destination: Option<&'a Path>,
}

impl Arguments {
    fn places(&self) -> Result<Places<'_>> {
        let is_place = |path: &PathBuf| path.is_dir() || !path.exists();
        match self.paths.split_last() {
            Some((destination, images)) if !images.is_empty() && !self.list_roots && is_place(destination) => {
                Ok(Places { images, destination: Some(destination) })
            }
            _ if self.list_roots || self.dry_run => Ok(Places { images: &self.paths, destination: None }),
            _ => Err(Failure::new(exit::USAGE, "name the device, and then a directory to restore into")),
        }
    }

    fn wanted(&self) -> Wanted {
        let all = [
            (self.snapshots, Wanted::SNAPSHOTS),
            (self.symlink, Wanted::SYMLINKS),
            (self.metadata, Wanted::SPECIALS),
            (self.xattr, Wanted::XATTRS),
        ];
        all.into_iter().filter(|(asked, _)| *asked).map(|(_, wanted)| wanted).collect()
    }

    fn doing(&self) -> Doing {
        if self.dry_run { Doing::Show } else { Doing::Restore }
    }

    fn top(&self) -> Top {
        match (self.root, self.fs_location) {
            (Some(id), _) => Top::Tree(TreeId(id)),
            (None, Some(at)) => Top::Block(Logical(at)),
            (None, None) => Top::All,
        }
    }

    fn regex(&self) -> Result<Option<Regex>> {
        let Some(text) = &self.path_regex else { return Ok(None) };
        let regex = RegexBuilder::new(text).case_insensitive(self.ignore_case).unicode(false).build();
        regex.map(Some).map_err(|error| Failure::new(exit::USAGE, format!("--path-regex: {error}")))
    }
}

/// Runs the command; `before` is the format that was given before it.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let format = arguments.format.unwrap_or(before);
    let places = arguments.places()?;
    let regex = arguments.regex()?;
    let (source, devices) = open_with_devices(places.images, arguments.superblock)?;
    let source = replay::replay(source, devices);
    source.notes.iter().for_each(|note| output::complain("restore", format!("warning: {note}")));
    if arguments.list_roots {
        return list::roots(&source, arguments.tree_location.map(Logical), format);
    }
    let stop = AtomicBool::new(false);
    let bar = progress_bar(arguments);
    let progress = |counts: &Counts| show(bar.as_ref(), counts);
    let select = regex.as_ref().map(|regex| |path: &[u8]| regex.is_match(&[b"/", path].concat()));
    let options = Options {
        wanted: arguments.wanted(),
        damaged: if arguments.skip_damaged { Damaged::Skip } else { Damaged::Fill },
        top: arguments.top(),
        root_tree: arguments.tree_location.map(Logical),
        select: select.as_ref().map(|select| select as _),
        progress: bar.as_ref().map(|_| &progress as _),
        stop: Some(&stop),
    };
    let signals = TerminationSignals::block().ok();
    let work = |sink: &dyn Sink| until_signal(signals.as_ref(), &stop, || restore(&source, &options, sink));
    let restored = match places.destination.filter(|_| !arguments.dry_run) {
        Some(path) => into(path, arguments, (format, &stop), work)?,
        None => work(&dry::DryRun::new(format)),
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let report = restored.map_err(|error| failed(first(places.images), &error))?;
    match format {
        Format::Text => print::text(&report, arguments.doing()),
        Format::Json => output::line(print::json(&report, &places, arguments.doing())),
    }
    Ok(status(arguments, &report))
}

fn status(arguments: &Arguments, report: &Report) -> ExitCode {
    match report.is_whole() || arguments.ignore_errors && !report.stopped {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(exit::LOSSES),
    }
}

/// Restores into a directory of the host.
fn into<R>(
    path: &Path,
    arguments: &Arguments,
    (format, stop): (Format, &AtomicBool),
    work: impl FnOnce(&dyn Sink) -> R,
) -> Result<R> {
    let failed = |error: std::io::Error| failure::destination(exit::USAGE, path, &error);
    std::fs::create_dir_all(path).map_err(failed)?;
    let existing = if arguments.overwrite { Existing::Replace } else { Existing::Keep };
    let verbose = if arguments.verbose && format == Format::Text { host::Say::Files } else { host::Say::Nothing };
    let wishes = host::Wishes { existing, preserve: preserve(arguments), say: verbose };
    let sink = host::HostSink::open(path, wishes, stop).map_err(failed)?;
    let result = work(&sink);
    if let Some(problem) = sink.broken() {
        output::complain("restore", format!("{}: {problem}", path.display()));
    }
    sink.notes().iter().for_each(|note| output::complain("restore", format!("warning: {note}")));
    Ok(result)
}

fn preserve(arguments: &Arguments) -> crate::host::Preserve {
    use crate::host::Preserve;
    let metadata =
        if arguments.metadata { Preserve::MODE | Preserve::OWNER | Preserve::TIMES } else { Preserve::empty() };
    let xattrs = if arguments.xattr { Preserve::XATTRS } else { Preserve::empty() };
    metadata | xattrs
}

/// Works, and sets `stop` when a signal asks for the end: the file that is being made is taken away again.
fn until_signal<R: Send>(signals: Option<&TerminationSignals>, stop: &AtomicBool, work: impl FnOnce() -> R) -> R {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok();
    let Some((signals, (cancel, end))) = signals.zip(pipe) else { return work() };
    std::thread::scope(|scope| {
        scope.spawn(move || wait(signals, &cancel, stop));
        let result = work();
        drop(end);
        result
    })
}

fn wait(signals: &TerminationSignals, cancel: &OwnedFd, stop: &AtomicBool) {
    use std::os::fd::AsFd;
    if let Ok(Wake::Signal(_)) = signals.wait(cancel.as_fd()) {
        stop.store(true, Ordering::Relaxed);
    }
}

/// Opens the devices, whatever is wrong with what is on them.
pub fn open(images: &[PathBuf], superblock: Option<usize>) -> Result<Source> {
    open_with_devices(images, superblock).map(|(source, _)| source)
}

fn open_with_devices(images: &[PathBuf], superblock: Option<usize>) -> Result<(Source, Devices)> {
    let first = first(images);
    let devices: Devices = devices::find_and_open(images, OpenMode::ReadOnly)
        .map_err(|(path, error)| failure::volume(exit::USAGE, &path, &error))?;
    let begin = superblock.map_or(Begin::Usual, Begin::Copy);
    let source = Source::open(&devices, begin).map_err(|error| failed(first, &error))?;
    Ok((source, devices))
}

fn first(images: &[PathBuf]) -> &Path {
    images.first().map_or(Path::new(""), PathBuf::as_path)
}

/// A failure to find anything at all.
pub fn failed(path: &Path, error: &Error) -> Failure {
    match error {
        Error::Volume(error) => failure::volume(exit::USAGE, path, error),
        _ => Failure::at(exit::USAGE, path, error),
    }
}

/// Only on a terminal: elsewhere nobody looks, and output must stay as it is.
fn progress_bar(arguments: &Arguments) -> Option<ProgressBar> {
    if !stderr().is_terminal() || arguments.verbose || arguments.dry_run {
        return None;
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    Some(bar)
}

fn show(bar: Option<&ProgressBar>, counts: &Counts) {
    if let Some(bar) = bar {
        bar.set_message(format!("{} files, {}", counts.files + counts.existing, HumanBytes(counts.bytes)));
    }
}
