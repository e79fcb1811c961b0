//! The classic transport: `/dev/fuse`, read and written.
//!
//! # Invariants
//! * A request is answered on the channel it was read from.
//! * Every request that wants an answer gets one, also when the front end panics.

use super::crew::Crew;
use super::follow::Place;
use super::hand_over::HandOver;
use super::{Connection, refuse_malformed};
use crate::Errno;
use crate::abi;
use crate::dispatch::Answer;
use crate::reply::Reply;
use crate::request::{Malformed, Operation, Request};
use butterfs_os::page_buffer::PageBuffer;
use rustix::fs::{Mode, OFlags};
use rustix::io as sys;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;
use zerocopy::IntoBytes;

/// Where FUSE lives.
pub(crate) const DEVICE: &str = "/dev/fuse";
/// Where the bytes of a WRITE begin in its request.
const WRITE_DATA: usize = size_of::<abi::InHeader>() + size_of::<abi::WriteIn>();

/// From so many bytes on, others read while one reads.
const MANY_BYTES: u32 = 32 << 10;

/// Why there are no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The filesystem was unmounted.
    Unmounted,
    /// Somebody aborted the connection.
    Aborted,
}

/// One way to the kernel: a device descriptor and the buffers of one worker.
pub(crate) struct Channel {
    device: Arc<OwnedFd>,
    buffer: PageBuffer,
    reply: Reply,
}

/// A request read, or the end.
pub(crate) enum Incoming {
    /// That many bytes are in the buffer.
    Bytes(usize),
    /// No more requests.
    End(End),
}

impl Channel {
    /// A channel on the session's own descriptor.
    pub(crate) fn new(device: Arc<OwnedFd>) -> Self {
        let len = abi::MAX_WRITE as usize + abi::MAX_ARGUMENTS;
        Self { device, buffer: PageBuffer::new(len, WRITE_DATA), reply: Reply::new() }
    }

    /// Another channel of the same connection; on the same descriptor if cloning fails.
    pub(crate) fn cloned(session: &Arc<OwnedFd>) -> Self {
        let device = clone_device(session).map_or_else(
            |error| {
                tracing::warn!(%error, "FUSE_DEV_IOC_CLONE failed, workers share a channel");
                Arc::clone(session)
            },
            Arc::new,
        );
        Self::new(device)
    }

    /// Waits for the next request.
    pub(crate) fn receive(&mut self) -> sys::Result<Incoming> {
        loop {
            if let Some(incoming) = self.read()? {
                return Ok(incoming);
            }
        }
    }

    /// The next request, if there is one; waits for it unless the descriptor is not to wait.
    pub(super) fn read(&mut self) -> sys::Result<Option<Incoming>> {
        loop {
            match sys::read(&*self.device, self.buffer.bytes_mut()) {
                Ok(len) => return Ok(Some(Incoming::Bytes(len))),
                Err(sys::Errno::AGAIN) => return Ok(None),
                // ENOENT: the request was taken back while it was read.
                Err(sys::Errno::INTR | sys::Errno::NOENT) => {}
                Err(sys::Errno::NODEV) => return Ok(Some(Incoming::End(End::Unmounted))),
                Err(sys::Errno::CONNABORTED) => return Ok(Some(Incoming::End(End::Aborted))),
                Err(error) => return Err(error),
            }
        }
    }

