//! Listing directories.
//!
//! An entry's `next` is one more than its position, so that it is never 0.
//!
//! A listing ends where the directory ended when it began, or who renames what it lists would never come to an end: each
//! rename puts an entry at the end. Nobody tells us of open directories, so of several listings of one at the same time
//! the one that began last says how far they go.

use super::attr::kind;
use super::{EngineFrontEnd, Site};
use crate::sinks::{DirSink, Full, PlusSink};
use crate::types::{DirEntry, Entry, NodeId};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::dir::list::Listed;
use butterfs_engine::filesystem::Flow;
use butterfs_engine::inode::InodeId;

impl EngineFrontEnd {
    pub(super) fn do_readdir(&self, dir: NodeId, from: u64, out: &mut DirSink<'_>) -> Result<()> {
        self.list(dir, from, |_, entry| Ok(out.add(entry)))
    }

    pub(super) fn do_readdirplus(&self, dir: NodeId, from: u64, out: &mut PlusSink<'_>) -> Result<()> {
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

    /// Where a listing that begins at `from` ends.
    fn listing_end(&self, node: NodeId, dir: InodeId, from: u64) -> Result<u64> {
        if from == 0 {
            let end = self.fs.last_position(dir).map_err(|error| Site::new("readdir", dir).fail(&error))?;
            self.nodes.set_listing_end(node, end);
        }
        Ok(self.nodes.listing_end(node))
    }

    fn list(&self, node: NodeId, from: u64, mut add: impl FnMut(&Listed, &DirEntry<'_>) -> Result<Full>) -> Result<()> {
        let dir = self.id(node)?;
        let end = self.listing_end(node, dir, from)?;
        let mut failed = None;
        let listing = self.fs.read_dir(dir, from, |listed| {
            if listed.position > end {
                return Ok(Flow::Full);
            }
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
