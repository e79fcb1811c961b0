//! Tools as workloads: what they write is recorded and cut as what the engine writes is.
//!
//! * [`damaged`]: images for tools to repair.
//! * [`repair`]: `check --repair`, `rescue`, and undo.
//! * [`make`]: mkfs where there was another filesystem.

pub mod damaged;
pub mod make;
pub mod repair;

use butterfs_repair::Rescue;
use butterfs_repair::rescue::SpaceCache;

use super::cut::Cut;
use super::states::Settings;
use damaged::Damage;
use make::{MakeCut, New};
use repair::{RepairCut, Work};

/// A tool at work.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Its name in tables.
    pub name: &'static str,
    job: Job,
}

#[derive(Clone, Copy, Debug)]
enum Job {
    Repair(Work, Damage),
    Make(New),
}

/// All that are cut.
pub const TOOLS: [Tool; 13] = {
    use Damage::{BadCopies, ChunkTree, FirstSuperblock, Log, LostTrees, Nested, WrongBits, WrongItems};
    const fn repair(name: &'static str, work: Work, damage: Damage) -> Tool {
        Tool { name, job: Job::Repair(work, damage) }
    }
    const fn make(name: &'static str, new: New) -> Tool {
        Tool { name, job: Job::Make(new) }
    }
    [
        repair("repair, lost trees", Work::Repair, LostTrees),
        repair("repair, wrong items", Work::Repair, WrongItems),
        repair("repair, in rounds", Work::Repair, Nested),
        repair("repair, wrong bits", Work::Repair, WrongBits),
        repair("repair, bad copies", Work::Repair, BadCopies),
        repair("repair, superblock", Work::Repair, FirstSuperblock),
        repair("rescue, super-recover", Work::Rescue(Rescue::Superblocks), FirstSuperblock),
        repair("rescue, zero-log", Work::Rescue(Rescue::ZeroLog), Log),
        repair("rescue, chunk-recover", Work::Rescue(Rescue::Chunks), ChunkTree),
        repair("rescue, clear-space-cache", Work::Rescue(Rescue::ClearSpaceCache(SpaceCache::V2)), Damage::None),
        repair("undo, in rounds", Work::Undo, Nested),
        make("mkfs over another", New::Alike),
        make("mkfs over a larger one", New::Other),
    ]
};

impl Tool {
    /// Lets it work, and records what it writes.
    pub fn record(&self, settings: Settings) -> Box<dyn Cut> {
        match self.job {
            Job::Repair(work, damage) => Box::new(RepairCut::record(work, damage, settings)),
            Job::Make(new) => Box::new(MakeCut::record(new, settings)),
        }
    }
}

/// Of so many states in all, each tool gets one in this many: a judge of repairs plans another.
const SHARE: usize = 200;

/// All tools with the states to try of each, beside `states` of operations.
pub fn tools(seed: u64, states: usize) -> impl Iterator<Item = (Tool, Settings)> {
    TOOLS.into_iter().map(move |tool| (tool, Settings::new(seed, states.div_ceil(SHARE))))
}
