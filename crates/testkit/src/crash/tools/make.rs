//! mkfs over another filesystem, cut while it writes: the old one is there whole, or none, or the new one.

use std::sync::Arc;

use butterfs_engine::filesystem::Access;
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_format::ChecksumType;
use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::{BlockDevice, OpenMode, Volume};

use crate::crash::cut::Cut;
use crate::crash::judge::{Maker, Strictness, Verdict, Violation, bad, check_devices, environment, use_it};
use crate::crash::states::{CrashState, Plan, Settings};
use crate::crash::workload::{CountingEnvironment, open};
use crate::damage;
use crate::library_tree;
use crate::tree_compare::{Times, Tree};

/// How much smaller the new filesystem is.
const SMALLER: u64 = 180 << 20;

/// The new filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum New {
    /// As large as the old one, with the same block size.
    Alike,
    /// Smaller, with other blocks, checksums and profiles.
    Other,
}

/// What mkfs made of an old filesystem, ready for cuts.
pub struct MakeCut {
    plan: Plan,
    old_fsid: [u8; 16],
    old: Tree,
}

impl MakeCut {
    /// Makes a filesystem over another.
    pub fn record(new: New, settings: Settings) -> Self {
        let old = damage::good();
        let volume = Volume::open(vec![Arc::new(old.snapshot())], OpenMode::ReadOnly).expect("the old one is good");
        let old_fsid = volume.superblock().fsid;
        drop(volume);
        let content = content(&[Arc::new(old.snapshot()) as Arc<dyn BlockDevice>]).expect("the old one is good");
        let plan = Plan::of(vec![old], settings, |devices, _| {
            make(Arc::clone(&devices[0]), &options(new, devices[0].len())).expect("nothing fails here");
        });
        Self { plan, old_fsid, old: content }
    }
}

fn options(new: New, len: u64) -> MakeOptions {
    let environment = CountingEnvironment::new(1 << 40);
    if new == New::Alike {
        return MakeOptions::new(len, &environment);
    }
    let mut options = MakeOptions::new(len - SMALLER, &environment);
    (options.nodesize, options.csum_type) = (4096, ChecksumType::Xxhash64);
    options.metadata_profile = BlockGroupFlags::empty();
    options
}

fn content(devices: &[Arc<dyn BlockDevice>]) -> Result<Tree, String> {
    let filesystem =
        open(devices.to_vec(), Access::ReadOnly, environment()).map_err(|error| format!("does not open: {error}"))?;
    library_tree::try_read(&filesystem).map_err(|(path, error)| format!("{}: {error}", path.display()))
}

impl Cut for MakeCut {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn judge(&self, state: &CrashState) -> Result<Verdict, Violation> {
        let volume = match Volume::open(state.forks(), OpenMode::ReadOnly) {
            Ok(volume) => volume,
            Err(_) if state.cut < self.plan.events().len() => return Ok(Verdict::NotMade),
            Err(error) => return bad("does not open", error),
        };
        let is_old = volume.superblock().fsid == self.old_fsid;
        drop(volume);
        let which = if is_old { "the old one" } else { "the new one" };
        check_devices(&state.forks(), Maker::Butterfs, Strictness::OneCopy)
            .map_err(|Violation(why)| Violation(format!("{which}: {why}")))?;
        if is_old {
            let found = content(&state.forks()).or_else(|why| bad("the old one", why))?;
            let differences = self.old.differences(&found, Times::Exact);
            return if differences.is_empty() {
                Ok(Verdict::LastCommit)
            } else {
                bad("the old one is there in part", differences.join("\n"))
            };
        }
        let devices = state.forks();
        let opened = open(devices, Access::ReadWrite, environment());
        match opened {
            Ok(filesystem) => use_it(&filesystem).or_else(|error| bad("cannot be used", error))?,
            Err(error) if state.cut < self.plan.events().len() => {
                let _one_copy_is_not_enough_to_write = error;
                return Ok(Verdict::NotMade);
            }
            Err(error) => return bad("does not open for writing", error),
        }
        Ok(Verdict::Newer)
    }
}
