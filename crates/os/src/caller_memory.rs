//! Memory of another process, at addresses that it gave us: arguments of ioctls that FUSE does not copy.
//!
//! Needs what ptrace needs: the same user, or `CAP_SYS_PTRACE`.

use rustix::process::Pid;
use std::io;

/// Reads from the memory of the process that a thread belongs to.
///
/// # Errors
/// `EFAULT` if not all of it can be read; `EPERM` if we may not.
pub fn read(thread: Pid, address: u64, buf: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote = remote(address, buf.len())?;
    // SAFETY: the kernel writes at most `buf.len()` bytes, into `buf`, which is exclusively borrowed. If the process
    // is ourselves that holds too, whatever the address.
    let done = unsafe { libc::process_vm_readv(thread.as_raw_nonzero().get(), &local, 1, &remote, 1, 0) };
    all(done, buf.len())
}

/// Writes into the memory of the process that a thread belongs to, which must be another one.
///
/// # Errors
/// As of [`read`]; `EINVAL` if the process is ourselves.
pub fn write(thread: Pid, address: u64, bytes: &[u8]) -> io::Result<()> {
    if std::path::Path::new("/proc/self/task").join(thread.as_raw_nonzero().to_string()).exists() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = remote(address, bytes.len())?;
    // SAFETY: the kernel only reads from `bytes`. What it writes is memory of another process: no thread of ours has
    // this number. (One that gets it now cannot be ours either, unless its process ended and its caller with it; the
    // caller waits for us.)
    let done = unsafe { libc::process_vm_writev(thread.as_raw_nonzero().get(), &local, 1, &remote, 1, 0) };
    all(done, bytes.len())
}

fn remote(address: u64, len: usize) -> io::Result<libc::iovec> {
    let address = usize::try_from(address).map_err(|_| io::Error::from_raw_os_error(libc::EFAULT))?;
    Ok(libc::iovec { iov_base: std::ptr::without_provenance_mut(address), iov_len: len })
}

fn all(done: isize, wanted: usize) -> io::Result<()> {
    match usize::try_from(done) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(done) if done == wanted => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_our_own_is_not_written() {
        let (source, mut copy) = ([7_u8; 100], [0_u8; 100]);
        let own = rustix::process::getpid();
        read(own, source.as_ptr().addr() as u64, &mut copy).unwrap();
        assert_eq!(copy, source);
        assert_eq!(read(own, 8, &mut copy).unwrap_err().raw_os_error(), Some(libc::EFAULT));
        assert_eq!(write(own, 8, &source).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
