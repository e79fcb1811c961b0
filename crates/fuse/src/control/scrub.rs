//! Scrubs of a mount's devices, from outside.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use butterfs_os::flat_ioctl::flat_ioctl;
use zerocopy::{FromZeros, IntoBytes};

use super::wire::{self, ScrubArgs, ScrubLimit, ScrubReport, ScrubState};

/// How often it is asked whether a scrub has ended.
const NAP: Duration = Duration::from_millis(50);

/// Whether bad copies are repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubRepair {
    /// They are.
    Yes,
    /// Nothing is written.
    No,
}

/// How the last scrub of a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubStatus {
    /// Whether one runs, or ran since the filesystem was mounted.
    pub state: ScrubState,
    /// Of one that has ended: the number of an error, ECANCELED if it was cancelled, or 0.
    pub error: i32,
    /// What it did, as the kernel's 15 numbers.
    pub progress: [u64; 15],
}

/// Starts a scrub of a device, from `start` on.
pub fn start_scrub(file: BorrowedFd<'_>, devid: u64, start: u64, repair: ScrubRepair) -> io::Result<()> {
    let mut args = ScrubArgs::new_zeroed();
    args.devid = devid.to_ne_bytes();
    args.start = start.to_ne_bytes();
    args.end = u64::MAX.to_ne_bytes();
    args.flags = if repair == ScrubRepair::No { wire::SCRUB_READ_ONLY } else { 0 }.to_ne_bytes();
    flat_ioctl(file, wire::SCRUB_START, args.as_mut_bytes())?;
    Ok(())
}

/// How the scrub of a device is.
pub fn scrub_status(file: BorrowedFd<'_>, devid: u64) -> io::Result<ScrubStatus> {
    let mut args = ScrubArgs::new_zeroed();
    args.devid = devid.to_ne_bytes();
    flat_ioctl(file, wire::SCRUB_STATE, args.as_mut_bytes())?;
    let state = ScrubState::of(u64::from_ne_bytes(args.state));
    let error = i32::try_from(u64::from_ne_bytes(args.error)).unwrap_or(i32::MAX);
    Ok(ScrubStatus { state, error, progress: args.progress.map(u64::from_ne_bytes) })
}

/// Waits until the scrub of a device has ended; `look` is called now and then.
pub fn wait_for_scrub(file: BorrowedFd<'_>, devid: u64, mut look: impl FnMut(&ScrubStatus)) -> io::Result<ScrubStatus> {
    loop {
        let status = scrub_status(file, devid)?;
        if status.state != ScrubState::Running {
            return Ok(status);
        }
        look(&status);
        std::thread::sleep(NAP);
    }
}

/// Cancels all scrubs.
pub fn cancel_scrubs(file: BorrowedFd<'_>) -> io::Result<()> {
    flat_ioctl(file, wire::SCRUB_CANCEL, &mut [])?;
    Ok(())
}

/// What scrubs may read of a device in a second; 0 without a limit.
pub fn scrub_limit(file: BorrowedFd<'_>, devid: u64) -> io::Result<u64> {
    change_limit(file, ScrubLimit { devid: devid.into(), change: 0.into(), limit: 0.into() })
}

/// Changes that; gives what it was.
pub fn set_scrub_limit(file: BorrowedFd<'_>, devid: u64, limit: u64) -> io::Result<u64> {
    change_limit(file, ScrubLimit { devid: devid.into(), change: 1.into(), limit: limit.into() })
}

fn change_limit(file: BorrowedFd<'_>, mut args: ScrubLimit) -> io::Result<u64> {
    flat_ioctl(file, wire::SCRUB_LIMIT, args.as_mut_bytes())?;
    Ok(args.limit.get())
}

/// What the last scrub of a device found, a line each.
pub fn scrub_report(file: BorrowedFd<'_>, devid: u64) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut page = ScrubReport::new_zeroed();
        (page.devid, page.from) = (devid.into(), (lines.len() as u64).into());
        flat_ioctl(file, wire::SCRUB_REPORT, page.as_mut_bytes())?;
        let text = page.text.get(..page.len.get() as usize).ok_or(io::ErrorKind::InvalidData)?;
        if page.count.get() == 0 {
            return Ok(lines);
        }
        lines.extend(String::from_utf8_lossy(text).lines().map(str::to_owned));
    }
}

/// A mounted filesystem and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountDevices {
    /// The UUID that users see.
    pub fsid: [u8; 16],
    /// Numbers and paths.
    pub devices: Vec<(u64, String)>,
}

/// The devices of the filesystem that a file is in.
pub fn devices_of(file: BorrowedFd<'_>) -> io::Result<MountDevices> {
    const FS_INFO: u32 = 0x8400_941f;
    const DEV_INFO: u32 = 0xd000_941e;
    let mut info = vec![0; wire::size_of_command(FS_INFO)];
    flat_ioctl(file, FS_INFO, &mut info)?;
    let number = |at: usize| info[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
    let fsid = info[16..].first_chunk().copied().unwrap_or_default();
    let mut devices = Vec::new();
    for devid in 1..=number(0) {
        let mut args = vec![0; wire::size_of_command(DEV_INFO)];
        args[..8].copy_from_slice(&devid.to_ne_bytes());
        if flat_ioctl(file, DEV_INFO, &mut args).is_ok() {
            let path = wire::name_in(&args[3072..]).unwrap_or_default();
            devices.push((devid, String::from_utf8_lossy(path).into_owned()));
        }
    }
    Ok(MountDevices { fsid, devices })
}
