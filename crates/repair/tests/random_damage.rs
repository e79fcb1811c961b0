//! Random damage in any tree: no panic, and what is accepted is clean and opens.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;

use butterfs_check::Severity;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, OpenOptions};
use butterfs_format::{TreeBlock, TreeId};
use butterfs_repair::{Devices, Goal, Options, Renew, Verdict, apply, plan};
use butterfs_testkit::damage::rows::TREES;
use butterfs_testkit::damage::{Dice, Subject, findings};
use butterfs_volume::{MemDevice, OpenMode, Volume};

fn opens(device: &MemDevice) -> bool {
    let Ok(volume) = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadWrite) else { return false };
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).is_ok()
}

fn errors(device: &MemDevice) -> usize {
    findings(device, false).iter().filter(|finding| finding.severity == Severity::Error).count()
}

fn applied(device: &MemDevice, options: &Options) -> Option<(MemDevice, Verdict)> {
    let copy = Arc::new(device.snapshot());
    let devices: Devices = vec![copy.clone()];
    let plan = plan(&devices, options).ok()?;
    if !matches!(plan.verdict, Verdict::Repaired | Verdict::Better) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    apply(&plan, &devices, &folder.path().join("undo"), [0; 16]).unwrap();
    Some((copy.snapshot(), plan.verdict))
}

/// Flips bytes of a block, behind a right checksum; half of the time in the header.
fn damage(block: &mut TreeBlock, dice: &mut Dice) {
    for _ in 0..=dice.roll(3) {
        let used = if dice.roll(2) == 0 { 101 + 25 * block.len().min(600) } else { block.bytes().len() };
        let at = 32 + dice.roll(used - 32);
        block.bytes_mut()[at] ^= 1 << dice.roll(8);
    }
}

#[test]
fn random_damage_is_never_made_worse() {
    let subject = Subject::new();
    let trees: Vec<(TreeId, Vec<TreeBlock>)> =
        TREES.into_iter().map(|tree| (tree, subject.blocks(subject.root_of(tree)))).collect();
    let mut dice = Dice(99);
    let (mut repaired, mut tried) = (0, 0);
    for _ in 0..150 {
        let (tree, blocks) = &trees[dice.roll(trees.len())];
        let mut block = blocks[dice.roll(blocks.len())].clone();
        let at = block.bytenr();
        damage(&mut block, &mut dice);
        let broken = subject.with_block(at, &block);
        if errors(&broken) == 0 {
            continue;
        }
        tried += 1;
        let goal = if dice.roll(2) == 0 { Goal::Clean } else { Goal::Better };
        let Some((device, verdict)) = applied(&broken, &Options { goal, ..Options::default() }) else { continue };
        repaired += 1;
        let (before, after) = (errors(&broken), errors(&device));
        assert!(verdict == Verdict::Better || after == 0, "tree {tree} block {at}: {:#?}", findings(&device, false));
        assert!(after < before, "tree {tree} block {at}: {before} errors, then {after}");
        assert!(opens(&device) || !opens(&broken), "tree {tree} block {at}: opened before, and does not any more");
    }
    assert!(repaired * 3 > tried, "{repaired} of {tried} are repaired");
}

/// Everything that can be made anew is made anew: a healthy filesystem stays one.
#[test]
fn trees_are_made_anew_on_demand() {
    let subject = Subject::new();
    for renew in [
        Renew { extent_tree: true, checksum_tree: false },
        Renew { extent_tree: false, checksum_tree: true },
        Renew { extent_tree: true, checksum_tree: true },
    ] {
        let (device, verdict) = applied(&subject.device, &Options { renew, ..Options::default() }).unwrap();
        assert_eq!(verdict, Verdict::Repaired);
        assert_eq!(findings(&device, true), [], "{renew:?}");
        assert!(opens(&device));
    }
}
