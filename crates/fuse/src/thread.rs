//! Threads for long work. Who makes one may be bound to a CPU, which is not for what it makes.

use std::io;
use std::thread::{Builder, JoinHandle};

use butterfs_os::cpus;

/// Starts a named thread that runs on any CPU.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(move || {
        cpus::release();
        work()
    })
}
