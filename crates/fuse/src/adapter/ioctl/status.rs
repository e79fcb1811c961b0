//! How the mount is.

use crate::adapter::EngineFrontEnd;
use crate::control::status::pack;
use crate::control::{MountFailure, MountState, MountStatus};
use butterfs_engine::filesystem::State;
use butterfs_format::items::Timespec;

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
            options: self.options.shown_options.clone(),
            pid: std::process::id(),
            committed: health.committed.0,
            committed_at: health.committed_at.map(time),
            dirty_bytes: health.dirty_bytes,
        })
    }
}
