//! What can be chosen anew while a filesystem is open, as `mount -o remount` does.

use std::sync::PoisonError;

use super::open::{self, LogTree, OpenOptions};
use super::{Access, AccessTimes, Autodefrag, Filesystem, Fsync, features, replace};
use crate::error::{Error, Result};
use crate::file::{CompressRule, DataRule};
use crate::inode::{LiveOptions, lock};
use crate::tx::{SpaceRules, Transaction};

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
    /// Whether files that small writes scatter are defragmented (mount option `autodefrag`).
    pub autodefrag: Autodefrag,
    /// How space is given out and back (mount options `discard`, `metadata_ratio`).
    pub space: SpaceRules,
}

/// Why a filesystem is for reading only, once it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// By a remount, or not at all.
    ByChoice,
    /// It was opened so, and so were its devices.
    DevicesToo,
    /// It was opened in a way in which nothing can be written.
    Always(&'static str),
}

impl Reading {
    pub fn of(options: &OpenOptions) -> Self {
        match options.access {
            Access::ReadWrite => Self::ByChoice,
            Access::ReadOnly if !options.rescue.is_empty() => {
                Self::Always("with rescue options it is for reading only")
            }
            Access::ReadOnly if options.generation.is_some() => Self::Always("an older generation is for reading only"),
            Access::ReadOnly if options.log_tree == LogTree::Ignore => Self::Always("its log was not replayed"),
            Access::ReadOnly => Self::DevicesToo,
        }
    }
}

/// The part that files do not need.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub fsync: Fsync,
    pub access_times: AccessTimes,
    pub autodefrag: Autodefrag,
}

impl Filesystem {
    /// The settings of this moment.
    pub fn settings(&self) -> Settings {
        let LiveOptions { compress, new_data, max_inline } = self.shared.live();
        let Rules { fsync, access_times, autodefrag } = self.rules();
        let space = self.shared.gate.space_rules();
        Settings { compress, new_data, max_inline, fsync, access_times, autodefrag, space }
    }

    /// Other settings, for what begins from now on.
    pub fn set_settings(&self, settings: Settings) {
        let Settings { compress, new_data, max_inline, fsync, access_times, autodefrag, space } = settings;
        self.shared.gate.set_space_rules(space);
        *self.shared.live.write().unwrap_or_else(PoisonError::into_inner) =
            LiveOptions { max_inline, compress, new_data };
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Rules { fsync, access_times, autodefrag };
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
    /// Where it was opened for reading only: what opening it for writing would have failed with, or what somebody else
    /// did to its devices since; if it was opened with rescue options, or is of an older generation.
    pub fn set_access(&self, access: Access) -> Result<()> {
        match access {
            _ if access == self.access() => Ok(()),
            Access::ReadOnly => self.end_changes(),
            Access::ReadWrite => {
                let mut reading = lock(&self.reading);
                match *reading {
                    Reading::ByChoice => self.shared.gate.allow_changes(),
                    Reading::DevicesToo => self.begin_writing()?,
                    Reading::Always(why) => return Err(Error::Invalid(why)),
                }
                *reading = Reading::ByChoice;
                Ok(())
            }
        }
    }

    /// What opening for writing does beyond what opening for reading did. Inodes in memory stay: they are as the trees
    /// are, with a log that was replayed in memory as with one that is replayed now.
    fn begin_writing(&self) -> Result<()> {
        let gate = &self.shared.gate;
        let sb = gate.volume().superblock();
        features::check(&sb, &OpenOptions::default())?;
        open::refuse_old_devices(gate.volume())?;
        gate.view(|tx| open::check_trees(tx, gate.volume()))?;
        gate.volume().open_for_writing()?;
        let has_log = sb.log_root.get() != 0;
        let replay = has_log.then_some(|tx: &mut Transaction| replace::replay_log(tx, gate.volume()));
        gate.begin_writing(replay).map_err(|error| if has_log { open::in_log(error) } else { error })?;
        replace::settle(gate)?;
        open::drop_space_cache(gate, sb.compat_ro())?;
        self.find_balance()?;
        self.find_replacement()?;
        // What was unlinked while it was open, and what a cut left half removed, goes.
        self.clean_up_subvolume(self.root.tree)
    }

    fn end_changes(&self) -> Result<()> {
        loop {
            self.sync_quietly()?;
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
