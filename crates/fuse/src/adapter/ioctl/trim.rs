//! `FITRIM`: free space, told to the devices.

use super::{number, reply};
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::FITRIM;
use crate::control::wire::size_of_command;
use crate::types::{Caller, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::inode::InodeId;
use butterfs_engine::tx::Trim;

impl EngineFrontEnd {
    /// `struct fstrim_range`: start, length, minimum; the length comes back as what was trimmed.
    pub(super) fn ioctl_trim(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        self.require_privileged(caller)?;
        let (start, len, minimum) = (number(input, 0)?, number(input, 8)?, number(input, 16)?);
        let sector = self.fs.shared().gate.volume().geometry().sectorsize;
        // As the kernel: the default length is all there is.
        let overflows = start == u64::MAX || (len != u64::MAX && start.checked_add(len).is_none());
        if len < u64::from(sector) || overflows {
            return Err(Errno::EINVAL);
        }
        let trim = Trim { range: start..start.saturating_add(len), minimum };
        let done = self.fs.trim(&trim).map_err(|error| Site::new("fstrim", id).fail(&error))?;
        let mut answer = Vec::with_capacity(size_of_command(FITRIM));
        [start, done, minimum].iter().for_each(|number| answer.extend(number.to_ne_bytes()));
        reply(answer)
    }
}
