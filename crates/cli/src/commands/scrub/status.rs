//! `butterfs scrub status`: the scrub that runs, or the record of the last one.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use butterfs_engine::filesystem::Access;
use butterfs_engine::scrub::ScrubProgress;
use butterfs_format::items::BlockGroupFlags;
use butterfs_fuse::control::{self, ScrubState, ScrubStatus};
use butterfs_volume::Profile;

use super::print::{Speed, State, Style, text, together};
use super::record::{self, Record};
use super::target::{Device, Mount, is_mount, open_image, open_mount};
use crate::failure::Result;
use crate::output;

/// What is shown.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Numbers for each device.
    #[arg(short = 'd')]
    by_device: bool,
    /// Print the numbers as they are counted.
    #[arg(short = 'R')]
    raw: bool,
    /// A path on a mounted filesystem; or an image or device that is not mounted, with the others of its filesystem.
    #[arg(required = true)]
    target: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.target[0].as_path();
    let (fsid, devices, mount) = look(path, arguments)?;
    output::line(format!("UUID:             {}", record::text_of(&fsid)));
    let kept = record::read(&fsid);
    let of = |device: &Device| {
        let kept = kept.iter().find(|record| record.devid == device.devid).copied();
        let now = mount.as_ref().and_then(|mount| control::scrub_status(mount.file.as_fd(), device.devid).ok());
        state_of(kept, now).map(|(record, state)| (device.clone(), record, state))
    };
    let found: Vec<(Device, Record, State)> = devices.iter().filter_map(of).collect();
    let style = if arguments.raw { Style::Raw } else { Style::Summary };
    if found.is_empty() {
        output::line("\tno stats available");
        return Ok(());
    }
    if arguments.by_device {
        for (Device { devid, path, .. }, record, state) in &found {
            let word = if *state == State::Running { "status" } else { "history" };
            output::line(format!("\nScrub device {path} (id {devid}) {word}"));
            let (total, speed) =
                mount.as_ref().map_or((None, Speed::Free), |mount| mount.outlook(*state, Some(*devid)));
            output::line(text(record, *state, style, total, speed).trim_end());
        }
        return Ok(());
    }
    let states: Vec<State> = found.iter().map(|(.., state)| *state).collect();
    let worst = [State::Running, State::Interrupted, State::Cancelled, State::Finished];
    let state = worst.into_iter().find(|state| states.contains(state)).unwrap_or(State::Finished);
    let sum = together(&found.iter().map(|(_, record, _)| *record).collect::<Vec<_>>());
    let (total, speed) = mount.as_ref().map_or((None, Speed::Free), |mount| mount.outlook(state, None));
    output::line(text(&sum, state, style, total, speed).trim_end());
    Ok(())
}

impl Mount {
    /// What a scrub that has not ended is to read, of one device or of all, and whether it is to be slow. As btrfs-progs
    /// reckon it: what is used, each copy; of one device what block groups take.
    fn outlook(&self, state: State, devid: Option<u64>) -> (Option<u64>, Speed) {
        if state == State::Finished {
            return (None, Speed::Free);
        }
        let file = self.file.as_fd();
        let chosen = || self.devices.iter().filter(|device| devid.is_none_or(|devid| devid == device.devid));
        let is_slow = chosen().any(|device| control::scrub_limit(file, device.devid).is_ok_and(|limit| limit > 0));
        let speed = if is_slow && state == State::Running { Speed::Limited } else { Speed::Free };
        if devid.is_some() {
            return (Some(chosen().map(|device| device.used).sum()), speed);
        }
        let copies =
            |flags| Profile::of(BlockGroupFlags::from_bits_truncate(flags)).map_or(1, |profile| profile.copies as u64);
        let spaces = control::space_infos(file).unwrap_or_default();
        (Some(spaces.iter().map(|space| space.used * copies(space.flags)).sum()), speed)
    }
}

type Found = ([u8; 16], Vec<Device>, Option<Mount>);

fn look(path: &Path, arguments: &Arguments) -> Result<Found> {
    if is_mount(path) {
        let mount = open_mount(path)?;
        return Ok((mount.fsid, mount.devices.clone(), Some(mount)));
    }
    let image = open_image(&arguments.target, Access::ReadOnly)?;
    Ok((image.fsid, image.devices, None))
}

/// The record as it is now, and how the scrub is.
fn state_of(kept: Option<Record>, now: Option<ScrubStatus>) -> Option<(Record, State)> {
    if let Some(now) = now.filter(|now| now.state == ScrubState::Running) {
        let kept = kept.unwrap_or_default();
        let mut record = Record { progress: ScrubProgress::from_values(now.progress), ..kept };
        let since = record.started.max(record.resumed);
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |at| at.as_secs());
        record.duration = clock.saturating_sub(since);
        return Some((record, State::Running));
    }
    let record = kept?;
    let state = match record {
        Record { cancelled: true, .. } => State::Cancelled,
        Record { finished: true, .. } => State::Finished,
        _ => State::Interrupted,
    };
    Some((record, state))
}
