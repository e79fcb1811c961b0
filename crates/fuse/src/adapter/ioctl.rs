//! ioctls (to come).
use super::EngineFrontEnd;
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};
impl EngineFrontEnd {
    pub(super) fn do_ioctl(&self, _: &Caller, _: &IoctlCall<'_>) -> Result<IoctlReply> {
        Err(Errno::ENOTTY)
    }
}
