//! Balance, resize, devices that come and go: the kernel's commands, and our own that do not wait.

use std::path::Path;

use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::filesystem::{Access, BalanceStatus, ResizeWish, WhichDevice};
use butterfs_engine::{Error, inode::InodeId};
use butterfs_format::DevId;
use butterfs_format::items::{BalanceArgs, BalanceItem, ReadSource};
use butterfs_os::block::filesystems_under;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::{number, reply};
use crate::adapter::beginning::Permit;
use crate::adapter::volume_work::{Begun, Ended, named};
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::READ_OTHERS;
use crate::control::wire::{self, BalanceIoctl, RemountArgs, VolArgs, VolArgsV2, WorkRecord, name_in};
use crate::transport::spare::Waiting;
use crate::types::{Caller, IoctlReply};
use crate::{Errno, Result};

/// `BTRFS_DEVICE_SPEC_BY_ID`.
const BY_DEVID: u64 = 1 << 3;
/// `BTRFS_BALANCE_STATE_RUNNING`, `_PAUSE_REQ` and `_CANCEL_REQ`.
const RUNNING: u64 = 1;
const PAUSING: u64 = 2;
const CANCELLING: u64 = 4;
/// `BTRFS_BALANCE_RESUME`.
const RESUME: u64 = 1 << 4;
/// `BTRFS_BALANCE_CTL_PAUSE` and `_CANCEL`; and ours.
const PAUSE: u64 = 1;
const CANCEL: u64 = 2;

/// Leave to begin something, and to wait for its end.
pub(super) struct LeaveToWait<'a> {
    permit: Permit<'a>,
    _waiting: Waiting,
}

/// What the kernel's commands for devices return for some errors: `enum btrfs_err_code`.
fn result_of(error: &Error) -> Option<i32> {
    Some(match error {
        Error::TooFewDevices { profile, .. } => match *profile {
            "raid1" => 1,
            "raid10" => 2,
            "raid5" => 3,
            "raid6" => 4,
            "raid1c3" => 9,
            "raid1c4" => 10,
            _ => return None,
        },
        Error::Refused(text) if text.starts_with("no missing devices") => 6,
        Error::Refused(text) if text.starts_with("the last device") => 7,
        Error::InProgress(_) => 8,
        _ => return None,
    })
}

