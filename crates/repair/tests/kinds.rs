//! Each kind of damage that the suite of btrfs-progs knows, and some that it does not: repaired, with everything kept.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use butterfs_repair::Verdict;
use common::kinds::{KINDS, Outcome};
use common::small::small;
use common::{Content, content, differing, errors, make_plan, repaired};

/// The content that must be there.
fn wanted(good: &Content, outcome: Outcome) -> Content {
    let Outcome::Moved(moves) = outcome else { return good.clone() };
    let moved = |path: &String| {
        let to = moves.iter().find_map(|(from, to)| Some(format!("{to}{}", path.strip_prefix(from)?)));
        to.unwrap_or_else(|| path.clone())
    };
    good.iter().map(|(path, bytes)| (moved(path), bytes.clone())).collect()
}

#[test]
fn every_kind_of_damage_is_repaired() {
    let subject = small();
    let good = content(&subject.device);
    assert_eq!(errors(&subject.device), [], "the small filesystem itself");
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for kind in KINDS {
        let broken = (kind.seed)(&subject).device;
        if kind.outcome == Outcome::Clean {
            let plan = make_plan(&broken).unwrap();
            assert_eq!((plan.verdict, errors(&broken)), (Verdict::NothingToDo, vec![]), "{}", kind.name);
            continue;
        }
        if errors(&broken).is_empty() {
            wrong.push(format!("{}: nothing is wrong", kind.name));
            continue;
        }
        let wanted = wanted(&good, kind.outcome);
        match repaired(&broken, &folder) {
            Ok((device, plan)) => {
                let mut now = content(&device);
                now.remove("/lost+found/");
                let left = (errors(&device), differing(&wanted, &now));
                if left != (vec![], vec![]) {
                    wrong.push(format!("{}: {left:#?}\n{plan}", kind.name));
                }
            }
            Err(problem) => wrong.push(format!("{}: {problem}", kind.name)),
        }
    }
    assert!(wrong.is_empty(), "{} of {} are not repaired:\n{}", wrong.len(), KINDS.len(), wrong.join("\n"));
}
