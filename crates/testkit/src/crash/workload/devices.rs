//! Devices come, go, stay away and return, while files change.
//!
//! # Invariants
//! * There are always as many devices that the profiles survive the losses, also while one is away.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::filesystem::{RemovalEnd, ReplaceEnd, Replacement, Returning, WhichDevice};
use butterfs_format::DevId;
use butterfs_format::items::{BlockGroupFlags, ReadSource};
use butterfs_volume::{BlockDevice, Missing, OpenMode, Profile, Volume};

use super::{CountingEnvironment, OpenOptions, Run, survived};
use crate::crash::history::{Away, Durable};

/// So many devices can come.
pub(super) const SPARE: usize = 2;

/// All devices, and what is known of them.
pub(super) struct Devices {
    pub all: Vec<Arc<dyn BlockDevice>>,
    /// Those of the filesystem: their numbers, and their places among all.
    pub members: Vec<(DevId, usize)>,
    /// The fewest that there are.
    pub least: usize,
    /// How the filesystem is opened.
    pub options: OpenOptions,
    /// Where the next clock begins.
    pub clock: u64,
    /// The place of the one that is away.
    pub away: Option<usize>,
    /// The place of the one that is to replace another.
    pub target: Option<usize>,
    /// Files change while a device is brought up to date.
    pub catching_up: bool,
}

impl Devices {
    fn spare(&self) -> Option<usize> {
        (0..self.all.len()).find(|place| self.members.iter().all(|(_, member)| member != place))
    }
}

impl Run {
    fn is_settled(&self) -> bool {
        self.devices.away.is_none() && self.filesystem.exclusive().current().is_none()
    }

    pub(super) fn add_device(&mut self) {
        let Some(place) = self.devices.spare().filter(|_| self.devices.away.is_none()) else { return };
        let device = Arc::clone(&self.devices.all[place]);
        let begun = self.recorder.position();
        self.step(
            format!("add device {place}"),
            Durable::Nothing,
            |run| match run.filesystem.add_device(&device) {
                Err(Error::InProgress(_)) => Ok(None),
                added => added.map(Some),
            },
            |run, devid| run.devices.members.extend(devid.flatten().map(|devid| (devid, place))),
        );
        self.history.device_changes.push(begun..self.recorder.position());
    }

    pub(super) fn remove_device(&mut self) {
        if !self.is_settled() || self.devices.members.len() <= self.devices.least {
            return;
        }
        let chosen = self.random.below(self.devices.members.len() as u64) as usize;
        let (devid, place) = self.devices.members[chosen];
        let begun = self.recorder.position();
        self.step(
            format!("remove device {place}"),
            Durable::Nothing,
            |run| {
                let begun = match run.filesystem.begin_removal(&[WhichDevice::Id(devid)]) {
                    Err(Error::TooFewDevices { .. } | Error::Busy(_)) => return Ok(false),
                    begun => begun?,
                };
                match run.filesystem.run_removal(begun) {
                    // A deleted subvolume is in use.
                    Err(Error::Busy(_)) => Ok(false),
                    ended => ended.map(|ended| ended == RemovalEnd::Done),
                }
            },
            |run, removed| {
                if removed == Some(true) {
                    run.devices.members.remove(chosen);
                }
            },
        );
        self.history.device_changes.push(begun..self.recorder.position());
    }

