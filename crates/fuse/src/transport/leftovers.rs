//! What comes by `/dev/fuse` while requests come through io_uring: FORGET and INTERRUPT.
//!
//! # Invariants
//! * What the kernel had sent when [`Leftovers::take`] began is done when it ends. So a SYNCFS sees the files deleted whose
//!   last use ended before it.
//!
//! # Locking
//! The channel is locked from reading a request until it is done, and before `Connection::gate`.

use super::Connection;
use super::dev::{Channel, End, Incoming};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io as sys;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The device's descriptor, read without waiting.
pub(crate) struct Leftovers {
    device: Arc<OwnedFd>,
    channel: Mutex<Channel>,
}

impl Leftovers {
    /// Takes over a session's descriptor, from which no other thread reads.
    pub(crate) fn new(device: Arc<OwnedFd>, channel: Channel) -> sys::Result<Self> {
        fcntl_setfl(&*device, fcntl_getfl(&*device)? | OFlags::NONBLOCK)?;
        Ok(Self { device, channel: Mutex::new(channel) })
    }

    /// Serves what comes until the end.
    pub(crate) fn serve(&self, connection: &Connection) -> sys::Result<End> {
        loop {
            match poll(&mut [PollFd::new(&*self.device, PollFlags::IN)], None) {
                Ok(_) | Err(sys::Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if let Some(end) = self.take(connection)? {
                return Ok(end);
            }
        }
    }

    /// Does all that has come.
    pub(crate) fn take(&self, connection: &Connection) -> sys::Result<Option<End>> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match channel.read()? {
                Some(Incoming::Bytes(len)) => {
                    if let Some(unique) = channel.answer(len, connection, |_| ()) {
                        channel.send(unique);
                    }
                }
                Some(Incoming::End(end)) => return Ok(Some(end)),
                None => return Ok(None),
            }
        }
    }
}