impl EngineFrontEnd {
    pub(super) fn volume_ioctl(&self, caller: &Caller, id: InodeId, command: u32, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let fail = |error: Error| Site::new("volume", id).fail(&error);
        match command {
            wire::BALANCE_V2 => self.balance(input).map_err(fail)?.map_or(Err(Errno::EINVAL), reply),
            wire::BALANCE_PROGRESS => {
                let status = self.fs.balance_status().ok_or(Errno::ENOTCONN)?;
                reply(balance_reply(&status, 0).as_bytes())
            }
            wire::BALANCE_START => {
                self.start_balance(input).map_err(fail)?;
                reply(input)
            }
            wire::BALANCE_CONTROL => {
                self.control_balance(number(input, 0)?)?.map_err(fail)?;
                reply([])
            }
            wire::EXCLUSIVE => reply(wire_number(self.fs.exclusive().current()).to_le_bytes()),
            wire::WORK_RESULT => reply(self.work_result().as_bytes()),
            wire::WORK => self.work(input),
            wire::RESIZE | wire::ADD_DEV | wire::RM_DEV | wire::RM_DEV_V2 => self.device_command(command, input, fail),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn device_command(&self, command: u32, input: &[u8], fail: impl Fn(Error) -> Errno) -> Result<IoctlReply> {
        let done = match command {
            wire::RESIZE => match self.resize(text_in(input)?) {
                // As the kernel: of all these commands only this one says so.
                Err(Error::NoDevice(_)) => return Err(Errno::ENODEV),
                done => done,
            },
            wire::ADD_DEV => self.add_device(text_in(input)?),
            wire::RM_DEV => self.remove(text_in(input)?),
            _ => {
                let args = VolArgsV2::ref_from_bytes(input).map_err(|_| Errno::EINVAL)?;
                match u64::from_ne_bytes(args.flags) {
                    BY_DEVID => self.remove_devices(&[WhichDevice::Id(DevId(number(&args.name, 0)?))]),
                    0 => self.remove(utf8(name_in(&args.name).ok_or(Errno::EINVAL)?)?),
                    _ => return Err(Errno::EOPNOTSUPP),
                }
            }
        };
        match done {
            Ok(()) => reply([]),
            Err(error) => match result_of(&error) {
                Some(result) => Ok(IoctlReply { result, output: Vec::new() }),
                None => Err(fail(error)),
            },
        }
    }

    /// The kernel's commands wait. What they begin goes on if the mount ends before: then it rests.
    pub(super) fn wait_for(&self, begun: Begun, leave: LeaveToWait<'_>) -> std::result::Result<Ended, Error> {
        let count = self.work.spawn(&self.fs, begun, leave.permit)?;
        Ok(self.work.wait(count))
    }

    /// To be asked for before something begins: what has begun is to run.
    pub(super) fn leave_to_wait(&self) -> std::result::Result<LeaveToWait<'_>, Error> {
        let waiting = Waiting::begin().map_err(|_| Error::Busy("others wait for their work already"))?;
        Ok(LeaveToWait { permit: self.work.permit()?, _waiting: waiting })
    }

    fn finish(&self, begun: Begun, leave: LeaveToWait<'_>) -> std::result::Result<(), Error> {
        match self.wait_for(begun, leave)? {
            Ended::Done(_) | Ended::Paused => Ok(()),
            Ended::Cancelled => Err(Error::Cancelled),
            Ended::Failed(28, _) => Err(Error::NoSpace),
            Ended::Failed(27, _) => Err(Error::TooLarge),
            Ended::Failed(_, text) => Err(Error::Refused(text)),
        }
    }

    fn resize(&self, text: &str) -> std::result::Result<(), Error> {
        match text.parse::<ResizeWish>()? {
            ResizeWish::Cancel => self.fs.exclusive().cancel(Exclusive::Resize),
            ResizeWish::To(devid, length) => {
                let leave = self.leave_to_wait()?;
                self.fs.find_device(&WhichDevice::Id(devid), &[])?;
                self.finish(Begun::Resize(devid, length), leave)
            }
        }
    }

    fn remove(&self, name: &str) -> std::result::Result<(), Error> {
        if name == "cancel" {
            return self.fs.exclusive().cancel(Exclusive::DeviceRemove);
        }
        // By its number is what the other command is for.
        let which = if name == "missing" { WhichDevice::Missing } else { WhichDevice::Name(name.into()) };
        self.remove_devices(&[which])
    }

    fn remove_devices(&self, wanted: &[WhichDevice]) -> std::result::Result<(), Error> {
        let leave = self.leave_to_wait()?;
        let removal = self.fs.begin_removal(wanted)?;
        self.finish(Begun::Removal(removal), leave)
    }

    fn begin(&self, input: &[u8]) -> std::result::Result<Begun, Error> {
        let args = BalanceIoctl::ref_from_bytes(input).map_err(|_| Error::Invalid("the size of the argument"))?;
        let item = item_of(args)?;
        let resumes = args.flags.get() & RESUME != 0;
        self.work.begin_balance(&self.fs, (!resumes).then_some(&item))
    }

    fn start_balance(&self, input: &[u8]) -> std::result::Result<u64, Error> {
        let permit = self.work.permit()?;
        self.work.spawn(&self.fs, self.begin(input)?, permit)
    }

    /// Balances to the end; `None` if the argument has not its size.
    fn balance(&self, input: &[u8]) -> std::result::Result<Option<Vec<u8>>, Error> {
        let leave = self.leave_to_wait()?;
        let begun = self.begin(input)?;
        let before = self.fs.balance_status();
        let ended = self.wait_for(begun, leave)?;
        let Some(mut status) = self.fs.balance_status().or(before) else { return Ok(None) };
        match ended {
            Ended::Done(progress) => {
                (status.progress, status.running) = (progress, false);
                Ok(Some(balance_reply(&status, 0).as_bytes().to_vec()))
            }
            Ended::Paused | Ended::Cancelled => Err(Error::Cancelled),
            Ended::Failed(28, _) => Err(Error::NoSpace),
            Ended::Failed(_, text) => Err(Error::Refused(text)),
        }
    }

    fn control_balance(&self, command: u64) -> Result<std::result::Result<(), Error>> {
        match command {
            PAUSE => Ok(self.fs.pause_balance()),
            CANCEL => Ok(self.fs.cancel_balance()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn work_result(&self) -> WorkRecord {
        let mut record = WorkRecord::new_zeroed();
        let text = match self.work.last() {
            None => String::new(),
            Some(Ended::Done(progress)) => {
                record.state = wire::WORK_DONE.into();
                (record.completed, record.considered) = (progress.completed.into(), progress.considered.into());
                String::new()
            }
            Some(Ended::Paused) => {
                record.state = wire::WORK_PAUSED.into();
                String::new()
            }
            Some(Ended::Cancelled) => {
                record.state = wire::WORK_CANCELLED.into();
                String::new()
            }
            Some(Ended::Failed(errno, text)) => {
                (record.state, record.errno) = (wire::WORK_FAILED.into(), (errno as u64).into());
                text
            }
        };
        let len = text.len().min(record.text.len() - 1);
        record.text[..len].copy_from_slice(&text.as_bytes()[..len]);
        record
    }

    /// Words that end with NULs: `remove` and devices, `resize` and what is wanted, `add` and a path. The answer is what
    /// is wrong, or empty.
    fn work(&self, input: &[u8]) -> Result<IoctlReply> {
        let args = RemountArgs::ref_from_bytes(input).map_err(|_| Errno::EINVAL)?;
        let words = args.text.split(|byte| *byte == 0).take_while(|word| !word.is_empty());
        let words = words.map(utf8).collect::<Result<Vec<_>>>()?;
        let (command, rest) = words.split_first().ok_or(Errno::EINVAL)?;
        let problem = self.do_work(command, rest).err().map(|error| error.to_string()).unwrap_or_default();
        let mut answer = RemountArgs::new_zeroed();
        let len = problem.len().min(answer.text.len() - 1);
        answer.text[..len].copy_from_slice(&problem.as_bytes()[..len]);
        reply(answer.as_bytes())
    }

    /// What grows from a seed can be written from then on.
    fn add_device(&self, path: &str) -> std::result::Result<(), Error> {
        let was = self.fs.access();
        self.fs.add_device_at(self.require_elsewhere(Path::new(path))?)?;
        if was == Access::ReadOnly {
            self.begin_work().map_err(|_| Error::Busy("no thread could be started"))?;
        }
        Ok(())
    }

    /// A device that comes must not lie on this mount: each write to it would wait for itself.
    pub(super) fn require_elsewhere<'a>(&self, device: &'a Path) -> std::result::Result<&'a Path, Error> {
        // What cannot be looked at cannot be opened either, which says why.
        let under = filesystems_under(device).unwrap_or_default();
        if self.options.device_number.is_some_and(|own| under.contains(&own)) {
            return Err(Error::Refused(format!("{} lies on the mount itself", device.display())));
        }
        Ok(device)
    }

    fn do_work(&self, command: &str, words: &[&str]) -> std::result::Result<(), Error> {
        match (command, words) {
            ("remove", ["cancel"]) => self.fs.exclusive().cancel(Exclusive::DeviceRemove),
            ("add", []) => self.fs.check_addition(),
            ("add", [path]) => self.add_device(path),
            ("replace", ["cancel"]) => self.fs.cancel_replacement(),
            ("replace", ["check", source, target]) => {
                self.fs.check_replacement_at(&named(source), self.require_elsewhere(Path::new(target))?)
            }
            ("resize", ["cancel"]) => self.fs.exclusive().cancel(Exclusive::Resize),
            _ => {
                let permit = self.work.permit()?;
                let begun = self.begin_named(command, words)?;
                self.work.spawn(&self.fs, begun, permit).map(drop)
            }
        }
    }

    fn begin_named(&self, command: &str, words: &[&str]) -> std::result::Result<Begun, Error> {
        match (command, words) {
            ("remove", [_, ..]) => {
                let wanted: Vec<_> = words.iter().map(|word| named(word)).collect();
                Ok(Begun::Removal(self.fs.begin_removal(&wanted)?))
            }
            ("replace", [read, source, target]) => {
                let read = if *read == READ_OTHERS { ReadSource::Avoid } else { ReadSource::Always };
                let target = self.require_elsewhere(Path::new(target))?;
                Ok(Begun::Replacement(self.fs.begin_replacement_at(&named(source), target, read)?))
            }
            ("resize", [text]) => {
                let ResizeWish::To(devid, length) = text.parse()? else { return Err(Error::NotRunning) };
                self.fs.check_resize()?;
                Ok(Begun::Resize(devid, length))
            }
            _ => Err(Error::Invalid("the command is not known")),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)
}

fn text_in(input: &[u8]) -> Result<&str> {
    let args = VolArgs::ref_from_bytes(input).map_err(|_| Errno::EINVAL)?;
    utf8(name_in(&args.name).ok_or(Errno::EINVAL)?)
}

fn args_of(bytes: &[u8; 136]) -> BalanceArgs {
    BalanceArgs::read_from_bytes(bytes).expect("it has this size")
}

fn item_of(args: &BalanceIoctl) -> std::result::Result<BalanceItem, Error> {
    const KNOWN: u64 = 0x1f;
    if args.flags.get() & !KNOWN != 0 {
        return Err(Error::Invalid("flags of the balance are not known"));
    }
    let (data, metadata, system) = (args_of(&args.data), args_of(&args.metadata), args_of(&args.system));
    Ok(BalanceItem { flags: args.flags, data, metadata, system, ..BalanceItem::default() })
}

fn balance_reply(status: &BalanceStatus, more: u64) -> BalanceIoctl {
    let mut args = BalanceIoctl::new_zeroed();
    let flag = |on: bool, flag: u64| if on { flag } else { 0 };
    let state = flag(status.running, RUNNING) | flag(status.pausing, PAUSING) | flag(status.cancelling, CANCELLING);
    (args.flags, args.state) = (status.item.flags, (state | more).into());
    args.data.copy_from_slice(status.item.data.as_bytes());
    args.metadata.copy_from_slice(status.item.metadata.as_bytes());
    args.system.copy_from_slice(status.item.system.as_bytes());
    let progress = status.progress;
    args.progress = [progress.expected, progress.considered, progress.completed].map(Into::into);
    args
}

/// Names of what is under way, by number; 0 is nothing.
fn wire_number(current: Option<Exclusive>) -> u64 {
    match current {
        None => 0,
        Some(Exclusive::Balance) => 1,
        Some(Exclusive::BalancePaused) => 2,
        Some(Exclusive::DeviceAdd) => 3,
        Some(Exclusive::DeviceRemove) => 4,
        Some(Exclusive::DeviceReplace) => 5,
        Some(Exclusive::Resize) => 6,
    }
}
