//! `BTRFS_IOC_SPACE_INFO`: what the block groups hold, by type and profile, as `btrfs filesystem df` shows it.

use butterfs_engine::inode::InodeId;

use super::memory::Memory;
use super::{number, reply};
use crate::adapter::{EngineFrontEnd, Site};
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};

impl EngineFrontEnd {
    pub(super) fn space_info(&self, caller: &Caller, id: InodeId, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let slots = number(call.input, 0)?;
        let mut spaces = self.fs.space_infos().map_err(|error| Site::new("space info", id).fail(&error))?;
        if slots > 0 {
            spaces.truncate(usize::try_from(slots).map_err(|_| Errno::EINVAL)?);
            let words = spaces.iter().flat_map(|space| [space.flags, space.total, space.used]);
            let bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
            Memory::behind(caller, call, call.input.len())?.write(&bytes)?;
        }
        reply([slots.to_ne_bytes(), (spaces.len() as u64).to_ne_bytes()].concat())
    }
}
