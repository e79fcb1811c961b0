//! Reflinks and deduplication by ioctl.

use super::reply;
use crate::adapter::EngineFrontEnd;
use crate::control::wire::ShareArgs;
use crate::types::{Caller, FilePos, IoctlCall, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::file::{CloneLen, Dedupe};
use zerocopy::{FromBytes, IntoBytes};

impl EngineFrontEnd {
    pub(super) fn ioctl_clone(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let (mut args, to) = self.share_args(call)?;
        let from = self.offered(caller, &args.token, args.source_offset.get())?;
        let len = match args.len.get() {
            0 => CloneLen::ToEnd,
            len => CloneLen::Bytes(len),
        };
        args.done = self.clone_offered(caller, from, to, len)?.into();
        reply(args.as_bytes())
    }

    pub(super) fn ioctl_dedupe(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let (mut args, to) = self.share_args(call)?;
        let from = self.offered(caller, &args.token, args.source_offset.get())?;
        args.done = match self.dedupe_offered(caller, from, to, args.len.get())? {
            Dedupe::Shared => args.len,
            Dedupe::Differs => 0.into(),
        };
        reply(args.as_bytes())
    }

    fn share_args(&self, call: &IoctlCall<'_>) -> Result<(ShareArgs, FilePos)> {
        let args = ShareArgs::read_from_bytes(call.input).map_err(|_| Errno::EINVAL)?;
        let to = FilePos { node: call.node, handle: call.handle, offset: args.dest_offset.get() };
        Ok((args, to))
    }
}
