//! A workload, the states that cuts leave of it, and the counts.

use std::sync::Arc;

use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_engine::tx::{DiscardRule, Groups};
use butterfs_format::ChecksumType;
use butterfs_format::compression::{Method, ZstdLevel};
use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::BlockDevice;

use super::cut::Cut;
use super::history::History;
use super::judge::{self, Verdict, Violation};
use super::recording::Recorder;
use super::states::{CrashState, Plan, Settings, SuperblockTear};
pub use super::tally::Tally;
use super::workload::{self, OnError, Script, Style};

/// One script with the states to try.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// What is done.
    pub script: Script,
    /// Which states are built.
    pub settings: Settings,
}

/// A recorded run, ready for cuts.
pub struct Recorded {
    /// The states.
    pub plan: Plan,
    /// What was there.
    pub history: History,
    /// How many devices may be lost after the cut.
    pub survives: usize,
}

/// Puts something between the engine and the device that records.
pub type Wrap = fn(Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice>;

impl Campaign {
    /// Runs the workload.
    pub fn record(&self, wrap: Wrap, on_error: OnError) -> Recorded {
        let recorder = Recorder::new();
        let device = |device| wrap(recorder.device(Arc::new(device)));
        let devices = self.script.new_devices().into_iter().map(device).collect();
        let outcome = workload::run(&self.script, devices, &recorder, on_error);
        drop(outcome.filesystem);
        let plan = Plan::new(recorder.events(), self.script.new_devices(), self.settings);
        Recorded { plan, history: outcome.history, survives: self.script.survives() }
    }

    /// Runs the workload and judges its states, with so many threads.
    pub fn run(&self, threads: usize) -> Tally {
        self.record(|device| device, OnError::Panic).judge_all(threads)
    }
}

/// Which states lose devices as well.
const LOSS_EVERY: usize = 3;

impl Cut for Recorded {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn judge(&self, state: &CrashState) -> Result<Verdict, Violation> {
        let verdict = judge::judge(&self.history, state)?;
        if self.survives > 0 && state.number.is_multiple_of(LOSS_EVERY) {
            judge::after_losses(&self.history, state, self.survives)?;
        }
        Ok(verdict)
    }
}

/// The scripts that every run has: all checksums, node sizes of 4 and 16 KiB, every profile that is written.
pub fn scripts(seed: u64, steps: usize) -> Vec<Script> {
    use ChecksumType::{Blake2b, Crc32c, Sha256, Xxhash64};
    let (dup, single) = (BlockGroupFlags::DUP, BlockGroupFlags::empty());
    let row = |name, style, nodesize, csum_type, metadata| {
        let (compress, files, discard) = (CompressRule::Asked, DataRule::Usual, DiscardRule::Never);
        let groups = Groups::Apart;
        let (devices, data) = (1, single);
        Script {
            name,
            style,
            seed,
            steps,
            nodesize,
            csum_type,
            devices,
            data,
            metadata,
            compress,
            files,
            discard,
            groups,
        }
    };
    let on = |devices, data, script: Script| Script { devices, data, ..script };
    let (raid1, raid10) = (BlockGroupFlags::RAID1, BlockGroupFlags::RAID10);
    let (raid5, raid6) = (BlockGroupFlags::RAID5, BlockGroupFlags::RAID6);
    let in_place = |script| Script { files: DataRule::InPlace, ..script };
    let compressed = |method, script| Script { compress: CompressRule::Force(method), ..script };
    let in_mixed_groups = |script| Script { groups: Groups::Mixed, ..script };
    let zstd = Method::Zstd(ZstdLevel::DEFAULT);
    let mut scripts = vec![
        row("make, dup, crc32c, 16k", Style::MakeOnly, 16384, Crc32c, dup),
        row("make, single, xxhash, 4k", Style::MakeOnly, 4096, Xxhash64, single),
        row("mixed, dup, crc32c, 16k", Style::Mixed, 16384, Crc32c, dup),
        row("mixed, single, sha256, 4k", Style::Mixed, 4096, Sha256, single),
        row("fsync, dup, blake2, 4k", Style::Fsync, 4096, Blake2b, dup),
        row("fsync, single, xxhash, 16k", Style::Fsync, 16384, Xxhash64, single),
        row("snapshots, dup, sha256, 16k", Style::Snapshots, 16384, Sha256, dup),
        row("snapshots, single, crc32c, 4k", Style::Snapshots, 4096, Crc32c, single),
        row("nearly full, dup, xxhash, 16k", Style::NearlyFull, 16384, Xxhash64, dup),
        row("nearly full, single, blake2, 4k", Style::NearlyFull, 4096, Blake2b, single),
        compressed(zstd, row("zstd, mixed, dup, xxhash, 16k", Style::Mixed, 16384, Xxhash64, dup)),
        on(2, raid1, row("raid1, fsync, crc32c, 16k", Style::Fsync, 16384, Crc32c, raid1)),
        on(4, raid10, row("raid10, mixed, xxhash, 4k", Style::Mixed, 4096, Xxhash64, raid10)),
        on(3, raid1, row("raid1 and raid1c3, snapshots, crc32c, 16k", Style::Snapshots, 16384, Crc32c, RAID1C3)),
        on(3, BlockGroupFlags::RAID0, row("raid0 and raid1, full, crc32c, 4k", Style::NearlyFull, 4096, Crc32c, raid1)),
        on(3, raid5, row("raid5, fsync, crc32c, 16k", Style::Fsync, 16384, Crc32c, raid5)),
        on(4, raid5, row("raid5, mixed, xxhash, 4k", Style::Mixed, 4096, Xxhash64, raid5)),
        on(5, raid6, row("raid6, fsync, crc32c, 4k", Style::Fsync, 4096, Crc32c, raid6)),
        on(4, raid6, row("raid6, snapshots, crc32c, 16k", Style::Snapshots, 16384, Crc32c, raid6)),
        on(3, raid5, row("raid5, nearly full, crc32c, 4k", Style::NearlyFull, 4096, Crc32c, raid5)),
        on(2, raid5, row("raid5 on two, mixed, crc32c, 16k", Style::Mixed, 16384, Crc32c, raid5)),
        on(3, raid6, row("raid6 on three, mixed, xxhash, 16k", Style::Mixed, 16384, Xxhash64, raid6)),
        on(4, RAID1C4, row("raid1c4, fsync, xxhash, 16k", Style::Fsync, 16384, Xxhash64, RAID1C4)),
        in_place(on(3, raid5, row("raid5, in place, fsync, crc32c, 4k", Style::Fsync, 4096, Crc32c, raid5))),
        compressed(Method::Lzo, row("lzo, fsync, single, crc32c, 4k", Style::Fsync, 4096, Crc32c, single)),
        in_place(row("in place, mixed, dup, crc32c, 16k", Style::Mixed, 16384, Crc32c, dup)),
        in_place(row("in place, fsync, single, xxhash, 4k", Style::Fsync, 4096, Xxhash64, single)),
        in_place(row("in place, snapshots, dup, crc32c, 4k", Style::Snapshots, 4096, Crc32c, dup)),
        in_place(row("in place, nearly full, single, crc32c, 4k", Style::NearlyFull, 4096, Crc32c, single)),
        in_mixed_groups(row("mixed groups, mixed, dup, crc32c, 4k", Style::Mixed, 4096, Crc32c, dup)),
        in_mixed_groups(row("mixed groups, full, single, xxhash, 4k", Style::NearlyFull, 4096, Xxhash64, single)),
        row("volume, dup, crc32c, 16k", Style::Volume, 16384, Crc32c, dup),
        on(3, raid1, row("volume, raid1, xxhash, 4k", Style::Volume, 4096, Xxhash64, raid1)),
        on(3, raid1, row("devices, raid1, crc32c, 16k", Style::Devices, 16384, Crc32c, raid1)),
        on(3, raid5, row("devices, raid5, xxhash, 4k", Style::Devices, 4096, Xxhash64, raid5)),
        on(4, raid6, row("devices, raid6, crc32c, 16k", Style::Devices, 16384, Crc32c, raid6)),
        on(5, raid10, row("devices, raid10 and raid1, crc32c, 4k", Style::Devices, 4096, Crc32c, raid1)),
        in_place(on(3, raid1, row("devices, in place, raid1, crc32c, 4k", Style::Devices, 4096, Crc32c, raid1))),
        on(4, RAID1C3, row("devices, raid1c3, xxhash, 16k", Style::Devices, 16384, Xxhash64, RAID1C3)),
    ];
    // Each with each, in turn.
    let rules = [DiscardRule::Sync, DiscardRule::Async, DiscardRule::Never];
    for (number, script) in scripts.iter_mut().enumerate() {
        // Devices get profiles with parity, which counts on what was read (see docs/raid56.md).
        let any = script.style != Style::Devices;
        script.discard = if any { rules[(number + seed as usize) % rules.len()] } else { DiscardRule::Never };
    }
    scripts
}

const RAID1C3: BlockGroupFlags = BlockGroupFlags::RAID1C3;
const RAID1C4: BlockGroupFlags = BlockGroupFlags::RAID1C4;
/// Operations in each workload.
const STEPS: usize = 200;
/// More states than this are taken from several runs, each with a seed of its own.
const ROUND: usize = 4000;

/// All scripts, with about `states` states over all of them: in rounds, the first with `seed`, the next with the one
/// after it. mkfs is short and gets few.
pub fn campaigns(seed: u64, states: usize, superblocks: SuperblockTear) -> Vec<Campaign> {
    let rounds = states.div_ceil(ROUND).max(1);
    (0..rounds).flat_map(|round| one_round(seed + round as u64, states / rounds, superblocks)).collect()
}

fn one_round(seed: u64, states: usize, superblocks: SuperblockTear) -> Vec<Campaign> {
    let scripts = scripts(seed, STEPS);
    let each = states.div_ceil(scripts.len());
    let campaign = |script: Script| {
        let states = if script.style == Style::MakeOnly { each.div_ceil(4) } else { each + each * 3 / 16 };
        Campaign { script, settings: Settings { superblocks, ..Settings::new(seed, states) } }
    };
    scripts.into_iter().map(campaign).collect()
}

/// Rows of equal names added up, in the order of the first of each.
pub fn by_name(tallies: &[(&'static str, Tally)]) -> Vec<(&'static str, Tally)> {
    let mut rows: Vec<(&'static str, Tally)> = Vec::new();
    for (name, tally) in tallies {
        match rows.iter_mut().find(|(row, _)| row == name) {
            Some((_, sum)) => sum.add(tally),
            None => rows.push((name, tally.clone())),
        }
    }
    rows
}
