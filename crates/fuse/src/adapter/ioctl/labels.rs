//! What a filesystem is called, and where a subvolume was received from.

use super::reply;
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::{self, ReceivedArgs, name_in};
use crate::types::{Caller, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::filesystem::Received;
use butterfs_engine::inode::InodeId;
use butterfs_format::items::Timespec;
use zerocopy::{FromBytes, IntoBytes};

impl EngineFrontEnd {
    pub(super) fn label(&self) -> Result<Vec<u8>> {
        let site = Site::new("reading the label", self.fs.root());
        let mut label = self.fs.label().map_err(|error| site.fail(&error))?;
        label.resize(wire::size_of_command(wire::GET_LABEL), 0);
        Ok(label)
    }

    pub(super) fn set_label(&self, caller: &Caller, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let label = name_in(input).ok_or(Errno::EINVAL)?;
        self.fs.set_label(label).map_err(|error| Site::new("changing the label", self.fs.root()).fail(&error))?;
        reply([])
    }

    pub(super) fn set_received(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let site = Site::new("noting where a subvolume was received from", id);
        let mut args = ReceivedArgs::read_from_bytes(input).map_err(|_| Errno::EINVAL)?;
        let tree = self.subvolume_at(id)?;
        self.require_owner(caller, &self.attributes(site)?)?;
        let from = Received { uuid: args.uuid, sent_in: u64::from_ne_bytes(args.sent_in), sent: time_in(&args.sent) };
        let (generation, now) = self.fs.set_received(tree, &from).map_err(|error| site.fail(&error))?;
        args.received_in = generation.to_ne_bytes();
        args.received[..8].copy_from_slice(&now.sec.get().to_ne_bytes());
        args.received[8..].copy_from_slice(&u64::from(now.nanoseconds()).to_ne_bytes());
        reply(args.as_bytes())
    }
}

/// `struct btrfs_ioctl_timespec`.
fn time_in(bytes: &[u8; 16]) -> Timespec {
    let mut halves = bytes.chunks_exact(8).map(|half| u64::from_ne_bytes(half.try_into().expect("it is 8 bytes long")));
    let (seconds, nanoseconds) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
    Timespec::new(seconds.cast_signed(), nanoseconds as u32)
}
