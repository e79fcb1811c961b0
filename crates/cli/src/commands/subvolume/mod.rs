//! `butterfs subvolume`: subvolumes of a mounted filesystem. Words, options, output and exit statuses are those of
//! `btrfs subvolume`; see docs/subvolumes.md for what differs.

mod create;
mod default;
mod delete;
mod find_new;
mod list;
mod show;
mod snapshot;
mod sync;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_fuse::control::ListedSubvolume;

use super::{Format, OutputFormat};
use crate::exit;
use crate::failure::{self, Failure, Result};

/// Subvolumes of a mounted filesystem.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make empty subvolumes.
    Create(create::Arguments),
    /// Make a snapshot of a subvolume.
    Snapshot(snapshot::Arguments),
    /// Delete subvolumes with all they hold.
    Delete(delete::Arguments),
    /// List the subvolumes of a filesystem.
    List(list::Arguments),
    /// Show all there is to know of a subvolume, and its snapshots.
    Show(show::Arguments),
    /// Show the subvolume that is mounted when none is chosen.
    GetDefault(default::GetArguments),
    /// Choose the subvolume that is mounted when none is chosen.
    SetDefault(default::SetArguments),
    /// List the parts of files that changed since a transaction.
    FindNew(find_new::Arguments),
    /// Wait until deleted subvolumes are gone.
    Sync(sync::Arguments),
}

impl Command {
    /// Its name, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "subvolume create",
            Self::Snapshot(_) => "subvolume snapshot",
            Self::Delete(_) => "subvolume delete",
            Self::List(_) => "subvolume list",
            Self::Show(_) => "subvolume show",
            Self::GetDefault(_) => "subvolume get-default",
            Self::SetDefault(_) => "subvolume set-default",
            Self::FindNew(_) => "subvolume find-new",
            Self::Sync(_) => "subvolume sync",
        }
    }

    /// Whether there is JSON output.
    pub fn knows_json(&self) -> bool {
        matches!(self, Self::List(_) | Self::Show(_) | Self::GetDefault(_))
    }
}

/// Runs the command.
pub fn run(command: &Command, format: Format) -> Result<ExitCode> {
    match command {
        Command::Create(arguments) => return create::run(arguments),
        Command::Snapshot(arguments) => snapshot::run(arguments),
        Command::Delete(arguments) => return delete::run(arguments),
        Command::List(arguments) => list::run(arguments, format),
        Command::Show(arguments) => show::run(arguments, format),
        Command::GetDefault(arguments) => default::get(arguments, format),
        Command::SetDefault(arguments) => default::set(arguments),
        Command::FindNew(arguments) => find_new::run(arguments),
        Command::Sync(arguments) => sync::run(arguments),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// A directory, and a name in it.
struct Place<'a> {
    directory: &'a Path,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(Failure::at(exit::USAGE, path, "has no name at its end; name the subvolume itself"));
        };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { directory, name })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }
}

/// Quota groups, which nothing can be put into yet.
#[derive(Debug, clap::Args)]
struct QuotaGroups {
    /// Put it into this quota group: refused, because quotas cannot be written yet.
    #[arg(short = 'i', value_name = "QGROUPID")]
    groups: Vec<String>,
}

