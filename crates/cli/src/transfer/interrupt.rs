//! Ctrl-C, heard and answered between two pieces.
//!
//! # Invariants
//! * The first signal asks for an end: what was begun is taken back, what was copied into an image is
//!   committed. A second one ends the process at once, which an image survives as it does a power cut.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use butterfs_os::signal::{TerminationSignals, Wake};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::exit;

/// Listens for signals until it is dropped.
#[derive(Debug)]
pub struct Interrupt {
    stop: Arc<AtomicBool>,
    cancel: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Interrupt {
    /// Begins to listen. Call it before any other thread is started.
    ///
    /// # Errors
    /// As the system's.
    pub fn listen() -> io::Result<Self> {
        let signals = TerminationSignals::block()?;
        let (end, cancel) = pipe_with(PipeFlags::CLOEXEC)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("signals".into()).spawn(move || hear(&signals, &end, &asked))?;
        Ok(Self { stop, cancel: Some(cancel), thread: Some(thread) })
    }

    /// Becomes true with the first signal.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }
}

fn hear(signals: &TerminationSignals, cancel: &OwnedFd, stop: &AtomicBool) {
    while let Ok(Wake::Signal(_)) = signals.wait(cancel.as_fd()) {
        if stop.swap(true, Ordering::Relaxed) {
            std::process::exit(exit::INTERRUPTED.into());
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        drop(self.cancel.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
