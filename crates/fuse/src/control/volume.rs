//! Work on a whole mounted filesystem: balance, resize, devices.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use butterfs_format::items::{BalanceItem, ReadSource};
use butterfs_os::flat_ioctl::flat_ioctl;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::wire::{self, BalanceIoctl, RemountArgs, WorkRecord};

/// A balance of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountBalance {
    /// What it does.
    pub item: BalanceItem,
    /// Whether it runs; else it is paused.
    pub running: bool,
    /// Whether it is about to pause.
    pub pausing: bool,
    /// Whether it is about to end.
    pub cancelling: bool,
    /// Groups that were chosen.
    pub expected: u64,
    /// Groups that were looked at.
    pub considered: u64,
    /// Groups that are done.
    pub completed: u64,
}

/// How work ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkEnd {
    /// It is under way, or there was none.
    Unknown,
    /// All is done; of a balance, the groups done and looked at.
    Done(u64, u64),
    /// A balance can go on later.
    Paused,
    /// Somebody wanted it to end.
    Cancelled,
    /// An error.
    Failed(i32, String),
}

/// What of the operations that exclude each other is under way, by name.
///
/// # Errors
/// If the mount cannot be asked.
pub fn exclusive_operation(file: BorrowedFd<'_>) -> io::Result<Option<&'static str>> {
    const NAMES: [&str; 6] = ["balance", "balance paused", "device add", "device remove", "device replace", "resize"];
    let mut answer = [0; 8];
    flat_ioctl(file, wire::EXCLUSIVE, &mut answer)?;
    let number = u64::from_le_bytes(answer) as usize;
    Ok(number.checked_sub(1).and_then(|place| NAMES.get(place).copied()))
}

/// The balance that is under way or paused.
///
/// # Errors
/// If the mount cannot be asked.
pub fn balance_status(file: BorrowedFd<'_>) -> io::Result<Option<MountBalance>> {
    let mut args = BalanceIoctl::new_zeroed();
    match flat_ioctl(file, wire::BALANCE_PROGRESS, args.as_mut_bytes()) {
        Err(rustix::io::Errno::NOTCONN) => return Ok(None),
        result => result?,
    };
    let wrong = || io::Error::from(io::ErrorKind::InvalidData);
    let read = |bytes: &[u8]| FromBytes::read_from_bytes(bytes).map_err(|_| wrong());
    let (data, metadata, system) = (read(&args.data)?, read(&args.metadata)?, read(&args.system)?);
    let item = BalanceItem { flags: args.flags, data, metadata, system, ..BalanceItem::default() };
    let [expected, considered, completed] = args.progress.map(|number| number.get());
    let is = |bit: u64| args.state.get() & bit != 0;
    Ok(Some(MountBalance { item, running: is(1), pausing: is(2), cancelling: is(4), expected, considered, completed }))
}

/// Begins a balance, or with none goes on with the one that is paused. [`work_end`] tells how it ends.
///
/// # Errors
/// If it is refused.
pub fn begin_balance(file: BorrowedFd<'_>, item: Option<&BalanceItem>) -> io::Result<()> {
    const RESUME: u64 = 1 << 4;
    super::require_writable(file)?;
    let mut args = BalanceIoctl::new_zeroed();
    match item {
        Some(item) => {
            args.flags = item.flags;
            args.data.copy_from_slice(item.data.as_bytes());
            args.metadata.copy_from_slice(item.metadata.as_bytes());
            args.system.copy_from_slice(item.system.as_bytes());
        }
        None => args.flags = RESUME.into(),
    }
    flat_ioctl(file, wire::BALANCE_START, args.as_mut_bytes())?;
    Ok(())
}

/// Has the balance pause, and waits for that.
///
/// # Errors
/// `ENOTCONN` if none runs.
pub fn pause_balance(file: BorrowedFd<'_>) -> io::Result<()> {
    control_balance(file, 1)
}

/// Ends the balance that runs or is paused, and waits for that.
///
/// # Errors
/// `ENOTCONN` if there is none.
pub fn cancel_balance(file: BorrowedFd<'_>) -> io::Result<()> {
    control_balance(file, 2)
}

fn control_balance(file: BorrowedFd<'_>, command: u64) -> io::Result<()> {
    flat_ioctl(file, wire::BALANCE_CONTROL, &mut command.to_ne_bytes())?;
    Ok(())
}

/// How the last work that was begun ended.
///
/// # Errors
/// If the mount cannot be asked.
pub fn work_end(file: BorrowedFd<'_>) -> io::Result<WorkEnd> {
    let mut record = WorkRecord::new_zeroed();
    flat_ioctl(file, wire::WORK_RESULT, record.as_mut_bytes())?;
    let text = wire::name_in(&record.text).unwrap_or_default();
    Ok(match record.state.get() {
        wire::WORK_DONE => WorkEnd::Done(record.completed.get(), record.considered.get()),
        wire::WORK_PAUSED => WorkEnd::Paused,
        wire::WORK_CANCELLED => WorkEnd::Cancelled,
        wire::WORK_FAILED => WorkEnd::Failed(record.errno.get() as i32, String::from_utf8_lossy(text).into_owned()),
        _ => WorkEnd::Unknown,
    })
}

/// Waits for the end of what was begun, and calls `each` now and then.
///
/// # Errors
/// If the mount cannot be asked.
pub fn wait_for_end(file: BorrowedFd<'_>, mut each: impl FnMut()) -> io::Result<WorkEnd> {
    const PAUSE: Duration = Duration::from_millis(50);
    loop {
        match work_end(file)? {
            WorkEnd::Unknown => {}
            end => return Ok(end),
        }
        each();
        std::thread::sleep(PAUSE);
    }
}

/// Why no device can be added, if that is so.
///
/// # Errors
/// If the mount cannot be asked.
pub fn check_addition(file: BorrowedFd<'_>) -> io::Result<Option<String>> {
    work(file, &["add"])
}

/// Adds a device, by its path from the root; or what is wrong.
///
/// # Errors
/// If the mount cannot be asked.
pub fn add_device(file: BorrowedFd<'_>, path: &Path) -> io::Result<Option<String>> {
    work(file, &["add", path.to_str().ok_or(rustix::io::Errno::INVAL)?])
}

/// Begins to remove devices: numbers, paths, or `missing`; or what is wrong. `cancel` alone ends a removal.
///
/// # Errors
/// If the mount cannot be asked.
pub fn remove_devices(file: BorrowedFd<'_>, devices: &[&str]) -> io::Result<Option<String>> {
    work(file, &[&["remove"], devices].concat())
}

/// The word for [`ReadSource::Avoid`].
pub(crate) const READ_OTHERS: &str = "others";

/// Why a device cannot be replaced by another at this moment, if that is so. Nothing is written.
///
/// # Errors
/// If the mount cannot be asked.
pub fn check_replacement(file: BorrowedFd<'_>, source: &str, target: &Path) -> io::Result<Option<String>> {
    work(file, &["replace", "check", source, target.to_str().ok_or(rustix::io::Errno::INVAL)?])
}

/// Begins to replace a device (a number, or a path) by another, by its path from the root; or what is wrong.
///
/// # Errors
/// If the mount cannot be asked.
pub fn replace_device(
    file: BorrowedFd<'_>,
    read: ReadSource,
    source: &str,
    target: &Path,
) -> io::Result<Option<String>> {
    let read = if read == ReadSource::Avoid { READ_OTHERS } else { "all" };
    work(file, &["replace", read, source, target.to_str().ok_or(rustix::io::Errno::INVAL)?])
}

/// Has the replacement that is under way end; or what is wrong.
///
/// # Errors
/// If the mount cannot be asked.
pub fn cancel_replace(file: BorrowedFd<'_>) -> io::Result<Option<String>> {
    work(file, &["replace", "cancel"])
}

/// How far a replacement is, or how the last one ended: state, thousandths, seconds of the beginning and the end, write
/// errors, and read errors that nothing made up for; as the kernel tells it.
///
/// # Errors
/// If the mount cannot be asked.
pub fn replace_status(file: BorrowedFd<'_>) -> io::Result<[u64; 6]> {
    const STATUS: u64 = 1;
    let mut args = [0; 2600];
    args[..8].copy_from_slice(&STATUS.to_ne_bytes());
    flat_ioctl(file, wire::DEV_REPLACE, &mut args)?;
    let mut fields = [0; 6];
    for (field, bytes) in fields.iter_mut().zip(args[16..].chunks_exact(8)) {
        *field = u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
    }
    Ok(fields)
}

/// Why the last replacement failed, if it did in this mount.
///
/// # Errors
/// If the mount cannot be asked.
pub fn replace_failure(file: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let mut args = RemountArgs::new_zeroed();
    flat_ioctl(file, wire::REPLACE_FAILURE, args.as_mut_bytes())?;
    let answer = wire::name_in(&args.text).ok_or(io::ErrorKind::InvalidData)?;
    Ok((!answer.is_empty()).then(|| String::from_utf8_lossy(answer).into_owned()))
}

/// Begins to change the size of a device, by the words of `filesystem resize`; or what is wrong.
///
/// # Errors
/// If the mount cannot be asked.
pub fn resize(file: BorrowedFd<'_>, text: &str) -> io::Result<Option<String>> {
    work(file, &["resize", text])
}

fn work(file: BorrowedFd<'_>, words: &[&str]) -> io::Result<Option<String>> {
    // A seed is mounted for reading until a device is added.
    if words.first() != Some(&"add") {
        super::require_writable(file)?;
    }
    let mut args = RemountArgs::new_zeroed();
    let text = words.join("\0");
    if text.len() + 2 > args.text.len() || words.iter().any(|word| word.is_empty() || word.contains('\0')) {
        return Err(rustix::io::Errno::INVAL.into());
    }
    args.text[..text.len()].copy_from_slice(text.as_bytes());
    flat_ioctl(file, wire::WORK, args.as_mut_bytes())?;
    let answer = wire::name_in(&args.text).ok_or(io::ErrorKind::InvalidData)?;
    Ok((!answer.is_empty()).then(|| String::from_utf8_lossy(answer).into_owned()))
}
