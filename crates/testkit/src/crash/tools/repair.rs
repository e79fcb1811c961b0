//! `check --repair`, `rescue` and the undo of either, cut while they write.
//!
//! 1. Whatever was written, the undo file brings back every byte.
//! 2. A state shows the commit that was there before, with no error that was not there; then the same repair can be
//!    made again. Or it shows the commit that the repair made, with no error, and what was repaired is there.
//!
//! That the undo file is durable before the first write is shown on a mount (`tests/repair_cuts_root.rs`).

use std::path::PathBuf;
use std::sync::Arc;

use butterfs_check::{Devices, Kind, Place, Severity, check, open_failure};
use butterfs_engine::filesystem::Access;
use butterfs_repair::{Options, Plan as RepairPlan, Rescue, Verdict as Worth, apply, plan, rescue, undo};
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::damaged::{Damage, commit_of, damaged, is_broken};
use crate::crash::cut::Cut;
use crate::crash::judge::{Verdict, Violation, bad, environment};
use crate::crash::states::{CrashState, Plan, Settings};
use crate::crash::workload::open;
use crate::damage::Subject;
use crate::library_tree;
use crate::tree_compare::{Times, Tree};
use crate::workdir::WorkDir;

/// What is done to the damaged image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// `check --repair`.
    Repair,
    /// An operation of `rescue`.
    Rescue(Rescue),
    /// The undo of a repair.
    Undo,
}

const UNDO_FILE: &str = "undo";
/// Every so many states the repair is made again where the state is as before.
const AGAIN_EVERY: usize = 4;
/// Seeds that are tried until the damage is one that can be repaired.
const MOST_SEEDS: u64 = 500;

/// What a repair made of a damaged image, ready for cuts.
pub struct RepairCut {
    work: Work,
    plan: Plan,
    /// The image that was damaged, and the same repaired.
    broken: MemDevice,
    errors: Vec<(Kind, Place)>,
    repaired: MemDevice,
    content: Tree,
    folder: WorkDir,
}

fn devices_of(device: &MemDevice) -> (Arc<MemDevice>, Devices) {
    let fork = Arc::new(device.snapshot());
    (fork.clone(), vec![fork])
}

fn plan_of(work: Work, device: &MemDevice) -> butterfs_repair::Result<RepairPlan> {
    let devices = devices_of(device).1;
    match work {
        Work::Repair | Work::Undo => plan(&devices, &Options::default()),
        Work::Rescue(what) => rescue(&devices, what, &Options::default()),
    }
}

/// A damaged image, how to repair it, and the repaired one.
struct Found {
    broken: MemDevice,
    repair: RepairPlan,
    repaired: MemDevice,
    content: Tree,
}

impl Found {
    /// The first image, from a seed on, that can be repaired.
    fn search(work: Work, damage: Damage, seed: u64) -> Self {
        let subject = Subject::new();
        let seeds = (0..MOST_SEEDS).map(|n| seed.wrapping_mul(MOST_SEEDS).wrapping_add(n));
        let found = seeds.map(|seed| damaged(&subject, damage, seed)).find_map(|broken| Self::of(work, damage, broken));
        found.unwrap_or_else(|| panic!("{damage:?}: of {MOST_SEEDS} seeds from {seed} on none can be repaired"))
    }

    /// `None` if the image cannot be repaired, or is not one of those that are wanted.
    fn of(work: Work, damage: Damage, broken: MemDevice) -> Option<Self> {
        let wants_errors = !matches!(damage, Damage::None | Damage::Log);
        if wants_errors && !is_broken(&broken) {
            return None;
        }
        let repair = plan_of(work, &broken).ok().filter(is_worth_it)?;
        let (repaired, devices) = devices_of(&broken);
        let folder = WorkDir::new("repair");
        apply(&repair, &devices, &folder.file(UNDO_FILE), [0; 16]).expect("nothing fails here");
        // A checksum that is wrong is seen only when the data is read.
        let content = content(&repaired).ok()?;
        let repaired = repaired.snapshot();
        let found = Self { broken, repair, repaired, content };
        (damage != Damage::Nested || found.rounds() > 1).then_some(found)
    }

    /// How many commits the repair made in memory before it wrote them all at once.
    fn rounds(&self) -> u64 {
        let generation = |device: &MemDevice| commit_of(std::slice::from_ref(device)).map_or(0, |commit| commit[0]);
        generation(&self.repaired).saturating_sub(generation(&self.broken))
    }
}

fn is_worth_it(plan: &RepairPlan) -> bool {
    matches!(plan.verdict, Worth::Repaired | Worth::Better)
}

