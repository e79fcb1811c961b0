//! Ending a session from outside: by a handle, or by a signal.
//!
//! # Invariants
//! * What was written before a signal is durable before the mount goes away, and soon after a
//!   signal, even if users of the mount keep it from going.

use crate::front_end::FrontEnd;
use crate::mount::{Busy, MountError, MountPoint, Unmounted};
use crate::types::{Caller, NodeId};
use butterfs_os::signal::{TerminationSignals, Wake};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Ends a session from outside. Cheap to clone.
#[derive(Clone)]
pub struct StopHandle {
    point: Arc<MountPoint>,
    front_end: Arc<dyn FrontEnd>,
}

impl StopHandle {
    pub(crate) fn new(point: Arc<MountPoint>, front_end: Arc<dyn FrontEnd>) -> Self {
        Self { point, front_end }
    }

    /// Unmounts. A mount in use is detached: it vanishes from the tree, and the session ends
    /// when its last user has gone. Fine if it is unmounted already.
    pub fn stop(&self) -> Result<Unmounted, MountError> {
        self.point.unmount(Busy::Detach)
    }

    /// Unmounts unless the mount is in use.
    pub fn stop_if_idle(&self) -> Result<Unmounted, MountError> {
        self.point.unmount(Busy::Refuse)
    }

    /// Makes everything durable that was written so far: what the kernel holds back, too, as long
    /// as the mount is in the tree. The session must be served meanwhile.
    pub fn flush(&self) {
        if let Err(error) = self.point.sync() {
            tracing::warn!(%error, "the kernel's cache was not written back");
        }
        let kernel = Caller { uid: 0, gid: 0, pid: 0 };
        if let Err(error) = self.front_end.syncfs(&kernel, NodeId::ROOT) {
            tracing::error!(%error, "what was written last is not durable");
        }
    }

    /// Cuts the connection: users of the mount get errors from now on. What they have written
    /// is kept; what the kernel holds back (writeback cache) is lost.
    pub fn abort(&self) -> io::Result<()> {
        self.point.abort()
    }
}

/// Stops a session on SIGTERM, SIGINT or SIGHUP; on a second one, aborts it. Ends when dropped.
#[derive(Debug)]
pub struct SignalStop {
    cancel: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl SignalStop {
    /// Begins to wait for signals, which must have been blocked before any thread was started.
    pub fn spawn(signals: TerminationSignals, handle: StopHandle) -> io::Result<Self> {
        let (end, cancel) = pipe_with(PipeFlags::CLOEXEC)?;
        let thread = named("fuse-signals").spawn(move || stop_on_signals(&signals, &end, &handle))?;
        Ok(Self { cancel: Some(cancel), thread: Some(thread) })
    }
}

impl Drop for SignalStop {
    fn drop(&mut self) {
        drop(self.cancel.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.into())
}

/// Waits for signals until cancelled. What a signal asks for is done by a thread of its own, so
/// that the next signal is heard even if that hangs.
fn stop_on_signals(signals: &TerminationSignals, cancel: &OwnedFd, handle: &StopHandle) {
    let mut acting = Vec::new();
    loop {
        match signals.wait(cancel.as_fd()) {
            Ok(Wake::Signal(signal)) => tracing::info!(signal, "stopping"),
            Ok(Wake::Cancelled) => break,
            Err(error) => {
                tracing::error!(%error, "no longer waiting for signals");
                break;
            }
        }
        let (act, handle): (fn(&StopHandle), _) = (if acting.is_empty() { leave } else { cut }, handle.clone());
        match named("fuse-stop").spawn(move || act(&handle)) {
            Ok(thread) => acting.push(thread),
            Err(error) => tracing::error!(%error, "cannot start a thread to stop"),
        }
    }
    // They hold the front end, and with it the devices.
    for thread in acting {
        let _ = thread.join();
    }
}

/// The first signal.
fn leave(handle: &StopHandle) {
    handle.flush();
    if let Err(error) = handle.stop() {
        tracing::error!(%error, "cannot unmount");
    }
}

/// Every further one.
fn cut(handle: &StopHandle) {
    handle.flush();
    if let Err(error) = handle.abort() {
        tracing::error!(%error, "cannot cut the mount off from its users; what they wrote so far is durable");
    }
}
