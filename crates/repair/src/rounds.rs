//! The rounds: check, mend, derive, commit into the overlay; until clean, or nothing more can be done.

use std::collections::{HashMap, HashSet};

use butterfs_check::{Devices, Kind, Place, Report, Severity, check, open_failure};
use butterfs_format::{Logical, TreeId};
use butterfs_volume::{OpenMode, Volume};

use crate::error::{Error, Result};
use crate::plan::{Plan, Step, Verdict};
use crate::store::{Space, Store};
use crate::trial::Trial;
use crate::workspace::Workspace;
use crate::{Goal, Options, Renew, commit, derive, mend, refusals};

/// Each round can uncover what the one before could not see. Damage is nested a few deep at most.
const MAX_ROUNDS: usize = 6;

/// Makes a plan for a filesystem on these devices; nothing is written to them.
///
/// # Errors
/// If a device is missing or fails, or the damage is of a kind that there is no repair for.
pub fn plan(devices: &Devices, options: &Options) -> Result<Plan> {
    let trial = Trial::begin(devices);
    let shown = trial.devices();
    let before = judge(&shown, options)?;
    let Rounds { steps, after, stopped } = rounds(&shown, before.clone(), options)?;
    let before = with_data(devices, before, &after, options)?;
    let verdict = verdict(&before, &after, &steps, options.goal);
    Ok(Plan { steps, changes: trial.changes()?, before, after, verdict, stopped })
}

/// What the check said of the devices as they are; said again, data included, where a partial repair is to be held
/// against it: a repair of checksums is judged by the data, and that may have been bad before.
fn with_data(devices: &Devices, before: Report, after: &Report, options: &Options) -> Result<Report> {
    if options.goal != Goal::Better || options.data_csums || bad_data(after).is_empty() {
        return Ok(before);
    }
    judge(devices, &Options { data_csums: true, ..options.clone() })
}

fn touches_checksums(steps: &[Step]) -> bool {
    let is_root_item =
        |place: &Place| place.tree == Some(TreeId::ROOT) && place.key.is_some_and(|key| key.objectid == TreeId::CSUM.0);
    steps.iter().any(|step| step.place.tree == Some(TreeId::CSUM) || is_root_item(&step.place))
}

/// What some rounds did.
pub(crate) struct Rounds {
    /// What was done.
    pub steps: Vec<Step>,
    /// What the checker says then.
    pub after: Report,
    /// Why it went no further, if it failed.
    pub stopped: Option<String>,
}

/// Rounds until nothing is left to do.
///
/// # Errors
/// If the first round fails, or a device.
pub(crate) fn rounds(devices: &Devices, before: Report, options: &Options) -> Result<Rounds> {
    let mut steps = Vec::new();
    let mut after = before;
    // Checksums that were asked to be made anew are those of the data as it is.
    let computed = options.renew.checksum_tree;
    let mut options = options.clone();
    let wanted = |report: &Report, options: &Options| {
        !report.is_clean() || options.renew != Renew::default() || options.instead_of.is_some()
    };
    let (mut stopped, mut free) = (None, FreeAtFirst::default());
    for _ in 0..MAX_ROUNDS {
        if !wanted(&after, &options) {
            break;
        }
        let done = match round(devices, after.clone(), &options, &mut free, mend::run) {
            Ok(done) => done,
            // What earlier rounds did stands in the overlay, and is judged for itself.
            Err(error) if !steps.is_empty() => {
                stopped = Some(advised(error, &after).to_string());
                break;
            }
            Err(error) => return Err(advised(error, &after)),
        };
        (options.renew, options.instead_of) = (Renew::default(), None);
        if done.is_empty() {
            break;
        }
        // Mended checksums can be wrong themselves: only the data tells.
        options.data_csums |= touches_checksums(&done) && !computed;
        steps.extend(done);
        after = judge(devices, &options)?;
    }
    Ok(Rounds { steps, after, stopped })
}

