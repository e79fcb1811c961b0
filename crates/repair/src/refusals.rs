//! What no repair is tried on, with what to do instead.

use butterfs_check::{Kind, Report, Severity};
use butterfs_format::items::BlockGroupFlags;
use butterfs_format::superblock::SUPER_FLAG_SEEDING;

use crate::derive;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::workspace::Workspace;

/// What the checker cannot judge must not be written, whatever else is wrong.
///
/// # Errors
/// [`Error::Refused`] with what it does not know.
pub fn of_report(report: &Report) -> Result<()> {
    let unsupported =
        report.findings.iter().find(|finding| finding.kind == Kind::Unsupported && finding.severity == Severity::Error);
    match unsupported {
        Some(finding) => refuse(format!("the filesystem uses what this version does not know: {}", finding.problem)),
        None => Ok(()),
    }
}

/// What may not be changed, and what cannot be written.
///
/// # Errors
/// [`Error::Refused`] with the reason.
pub fn of_filesystem(workspace: &Workspace) -> Result<()> {
    let store = &workspace.store;
    if store.superblock.flags.get() & SUPER_FLAG_SEEDING != 0 {
        return refuse(
            "it is a seed, which other filesystems build on: nothing may change it; clear the seeding flag first",
        );
    }
    if let Some(profile) = parity_of_metadata(store) {
        return refuse(format!(
            "its metadata is {profile}, to which this version cannot write; convert it first (btrfs balance start \
             -mconvert=raid1), or copy the data off with -o ro",
        ));
    }
    if let Some(start) = derive::lost_chunk(store) {
        return refuse(format!(
            "chunk {start} is lost, though its block group and device extents are there: what lies in it would be \
             given up; bring it back with butterfs rescue chunk-recover first"
        ));
    }
    Ok(())
}

/// The profile of the first chunk of tree blocks that has parity: data may have it, since repair writes none.
fn parity_of_metadata(store: &Store) -> Option<&'static str> {
    use BlockGroupFlags as F;
    let flags = store.volume().chunks().into_iter().map(|(_, chunk)| chunk.flags());
    let of_trees = flags.filter(|flags| flags.intersects(F::METADATA | F::SYSTEM));
    let named = |flags: F| [(F::RAID5, "RAID5"), (F::RAID6, "RAID6")].into_iter().find(|(f, _)| flags.contains(*f));
    of_trees.filter_map(named).map(|(_, name)| name).next()
}

fn refuse(why: impl Into<String>) -> Result<()> {
    Err(Error::Refused(why.into()))
}
