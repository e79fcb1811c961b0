//! A plan: what is wrong, what is done about it, and how the filesystem looks before and after.

use std::fmt;

use butterfs_check::{Place, Report};

use crate::overlay::Change;

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The stable name of this kind of repair, for machines: `extent-tree`, `link-count`...
    pub name: &'static str,
    /// Where it is.
    pub place: Place,
    /// What was wrong and what is done, in words.
    pub action: String,
}

impl Step {
    /// A step.
    pub fn new(name: &'static str, place: Place, action: impl Into<String>) -> Self {
        Self { name, place, action: action.into() }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.name, self.place, self.action)
    }
}

/// How the filesystem is after the plan, beside how it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There was nothing to repair.
    NothingToDo,
    /// No error is left.
    Repaired,
    /// Fewer errors are left, and none that was not there before.
    Better,
    /// It would be no better, or worse: never carried out.
    Refused,
}

/// What a repair does to the devices, and why.
#[derive(Debug)]
pub struct Plan {
    /// Each repair, in order. Empty for a clean filesystem.
    pub steps: Vec<Step>,
    /// What is written to each device, in the order in which the devices were given.
    pub changes: Vec<Vec<Change>>,
    /// What the check found.
    pub before: Report,
    /// What the check finds when the changes are made.
    pub after: Report,
    /// Whether it is worth doing.
    pub verdict: Verdict,
    /// Why no more could be done, if something stood in the way.
    pub stopped: Option<String>,
}

impl Plan {
    /// How many bytes are written, superblocks included.
    pub fn bytes(&self) -> u64 {
        self.changes.iter().flatten().map(|change| change.bytes.len() as u64).sum()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{}. {step}", number + 1)?;
        }
        if let Some(why) = &self.stopped {
            writeln!(f, "no more can be repaired: {why}")?;
        }
        match self.verdict {
            Verdict::NothingToDo => f.write_str("nothing to repair"),
            Verdict::Repaired => write!(f, "afterwards no error is left; {} bytes are written", self.bytes()),
            Verdict::Better => write!(f, "afterwards there are fewer errors; {} bytes are written", self.bytes()),
            Verdict::Refused if self.after.findings.len() < self.before.findings.len() => f.write_str(
                "afterwards errors would be left, if fewer: nothing is done unless a partial repair is wanted",
            ),
            Verdict::Refused => f.write_str("afterwards it would be no better: nothing is done"),
        }
    }
}
