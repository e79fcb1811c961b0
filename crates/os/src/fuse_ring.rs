//! One entry of a FUSE queue over io_uring: a ring, and the memory that the kernel puts a request into.
//!
//! The kernel gives a request to an entry whose thread waits, so a thread that is busy never holds one up that another
//! thread could do: each thread has one ring with one entry, and any number of threads may serve a queue.
//!
//! # Invariants
//! * The kernel touches headers and payload only while the entry is its own ([`Turn::Kernels`]): from the moment a
//!   command is submitted to that of its completion. Meanwhile nothing here borrows them.
//! * Headers and payload stay where they are until the ring is closed: the kernel keeps their addresses. (Who swaps the
//!   payload gives the same buffer back before the next command.)
//! * Only the thread that made a ring may use it.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::page_buffer::PageBuffer;

/// Room for a `fuse_in_header` or a `fuse_out_header`.
pub const HEADER_ROOM: usize = 128;
/// Room for the fixed part of an operation's arguments.
pub const ARGUMENTS_ROOM: usize = 128;

/// `struct fuse_uring_ent_in_out`.
#[repr(C)]
#[derive(Clone, Copy)]
struct EntryInOut {
    flags: u64,
    commit_id: u64,
    payload_size: u32,
    padding: u32,
    reserved: u64,
}

/// `struct fuse_uring_req_header`.
#[repr(C, align(4096))]
struct Headers {
    in_out: [u8; HEADER_ROOM],
    arguments: [u8; ARGUMENTS_ROOM],
    entry: EntryInOut,
}
const _: () = assert!(std::mem::offset_of!(Headers, entry) == 256 && size_of::<EntryInOut>() == 32);

impl Headers {
    fn empty() -> Box<Self> {
        let entry = EntryInOut { flags: 0, commit_id: 0, payload_size: 0, padding: 0, reserved: 0 };
        Box::new(Self { in_out: [0; HEADER_ROOM], arguments: [0; ARGUMENTS_ROOM], entry })
    }
}

/// `struct io_uring_sqe` with 128 bytes.
#[repr(C)]
struct Submission {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    command: u32,
    pad: u32,
    addr: u64,
    len: u32,
    command_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    splice_fd: i32,
    /// `struct fuse_uring_cmd_req`: flags, commit id, queue.
    request: [u64; 3],
    rest: [u64; 7],
}
const _: () = assert!(size_of::<Submission>() == 128 && std::mem::offset_of!(Submission, request) == 48);

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// `struct io_sqring_offsets` and `struct io_cqring_offsets`, which agree in what is used of them.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Of submissions: flags.
    overflow: u32,
    /// Of submissions: dropped.
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: Offsets,
    cq: Offsets,
}
const _: () = assert!(size_of::<Params>() == 120);

const SETUP_SQE128: u32 = 1 << 10;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12;
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
const SETUP_NO_SQARRAY: u32 = 1 << 16;
const FEATURE_SINGLE_MMAP: u32 = 1 << 0;
const ENTER_GETEVENTS: u32 = 1 << 0;
const OFFSET_RINGS: i64 = 0;
const OFFSET_SUBMISSIONS: i64 = 0x1000_0000;
const OP_URING_CMD: u8 = 46;
/// `FUSE_IO_URING_CMD_REGISTER`.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`.
const COMMIT_AND_FETCH: u32 = 2;

