//! How a filesystem is: whether it can be written, and if not, why.

use butterfs_format::Generation;
use butterfs_format::items::Timespec;

use super::{Access, Filesystem};
use crate::tx::Stopped;

/// What can be done with a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Reading and writing.
    ReadWrite,
    /// Reading, as was asked for.
    ReadOnly,
    /// Reading, because of an error.
    Error,
}

/// How a filesystem is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What can be done.
    pub state: State,
    /// Why it cannot be written any more: the first cause.
    pub stopped: Option<Stopped>,
    /// How often data of a file was lost on its way to the devices.
    pub lost_writes: u64,
    /// The last such error.
    pub last_lost_write: Option<String>,
    /// The last transaction that is durable.
    pub committed: Generation,
    /// When it became so, if that was since the filesystem was opened.
    pub committed_at: Option<Timespec>,
    /// Bytes of files that are in memory only.
    pub dirty_bytes: u64,
}

impl Health {
    /// Whether something is lost that somebody had written: changes that were never committed, or data
    /// that did not reach the devices.
    pub fn has_losses(&self) -> bool {
        self.stopped.is_some() || self.lost_writes > 0
    }
}

impl Filesystem {
    /// How the filesystem is.
    pub fn health(&self) -> Health {
        let gate = &self.shared.gate;
        let stopped = gate.stopped().cloned();
        let state = match (&stopped, self.access()) {
            (Some(_), _) => State::Error,
            (None, Access::ReadOnly) => State::ReadOnly,
            (None, Access::ReadWrite) => State::ReadWrite,
        };
        let (lost_writes, last_lost_write) = self.shared.errors.count();
        Health {
            state,
            stopped,
            lost_writes,
            last_lost_write,
            committed: gate.volume().superblock().generation(),
            committed_at: gate.last_commit_time(),
            dirty_bytes: self.dirty_bytes(),
        }
    }
}
