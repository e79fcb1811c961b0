//! Rescue: single operations for known kinds of trouble, as `btrfs rescue` has them, each as a [`Plan`] that is
//! tried out in memory and can be undone.
//!
//! A plan is accepted if it makes nothing worse: a filesystem that could not be opened can be opened, or no kind
//! of error is found that was not there before. Operations on superblocks alone look at no tree, so they work
//! on any filesystem and in no time.

mod chunks;
mod device_size;
mod inode_cache;
mod space_cache;
mod superblocks;
mod uuid_tree;

use std::collections::HashSet;

use butterfs_check::{Devices, Kind, Report, Severity, open_failure};
use butterfs_volume::{OpenMode, Volume};

use crate::error::Result;
use crate::plan::{Plan, Step, Verdict};
use crate::rounds::{FreeAtFirst, Rounds, judge, round, rounds};
use crate::trial::Trial;
use crate::{Options, Workspace};

/// Which free space cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceCache {
    /// The files of the root tree.
    V1,
    /// The free space tree.
    V2,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rescue {
    /// Write the newest good superblock of each device over copies that are bad or older.
    Superblocks,
    /// Forget the log tree.
    ZeroLog,
    /// Align the sizes of devices, and make the superblock's total that of the devices.
    DeviceSize,
    /// Remove a free space cache; whoever mounts next makes it anew.
    ClearSpaceCache(SpaceCache),
    /// Remove the UUID tree; whoever mounts next makes it anew.
    ClearUuidTree,
    /// Remove what the inode number cache of old kernels left.
    ClearInodeCache,
    /// Make the chunk tree anew from what is found on the devices.
    Chunks,
}

/// Makes a plan for a rescue; nothing is written to the devices.
///
/// # Errors
/// If a device fails or is missing, or what is needed cannot be found.
pub fn rescue(devices: &Devices, what: Rescue, options: &Options) -> Result<Plan> {
    let trial = Trial::begin(devices);
    let shown = trial.devices();
    let whole = !matches!(what, Rescue::Superblocks | Rescue::ZeroLog);
    let before = look(&shown, whole, options)?;
    let (steps, stopped) = match what {
        Rescue::Superblocks => (superblocks::recover(&shown)?, None),
        Rescue::ZeroLog => (superblocks::zero_log(&shown)?, None),
        Rescue::DeviceSize => (device_size::fix(&shown, &before, options)?, None),
        Rescue::ClearSpaceCache(version) => (edit(&shown, &before, options, |w| space_cache::clear(w, version))?, None),
        Rescue::ClearUuidTree => (edit(&shown, &before, options, uuid_tree::clear)?, None),
        Rescue::ClearInodeCache => (edit(&shown, &before, options, inode_cache::clear)?, None),
        Rescue::Chunks => recover_chunks(&shown, &before, options)?,
    };
    let after = if steps.is_empty() { before.clone() } else { look(&shown, whole, options)? };
    let verdict = verdict(&before, &after, &steps);
    Ok(Plan { steps, changes: trial.changes()?, before, after, verdict, stopped })
}

/// The checker's report; or only whether it can be opened.
fn look(devices: &Devices, whole: bool, options: &Options) -> Result<Report> {
    if whole {
        return judge(devices, options);
    }
    let opened = Volume::open(devices.clone(), OpenMode::ReadOnly);
    let finding = opened.err().and_then(|error| open_failure(&error));
    Ok(Report { findings: finding.into_iter().collect(), ..Report::default() })
}

/// One edit of trees, with all that follows from it.
fn edit(
    devices: &Devices,
    before: &Report,
    options: &Options,
    work: impl FnOnce(&mut Workspace) -> Result<Vec<Step>>,
) -> Result<Vec<Step>> {
    round(devices, before.clone(), options, &mut FreeAtFirst::default(), work)
}

/// With chunks known again, the rest can be checked and repaired; gives also why that went no further.
fn recover_chunks(devices: &Devices, before: &Report, options: &Options) -> Result<(Vec<Step>, Option<String>)> {
    let mut steps = chunks::recover(devices, before)?;
    if steps.is_empty() {
        return Ok((steps, None));
    }
    let Rounds { steps: more, stopped, .. } = rounds(devices, judge(devices, options)?, options)?;
    steps.extend(more);
    Ok((steps, stopped))
}

fn verdict(before: &Report, after: &Report, steps: &[Step]) -> Verdict {
    let kinds = |report: &Report| -> HashSet<Kind> {
        report.findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.kind).collect()
    };
    let could_be_opened = before.statistics.tree_blocks > 0;
    match steps {
        [] => Verdict::NothingToDo,
        _ if after.is_clean() => Verdict::Repaired,
        _ if !could_be_opened && after.statistics.tree_blocks > 0 => Verdict::Better,
        _ if kinds(after).is_subset(&kinds(before)) => Verdict::Better,
        _ => Verdict::Refused,
    }
}
