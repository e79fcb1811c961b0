//! Work on all cores.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};

use butterfs_os::cpus;

/// Does jobs by number, on as many threads as there are cores; gives the results in order.
pub(crate) fn on_all_cores<R: Send>(jobs: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    // How many cores there are is a question to files of the system: not to be asked for little.
    if jobs <= 1 {
        return (0..jobs).map(work).collect();
    }
    let threads = cpus::cores().min(jobs);
    let next = AtomicUsize::new(0);
    let run = || {
        let mut done = Vec::new();
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            if job >= jobs {
                return done;
            }
            done.push((job, work(job)));
        }
    };
    let mut results = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|_| {
                scope.spawn(|| {
                    // The caller may be bound to a CPU.
                    cpus::release();
                    run()
                })
            })
            .collect();
        let mut all = run();
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        all
    });
    results.sort_by_key(|(job, _)| *job);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    #[test]
    fn results_are_in_order() {
        assert_eq!(on_all_cores(100, |job| job * 2), (0..200).step_by(2).collect::<Vec<_>>());
        assert!(on_all_cores(0, |job| job).is_empty());
    }

    /// Each job waits until as many as there are cores have begun.
    #[test]
    fn as_many_jobs_as_cores_run_at_once() {
        let (cores, begun, all) = (cpus::cores(), Mutex::new(0), Condvar::new());
        let met = on_all_cores(cores, |_| {
            let mut count = begun.lock().unwrap();
            *count += 1;
            all.notify_all();
            let waited = all.wait_timeout_while(count, Duration::from_secs(20), |count| *count < cores);
            !waited.unwrap().1.timed_out()
        });
        assert_eq!(met, vec![true; cores]);
    }
}
