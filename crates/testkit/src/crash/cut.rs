//! Anything that was recorded and can be cut: a plan of states, and a judge of each.

use super::judge::{Maker, Strictness, Verdict, Violation, check_devices};
use super::states::{CrashState, Plan};
use super::tally::Tally;

/// Work that was recorded, ready for cuts.
pub trait Cut: Sync {
    /// The states.
    fn plan(&self) -> &Plan;

    /// Whether a state is as it must be.
    ///
    /// # Errors
    /// What is wrong with it.
    fn judge(&self, state: &CrashState) -> Result<Verdict, Violation>;

    /// Whether others (`btrfs check`, the kernel) can be asked about a state: only of what is clean for us.
    fn is_for_others(&self, state: &CrashState) -> bool {
        matches!(self.judge(state), Ok(Verdict::LastCommit | Verdict::Newer | Verdict::WithLog))
            && check_devices(&state.forks(), Maker::Butterfs, Strictness::Cut).is_ok()
    }

    /// Judges all states, with so many threads.
    fn judge_all(&self, threads: usize) -> Tally {
        Tally::of(self.plan(), threads, |state| self.judge(state))
    }
}
