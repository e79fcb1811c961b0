//! Serving a mount, from INIT to the end.
//!
//! [`Session::run`] blocks until the filesystem is unmounted, by anyone. [`crate::stop`]
//! ends it from another thread, or on SIGTERM.

use crate::abi::InitFlags;
use crate::front_end::FrontEnd;
use crate::mount::Mount;
use crate::negotiate::negotiate;
use crate::notify::Notifier;
use crate::request::{Malformed, Operation, Request};
use crate::stop::StopHandle;
use crate::thread;
use crate::transport::Connection;
use crate::transport::crew::{Crew, SPARE};
use crate::transport::dev::{Channel, End, Incoming};
use crate::transport::leftovers::Leftovers;
use crate::transport::uring::Rings;
use crate::{Errno, Negotiated, abi};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

/// Who keeps written data before it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Caching {
    /// Each write reaches the front end before it returns.
    #[default]
    WriteThrough,
    /// The kernel keeps dirty pages. Faster for large writes, slower for metadata.
    Writeback,
}

/// How a session works.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Worker threads, at least one. (Through io_uring, there are as many as queues need.)
    pub threads: usize,
    /// How requests come.
    pub transport: Transport,
    /// Write-through or writeback.
    pub caching: Caching,
    /// Most background requests (readahead, writeback, direct I/O) at once.
    pub max_background: u16,
    /// Whether the kernel goes by ACLs.
    pub acl: PosixAcl,
}

/// How requests come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Transport {
    /// Through io_uring where the kernel can do it and the administrator has enabled it, else by the device.
    #[default]
    Best,
    /// By reading and writing `/dev/fuse`.
    Device,
    /// Through io_uring; where that is not possible, the session does not start.
    Uring,
}

/// Whether ACLs are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PosixAcl {
    /// They are.
    #[default]
    Enforced,
    /// Permissions are those of the mode alone, and ACLs can be neither read nor written.
    Off,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            threads: 2,
            transport: Transport::Best,
            caching: Caching::WriteThrough,
            max_background: 64,
            acl: PosixAcl::Enforced,
        }
    }
}

/// Why a session ended badly.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Unmounted before it began.
    #[error("the filesystem was unmounted before it could be served")]
    EarlyUnmount,
    /// The kernel's first request made no sense, or its protocol is too old.
    #[error("FUSE handshake: {0}")]
    Handshake(io::Error),
    /// The front end refused to start.
    #[error("the filesystem refused to start: {0}")]
    Init(Errno),
    /// The end did not make everything durable.
    #[error("{0}")]
    Loss(String),
    /// The device failed.
    #[error("/dev/fuse: {0}")]
    Device(io::Error),
    /// It was to be served through io_uring.
    #[error("the mount cannot be served through io_uring: {0}")]
    Uring(io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A worker panicked.
    #[error("a worker thread panicked")]
    Panic,
}

/// What a worker is called that is needed only while others wait.
const SPARE_NAME: &str = "fuse-spare";

/// The ways by which requests come.
enum Ways {
    Device(Channel),
    Rings(Rings, Arc<Leftovers>),
}

/// A mount with the front end that serves it.
pub struct Session {
    mount: Mount,
    connection: Arc<Connection>,
    options: SessionOptions,
}

impl Session {
    /// Joins a mount and a front end. Nothing is served before [`run`](Self::run).
    pub fn new(mount: Mount, front_end: Arc<dyn FrontEnd>, options: SessionOptions) -> Self {
        Self { mount, connection: Arc::new(Connection::new(front_end)), options }
    }