/// A part of a ring that is mapped into memory.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, offset: i64, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; no memory of ours is touched.
        let start = unsafe { libc::mmap(null_mut(), len, protection, flags, ring.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast::<u8>())
            .map(|start| Self { start, len })
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// A number that the kernel shares with us.
    fn shared(&self, offset: u32) -> &AtomicU32 {
        assert!(offset as usize + 4 <= self.len && offset.is_multiple_of(4), "a number lies in the mapping");
        // SAFETY: it lies in the mapping, aligned (both asserted), and lives as long as `self`. Both sides use atomic
        // operations on it.
        unsafe { self.start.add(offset as usize).cast().as_ref() }
    }

    /// Where an element of an array lies.
    fn element<T>(&self, offset: usize, index: u32) -> NonNull<T> {
        let at = offset + index as usize * size_of::<T>();
        assert!(at + size_of::<T>() <= self.len && at.is_multiple_of(align_of::<T>()));
        // SAFETY: the place lies in the mapping (asserted).
        unsafe { self.start.add(at).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Whose the memory of an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Ours,
    Kernels,
}

/// A ring with one entry of a FUSE queue.
pub struct FuseRing {
    // Fields are dropped in this order: the ring is closed, and its commands are over, before their memory goes.
    rings: Mapping,
    submissions: Mapping,
    ring: OwnedFd,
    params: Params,
    device: Arc<OwnedFd>,
    queue: u16,
    headers: Box<Headers>,
    payload: PageBuffer,
    payload_address: usize,
    turn: Turn,
    registered: bool,
    /// A ring is of one thread.
    _of_one_thread: PhantomData<*mut ()>,
}

/// How a wait for a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// There is one.
    Request,
    /// There are no more.
    End,
}

impl FuseRing {
    /// Makes a ring, for the thread that calls. Nothing is registered yet.
    pub fn new(device: Arc<OwnedFd>, queue: u16, mut payload: PageBuffer) -> io::Result<Self> {
        let flags = SETUP_SQE128 | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN | SETUP_NO_SQARRAY;
        let mut params = Params { flags, ..Params::default() };
        // SAFETY: io_uring_setup reads and writes one `io_uring_params`, which `Params` is, and returns a descriptor.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, &raw mut params) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the descriptor is new, and nobody else's.
        let ring = unsafe { OwnedFd::from_raw_fd(fd) };
        if params.features & FEATURE_SINGLE_MMAP == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let len = params.cq.cqes as usize + params.cq_entries as usize * size_of::<Completion>();
        let rings = Mapping::new(&ring, OFFSET_RINGS, len)?;
        let submissions =
            Mapping::new(&ring, OFFSET_SUBMISSIONS, params.sq_entries as usize * size_of::<Submission>())?;
        let headers = Headers::empty();
        let payload_address = payload.bytes_mut().as_ptr().addr();
        Ok(Self {
            rings,
            submissions,
            ring,
            params,
            device,
            queue,
            headers,
            payload,
            payload_address,
            turn: Turn::Ours,
            registered: false,
            _of_one_thread: PhantomData,
        })
    }

    /// Gives the entry to the kernel, the answer that is in it, if it had a request, included, and waits for the next.
    ///
    /// # Errors
    /// What the kernel says to a command that it does not take.
    pub fn next_request(&mut self) -> io::Result<Wait> {
        assert_eq!(self.turn, Turn::Ours, "the entry is the kernel's");
        assert_eq!(self.payload.bytes_mut().as_ptr().addr(), self.payload_address, "the payload was not given back");
        let areas = [
            libc::iovec { iov_base: (&raw mut *self.headers).cast(), iov_len: size_of::<Headers>() },
            libc::iovec { iov_base: self.payload.bytes_mut().as_mut_ptr().cast(), iov_len: self.payload.bytes().len() },
        ];
        let command = if self.registered { COMMIT_AND_FETCH } else { REGISTER };
        self.push(&Submission {
            opcode: OP_URING_CMD,
            flags: 0,
            ioprio: 0,
            fd: self.device.as_raw_fd(),
            command,
            pad: 0,
            addr: areas.as_ptr().expose_provenance() as u64,
            len: areas.len() as u32,
            command_flags: 0,
            user_data: 0,
            buf_index: 0,
            personality: 0,
            splice_fd: 0,
            request: [0, self.headers.entry.commit_id, u64::from(self.queue)],
            rest: [0; 7],
        });
        self.turn = Turn::Kernels;
        let mut to_submit = 1;
        let result = loop {
            to_submit -= self.enter(to_submit)?;
            if let Some(result) = self.pop() {
                break result;
            }
        };
        self.turn = Turn::Ours;
        match -result {
            0 => {
                self.registered = true;
                Ok(Wait::Request)
            }
            libc::ENOTCONN | libc::ENODEV | libc::ECANCELED | libc::ECONNABORTED => Ok(Wait::End),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn push(&mut self, submission: &Submission) {
        let tail = self.rings.shared(self.params.sq.tail);
        let at = tail.load(Ordering::Relaxed);
        let slot = self.submissions.element::<Submission>(0, at & (self.params.sq_entries - 1));
        // SAFETY: the slot lies in the mapping, aligned, and is not the kernel's: every earlier submission was taken
        // before the call that made it returned.
        unsafe { std::ptr::copy_nonoverlapping(submission, slot.as_ptr(), 1) };
        tail.store(at.wrapping_add(1), Ordering::Release);
    }

    /// Submits, and waits for a completion; gives how many were submitted.
    fn enter(&self, to_submit: u32) -> io::Result<u32> {
        let (ring, wait) = (self.ring.as_raw_fd(), 1_u32);
        // SAFETY: the kernel reads submissions that were pushed. The memory that they name lives in `self`; the two
        // areas of REGISTER are read before the submission counts as such, in this call. No signal mask is given.
        let done = unsafe {
            let none = null_mut::<libc::c_void>();
            libc::syscall(libc::SYS_io_uring_enter, ring, to_submit, wait, ENTER_GETEVENTS, none, 0_usize)
        };
        match u32::try_from(done) {
            Ok(done) => Ok(done),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }

    /// The result of a completed command.
    fn pop(&mut self) -> Option<i32> {
        let (head, tail) = (self.rings.shared(self.params.cq.head), self.rings.shared(self.params.cq.tail));
        let at = head.load(Ordering::Relaxed);
        if at == tail.load(Ordering::Acquire) {
            return None;
        }
        let slot = self.rings.element::<Completion>(self.params.cq.cqes as usize, at & (self.params.cq_entries - 1));
        // SAFETY: the slot lies in the mapping, aligned, and was filled before the tail went past it (acquired above).
        let completion = unsafe { slot.read() };
        head.store(at.wrapping_add(1), Ordering::Release);
        Some(completion.result)
    }

    /// The request: the room of its header, that of its fixed arguments, and the rest of it.
    pub fn request(&self) -> (&[u8; HEADER_ROOM], &[u8; ARGUMENTS_ROOM], &[u8]) {
        assert_eq!(self.turn, Turn::Ours, "the entry is the kernel's");
        let len = (self.headers.entry.payload_size as usize).min(self.payload.bytes().len());
        (&self.headers.in_out, &self.headers.arguments, &self.payload.bytes()[..len])
    }

    /// Exchanges the payload's memory with another buffer, so that an answer can be written where it is wanted. To be
    /// undone before [`FuseRing::next_request`].
    pub fn swap_payload(&mut self, other: &mut PageBuffer) {
        assert_eq!(self.turn, Turn::Ours, "the entry is the kernel's");
        std::mem::swap(&mut self.payload, other);
    }

    /// Makes the answer: its header, and how long what is in the payload is.
    pub fn answer(&mut self, header: &[u8], payload_len: usize) {
        assert_eq!(self.turn, Turn::Ours, "the entry is the kernel's");
        self.headers.in_out[..header.len()].copy_from_slice(header);
        self.headers.entry.payload_size = payload_len as u32;
    }

    /// The memory of the answer's payload.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.turn, Turn::Ours, "the entry is the kernel's");
        self.payload.bytes_mut()
    }
}

impl Drop for FuseRing {
    fn drop(&mut self) {
        if self.turn == Turn::Kernels {
            // Waiting failed: nobody can tell whether the kernel is done with the memory.
            std::mem::forget(std::mem::replace(&mut self.headers, Headers::empty()));
            std::mem::forget(std::mem::replace(&mut self.payload, PageBuffer::new(0, 0)));
        }
    }
}

/// The CPUs that may ever be there: FUSE has a queue for each, and serves none before all are.
pub fn possible_cpus() -> io::Result<u16> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<u16>().ok());
    last.and_then(|last| last.checked_add(1)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_fuse_device_is_refused() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        // Where io_uring is not allowed there is nothing to test.
        let Ok(mut ring) = FuseRing::new(Arc::new(file), 0, PageBuffer::new(8192, 0)) else { return };
        assert!(ring.next_request().is_err());
        assert!(ring.next_request().is_err(), "the ring can be used again");
        assert!(ring.request().2.is_empty());
    }

    #[test]
    fn there_are_cpus() {
        let online = std::thread::available_parallelism().unwrap().get();
        assert!(usize::from(possible_cpus().unwrap()) >= online);
    }
}
