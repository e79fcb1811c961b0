//! On which CPUs threads run.
//!
//! A thread inherits the CPUs of the one that makes it, and `available_parallelism` counts those of the caller. Where
//! threads are bound, those that they make for long work have to be released, and cores are counted here.
//!
//! # Invariants
//! * What the process may use is noted before its first thread is bound.

use std::io;
use std::sync::OnceLock;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// What the process may use.
struct All {
    cpus: CpuSet,
    cores: usize,
}

static ALL: OnceLock<All> = OnceLock::new();

fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many threads of this process run at once, whatever the caller is bound to.
pub fn cores() -> usize {
    ALL.get().map_or_else(parallelism, |all| all.cores)
}

/// Binds the calling thread to a CPU.
///
/// # Errors
/// If the process may not use it.
pub fn bind(cpu: usize) -> io::Result<()> {
    if ALL.get().is_none() {
        let all = All { cpus: sched_getaffinity(None)?, cores: parallelism() };
        // Another thread may have been the first: it had the same.
        ALL.get_or_init(|| all);
    }
    let is_allowed = ALL.get().is_some_and(|all| cpu < CpuSet::MAX_CPU && all.cpus.is_set(cpu));
    if !is_allowed {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("CPU {cpu} is not for this process")));
    }
    let mut one = CpuSet::new();
    one.set(cpu);
    Ok(sched_setaffinity(None, &one)?)
}

/// Lets the calling thread run wherever the process may; where no thread was ever bound this costs nothing.
pub fn release() {
    if let Some(all) = ALL.get() {
        // It fails if the process may use none of these any more: then what it may use holds.
        let _ = sched_setaffinity(None, &all.cpus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bound_thread_makes_can_be_released() {
        std::thread::spawn(|| {
            let before = sched_getaffinity(None).unwrap();
            let (cores, first) = (cores(), (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap());
            bind(first).unwrap();
            assert_eq!(parallelism(), 1);
            assert_eq!(super::cores(), cores);
            let (inherited, released) = std::thread::spawn(|| {
                let inherited = sched_getaffinity(None).unwrap();
                release();
                (inherited, sched_getaffinity(None).unwrap())
            })
            .join()
            .unwrap();
            assert_eq!((inherited.count(), released), (1, before));
            assert!(bind(CpuSet::MAX_CPU).is_err());
        })
        .join()
        .unwrap();
    }
}