    /// Parses what was received.
    pub(crate) fn parse(&self, len: usize) -> Result<Request<'_>, Malformed> {
        Request::parse(&self.buffer.bytes()[..len])
    }

    /// Serves requests until the end, as one of a crew.
    pub(crate) fn serve(&mut self, connection: &Connection, crew: &Crew) -> sys::Result<End> {
        crew.join();
        let (mut place, mut hand_over) = (Place::default(), HandOver::default());
        let device = Arc::clone(&self.device);
        loop {
            if let Err(end) = crew.wait_turn() {
                return Ok(end);
            }
            let begin = Instant::now();
            let incoming = self.receive();
            let now = Instant::now();
            crew.took();
            match incoming {
                Ok(Incoming::Bytes(len)) => {
                    let mut caller = 0;
                    let unique = self.answer(len, connection, |request| {
                        caller = request.header.pid;
                        crew.asked_by(caller);
                        hand_over.asked_by(caller, now);
                        match crew.is_alone() {
                            true => place.asked_by(caller, now - begin, now, crew.scout()),
                            false => place.leave(),
                        }
                        if takes_long(&request.operation) {
                            crew.call_if_needed(&device);
                        }
                    });
                    match unique {
                        Some(unique) if crew.is_alone() => hand_over.with(caller, || self.send(unique)),
                        Some(unique) => self.send(unique),
                        None => {}
                    }
                }
                Ok(Incoming::End(end)) => {
                    crew.dissolve(end);
                    return Ok(end);
                }
                Err(error) => {
                    crew.dissolve(End::Aborted);
                    return Err(error);
                }
            }
        }
    }

    /// Does the request in the buffer and makes its reply; `begins` is told of it first. Gives its number if the reply is
    /// to be [sent](Channel::send).
    pub(super) fn answer(
        &mut self,
        len: usize,
        connection: &Connection,
        begins: impl FnOnce(&Request<'_>),
    ) -> Option<u64> {
        self.reply.clear();
        match Request::parse(&self.buffer.bytes()[..len]) {
            Ok(request) => {
                let unique = request.header.unique;
                begins(&request);
                let promise = Promise { device: &self.device, unique };
                let answer = connection.handle(&request, &mut self.reply);
                std::mem::forget(promise);
                (answer == Answer::Send).then_some(unique)
            }
            Err(malformed) => refuse_malformed(malformed, &mut self.reply),
        }
    }

    /// Sends the reply. If the kernel finds fault with it, the caller gets EIO.
    pub(super) fn send(&mut self, unique: u64) {
        let device = &self.device;
        match self.reply.with_parts(unique, |parts| sys::writev(&**device, parts)) {
            // ENOENT: the caller was killed; ENODEV: the mount is gone.
            Ok(_) | Err(sys::Errno::NOENT | sys::Errno::NODEV | sys::Errno::CONNABORTED) => {}
            Err(error) => {
                tracing::error!(unique, %error, "the kernel refused a reply");
                send_error(device, unique, Errno::EIO);
            }
        }
    }

    /// Sends one struct as the reply.
    pub(crate) fn send_struct<T: IntoBytes + zerocopy::Immutable>(&mut self, unique: u64, value: &T) {
        self.reply.clear();
        self.reply.push(value);
        self.send(unique);
    }

    /// Sends an error as the reply.
    pub(crate) fn send_error(&self, unique: u64, errno: Errno) {
        send_error(&self.device, unique, errno);
    }
}

/// Whether an operation waits for devices, or moves so many bytes that others should not wait for it.
fn takes_long(operation: &Operation<'_>) -> bool {
    match operation {
        Operation::Read(args) => args.size >= MANY_BYTES,
        Operation::Fsync(_)
        | Operation::Fsyncdir(_)
        | Operation::Syncfs
        | Operation::Fallocate(_)
        | Operation::CopyFileRange { .. }
        | Operation::Ioctl { .. }
        | Operation::Destroy => true,
        _ => false,
    }
}

/// A request under way: if the front end panics, its caller gets EIO and does not hang.
struct Promise<'a> {
    device: &'a OwnedFd,
    unique: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        send_error(self.device, self.unique, Errno::EIO);
    }
}

/// Sends an error. Nothing can be done if that fails.
fn send_error(device: &OwnedFd, unique: u64, errno: Errno) {
    let len = size_of::<abi::OutHeader>() as u32;
    let header = abi::OutHeader { len, error: -errno.number(), unique };
    if let Err(error) = sys::write(device, header.as_bytes()) {
        tracing::debug!(unique, %error, "an error reply was refused");
    }
}

/// Opens the device.
pub(crate) fn open_device() -> sys::Result<OwnedFd> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// A second descriptor for the connection of `session`.
pub(crate) fn clone_device(session: &OwnedFd) -> sys::Result<OwnedFd> {
    let fresh = open_device()?;
    butterfs_os::fuse_device::clone_connection(&fresh, session)?;
    Ok(fresh)
}
