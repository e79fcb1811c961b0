//! `BTRFS_IOC_DEV_REPLACE`: a device is replaced, by the kernel's command.

use std::path::Path;

use butterfs_engine::Error;
use butterfs_engine::filesystem::WhichDevice;
use butterfs_engine::filesystem::exclusive::Exclusive;
use butterfs_engine::inode::InodeId;
use butterfs_format::DevId;
use butterfs_format::items::ReadSource;
use zerocopy::{FromZeros, IntoBytes};

pub(super) use crate::control::wire::DEV_REPLACE;

use super::{number, reply};
use crate::adapter::volume_work::{Begun, Ended};
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::{RemountArgs, name_in};
use crate::types::{Caller, IoctlReply};
use crate::{Errno, Result};

/// `BTRFS_IOCTL_DEV_REPLACE_CMD_*`.
const START: u64 = 0;
const STATUS: u64 = 1;
const CANCEL: u64 = 2;
/// `BTRFS_IOCTL_DEV_REPLACE_RESULT_*`.
const NO_ERROR: u64 = 0;
const NOT_STARTED: u64 = 1;
const ALREADY_STARTED: u64 = 2;
/// Where the arguments are: the number of the source, whether it is read, the names of source and target.
const SOURCE_AT: usize = 16;
const READ_AT: usize = 24;
const SOURCE_NAME_AT: usize = 32;
const NAME_LEN: usize = 1025;
const TARGET_NAME_AT: usize = SOURCE_NAME_AT + NAME_LEN;

impl EngineFrontEnd {
    pub(super) fn dev_replace(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let mut answer = vec![0; input.len()];
        let result = match number(input, 0)? {
            START => self.start_replace(input).map_err(|error| Site::new("replace", id).fail(&error))?,
            STATUS => {
                let fields = self.replace_fields();
                let bytes = fields.iter().flat_map(|field| field.to_ne_bytes());
                answer
                    .get_mut(SOURCE_AT..)
                    .ok_or(Errno::EINVAL)?
                    .iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = from);
                NO_ERROR
            }
            CANCEL => match self.fs.cancel_replacement() {
                Ok(()) => NO_ERROR,
                Err(Error::NotRunning) => NOT_STARTED,
                Err(error) => return Err(Site::new("replace", id).fail(&error)),
            },
            _ => return Err(Errno::EINVAL),
        };
        answer.get_mut(8..16).ok_or(Errno::EINVAL)?.copy_from_slice(&result.to_ne_bytes());
        reply(answer)
    }

    /// Replaces to the end; gives the result, as the kernel numbers it.
    fn start_replace(&self, input: &[u8]) -> std::result::Result<u64, Error> {
        let wrong = || Error::Invalid("the argument of a replacement");
        let name = |at: usize| {
            let bytes = input.get(at..at + NAME_LEN).and_then(name_in);
            bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(wrong)
        };
        let source = match number(input, SOURCE_AT).map_err(|_| wrong())? {
            0 => WhichDevice::Name(name(SOURCE_NAME_AT)?.into()),
            devid => WhichDevice::Id(DevId(devid)),
        };
        let read = match number(input, READ_AT).map_err(|_| wrong())? {
            0 => ReadSource::Always,
            1 => ReadSource::Avoid,
            _ => return Err(wrong()),
        };
        let target = self.require_elsewhere(Path::new(name(TARGET_NAME_AT)?))?;
        let leave = self.leave_to_wait()?;
        let begun = match self.fs.begin_replacement_at(&source, target, read) {
            Err(Error::InProgress(name)) if name == Exclusive::DeviceReplace.name() => return Ok(ALREADY_STARTED),
            begun => begun?,
        };
        match self.wait_for(Begun::Replacement(begun), leave)? {
            Ended::Done(_) => Ok(NO_ERROR),
            Ended::Cancelled | Ended::Paused => Err(Error::Cancelled),
            Ended::Failed(_, text) => Err(Error::Refused(text)),
        }
    }

    /// Why the last replacement failed.
    pub(super) fn replace_failure(&self) -> Result<IoctlReply> {
        let text = self.fs.replace_status().failure.unwrap_or_default();
        let mut answer = RemountArgs::new_zeroed();
        let len = text.len().min(answer.text.len() - 1);
        answer.text[..len].copy_from_slice(&text.as_bytes()[..len]);
        reply(answer.as_bytes())
    }

    /// State, thousandths, times, write errors, and read errors that nothing made up for.
    fn replace_fields(&self) -> [u64; 6] {
        let status = self.fs.replace_status();
        let (state, thousandths) = (status.state.number(), status.thousandths);
        [state, thousandths, status.started, status.stopped, status.write_errors, status.read_errors]
    }
}
