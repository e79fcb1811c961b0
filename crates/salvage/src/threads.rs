//! Work on all cores.

use std::thread;

/// More threads than this make nothing faster.
const MOST: usize = 16;

/// How many threads there are to be.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST)
}

/// Runs the same work on all cores, and gives what each came to. The work takes its pieces from a place of its own.
pub fn gather<R: Send>(work: impl Fn() -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..count()).map(|_| scope.spawn(&work)).collect();
        let mut results = vec![work()];
        for other in others {
            match other.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    })
}