    /// A handle to end the session with.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle::new(self.mount.point(), self.connection.shared_front_end())
    }

    /// Serves until the filesystem is unmounted and everything is durable.
    pub fn run(self) -> Result<(), SessionError> {
        self.run_then(|| ())
    }

    /// As [`run`](Self::run); `ready` is called once the mount can be used.
    pub fn run_then(self, ready: impl FnOnce()) -> Result<(), SessionError> {
        if let Err(error) = butterfs_os::process::set_io_flusher() {
            tracing::debug!(%error, "not an I/O flusher");
        }
        let device = self.mount.device();
        let mut channel = Channel::new(Arc::clone(&device));
        let (notifier, notices) = Notifier::new(&device);
        let rings = self.rings(&device)?;
        let agreed = self.handshake(&mut channel, &notifier, &rings)?;
        let ways = self.start(rings, channel, agreed)?;
        let sender = Arc::clone(&device);
        spawn("fuse-notify", move || notices.run(sender))?;
        ready();
        let result = self.serve(ways, &device);
        self.connection.destroy();
        notifier.close();
        match self.connection.loss() {
            Some(loss) => Err(SessionError::Loss(loss.to_owned())),
            None => result,
        }
    }

    /// Rings, if they are wanted and possible.
    fn rings(&self, device: &Arc<OwnedFd>) -> Result<Option<Rings>, SessionError> {
        if self.options.transport == Transport::Device {
            return Ok(None);
        }
        match Rings::prepare(device) {
            Ok(rings) => Ok(Some(rings)),
            Err(error) if self.options.transport == Transport::Uring => Err(SessionError::Uring(error)),
            Err(error) => {
                tracing::debug!(%error, "no io_uring");
                Ok(None)
            }
        }
    }

    /// Starts rings, if the kernel has agreed to use them, and says what it came to.
    fn start(&self, rings: Option<Rings>, channel: Channel, agreed: Negotiated) -> Result<Ways, SessionError> {
        match rings.filter(|_| agreed.flags.contains(InitFlags::OVER_IO_URING)) {
            Some(mut rings) => {
                let device = self.mount.device();
                let leftovers = Leftovers::new(device, channel).map_err(|error| SessionError::Device(error.into()))?;
                let leftovers = Arc::new(leftovers);
                rings.start(&self.connection, &leftovers);
                tracing::info!(threads = rings.len(), "served through io_uring");
                Ok(Ways::Rings(rings, leftovers))
            }
            None if self.options.transport == Transport::Uring => {
                let text = "the kernel does not offer it (Linux 6.14 or later does)";
                Err(SessionError::Uring(io::Error::new(io::ErrorKind::Unsupported, text)))
            }
            None => {
                tracing::info!(threads = self.options.threads, "served through /dev/fuse");
                Ok(Ways::Device(channel))
            }
        }
    }

    /// Answers INIT.
    fn handshake(
        &self,
        channel: &mut Channel,
        notifier: &Notifier,
        rings: &Option<Rings>,
    ) -> Result<Negotiated, SessionError> {
        loop {
            let len = match channel.receive().map_err(|e| SessionError::Handshake(e.into()))? {
                Incoming::Bytes(len) => len,
                Incoming::End(_) => return Err(SessionError::EarlyUnmount),
            };
            let (unique, offer) = first_request(channel.parse(len))?;
            if offer.major > abi::VERSION_MAJOR {
                // The kernel comes again with the version that we name.
                channel.send_struct(unique, &abi::InitOut { major: abi::VERSION_MAJOR, ..empty_init() });
                continue;
            }
            return self.agree(channel, unique, &offer, notifier, rings);
        }
    }

    /// Agrees with the kernel, and starts the front end before the kernel may use it.
    fn agree(
        &self,
        channel: &mut Channel,
        unique: u64,
        offer: &abi::InitIn,
        notifier: &Notifier,
        rings: &Option<Rings>,
    ) -> Result<Negotiated, SessionError> {
        let transport = if rings.is_some() { InitFlags::OVER_IO_URING } else { InitFlags::empty() };
        let (negotiated, out) = negotiate(offer, &self.options, self.mount.flags(), transport).map_err(|error| {
            channel.send_error(unique, Errno::new(71));
            SessionError::Handshake(error)
        })?;
        self.connection.front_end().init(negotiated, notifier.clone()).map_err(|errno| {
            channel.send_error(unique, errno);
            SessionError::Init(errno)
        })?;
        channel.send_struct(unique, &out);
        Ok(negotiated)
    }

    /// Runs the workers, this thread being one of them, to their end.
    fn serve(&self, ways: Ways, device: &Arc<OwnedFd>) -> Result<(), SessionError> {
        match ways {
            Ways::Device(own) => self.serve_device(own, device),
            Ways::Rings(rings, leftovers) => {
                let result = self.own_end(leftovers.serve(&self.connection));
                rings.join().fold(result, |result, end| result.and(end.map_or(Err(SessionError::Panic), ended)))
            }
        }
    }

    fn serve_device(&self, mut own: Channel, device: &Arc<OwnedFd>) -> Result<(), SessionError> {
        let crew = Arc::new(Crew::new(self.options.threads));
        let names = (1..self.options.threads).map(|_| "fuse-worker").chain([SPARE_NAME; SPARE]);
        let mut others: Vec<_> = names.map(|name| self.worker(name, device, &crew)).collect();
        let (overseen, watched) = (Arc::clone(&crew), Arc::clone(device));
        others.push(spawn("fuse-overseer", move || {
            overseen.oversee(&watched);
            Ok(())
        }));
        let mut result = self.own_end(own.serve(&self.connection, &crew));
        for other in others {
            let end = match other {
                Ok(thread) => thread.join().unwrap_or(Err(SessionError::Panic)),
                Err(error) => Err(error),
            };
            result = result.and(end);
        }
        result
    }

    /// How the end of this thread's work counts; an unmount is noted.
    fn own_end(&self, end: rustix::io::Result<End>) -> Result<(), SessionError> {
        if matches!(end, Ok(End::Unmounted)) {
            self.mount.point().note_gone();
        }
        ended(end)
    }

    /// Starts a worker.
    fn worker(
        &self,
        name: &str,
        device: &Arc<OwnedFd>,
        crew: &Arc<Crew>,
    ) -> Result<JoinHandle<Result<(), SessionError>>, SessionError> {
        let connection = Arc::clone(&self.connection);
        let (device, crew) = (Arc::clone(device), Arc::clone(crew));
        spawn(name, move || ended(Channel::cloned(&device).serve(&connection, &crew)))
    }
}

/// How a worker's end counts.
fn ended(end: rustix::io::Result<End>) -> Result<(), SessionError> {
    match end {
        Ok(End::Unmounted) => Ok(()),
        Ok(End::Aborted) => {
            tracing::warn!("the FUSE connection was aborted");
            Ok(())
        }
        Err(error) => Err(SessionError::Device(error.into())),
    }
}

/// Starts a named thread.
fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SessionError> {
    thread::spawn(name, work).map_err(SessionError::Thread)
}

/// The first request, which must be INIT.
fn first_request(parsed: Result<Request<'_>, Malformed>) -> Result<(u64, abi::InitIn), SessionError> {
    let bad = |text: String| SessionError::Handshake(io::Error::new(io::ErrorKind::InvalidData, text));
    let request = parsed.map_err(|malformed| bad(malformed.to_string()))?;
    match request.operation {
        Operation::Init(offer) => Ok((request.header.unique, offer)),
        _ => Err(bad(format!("operation {} came before INIT", request.header.opcode))),
    }
}

/// An answer to INIT that says nothing.
fn empty_init() -> abi::InitOut {
    zerocopy::FromZeros::new_zeroed()
}
