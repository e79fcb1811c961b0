//! A loop device over a file, which goes away by itself with its last user.
//!
//! # Invariants
//! * The device is always attached with autoclear: when every descriptor is closed and no mount
//!   uses it, the kernel detaches it, also after a crash of this process.

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Getter, Ioctl, IoctlOutput, NoArg, Opcode, Setter, ioctl};
use std::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `LOOP_CONFIGURE`.
const CONFIGURE: Opcode = 0x4C0A;
/// `LOOP_CLR_FD`.
const CLEAR: Opcode = 0x4C01;
/// `LOOP_GET_STATUS64`.
const GET_STATUS: Opcode = 0x4C05;
/// `LOOP_CTL_GET_FREE`.
const GET_FREE: Opcode = 0x4C82;
/// `LO_FLAGS_READ_ONLY`.
const FLAG_READ_ONLY: u32 = 1;
/// `LO_FLAGS_AUTOCLEAR`.
const FLAG_AUTOCLEAR: u32 = 4;
/// How often a free device may be lost to another process before we give up.
const ATTEMPTS: u32 = 64;

/// Whether writes to the loop device are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopAccess {
    /// Reads and writes.
    ReadWrite,
    /// Reads only.
    ReadOnly,
}

/// An attached loop device. The kernel detaches it when this and all other users are gone.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: OwnedFd,
}

impl LoopDevice {
    /// Attaches `image` to a free loop device with logical sectors of `sector_size` bytes.
    pub fn attach(image: impl AsFd, access: LoopAccess, sector_size: u32) -> Result<Self> {
        let control = open("/dev/loop-control", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        for _ in 0..ATTEMPTS {
            let path = PathBuf::from(format!("/dev/loop{}", free_number(&control)?));
            match configure(&path, image.as_fd(), access, sector_size) {
                Ok(file) => return Ok(Self { path, file }),
                Err(Errno::BUSY) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::BUSY)
    }

    /// Where the device is, for example `/dev/loop3`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the kernel to detach the device now, or once its last other user is gone.
    pub fn detach(self) -> Result<()> {
        // SAFETY: LOOP_CLR_FD takes no argument.
        unsafe { ioctl(&self.file, NoArg::<CLEAR>::new()) }
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The device number (`st_dev`) of the filesystem with the file behind a loop device; `ENXIO` if there is none, an error for
/// another kind of device.
pub fn backing_filesystem(device: impl AsFd) -> Result<u64> {
    // SAFETY: LOOP_GET_STATUS64 writes one loop_info64 through its argument; the struct has exactly its layout (size asserted
    // below), and every pattern of bits is a value of it. Other devices answer ENOTTY and write nothing.
    unsafe { ioctl(device, Getter::<GET_STATUS, LoopInfo>::new()) }.map(|info| info.device)
}

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(size_of::<LoopConfig>() == 304);

/// The configuration that attaches `image` as asked.
fn config(image: BorrowedFd<'_>, access: LoopAccess, sector_size: u32) -> LoopConfig {
    let read_only = match access {
        LoopAccess::ReadOnly => FLAG_READ_ONLY,
        LoopAccess::ReadWrite => 0,
    };
    LoopConfig {
        fd: image.as_raw_fd().unsigned_abs(),
        block_size: sector_size,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: FLAG_AUTOCLEAR | read_only,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    }
}

/// Opens the device at `path` and attaches `image` to it.
fn configure(path: &Path, image: BorrowedFd<'_>, access: LoopAccess, sector: u32) -> Result<OwnedFd> {
    let mode = match access {
        LoopAccess::ReadWrite => OFlags::RDWR,
        LoopAccess::ReadOnly => OFlags::RDONLY,
    };
    let device = open(path, mode | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: LOOP_CONFIGURE reads one loop_config through its argument; the struct has exactly
    // its layout (sizes asserted above) and outlives the call.
    unsafe { ioctl(&device, Setter::<CONFIGURE, LoopConfig>::new(config(image, access, sector)))? };
    Ok(device)
}

/// `LOOP_CTL_GET_FREE`, which answers by its return value.
struct GetFree;

// SAFETY: LOOP_CTL_GET_FREE takes no argument, writes nothing, and returns the number.
unsafe impl Ioctl for GetFree {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        GET_FREE
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<i32> {
        Ok(out)
    }
}

/// The number of a loop device that was free a moment ago.
fn free_number(control: &OwnedFd) -> Result<i32> {
    // SAFETY: see `GetFree`: no memory of ours is involved.
    unsafe { ioctl(control, GetFree) }
}