impl QuotaGroups {
    fn require_none(&self) -> Result<()> {
        match self.groups.first() {
            None => Ok(()),
            Some(group) => {
                let text = format!("-i {group}: quotas cannot be written yet; leave it out, or use the kernel's mount");
                Err(Failure::new(exit::USAGE, text))
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| failed(path, &error))
}

/// The same where a file will not do, as with btrfs-progs.
fn open_directory(path: &Path) -> Result<File> {
    let file = open(path)?;
    match file.metadata().map_err(|error| failed(path, &error))?.is_dir() {
        true => Ok(file),
        false => Err(Failure::at(exit::USAGE, path, "not a directory")),
    }
}

/// A UUID as text; `-` for none.
fn uuid_text(uuid: &[u8; 16]) -> String {
    if *uuid == [0; 16] { "-".into() } else { uuid::Uuid::from_bytes(*uuid).to_string() }
}

/// A time of the wall's clock; `-` for none.
fn time_text(seconds: i64) -> String {
    let local = (seconds != 0).then(|| butterfs_os::time::local_time(seconds)).flatten();
    let Some(time) = local else { return "-".into() };
    let [hour, minute, second] = time.clock;
    format!("{:04}-{:02}-{:02} {hour:02}:{minute:02}:{second:02}", time.year, time.month, time.day)
}

/// The same with how far the clock is from UTC.
fn time_zone_text(seconds: i64) -> String {
    let text = time_text(seconds);
    if text == "-" { text } else { format!("{text} {}", zone_text(seconds)) }
}

/// What lies between local time and UTC: `+0100`.
fn zone_text(seconds: i64) -> String {
    let Some(time) = butterfs_os::time::local_time(seconds) else { return "+0000".into() };
    let [hour, minute, _] = time.clock.map(i64::from);
    let utc = seconds.div_euclid(60);
    // Minutes of the day, apart by less than a day in either direction.
    let apart = (hour * 60 + minute - utc.rem_euclid(1440) + 720).rem_euclid(1440) - 720;
    let sign = if apart < 0 { '-' } else { '+' };
    format!("{sign}{:02}{:02}", apart.abs() / 60, apart.abs() % 60)
}

fn find(all: &[ListedSubvolume], id: u64) -> Option<&ListedSubvolume> {
    all.iter().find(|found| found.id == id)
}

/// Whether the directory of a path has the flag that lets no name come or go.
fn is_immutable(parent: Option<&Path>) -> bool {
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = File::open(parent).ok().and_then(|directory| rustix::fs::ioctl_getflags(&directory).ok());
    flags.is_some_and(|flags| flags.contains(rustix::fs::IFlags::IMMUTABLE))
}

/// Errors in words, with what to do.
fn failed(path: &Path, error: &io::Error) -> Failure {
    use rustix::io::Errno;
    let text = match Errno::from_io_error(error) {
        Some(Errno::EXIST) => "exists already; choose another name",
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS) => {
            "not on a filesystem mounted by butterfs; name a path in one"
        }
        Some(Errno::NOTEMPTY) => "holds other subvolumes; delete those first, or all with -R",
        Some(Errno::PERM) if is_immutable(path.parent()) => {
            "not permitted; the directory that it lies in cannot be changed: chattr -i lets it"
        }
        Some(Errno::PERM) => "not permitted; it is the default subvolume, or you are neither root nor its owner",
        Some(Errno::BUSY) => "in use: it is the subvolume that is mounted; mount another one to delete it",
        Some(Errno::ROFS) => "read-only; mount it with -o rw, or choose a subvolume that can be changed",
        Some(Errno::INVAL) => "not a subvolume; see butterfs subvolume list",
        _ => return failure::io(exit::USAGE, path, error),
    };
    Failure::at(exit::USAGE, path, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_is_what_the_clock_says() {
        // Whatever zone this runs in, the sum is right.
        let seconds = 1_700_000_000;
        let text = zone_text(seconds);
        let (hours, minutes) = (text[1..3].parse::<i64>().unwrap(), text[3..5].parse::<i64>().unwrap());
        let apart = (hours * 60 + minutes) * if text.starts_with('-') { -1 } else { 1 };
        let clock = butterfs_os::time::local_time(seconds).unwrap().clock.map(i64::from);
        let shifted = (seconds + apart * 60).rem_euclid(86_400);
        assert_eq!([shifted / 3600, shifted / 60 % 60, shifted % 60], clock, "{text}");
    }

    #[test]
    fn nothing_is_a_dash() {
        assert_eq!((time_zone_text(0), uuid_text(&[0; 16])), ("-".into(), "-".into()));
    }
}
