//! Operations on space that change nothing that anybody sees: block groups are emptied, free space is discarded.

use butterfs_engine::Error;
use butterfs_engine::relocate::{GroupFilter, Room};
use butterfs_engine::tx::Trim;
use butterfs_format::items::BlockGroupFlags;

use super::Run;
use crate::crash::history::Durable;

impl Run {
    pub(super) fn relocate(&mut self) {
        let kind = if self.random.percent(50) { BlockGroupFlags::DATA } else { BlockGroupFlags::METADATA };
        let percent = 10 + self.random.below(91) as u8;
        self.step(
            format!("relocate {kind} groups that are used to {percent}%"),
            Durable::Nothing,
            |run| match run.filesystem.relocate(&GroupFilter::used_at_most(kind, percent), Room::NewChunks) {
                // A deleted subvolume is in use.
                Err(Error::Busy(_)) => Ok(0),
                result => result,
            },
            |_, _| {},
        );
    }

    pub(super) fn discard(&mut self) {
        let trim = Trim { range: 0..u64::MAX, minimum: self.random.below(1 << 20) };
        let all = self.random.percent(30);
        self.step(
            if all { "trim".into() } else { "discard some".into() },
            Durable::Nothing,
            |run| {
                if all {
                    run.filesystem.trim(&trim).map(drop)
                } else {
                    run.filesystem.shared().gate.discard_some(8).map(drop)
                }
            },
            |_, _| {},
        );
    }
}
