//! How the mount is.

use crate::adapter::EngineFrontEnd;
use crate::control::status::pack;
use crate::control::{MountFailure, MountState, MountStatus};
use butterfs_engine::filesystem::State;
use butterfs_engine::inode::lock;
use butterfs_format::items::Timespec;

/// More are not counted.
const MOST_DELETED: usize = 10_000;

fn time(time: Timespec) -> (i64, u32) {
    (time.seconds(), time.nanoseconds())
}

impl EngineFrontEnd {
    pub(super) fn status(&self) -> Vec<u8> {
        let health = self.fs.health();
        let failure = health.stopped.map(|stopped| MountFailure {
            cause: stopped.cause,
            at: time(stopped.at),
            generation: stopped.generation.0,
        });
        pack(&MountStatus {
            state: match health.state {
                State::ReadWrite => MountState::ReadWrite,
                State::ReadOnly => MountState::ReadOnly,
                State::Error => MountState::Error,
            },
            failure,
            lost_writes: health.lost_writes,
            last_lost_write: health.last_lost_write,
            device: self.options.device.clone(),
            options: lock(&self.changeable).shown_options.clone(),
            pid: std::process::id(),
            committed: health.committed.0,
            committed_at: health.committed_at.map(time),
            dirty_bytes: health.dirty_bytes,
            // What cannot be read is told where it is needed.
            deleted_subvolumes: self.fs.deleted_subvolumes(0, MOST_DELETED).map_or(0, |found| found.len() as u64),
        })
    }
}
