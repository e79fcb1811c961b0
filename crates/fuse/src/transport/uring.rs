//! FUSE over io_uring: requests come to threads that wait, each with an entry of a queue; there is a queue for each CPU.
//!
//! One system call answers a request and waits for the next. FORGET, INTERRUPT and what comes before all queues are
//! there still come by `/dev/fuse`.
//!
//! # Invariants
//! * Everything that can fail is done before INIT is answered: from then on the kernel holds all requests back until
//!   each queue has an entry.
//! * A request is answered on the entry it came to, also when the front end panics.

use super::dev::End;
use super::leftovers::Leftovers;
use super::spare::Spares;
use super::{Connection, refuse_malformed};
use crate::Errno;
use crate::abi::{self, opcode};
use crate::reply::Reply;
use crate::request::{Operation, Request};
use butterfs_os::cpus;
use butterfs_os::fuse_ring::{FuseRing, Wait, possible_cpus};
use butterfs_os::page_buffer::PageBuffer;
use rustix::io as sys;
use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use zerocopy::IntoBytes;

/// Whether the administrator allows it, if the kernel can do it.
const ENABLED: &str = "/sys/module/fuse/parameters/enable_uring";
/// On a machine with few CPUs, so many threads share the requests of all queues.
const FEW_THREADS: usize = 8;
/// Of one queue: while one thread waits for a device, another can answer.
const THREADS_PER_QUEUE: std::ops::RangeInclusive<usize> = 2..=4;

/// Threads with their rings, made and not started.
pub(crate) struct Rings {
    threads: Vec<JoinHandle<sys::Result<End>>>,
    start: Vec<Sender<Served>>,
}

/// What threads serve.
#[derive(Clone)]
struct Served {
    connection: Arc<Connection>,
    leftovers: Arc<Leftovers>,
}

impl Rings {
    /// Makes rings for all queues of a connection, if that is possible here.
    pub(crate) fn prepare(device: &Arc<OwnedFd>) -> io::Result<Self> {
        if std::fs::read_to_string(ENABLED)?.trim() != "Y" {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{ENABLED} does not say Y")));
        }
        let queues = possible_cpus()?;
        let per_queue = (FEW_THREADS / usize::from(queues)).clamp(*THREADS_PER_QUEUE.start(), *THREADS_PER_QUEUE.end());
        let mut rings = Self { threads: Vec::new(), start: Vec::new() };
        for queue in 0..queues {
            let spares = Spares::new(per_queue - 1);
            for _ in 0..per_queue {
                rings.add(Arc::clone(device), queue, &spares)?;
            }
        }
        Ok(rings)
    }

    /// Starts a thread that makes its ring, and waits until it has: a ring is of one thread.
    fn add(&mut self, device: Arc<OwnedFd>, queue: u16, spares: &Arc<Spares>) -> io::Result<()> {
        let spares = Arc::clone(spares);
        let (start, started) = channel();
        let (made, is_made) = channel();
        let name = format!("fuse-queue-{queue}");
        let thread = std::thread::Builder::new().name(name).spawn(move || match Entry::new(&device, queue) {
            Ok(entry) => {
                let _ = made.send(Ok(()));
                spares.join();
                entry.live(&started)
            }
            Err(error) => {
                let _ = made.send(Err(error));
                Ok(End::Unmounted)
            }
        })?;
        self.threads.push(thread);
        self.start.push(start);
        is_made.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
    }

    /// How many threads there are.
    pub(crate) fn len(&self) -> usize {
        self.threads.len()
    }

    /// Starts to serve. To be called once INIT is answered.
    pub(crate) fn start(&mut self, connection: &Arc<Connection>, leftovers: &Arc<Leftovers>) {
        let served = Served { connection: Arc::clone(connection), leftovers: Arc::clone(leftovers) };
        for start in self.start.drain(..) {
            // A thread that is gone says so when it is joined.
            let _ = start.send(served.clone());
        }
    }

    /// Waits for the ends of all threads.
    pub(crate) fn join(self) -> impl Iterator<Item = std::thread::Result<sys::Result<End>>> {
        // Those that were never started end with this.
        drop(self.start);
        self.threads.into_iter().map(JoinHandle::join)
    }
}

