//! Forking, and what a process that serves a filesystem must tell the kernel about itself.

use rustix::process::Pid;
use std::io;

/// `PR_SET_IO_FLUSHER`, which the libc crate lacks.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The process that called; the child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks the process. Refused with an error once a second thread exists.
///
/// The check is what makes this function safe: with one thread, no lock can be held by a thread
/// that does not exist in the child.
pub fn fork() -> io::Result<Fork> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("fork after threads were started"));
    }
    // SAFETY: the process has a single thread (checked above; only this thread could start
    // another), so the child gets memory and locks in a consistent state.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid).expect("fork returns a positive pid"))),
    }
}

/// Tells the kernel that this thread, and threads it starts, are needed to write dirty memory
/// back: its allocations must not wait for that same writeback. Needs `CAP_SYS_RESOURCE`.
pub fn set_io_flusher() -> io::Result<()> {
    // SAFETY: PR_SET_IO_FLUSHER takes plain integers and touches no memory of ours.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1_usize, 0_usize, 0_usize, 0_usize) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has freed memory kept for the next allocation, up to some tens of MiB: a daemon needs buffers of a MiB all the
/// time, and each that comes fresh from the kernel costs hundreds of page faults. Without glibc it does nothing.
pub fn reuse_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        const LARGEST_REUSED: libc::c_int = 8 << 20;
        const MOST_KEPT: libc::c_int = 64 << 20;
        const MOST_ARENAS: libc::c_int = 4;
        for (parameter, value) in [
            (libc::M_MMAP_THRESHOLD, LARGEST_REUSED),
            (libc::M_TRIM_THRESHOLD, MOST_KEPT),
            (libc::M_ARENA_MAX, MOST_ARENAS),
        ] {
            // SAFETY: mallopt takes plain integers, locks the allocator by itself, and changes no memory that is given out.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_is_refused_with_threads() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(fork().is_err());
        drop(stop);
        let _ = thread.join();
    }
}
