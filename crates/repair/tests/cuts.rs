//! Power cuts under repair, rescue, undo and mkfs: in each state the filesystem is as it was or as it is to be, and the
//! undo file brings back every byte. `cargo run --release -p butterfs-testkit --example crash` has more of them.

use butterfs_testkit::crash::states::Settings;
use butterfs_testkit::crash::tally::Tally;
use butterfs_testkit::crash::tools::TOOLS;

/// Judged of each tool.
const STATES: usize = 30;

#[track_caller]
fn cut(chosen: &str) -> Tally {
    let mut all = Tally::default();
    println!("{}", Tally::HEAD);
    for tool in TOOLS.iter().filter(|tool| tool.name.starts_with(chosen)) {
        let tally = tool.record(Settings::new(1, STATES)).judge_all(2);
        println!("{}", tally.row(tool.name));
        all.add(&tally);
    }
    let first: Vec<_> = all.violations.iter().take(5).map(|(state, why)| format!("{state}\n  {why}")).collect();
    assert!(first.is_empty(), "{} violations:\n{}", all.violations.len(), first.join("\n"));
    assert!(all.last_commit > 0 && all.newer > 0, "{all:?}");
    all
}

#[test]
fn a_repair_is_made_or_not_and_can_be_undone() {
    cut("repair");
}

/// What one round of a repair frees, the next must not take: all are written at once, over a filesystem that may be
/// needed again.
#[test]
fn a_later_round_leaves_what_the_first_one_freed() {
    let tool = TOOLS.iter().find(|tool| tool.name == "repair, in rounds").expect("there is one");
    for seed in 2..=3 {
        let tally = tool.record(Settings::new(seed, 12)).judge_all(2);
        assert!(tally.violations.is_empty(), "seed {seed}: {:?}", tally.violations);
    }
}

#[test]
fn a_rescue_is_made_or_not_and_can_be_undone() {
    cut("rescue");
}

#[test]
fn an_undo_that_was_cut_leaves_one_filesystem_or_the_other() {
    cut("undo");
}

#[test]
fn mkfs_leaves_the_old_filesystem_or_none_or_the_new_one() {
    let tally = cut("mkfs");
    assert!(tally.not_made > 0, "{tally:?}");
}
