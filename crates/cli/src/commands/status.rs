//! `butterfs status`: how mounted filesystems are, and what went wrong.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use butterfs_format::print::WallClock;
use butterfs_fuse::control::{self, MountState, MountStatus};
use butterfs_fuse::mount::MountEntry;
use rustix::io::Errno;
use serde_json::{Value, json};

use super::Format;
use crate::failure::{self, Failure, Result};
use crate::{exit, output};

/// What `status` is told.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 all is well, 1 a filesystem is read-only because of an error or lost data, \
                        2 the status could not be read.")]
pub struct Arguments {
    /// Any path in a mounted filesystem; without one, all that butterfs has mounted.
    path: Option<PathBuf>,
    /// How to print it.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

/// Runs the command; `before` is the format that was given before it.
pub fn run(arguments: &Arguments, before: Format) -> Result<ExitCode> {
    let found = match &arguments.path {
        Some(path) => vec![(path.clone(), read(path)?)],
        None => all()?,
    };
    match arguments.format.unwrap_or(before) {
        Format::Text => found.iter().for_each(|(path, status)| print(path, status)),
        Format::Json => {
            let all: Vec<Value> = found.iter().map(|(path, status)| to_json(path, status)).collect();
            output::line(json!({ "mounts": all }));
        }
    }
    let healthy = found.iter().all(|(_, status)| status.is_healthy());
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::from(exit::IN_ERROR) })
}

fn all() -> Result<Vec<(PathBuf, MountStatus)>> {
    let entries = MountEntry::of_butterfs();
    let entries =
        entries.map_err(|error| Failure::new(exit::SYSTEM, format!("cannot read the list of mounts: {error}")))?;
    entries.into_iter().map(|entry| read(&entry.target).map(|status| (entry.target, status))).collect()
}

fn read(path: &Path) -> Result<MountStatus> {
    let file = File::open(path).map_err(|error| failure::io(exit::SYSTEM, path, &error))?;
    control::status(file.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
            let text = "not on a filesystem mounted by butterfs; name a path in one, or none to see all";
            Failure::at(exit::SYSTEM, path, text)
        }
        _ => failure::io(exit::SYSTEM, path, &error),
    })
}

fn word(state: MountState) -> &'static str {
    match state {
        MountState::ReadWrite => "read-write",
        MountState::ReadOnly => "read-only",
        MountState::Error => "error",
    }
}

fn print(path: &Path, status: &MountStatus) {
    let state = match (status.state, status.is_healthy()) {
        (MountState::Error, _) => "read-only because of an error",
        (state, true) => word(state),
        (_, false) => "data of files was lost",
    };
    output::line(format!("{}: {state}", path.display()));
    let field = |name: &str, value: String| output::line(format!("  {name:<12} {value}"));
    if let Some(failure) = &status.failure {
        field("cause", failure.cause.clone());
        field("since", time_text(failure.at));
        field("lost", format!("all changes after transaction {}", status.committed));
        field("what to do", "unmount it; see to the device; run butterfs check; mount it again".into());
    }
    if status.lost_writes > 0 {
        let last = status.last_lost_write.as_deref().unwrap_or("unknown");
        field("lost data", format!("{} times, last: {last}", status.lost_writes));
    }
    field("device", status.device.clone());
    field("options", status.options.clone());
    field("daemon", format!("process {}", status.pid));
    let when = status.committed_at.map_or("before this mount".into(), time_text);
    field("last commit", format!("transaction {}, {when}", status.committed));
    field("in memory", format!("{} bytes of files", status.dirty_bytes));
    if status.deleted_subvolumes > 0 {
        field("cleaning up", format!("{} deleted subvolumes are not gone yet", status.deleted_subvolumes));
    }
}

fn to_json(path: &Path, status: &MountStatus) -> Value {
    json!({
        "mount_point": path.to_string_lossy(),
        "state": word(status.state),
        "healthy": status.is_healthy(),
        "error": status.failure.as_ref().map(|failure| json!({
            "cause": failure.cause,
            "time": time_text(failure.at),
            "transaction": failure.generation,
        })),
        "changes_lost": !status.is_healthy(),
        "lost_writes": status.lost_writes,
        "last_lost_write": status.last_lost_write,
        "device": status.device,
        "options": status.options,
        "daemon_pid": status.pid,
        "last_commit": { "transaction": status.committed, "time": status.committed_at.map(time_text) },
        "dirty_bytes": status.dirty_bytes,
        "deleted_subvolumes": status.deleted_subvolumes,
    })
}

/// A time in UTC.
fn time_text((seconds, _): (i64, u32)) -> String {
    let WallClock { year, month, day, clock: [hour, minute, second], .. } = WallClock::utc(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(time_text((seconds, 0)), text);
        }
    }
}
