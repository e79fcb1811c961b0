//! Listing directories.
//!
//! An entry's `next` is one more than its position, so that it is never 0.

use super::attr::kind;
use super::{EngineFrontEnd, Site};
use crate::sinks::{DirSink, Full, PlusSink};
use crate::types::{DirEntry, Entry};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::dir::list::Listed;
use butterfs_engine::filesystem::Flow;
use butterfs_engine::inode::InodeId;

impl EngineFrontEnd {
    pub(super) fn do_readdir(&self, dir: InodeId, from: u64, out: &mut DirSink<'_>) -> Result<()> {
        self.list(dir, from, |_, entry| Ok(out.add(entry)))
    }

    pub(super) fn do_readdirplus(&self, dir: InodeId, from: u64, out: &mut PlusSink<'_>) -> Result<()> {
        self.list(dir, from, |listed, entry| out.add(entry, || self.listed_entry(listed)))
    }

    /// The entry of a listed inode; `None` for `.` and `..`, and for what is gone already.
    fn listed_entry(&self, listed: &Listed) -> Result<Option<Entry>> {
        if listed.name == b"." || listed.name == b".." {
            return Ok(None);
        }
        match self.entry(Site::new("readdir", listed.id), listed.id) {
            Ok(entry) => Ok(Some(entry)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn list(&self, dir: InodeId, from: u64, mut add: impl FnMut(&Listed, &DirEntry<'_>) -> Result<Full>) -> Result<()> {
        let mut failed = None;
        let listing = self.fs.read_dir(dir, from, |listed| {
            let next = listed.position.saturating_add(1);
            let shown = self.numbers.shown(listed.id);
            let entry = DirEntry { ino: shown, name: &listed.name, kind: kind(listed.file_type), next };
            Ok(match add(listed, &entry) {
                Ok(Full::No) => Flow::More,
                Ok(Full::Yes) => Flow::Full,
                Err(errno) => {
                    failed = Some(errno);
                    Flow::Full
                }
            })
        });
        listing.map_err(|error: Error| Site::new("readdir", dir).fail(&error))?;
        self.note_access(dir);
        failed.map_or(Ok(()), Err)
    }
}
