//! The states that devices can be in after a power cut, built from a recording.
//!
//! A cut comes between two events. What a completed flush covers is there. Of every other write issued before the
//! cut, any part may be there, sector by sector, whatever happened to the others. That covers every order too: with
//! one device, what a sector holds in the end is what one of the writes to it put there, or what was there before,
//! and each of these is a choice of which writes are lost.
//!
//! A discard is a hint: what it covers may read as zeros from then on or as before, flushed or not. So in half of the
//! states of a recording that has discards none was ever heeded; in the others each is a write of zeros.
//!
//! # Invariants
//! * State `n` of a plan depends on the recording, the settings and `n` alone: it can be built by itself.
//! * No state contains a byte that was not issued before the cut, or lacks one that was durable.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_volume::{BlockDevice, MemDevice};

use super::recording::{Event, Recorder};
use crate::random::Random;

/// How superblock copies can be torn. They are the only blocks that are overwritten in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuperblockTear {
    /// They are written whole or not at all: 4 KiB are atomic, which Btrfs itself relies on.
    Never,
    /// At most one copy of a device is half written at a cut.
    OneCopy,
}

/// Which states to build.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// All choices follow from it.
    pub seed: u64,
    /// How many states.
    pub states: usize,
    /// Every subset is tried where at most so many writes are pending.
    pub exhaustive: usize,
    /// The smallest unit that is written whole, in bytes.
    pub sector: usize,
    /// What may happen to superblocks.
    pub superblocks: SuperblockTear,
}

impl Settings {
    /// Sectors of 512 bytes, every subset of up to 6 writes.
    pub fn new(seed: u64, states: usize) -> Self {
        Self { seed, states, exhaustive: 6, sector: 512, superblocks: SuperblockTear::Never }
    }
}

/// What became of a pending write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it is there.
    Lost,
    /// All of it is there.
    Whole,
    /// These parts of it are there.
    Torn(Vec<Range<usize>>),
}

/// Devices after a power cut.
pub struct CrashState {
    /// Its number in the plan.
    pub number: usize,
    /// How many events came before the cut.
    pub cut: usize,
    /// Pending writes by the number of their event.
    pub fates: Vec<(usize, Fate)>,
    /// The devices.
    pub devices: Vec<MemDevice>,
}

impl CrashState {
    /// Whether a write is there in part.
    pub fn is_torn(&self) -> bool {
        self.fates.iter().any(|(_, fate)| matches!(fate, Fate::Torn(_)))
    }

    /// Copies that can be changed without changing the state.
    pub fn forks(&self) -> Vec<Arc<dyn BlockDevice>> {
        shared(self.devices.iter().map(MemDevice::snapshot).collect())
    }

    /// Writes a device to a file, sparse.
    ///
    /// # Errors
    /// Those of the file.
    pub fn save(&self, device: usize, path: &Path) -> std::io::Result<()> {
        let (file, device) = (File::create(path)?, &self.devices[device]);
        file.set_len(device.len())?;
        device.written().iter().try_for_each(|(offset, bytes)| {
            let len = bytes.len().min((device.len() - offset) as usize);
            file.write_all_at(&bytes[..len], *offset)
        })
    }
}

impl std::fmt::Display for CrashState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "state {}: cut after event {}", self.number, self.cut)?;
        let some = |wanted: fn(&Fate) -> bool| {
            let events: Vec<_> = self.fates.iter().filter(|(_, fate)| wanted(fate)).map(|(event, _)| *event).collect();
            format!("{events:?}")
        };
        write!(f, ", lost {}", some(|fate| *fate == Fate::Lost))?;
        write!(f, ", whole {}", some(|fate| *fate == Fate::Whole))?;
        write!(f, ", torn {}", some(|fate| matches!(fate, Fate::Torn(_))))
    }
}

/// What a device makes of discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Discards {
    /// They read as zeros.
    Zeros,
    /// They are never heeded.
    Ignored,
}

/// The devices as they were at some event, with nothing pending.
struct Checkpoint {
    events: usize,
    devices: Vec<MemDevice>,
    /// The same where no discard was heeded, if there are any.
    undiscarded: Option<Vec<MemDevice>>,
}