impl RepairCut {
    /// Damages an image, and records what is done to it.
    pub fn record(work: Work, damage: Damage, settings: Settings) -> Self {
        let Found { broken, repair, repaired, content } = Found::search(work, damage, settings.seed);
        let folder = WorkDir::new("repair");
        let file = folder.file(UNDO_FILE);
        let carry_out = |devices: &Devices| apply(&repair, devices, &file, [0; 16]).expect("nothing fails here");
        let plan = if work == Work::Undo {
            carry_out(&devices_of(&broken).1);
            Plan::of(vec![repaired.snapshot()], settings, |devices, _| {
                undo(&file, &devices.to_vec()).expect("nothing fails here");
            })
        } else {
            Plan::of(vec![broken.snapshot()], settings, |devices, _| carry_out(&devices.to_vec()))
        };
        let errors = errors(&broken);
        Self { work, plan, broken, errors, repaired, content, folder }
    }

    fn undo_file(&self) -> PathBuf {
        self.folder.file(UNDO_FILE)
    }

    fn can_be_undone(&self, state: &MemDevice) -> Result<(), Violation> {
        let (fork, devices) = devices_of(state);
        undo(&self.undo_file(), &devices).or_else(|error| bad("cannot be undone", error))?;
        if same(&fork, &self.broken) { Ok(()) } else { bad("undo", "it does not bring back every byte") }
    }

    fn is_repaired(&self, state: &CrashState, errors: &[(Kind, Place)]) -> Result<(), Violation> {
        let one_copy = |kind: Kind, place: &Place| kind == Kind::Superblock && place.device.is_some();
        let of_a_copy = |(kind, place): &&(Kind, Place)| {
            one_copy(*kind, place) && (state.is_torn() || self.errors.contains(&(*kind, place.clone())))
        };
        if let Some((kind, place)) = errors.iter().find(|error| !of_a_copy(error)) {
            return bad("the repair is there, and an error too", format!("{kind}: {place}"));
        }
        let found = content(&state.devices[0]).or_else(|why| bad("cannot be read", why))?;
        self.compare(&found)
    }

    fn compare(&self, found: &Tree) -> Result<(), Violation> {
        let differences = self.content.differences(found, Times::Exact);
        if differences.is_empty() { Ok(()) } else { bad("repaired whole | after the cut", differences.join("\n")) }
    }

    fn is_as_before(&self, state: &CrashState, errors: &[(Kind, Place)]) -> Result<(), Violation> {
        if let Some((kind, place)) = errors.iter().find(|error| !self.errors.contains(error)) {
            return bad("an error that was not there before", format!("{kind}: {place}"));
        }
        if self.work == Work::Undo || !state.number.is_multiple_of(AGAIN_EVERY) {
            return Ok(());
        }
        let (fork, devices) = devices_of(&state.devices[0]);
        let again = plan_of(self.work, &fork).or_else(|error| bad("cannot be repaired again", error))?;
        if !is_worth_it(&again) {
            return bad("cannot be repaired again", &again);
        }
        let file = self.folder.file(&format!("again {}", state.number));
        let applied = apply(&again, &devices, &file, [0; 16]);
        std::fs::remove_file(&file).or_else(|error| bad("no undo file", error))?;
        applied.or_else(|error| bad("cannot be repaired again", error))?;
        content(&fork).or_else(|why| bad("cannot be read", why)).and_then(|found| self.compare(&found))
    }
}

impl Cut for RepairCut {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn judge(&self, state: &CrashState) -> Result<Verdict, Violation> {
        self.can_be_undone(&state.devices[0])?;
        let shown = commit_of(&state.devices);
        let [old, new] = [&self.broken, &self.repaired].map(|device| commit_of(std::slice::from_ref(device)));
        let errors = errors(&state.devices[0]);
        if shown == new && (old != new || errors.is_empty()) {
            return self.is_repaired(state, &errors).map(|()| Verdict::Newer);
        }
        if shown == old {
            return self.is_as_before(state, &errors).map(|()| Verdict::LastCommit);
        }
        bad("commit", format!("{shown:?} found, neither {old:?} nor {new:?}"))
    }
}

/// What the checker calls wrong.
fn errors(device: &MemDevice) -> Vec<(Kind, Place)> {
    let devices = devices_of(device).1;
    let options = butterfs_check::Options { devices: devices.clone(), ..butterfs_check::Options::default() };
    let findings = match Volume::open(devices, OpenMode::ReadOnly) {
        Ok(volume) => check(&volume, &options).findings,
        Err(error) => open_failure(&error).into_iter().collect(),
    };
    let wrong = findings.into_iter().filter(|finding| finding.severity == Severity::Error);
    wrong.map(|finding| (finding.kind, finding.place)).collect()
}

fn content(device: &MemDevice) -> Result<Tree, String> {
    let filesystem = open(devices_of(device).1, Access::ReadOnly, environment()).map_err(|error| error.to_string())?;
    library_tree::try_read(&filesystem).map_err(|(path, error)| format!("{}: {error}", path.display()))
}

fn same(a: &MemDevice, b: &MemDevice) -> bool {
    let zeros = |part: &(u64, Vec<u8>)| part.1.iter().any(|byte| *byte != 0);
    let parts = |device: &MemDevice| device.written().into_iter().filter(zeros).collect::<Vec<_>>();
    parts(a) == parts(b)
}