/// An entry with its thread's buffers.
struct Entry {
    ring: FuseRing,
    reply: Reply,
    queue: u16,
    panic: Option<Box<dyn Any + Send>>,
}

impl Entry {
    fn new(device: &Arc<OwnedFd>, queue: u16) -> io::Result<Self> {
        let payload = PageBuffer::new(abi::MAX_WRITE as usize, 0);
        let ring = FuseRing::new(Arc::clone(device), queue, payload)?;
        Ok(Self { ring, reply: Reply::new(), queue, panic: None })
    }

    /// Waits for the start, and serves to the end.
    fn live(mut self, started: &Receiver<Served>) -> sys::Result<End> {
        let Ok(served) = started.recv() else { return Ok(End::Unmounted) };
        self.stay_on_cpu();
        loop {
            match self.ring.next_request() {
                Ok(Wait::Request) => self.answer(&served),
                Ok(Wait::End) => break,
                Err(error) => {
                    let errno = error.raw_os_error().map_or(sys::Errno::IO, sys::Errno::from_raw_os_error);
                    tracing::error!(queue = self.queue, %error, "a queue of the mount cannot be served any more");
                    return Err(errno);
                }
            }
        }
        self.panic.map_or(Ok(End::Unmounted), |panic| resume_unwind(panic))
    }

    /// The callers of a queue run on its CPU: there the answer is made, too. That is not possible everywhere.
    fn stay_on_cpu(&self) {
        if let Err(error) = cpus::bind(usize::from(self.queue)) {
            tracing::debug!(queue = self.queue, %error, "the thread is not bound to the CPU");
        }
    }

    /// Does the request of the entry, and leaves the answer in it.
    fn answer(&mut self, served: &Served) {
        self.reply.clear();
        let (header, _, payload) = self.ring.request();
        let code = opcode_of(header);
        // The bytes of a READ are put where the kernel takes them from: its request has no payload.
        let in_place = code == opcode::READ && payload.is_empty();
        if in_place {
            self.ring.swap_payload(&mut self.reply.scratch);
        }
        let unique = self.handle(served);
        let payload_len = self.fill(in_place);
        let (header, payload_len) = match payload_len {
            Some(len) => (self.reply.header(unique), len),
            None => (error_header(unique, Errno::EIO), 0),
        };
        if in_place {
            self.ring.swap_payload(&mut self.reply.scratch);
        }
        self.ring.answer(header.as_bytes(), payload_len);
    }

    /// Does the request; gives its number. A panic of the front end is kept for the end: the entry must be served.
    fn handle(&mut self, served: &Served) -> u64 {
        let (header, fixed, payload) = self.ring.request();
        let request = match Request::parse_parts(header, fixed, payload) {
            Ok(request) => request,
            Err(malformed) => return refuse_malformed(malformed, &mut self.reply).unwrap_or_default(),
        };
        // What a panic leaves of the reply is cleared.
        let work = AssertUnwindSafe(|| {
            if matches!(request.operation, Operation::Syncfs) {
                // The end is seen by who serves them.
                let _ = served.leftovers.take(&served.connection);
            }
            served.connection.handle(&request, &mut self.reply)
        });
        if let Err(panic) = catch_unwind(work) {
            self.reply.set_error(Errno::EIO);
            self.panic = Some(panic);
        }
        request.header.unique
    }

    /// Puts the reply's bytes into the payload; gives how many. `None` if it has no room for them.
    fn fill(&mut self, in_place: bool) -> Option<usize> {
        if in_place {
            return self.reply.settle_in_scratch();
        }
        self.reply.copy_to(self.ring.payload_mut())
    }
}

fn opcode_of(header: &[u8]) -> u32 {
    let at = std::mem::offset_of!(abi::InHeader, opcode);
    header.get(at..at + 4).map_or(0, |bytes| u32::from_ne_bytes(bytes.try_into().expect("four bytes")))
}

fn error_header(unique: u64, errno: Errno) -> abi::OutHeader {
    abi::OutHeader { len: size_of::<abi::OutHeader>() as u32, error: -errno.number(), unique }
}