impl Checkpoint {
    fn fork(&self, discards: Discards) -> Vec<MemDevice> {
        let ignored = self.undiscarded.as_ref().filter(|_| discards == Discards::Ignored);
        ignored.unwrap_or(&self.devices).iter().map(MemDevice::snapshot).collect()
    }
}

/// A choice that leaves nothing to chance: bit n says whether the n-th pending write is there.
#[derive(Clone, Copy)]
struct Exact {
    cut: usize,
    mask: u64,
}

/// A recording and the states that are to be built from it.
pub struct Plan {
    events: Vec<Event>,
    /// For each event, the flush that made it durable, or a number past the end.
    durable_at: Vec<usize>,
    checkpoints: Vec<Checkpoint>,
    exact: Vec<Exact>,
    settings: Settings,
}

const NEVER: usize = usize::MAX;

impl Plan {
    /// Plans states of the devices that held `bases` before the first event.
    pub fn new(events: Vec<Event>, bases: Vec<MemDevice>, settings: Settings) -> Self {
        let durable_at = durable_at(&events);
        let checkpoints = checkpoints(&events, &durable_at, bases);
        let mut plan = Self { events, durable_at, checkpoints, exact: Vec::new(), settings };
        plan.exact = plan.exact_choices();
        plan
    }

    /// Runs any workload on devices that hold `bases`, and plans states of what it did. The recorder takes its marks.
    pub fn of(
        bases: Vec<MemDevice>,
        settings: Settings,
        work: impl FnOnce(&[Arc<dyn BlockDevice>], &Arc<Recorder>),
    ) -> Self {
        let recorder = Recorder::new();
        let record = |base: &MemDevice| {
            recorder.device(Arc::new(base.snapshot()) as Arc<dyn BlockDevice>) as Arc<dyn BlockDevice>
        };
        let devices: Vec<_> = bases.iter().map(record).collect();
        work(&devices, &recorder);
        Self::new(recorder.events(), bases, settings)
    }

    /// How many states there are.
    pub fn len(&self) -> usize {
        self.settings.states
    }

    /// Whether there is no state.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many states are chosen from the complete list of small cases.
    pub fn exact_states(&self) -> usize {
        self.exact.len()
    }

    /// The events.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Builds one state.
    pub fn state(&self, number: usize) -> CrashState {
        let mut random = Random::new(self.settings.seed ^ (number as u64).wrapping_mul(0xd134_2543_de82_ef95));
        match self.exact.get(number) {
            Some(exact) => {
                let fates = self.masked(exact);
                self.build(number, exact.cut, fates)
            }
            None => {
                let cut = self.random_cut(&mut random);
                let fates = self.random_fates(cut, &mut random);
                self.build(number, cut, fates)
            }
        }
    }

    /// The state right after the last event, with everything written.
    pub fn final_state(&self) -> CrashState {
        let cut = self.events.len();
        let fates = self.pending(cut).into_iter().map(|event| (event, Fate::Whole)).collect();
        self.build(NEVER, cut, fates)
    }

    /// Writes that were issued before the cut and are not durable.
    fn pending(&self, cut: usize) -> Vec<usize> {
        (0..cut).filter(|n| self.events[*n].changed_device().is_some() && self.durable_at[*n] >= cut).collect()
    }

    fn build(&self, number: usize, cut: usize, mut fates: Vec<(usize, Fate)>) -> CrashState {
        let index = self.checkpoints.partition_point(|checkpoint| checkpoint.events <= cut) - 1;
        let discards = if number.is_multiple_of(2) { Discards::Zeros } else { Discards::Ignored };
        let devices = self.checkpoints[index].fork(discards);
        if discards == Discards::Ignored {
            let ignored = fates.iter_mut().filter(|(event, _)| matches!(self.events[*event], Event::Discard { .. }));
            ignored.for_each(|(_, fate)| *fate = Fate::Lost);
        }
        for (event, fate) in &fates {
            match fate {
                Fate::Lost => {}
                Fate::Whole => apply(&self.events[*event], &devices, None),
                Fate::Torn(parts) => parts.iter().for_each(|part| apply(&self.events[*event], &devices, Some(part))),
            }
        }
        CrashState { number, cut, fates, devices }
    }

