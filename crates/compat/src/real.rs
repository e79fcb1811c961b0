//! The true functions: those that the next library, usually the C library, has under the same name.
//!
//! # Locking
//! None: two threads that look for the same function find the same.

use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_ulong, c_void};

use crate::errno::{self, Result};

/// A function of the next library.
pub struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    /// Not looked for yet.
    pub const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(null_mut()) }
    }

    /// Its address; null if there is none.
    pub fn get(&self) -> *mut c_void {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: the name ends with a NUL; dlsym may be called from anywhere.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

/// The next function with this name and type, or `None`. The type must be the function's.
macro_rules! next {
    ($name:literal as $kind:ty) => {{
        static NEXT: $crate::real::Next = $crate::real::Next::new($name);
        let found = NEXT.get();
        // SAFETY: the address is null, which is `None`, or that of the function which the C library's
        // headers declare with this type.
        unsafe { core::mem::transmute::<*mut libc::c_void, Option<$kind>>(found) }
    }};
}

pub(crate) use next;

/// The true ioctl.
///
/// # Safety
/// As of ioctl: the argument is what the command wants.
pub unsafe fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    match next!(c"ioctl" as unsafe extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int) {
        // SAFETY: as the caller promises.
        Some(function) => unsafe { function(fd, request, argument) },
        None => no_function(),
    }
}

/// Runs a command whose argument is a flat struct of the size that its number says.
pub fn flat_ioctl<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
    fd: c_int,
    command: u32,
    argument: &mut T,
) -> Result<c_int> {
    if size_of::<T>() != crate::wire::size_of_command(command) {
        return Err(libc::EINVAL);
    }
    // SAFETY: the struct is as large as the kernel will read and write, and any bytes are valid in it.
    errno::check(unsafe { ioctl(fd, command.into(), (&raw mut *argument).cast()) })
}

/// The true fstatfs.
pub fn fstatfs(fd: c_int) -> Option<libc::statfs> {
    let function = next!(c"fstatfs" as unsafe extern "C" fn(c_int, *mut libc::statfs) -> c_int)?;
    let mut found = core::mem::MaybeUninit::zeroed();
    // SAFETY: the pointer is to a whole struct; it is initialized, zeros being valid, whatever happens.
    unsafe { (function(fd, found.as_mut_ptr()) == 0).then(|| found.assume_init()) }
}

/// Whether the mount that a file was opened on is read-only.
pub fn is_read_only(fd: c_int) -> bool {
    let mut found = core::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the pointer is to a whole struct; it is initialized, zeros being valid, whatever happens.
    let found = unsafe { (libc::fstatvfs(fd, found.as_mut_ptr()) == 0).then(|| found.assume_init()) };
    found.is_some_and(|found| found.f_flag & libc::ST_RDONLY != 0)
}

/// The true fstat.
pub fn fstat(fd: c_int) -> Result<libc::stat> {
    let mut found = core::mem::MaybeUninit::zeroed();
    // SAFETY: AT_EMPTY_PATH with an empty path is about the descriptor; the pointer is to a whole struct.
    let result =
        unsafe { libc::syscall(libc::SYS_newfstatat, fd, c"".as_ptr(), found.as_mut_ptr(), libc::AT_EMPTY_PATH) };
    if result != 0 {
        return Err(errno::get());
    }
    // SAFETY: zeros are valid, and the kernel has filled it.
    Ok(unsafe { found.assume_init() })
}

/// What is told of a function that no library has.
pub fn no_function() -> c_int {
    errno::set(libc::ENOSYS);
    -1
}
