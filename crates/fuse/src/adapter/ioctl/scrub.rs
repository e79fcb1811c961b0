//! Scrubs of devices: started, looked at, limited and cancelled.
//!
//! A scrub runs in a thread of its own, so that no worker waits for it; who wants to wait asks for its state.

use std::sync::Arc;

use butterfs_engine::Error;
use butterfs_engine::scrub::{ScrubEnd, ScrubMode, ScrubMonitor, ScrubOptions, ScrubProgress};
use butterfs_format::DevId;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::reply;
use crate::adapter::EngineFrontEnd;
use crate::control::wire::{self, ScrubArgs, ScrubLimit, ScrubReport, ScrubState};
use crate::thread;
use crate::types::{Caller, IoctlReply};
use crate::{Errno, Result};

const EINPROGRESS: i32 = 115;
const ECANCELED: i32 = 125;

fn args(input: &[u8]) -> Result<ScrubArgs> {
    ScrubArgs::read_from_bytes(input).map_err(|_| Errno::EINVAL)
}

fn with_progress(mut args: ScrubArgs, progress: &ScrubProgress) -> ScrubArgs {
    args.progress = progress.values().map(u64::to_ne_bytes);
    args
}

impl EngineFrontEnd {
    pub(super) fn scrub_start(&self, caller: &Caller, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let args = args(input)?;
        let flags = u64::from_ne_bytes(args.flags);
        if flags & !wire::SCRUB_READ_ONLY != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let mode = if flags == 0 { ScrubMode::Repair } else { ScrubMode::ReadOnly };
        let (start, end) = (u64::from_ne_bytes(args.start), u64::from_ne_bytes(args.end));
        let (devid, options) = (DevId(u64::from_ne_bytes(args.devid)), ScrubOptions { start, end, mode });
        let monitor = Arc::new(ScrubMonitor::default());
        let permit = self.work.permit().map_err(|error| Errno::new(error.errno()))?;
        self.fs.begin_scrub(devid, &options, &monitor).map_err(|error| match error {
            Error::Busy(_) => Errno::new(EINPROGRESS),
            Error::NotFound => Errno::ENODEV,
            other => Errno::new(other.errno()),
        })?;
        drop(permit);
        let fs = Arc::clone(&self.fs);
        let run = move || {
            if let Err(error) = fs.run_scrub(devid, &options, &monitor) {
                tracing::error!("scrub of device {devid} ended: {error}");
            }
        };
        // Without a thread it is done here: begun it is.
        if let Err(error) = thread::spawn("scrub", run.clone()) {
            tracing::warn!("no thread for a scrub: {error}");
            run();
        }
        reply(args.as_bytes())
    }

    pub(super) fn scrub_state(&self, caller: &Caller, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let mut args = args(input)?;
        let devid = DevId(u64::from_ne_bytes(args.devid));
        let (state, error) = match (self.fs.scrub_progress(devid), self.fs.scrub_outcome(devid)) {
            (Some(progress), _) => {
                args = with_progress(args, &progress);
                (ScrubState::Running, 0)
            }
            (None, Some(outcome)) => {
                args = with_progress(args, &outcome.progress);
                let error = match outcome.end {
                    Ok(ScrubEnd::Finished) => 0,
                    Ok(ScrubEnd::Cancelled) => ECANCELED,
                    Err(errno) => errno,
                };
                (ScrubState::Ended, error)
            }
            (None, None) => (ScrubState::None, 0),
        };
        args.state = state.number().to_ne_bytes();
        args.error = u64::from(error.unsigned_abs()).to_ne_bytes();
        reply(args.as_bytes())
    }

    pub(super) fn scrub_progress(&self, caller: &Caller, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let args = args(input)?;
        let devid = DevId(u64::from_ne_bytes(args.devid));
        let items = self.fs.shared().gate.volume().dev_items();
        if !items.iter().any(|item| item.devid.get() == devid.0) {
            return Err(Errno::ENODEV);
        }
        let progress = self.fs.scrub_progress(devid).ok_or(Errno::ENOTCONN)?;
        reply(with_progress(args, &progress).as_bytes())
    }

    pub(super) fn scrub_cancel(&self, caller: &Caller) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        if self.fs.cancel_scrubs() { reply([]) } else { Err(Errno::ENOTCONN) }
    }

    pub(super) fn scrub_limit(&self, caller: &Caller, input: &[u8]) -> Result<IoctlReply> {
        let mut args = ScrubLimit::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
        let devid = DevId(args.devid.get());
        let before = self.fs.scrub_limit(devid);
        if args.change.get() != 0 {
            self.require_privileged(caller)?;
            self.fs.set_scrub_limit(devid, args.limit.get()).map_err(|_| Errno::ENODEV)?;
        }
        (args.limit, args.change) = (before.into(), 0.into());
        reply(args.as_bytes())
    }

    pub(super) fn scrub_report(&self, caller: &Caller, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let asked = ScrubReport::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
        let mut page = ScrubReport { devid: asked.devid, from: asked.from, ..ScrubReport::new_zeroed() };
        let outcome = self.fs.scrub_outcome(DevId(asked.devid.get()));
        let lines = outcome.map_or(Vec::new(), |outcome| outcome.report);
        let (mut len, mut count) = (0, 0);
        for line in lines.iter().skip(asked.from.get() as usize) {
            // A line that is longer than a page is cut.
            let bytes = &line.as_bytes()[..line.len().min(page.text.len() - 1)];
            let Some(room) = page.text.get_mut(len..=len + bytes.len()) else { break };
            room[..bytes.len()].copy_from_slice(bytes);
            room[bytes.len()] = b'\n';
            len += bytes.len() + 1;
            count += 1;
        }
        (page.count, page.len) = (count.into(), (len as u64).into());
        reply(page.as_bytes())
    }
}