/// What the user can do where a block is wrong in a way that nothing mends.
fn advised(error: Error, report: &Report) -> Error {
    let Error::Corruption(corruption) = error else { return error };
    let is_wrong = |tree| {
        let mut errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error);
        errors.any(|finding| finding.place.tree == Some(tree))
    };
    let renewals = [(TreeId::EXTENT, "--init-extent-tree"), (TreeId::CSUM, "--init-csum-tree")];
    let mut ways: Vec<String> = renewals
        .into_iter()
        .filter(|(tree, _)| is_wrong(*tree))
        .map(|(_, option)| format!("try --repair {option}, which makes that tree anew"))
        .collect();
    ways.push("copy the files off with butterfs restore".to_owned());
    Error::Refused(format!("corrupt: {corruption}, and nothing tells what it must be; {}", ways.join(", or ")))
}

/// What nothing used before the first round. All rounds are written at once, so what one of them frees is still the
/// filesystem's until then, and no later one may take it.
#[derive(Default)]
pub(crate) struct FreeAtFirst(Option<Space>);

impl FreeAtFirst {
    fn bind(&mut self, store: &mut Store) {
        match &self.0 {
            Some(free) => store.limit_space(free),
            None => self.0 = Some(store.space().clone()),
        }
    }
}

/// One round with these edits of trees; gives what was done.
///
/// # Errors
/// Why not all could be done; what the overlay shows is then as before the round, but for superblocks that were
/// set right in place.
pub(crate) fn round(
    devices: &Devices,
    report: Report,
    options: &Options,
    free: &mut FreeAtFirst,
    edit: impl FnOnce(&mut Workspace) -> Result<Vec<Step>>,
) -> Result<Vec<Step>> {
    let mut steps = commit::prepare_superblocks(devices, &report)?;
    if options.instead_of.is_some() {
        let action = "the superblock that was asked for takes the place of the first";
        steps.push(Step::new("superblock", Place::superblock(), action));
    }
    refusals::of_report(&report)?;
    let mut workspace = Workspace::open(devices, report, options)?;
    refusals::of_filesystem(&workspace)?;
    free.bind(&mut workspace.store);
    let edited = edit(&mut workspace)?;
    let count = edited.len() + steps.len();
    steps.extend(edited);
    steps.extend(derive::run(&mut workspace, count)?);
    if !steps.is_empty() {
        commit::commit(&mut workspace)?;
    }
    Ok(steps)
}

/// What the checker says of the devices.
pub(crate) fn judge(devices: &Devices, options: &Options) -> Result<Report> {
    let volume = match Volume::open(devices.clone(), OpenMode::ReadOnly) {
        Ok(volume) => volume,
        Err(error) => {
            let finding = open_failure(&error).ok_or(error)?;
            return Ok(Report { findings: vec![finding], ..Report::default() });
        }
    };
    let options = butterfs_check::Options {
        data_csums: options.data_csums,
        memory: options.bounds.memory,
        threads: options.bounds.threads,
        devices: devices.clone(),
        progress: options.progress.clone(),
        max_findings: 100_000,
    };
    Ok(check(&volume, &options))
}

fn errors(report: &Report) -> HashMap<Kind, usize> {
    let mut counts = HashMap::new();
    for finding in report.findings.iter().filter(|finding| finding.severity == Severity::Error) {
        *counts.entry(finding.kind).or_default() += 1;
    }
    counts
}

/// The sectors, copy by copy, that do not have their checksum.
fn bad_data(report: &Report) -> HashSet<(Option<Logical>, Option<usize>)> {
    let findings = report.findings.iter().filter(|finding| finding.kind == Kind::DataChecksum);
    findings.map(|finding| (finding.place.bytenr, finding.place.copy)).collect()
}

/// Better is: fewer errors, no kind of error that was not there before, and no sector of data called bad that was not:
/// there is no telling whether that one is, or the checksum that it now has.
fn verdict(before: &Report, after: &Report, steps: &[Step], goal: Goal) -> Verdict {
    if steps.is_empty() {
        return if before.is_clean() { Verdict::NothingToDo } else { Verdict::Refused };
    }
    if after.is_clean() {
        return Verdict::Repaired;
    }
    let (old, new) = (errors(before), errors(after));
    let nothing_new = new.keys().all(|kind| old.contains_key(kind));
    let fewer = new.values().sum::<usize>() < old.values().sum::<usize>();
    let no_new_data = bad_data(after).is_subset(&bad_data(before));
    if goal == Goal::Better && nothing_new && no_new_data && fewer && after.statistics.suppressed == 0 {
        Verdict::Better
    } else {
        Verdict::Refused
    }
}
