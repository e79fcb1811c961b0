//! Other options for the mount.

use super::reply;
use crate::Errno;
use crate::adapter::{EngineFrontEnd, Site};
use crate::control::wire::{RemountArgs, name_in};
use crate::types::{Caller, IoctlReply};
use butterfs_engine::filesystem::Access;
use butterfs_engine::inode::{InodeId, lock};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

impl EngineFrontEnd {
    /// Lets the program that mounted read the options, and follows what it makes of them.
    pub(super) fn ioctl_remount(&self, caller: &Caller, id: InodeId, input: &[u8]) -> crate::Result<IoctlReply> {
        self.require_privileged(caller)?;
        let args = RemountArgs::ref_from_bytes(input).map_err(|_| Errno::EINVAL)?;
        let text = name_in(&args.text).and_then(|text| std::str::from_utf8(text).ok()).ok_or(Errno::EINVAL)?;
        // One at a time.
        let mut changeable = lock(&self.changeable);
        let followed = self.options.on_remount.read(text).and_then(|changed| {
            let was = self.fs.access();
            if was == Access::ReadWrite && changed.access == Access::ReadOnly {
                self.work.rest(&self.fs);
            }
            self.fs.set_access(changed.access).map_err(|error| {
                Site::new("remount", id).fail(&error);
                error.to_string()
            })?;
            self.fs.set_settings(changed.settings);
            self.background.set_commit_interval(changed.changeable.commit_interval);
            *changeable = changed.changeable;
            if was == Access::ReadOnly && changed.access == Access::ReadWrite {
                self.begin_work().map_err(|error| error.to_string())?;
            }
            tracing::info!(options = text, "remounted");
            Ok(())
        });
        let problem = followed.err().unwrap_or_default();
        let mut answer = RemountArgs::new_zeroed();
        let len = problem.len().min(answer.text.len() - 1);
        answer.text[..len].copy_from_slice(&problem.as_bytes()[..len]);
        reply(answer.as_bytes())
    }
}