    /// All subsets of the writes before each flush where they are few; and each mark, with nothing and with all.
    fn exact_choices(&self) -> Vec<Exact> {
        let mut all = Vec::new();
        for (at, event) in self.events.iter().enumerate() {
            match event {
                Event::Flush { .. } => self.add_subsets(at, &mut all),
                Event::Mark(_) => all.extend([0, u64::MAX].map(|mask| Exact { cut: at + 1, mask })),
                _ => {}
            }
        }
        let mut random = Random::new(self.settings.seed);
        for n in (1..all.len()).rev() {
            all.swap(n, random.below(n as u64 + 1) as usize);
        }
        all.truncate(self.settings.states / 2);
        all
    }

    fn add_subsets(&self, cut: usize, all: &mut Vec<Exact>) {
        let pending = self.pending(cut).len();
        if pending <= self.settings.exhaustive {
            all.extend((0..1 << pending).map(|mask| Exact { cut, mask }));
        }
        all.push(Exact { cut: cut + 1, mask: 0 });
    }

    fn masked(&self, exact: &Exact) -> Vec<(usize, Fate)> {
        let chosen = |n: usize| exact.mask == u64::MAX || exact.mask.checked_shr(n as u32).unwrap_or(0) & 1 == 1;
        let fate = |n| if chosen(n) { Fate::Whole } else { Fate::Lost };
        self.pending(exact.cut).into_iter().enumerate().map(|(n, event)| (event, fate(n))).collect()
    }

    /// Half of the cuts come just before a flush returned, when most is pending; the others anywhere.
    fn random_cut(&self, random: &mut Random) -> usize {
        let mut cut = random.below(self.events.len() as u64 + 1) as usize;
        if random.percent(50) {
            while cut < self.events.len() && !matches!(self.events[cut], Event::Flush { .. }) {
                cut += 1;
            }
        }
        cut
    }

    fn random_fates(&self, cut: usize, random: &mut Random) -> Vec<(usize, Fate)> {
        let pending = self.pending(cut);
        let count = pending.len() as u64;
        let style = random.below(8);
        let special = random.below(count.max(1));
        let density = [5, 25, 50, 75, 95][random.below(5) as usize];
        let tear = if random.percent(50) { [0, 10, 50][random.below(3) as usize] } else { 0 };
        let mut half_written = Vec::new();
        let mut fates = Vec::with_capacity(pending.len());
        for (n, event) in pending.into_iter().enumerate() {
            let n = n as u64;
            let there = match style {
                // In order; in reverse; all but one; only one; each by itself.
                0 | 1 => n < special,
                2 => n >= special,
                3 => n != special,
                4 => n == special,
                _ => random.percent(density),
            };
            let torn = random.percent(tear) || style == 1 && n == special;
            let fate = match (there, torn) {
                (_, true) => self.tear(event, &mut half_written, random),
                (true, false) => Fate::Whole,
                (false, false) => Fate::Lost,
            };
            fates.push((event, fate));
        }
        fates
    }

    /// Part of a write; superblocks by the rule for them.
    fn tear(&self, event: usize, half_written: &mut Vec<usize>, random: &mut Random) -> Fate {
        let (device, len, superblock) = match &self.events[event] {
            Event::Write { device, offset, bytes } => (*device, bytes.len(), is_superblock(*offset, bytes.len())),
            Event::Discard { device, len, .. } => (*device, *len as usize, false),
            _ => return Fate::Lost,
        };
        if superblock && (self.settings.superblocks == SuperblockTear::Never || half_written.contains(&device)) {
            return if random.percent(50) { Fate::Whole } else { Fate::Lost };
        }
        let sectors = len.div_ceil(self.settings.sector);
        if sectors < 2 {
            return Fate::Whole;
        }
        if superblock {
            half_written.push(device);
        }
        Fate::Torn(self.torn_parts(len, sectors, random))
    }