    /// Whether new chunks survive as much with a device less: each kind has a profile for that. (Where none is possible, both
    /// copies are on one device, until a balance.)
    fn survives_without_one(&self) -> bool {
        let left = self.devices.members.len() - 1;
        let chunks = self.filesystem.shared().gate.volume().chunks();
        let survives = |flags: BlockGroupFlags| {
            Profile::of(flags).is_some_and(|profile| profile.min_devices <= left && survived(&profile) >= self.survives)
        };
        let kinds = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM];
        kinds.into_iter().all(|kind| {
            let mut of_kind = chunks.iter().map(|(_, chunk)| chunk.flags()).filter(|flags| flags.contains(kind));
            of_kind.any(survives)
        })
    }

    /// A device goes away: the filesystem is opened without it.
    pub(super) fn leave(&mut self) {
        if !self.is_settled() || !self.survives_without_one() {
            return;
        }
        self.end_use();
        let chosen = self.random.below(self.devices.members.len() as u64) as usize;
        let place = self.devices.members[chosen].1;
        self.history.away.push(Away { device: place, from: self.recorder.position(), to: usize::MAX });
        self.devices.away = Some(place);
        self.reopen(&format!("open without device {place}"));
    }

    /// It returns, and is brought up to date while files change.
    pub(super) fn come_back(&mut self) {
        if self.devices.catching_up {
            return;
        }
        let Some(place) = self.devices.away.take() else { return };
        self.end_use();
        self.reopen(&format!("open with device {place} again"));
        self.devices.catching_up = true;
        let filesystem = Arc::clone(&self.filesystem);
        let run = RefCell::new(&mut *self);
        let resynced = filesystem.resync_until(&|| {
            let mut run = run.borrow_mut();
            for _ in 0..3 {
                run.one_of_files();
            }
            run.failure.is_some()
        });
        self.devices.catching_up = false;
        match resynced {
            Ok(_) => {}
            Err(error) => {
                assert!(self.on_error == super::OnError::Stop, "resync: {error}");
                self.failure = Some(error);
            }
        }
        // What came in between had steps of its own.
        self.in_between("device is up to date");
        let now = self.recorder.position();
        if let Some(away) = self.history.away.last_mut() {
            away.to = now;
        }
    }

    /// A device is replaced by another while files change: in one go, or it is suspended after a while, and then goes on or is
    /// cancelled, now or after another open.
    pub(super) fn replace_device(&mut self) {
        let Some(place) = self.devices.spare().filter(|_| self.is_settled()) else { return };
        let chosen = self.random.below(self.devices.members.len() as u64) as usize;
        let (devid, source) = self.devices.members[chosen];
        let (begun, mut replacement) = (self.recorder.position(), None);
        let target = Arc::clone(&self.devices.all[place]);
        self.step(
            format!("replace device {source} by {place}"),
            Durable::Nothing,
            |run| match run.filesystem.begin_replacement(devid, &target, ReadSource::Always) {
                Err(Error::InProgress(_)) => Ok(None),
                begun => begun.map(Some),
            },
            |_, made| replacement = made.flatten(),
        );
        let Some(replacement) = replacement else { return };
        self.devices.target = Some(place);
        let windows = self.random.below(40);
        let mut end = self.replace(replacement, windows);
        if end == Some(ReplaceEnd::Suspended) {
            if self.random.percent(50) {
                self.end_use();
                self.reopen(&format!("open with a target at {place}"));
            }
            end = if self.random.percent(50) { self.cancel_replacement() } else { self.resume_replacement() };
        }
        if let Some(ReplaceEnd::Done(_)) = end {
            self.devices.members[chosen].1 = place;
        }
        self.devices.target = None;
        self.history.device_changes.push(begun..self.recorder.position());
    }

    /// Runs a replacement while files change, up to so many windows; `None` if it failed.
    fn replace(&mut self, replacement: Replacement, windows: u64) -> Option<ReplaceEnd> {
        let filesystem = Arc::clone(&self.filesystem);
        let (run, left) = (RefCell::new(&mut *self), Cell::new(windows));
        let ended = filesystem.run_replacement_until(replacement, &|| {
            let mut run = run.borrow_mut();
            run.in_between("replacing");
            (0..2).for_each(|_| run.one_of_files());
            left.set(left.get().saturating_sub(1));
            run.failure.is_some() || left.get() == 0
        });
        self.note_replacement("replacement ended", ended)
    }

    fn resume_replacement(&mut self) -> Option<ReplaceEnd> {
        let begun = self.filesystem.begin_resumed_replacement();
        match begun {
            Ok(replacement) => self.replace(replacement, u64::MAX),
            Err(error) => self.note_replacement("replacement goes on", Err(error)),
        }
    }

    fn cancel_replacement(&mut self) -> Option<ReplaceEnd> {
        let cancelled = self.filesystem.cancel_replacement();
        self.note_replacement("replacement cancelled", cancelled.map(|()| ReplaceEnd::Cancelled))
    }

    fn note_replacement(&mut self, what: &str, ended: Result<ReplaceEnd, Error>) -> Option<ReplaceEnd> {
        let end = match ended {
            Ok(end) => Some(end),
            Err(error) => {
                assert!(self.on_error == super::OnError::Stop, "{what}: {error}");
                self.failure = Some(error);
                None
            }
        };
        let what = end.map_or_else(|| what.to_owned(), |end| format!("{what}: {end:?}"));
        self.in_between(&what);
        end
    }

    /// A step for what was done since the last one.
    fn in_between(&mut self, what: &str) {
        let begun = self.history.steps.last().and_then(|step| step.ended);
        self.end(begun.unwrap_or(self.recorder.position()), what, Durable::Nothing);
    }

    /// What is in memory gets durable, as by an unmount.
    fn end_use(&mut self) {
        while !self.held.is_empty() {
            self.release();
        }
        self.sync();
    }

    fn reopen(&mut self, what: &str) {
        let begun = self.recorder.position();
        let there = |(_, place): &&(DevId, usize)| self.devices.away != Some(*place);
        let members = self.devices.members.iter().filter(there).map(|(_, place)| *place);
        let devices = members.chain(self.devices.target).map(|place| Arc::clone(&self.devices.all[place]));
        let how = butterfs_volume::OpenOptions {
            missing: if self.devices.away.is_some() { Missing::Accept } else { Missing::Refuse },
            ..butterfs_volume::OpenOptions::new(OpenMode::ReadWrite)
        };
        self.devices.clock += 1 << 19;
        let environment = CountingEnvironment::new(self.devices.clock);
        let options = OpenOptions { returning: Returning::CatchUp, ..self.devices.options.clone() };
        let opened = Volume::open_with(devices.collect(), &how)
            .map_err(Error::from)
            .and_then(|volume| super::Filesystem::open(volume, options, Box::new(environment)));
        match opened {
            Ok(opened) => self.filesystem = Arc::new(opened),
            Err(error) => {
                assert!(self.on_error == super::OnError::Stop, "{what}: {error}");
                self.failure = Some(error);
            }
        }
        self.end(begun, what, Durable::Nothing);
    }
}
