//! Termination signals as something to wait for, instead of something that interrupts.

use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// The signals that ask a daemon to end.
const TERMINATION: [i32; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// `SIGTERM`, `SIGINT` and `SIGHUP`, blocked and waiting to be read.
#[derive(Debug)]
pub struct TerminationSignals {
    fd: OwnedFd,
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A signal with this number arrived.
    Signal(u32),
    /// The other descriptor became readable.
    Cancelled,
}

impl TerminationSignals {
    /// Blocks the signals in this thread and in all threads it starts from now on. Call it
    /// before the first thread is started.
    pub fn block() -> io::Result<Self> {
        let set = termination_set();
        // SAFETY: `set` is an initialised signal set; a null old set is allowed.
        let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code));
        }
        // SAFETY: -1 asks for a new descriptor and `set` is an initialised signal set.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: signalfd returned a new descriptor that nobody else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Waits for a signal, or for `cancel` to become readable (or closed at its other end).
    pub fn wait(&self, cancel: BorrowedFd<'_>) -> io::Result<Wake> {
        loop {
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN), PollFd::from_borrowed_fd(cancel, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(Wake::Cancelled);
            }
            if !fds[0].revents().is_empty() {
                return self.read().map(Wake::Signal);
            }
        }
    }

    /// Reads the number of one signal.
    fn read(&self) -> io::Result<u32> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        rustix::io::read(&self.fd, &mut info)?;
        let number = info.first_chunk::<4>().expect("a signalfd_siginfo begins with ssi_signo");
        Ok(u32::from_ne_bytes(*number))
    }
}

impl AsFd for TerminationSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The set of all termination signals.
fn termination_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given; sigaddset then gets an initialised
    // set and valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in TERMINATION {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}