    fn torn_parts(&self, len: usize, sectors: usize, random: &mut Random) -> Vec<Range<usize>> {
        let at = random.between(1, sectors as u64 - 1) as usize;
        let chosen: Vec<usize> = match random.below(3) {
            0 => (0..at).collect(),
            1 => (at..sectors).collect(),
            _ => (0..sectors).filter(|_| random.percent(50)).collect(),
        };
        let sector = self.settings.sector;
        chosen.into_iter().map(|n| n * sector..((n + 1) * sector).min(len)).collect()
    }
}

fn is_superblock(offset: u64, len: usize) -> bool {
    SUPERBLOCK_OFFSETS.contains(&offset) && len == SUPERBLOCK_SIZE
}

/// For each event the first flush that covers it.
fn durable_at(events: &[Event]) -> Vec<usize> {
    let mut at = vec![NEVER; events.len()];
    let mut open: Vec<usize> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        if event.changed_device().is_some() {
            open.push(number);
        }
        let Event::Flush { device, begun, under_way } = event else { continue };
        open.retain(|write| {
            let covered =
                events[*write].changed_device() == Some(*device) && *write < *begun && !under_way.contains(write);
            if covered {
                at[*write] = number;
            }
            !covered
        });
    }
    at
}

/// The durable devices at the beginning and after each flush.
fn checkpoints(events: &[Event], durable_at: &[usize], bases: Vec<MemDevice>) -> Vec<Checkpoint> {
    let copies = |devices: &[MemDevice]| -> Vec<MemDevice> { devices.iter().map(MemDevice::snapshot).collect() };
    let is_discard = |event: &Event| matches!(event, Event::Discard { .. });
    let last = copies(&bases);
    let undiscarded = events.iter().any(is_discard).then(|| copies(&bases));
    let mut all = vec![Checkpoint { events: 0, undiscarded: undiscarded.as_deref().map(copies), devices: bases }];
    let mut first_open = 0;
    for (number, event) in events.iter().enumerate() {
        if !matches!(event, Event::Flush { .. }) {
            continue;
        }
        for write in first_open..number {
            if durable_at[write] != number {
                continue;
            }
            apply(&events[write], &last, None);
            if let Some(undiscarded) = undiscarded.as_ref().filter(|_| !is_discard(&events[write])) {
                apply(&events[write], undiscarded, None);
            }
        }
        while first_open < number && (durable_at[first_open] <= number || events[first_open].changed_device().is_none())
        {
            first_open += 1;
        }
        let undiscarded = undiscarded.as_deref().map(copies);
        all.push(Checkpoint { events: number + 1, devices: copies(&last), undiscarded });
    }
    all
}

/// Does to the devices what an event did, or a part of it.
fn apply(event: &Event, devices: &[MemDevice], part: Option<&Range<usize>>) {
    let result = match (event, part) {
        (Event::Write { device, offset, bytes }, None) => devices[*device].write_at(*offset, bytes),
        (Event::Write { device, offset, bytes }, Some(part)) => {
            devices[*device].write_at(offset + part.start as u64, &bytes[part.clone()])
        }
        (Event::Discard { device, offset, len }, None) => devices[*device].discard(*offset, *len),
        (Event::Discard { device, offset, .. }, Some(part)) => {
            devices[*device].discard(offset + part.start as u64, part.len() as u64)
        }
        _ => Ok(()),
    };
    // A write past the end failed when it was recorded, too.
    let _past_the_end = result;
}

