//! What can be chosen anew while a filesystem is open, as `mount -o remount` does.

use std::sync::PoisonError;

use super::{Access, AccessTimes, Filesystem, Fsync};
use crate::error::{Error, Result};
use crate::file::{CompressRule, DataRule};
use crate::inode::{LiveOptions, lock};

/// What can be chosen anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is compressed (mount options `compress`, `compress-force`).
    pub compress: CompressRule,
    /// How the data of new files is kept (mount options `nodatasum`, `nodatacow`).
    pub new_data: DataRule,
    /// Inline extents up to this many bytes (mount option `max_inline`).
    pub max_inline: u64,
    /// How fsync makes an inode durable.
    pub fsync: Fsync,
    /// When reading changes access times.
    pub access_times: AccessTimes,
}

/// The part that files do not need.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub fsync: Fsync,
    pub access_times: AccessTimes,
}

impl Filesystem {
    /// The settings of this moment.
    pub fn settings(&self) -> Settings {
        let LiveOptions { compress, new_data, max_inline } = self.shared.live();
        let Rules { fsync, access_times } = self.rules();
        Settings { compress, new_data, max_inline, fsync, access_times }
    }

    /// Other settings, for what begins from now on.
    pub fn set_settings(&self, settings: Settings) {
        let Settings { compress, new_data, max_inline, fsync, access_times } = settings;
        *self.shared.live.write().unwrap_or_else(PoisonError::into_inner) =
            LiveOptions { max_inline, compress, new_data };
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Rules { fsync, access_times };
    }

    pub(super) fn rules(&self) -> Rules {
        *self.rules.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What may be done with this filesystem.
    pub fn access(&self) -> Access {
        if self.shared.gate.is_read_only() { Access::ReadOnly } else { Access::ReadWrite }
    }

    /// Makes everything durable and refuses changes from then on, or allows them again.
    ///
    /// # Errors
    /// If it was opened for reading only: its devices cannot be written, and its log was replayed in memory alone.
    pub fn set_access(&self, access: Access) -> Result<()> {
        match access {
            _ if access == self.access() => Ok(()),
            Access::ReadOnly => self.end_changes(),
            Access::ReadWrite if self.opened_for == Access::ReadOnly => {
                Err(Error::Invalid("it was opened for reading only"))
            }
            Access::ReadWrite => {
                self.shared.gate.allow_changes();
                Ok(())
            }
        }
    }

    fn end_changes(&self) -> Result<()> {
        loop {
            self.sync()?;
            self.cancel_scrubs();
            self.shared.gate.refuse_changes();
            if lock(&self.dirty).is_empty() {
                return Ok(());
            }
            // Somebody wrote in between.
            self.shared.gate.allow_changes();
        }
    }
}