/// Shares devices as a volume wants them.
pub fn shared(devices: Vec<MemDevice>) -> Vec<Arc<dyn BlockDevice>> {
    devices.into_iter().map(|device| Arc::new(device) as Arc<dyn BlockDevice>).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn byte(image: &MemDevice, offset: u64) -> u8 {
        let mut byte = [0];
        image.read_at(offset, &mut byte).unwrap();
        byte[0]
    }

    /// Two writes, a flush, a write over the first, one more, a flush that is never done.
    fn plan(states: usize) -> Plan {
        let recorder = Recorder::new();
        let device = recorder.device(Arc::new(MemDevice::named("disk", 1 << 20)));
        device.write_at(0, &[1; 512]).unwrap();
        device.write_at(512, &[1; 512]).unwrap();
        device.flush().unwrap();
        device.write_at(0, &[2; 512]).unwrap();
        device.write_at(1024, &[2; 2048]).unwrap();
        Plan::new(recorder.events(), vec![MemDevice::named("disk", 1 << 20)], Settings::new(7, states))
    }

    #[test]
    fn every_state_is_legal_and_every_legal_state_of_whole_writes_is_met() {
        let plan = plan(2000);
        let mut seen = BTreeSet::new();
        for n in 0..plan.len() {
            let state = plan.state(n);
            let bytes = [0, 512, 1024, 1536, 2048, 2560].map(|at| byte(&state.devices[0], at));
            if state.cut >= 3 {
                assert!(bytes[0] >= 1 && bytes[1] == 1, "{state}: durable bytes are there");
            }
            if state.cut < 5 {
                assert!(bytes[2..].iter().all(|b| *b == 0), "{state}: nothing from after the cut");
            }
            seen.insert(bytes);
        }
        for first in [1, 2] {
            for second in [0, 2] {
                assert!(seen.contains(&[first, 1, second, second, second, second]));
            }
        }
        assert!(seen.contains(&[0, 1, 0, 0, 0, 0]), "the second write without the first");
        assert!(seen.iter().any(|b| b[2] != b[5] && b[5] == 2), "the end of a torn write without its start");
        assert!(plan.exact_states() >= 5);
    }

    #[test]
    fn a_state_is_the_same_whenever_it_is_built() {
        let plan = plan(500);
        let other = self::plan(500);
        for n in (0..500).rev() {
            let (a, b) = (plan.state(n), other.state(n));
            assert_eq!((a.cut, &a.fates), (b.cut, &b.fates));
            assert_eq!(a.devices[0].written(), b.devices[0].written());
        }
    }

    /// What was discarded is zeros or as before, flushed or not, in part where the discard was; what was written to the
    /// place later is there.
    #[test]
    fn a_discard_is_a_hint() {
        let recorder = Recorder::new();
        let base = MemDevice::named("disk", 1 << 20);
        base.write_at(0, &[1; 4096]).unwrap();
        let device = recorder.device(Arc::new(base.snapshot()));
        device.discard(0, 2048).unwrap();
        device.flush().unwrap();
        device.write_at(512, &[2; 512]).unwrap();
        device.flush().unwrap();
        device.discard(2048, 2048).unwrap();
        let plan = Plan::new(recorder.events(), vec![base], Settings::new(3, 1000));
        let (mut flushed, mut pending) = (BTreeSet::new(), BTreeSet::new());
        for state in (0..plan.len()).map(|n| plan.state(n)) {
            let bytes = [0, 512, 2048, 3584].map(|at| byte(&state.devices[0], at));
            if state.cut >= 4 {
                assert_eq!(bytes[1], 2, "{state}");
                flushed.insert(bytes[0]);
                pending.insert((bytes[2], bytes[3]));
            }
        }
        assert_eq!(flushed, BTreeSet::from([0, 1]));
        assert_eq!(pending, BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
    }

    #[test]
    fn at_most_one_superblock_is_torn() {
        let recorder = Recorder::new();
        let device = recorder.device(Arc::new(MemDevice::named("disk", 80 << 20)));
        for offset in &SUPERBLOCK_OFFSETS[..2] {
            device.write_at(*offset, &[1; SUPERBLOCK_SIZE]).unwrap();
        }
        for (superblocks, most) in [(SuperblockTear::Never, 0), (SuperblockTear::OneCopy, 1)] {
            let settings = Settings { superblocks, ..Settings::new(1, 1000) };
            let plan = Plan::new(recorder.events(), vec![MemDevice::named("disk", 80 << 20)], settings);
            let torn = |n| plan.state(n).fates.iter().filter(|(_, fate)| matches!(fate, Fate::Torn(_))).count();
            assert_eq!((0..1000).map(torn).max(), Some(most));
        }
    }
}
