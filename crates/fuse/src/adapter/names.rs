//! Looking names up, removing, renaming and linking them.

use super::rights::{Deed, require_unprotected};
use super::{EngineFrontEnd, Site};
use crate::types::{Caller, Entry, RenameFlags};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Leave, RenameOptions, Replace};
use butterfs_engine::inode::InodeId;
use butterfs_format::Ino;

impl EngineFrontEnd {
    pub(super) fn do_lookup(&self, place: &Place<'_>) -> Result<Entry> {
        let site = Site::at("lookup", place);
        match self.fs.lookup(*place) {
            Ok(id) => self.entry(site, id),
            Err(Error::NotFound) => {
                // Linux keeps an absent name whose time is over, too.
                if self.fs.is_deleted(place.dir.tree) {
                    self.background.note_absent(place);
                }
                Ok(Entry::negative(self.options.ttl))
            }
            Err(error) => Err(site.fail(&error)),
        }
    }

    /// An inode itself, or the directory above it. Neither is remembered by the kernel as a name.
    pub(super) fn lookup_dots(&self, id: InodeId, name: &[u8]) -> Result<Entry> {
        let site = Site::new("file handle", id);
        let wanted = if name == b"." { Ok(id) } else { self.fs.parent(id) };
        match wanted.and_then(|id| self.fs.hold(id)) {
            Ok(found) => Ok(self.held_entry(&found)),
            Err(Error::NotFound) => Err(Errno::ESTALE),
            Err(error) => Err(site.fail(&error)),
        }
    }

    pub(super) fn do_unlink(&self, place: &Place<'_>) -> Result<()> {
        let site = Site::at("unlink", place);
        self.require_leaving(site, place)?;
        self.fs.unlink(*place).map_err(|error| site.fail(&error))?;
        self.settle_names(&[place.dir])
    }

    pub(super) fn do_rmdir(&self, place: &Place<'_>) -> Result<()> {
        let site = Site::at("rmdir", place);
        let id = self.require_leaving(site, place)?;
        self.fs.rmdir(*place).map_err(|error| site.fail(&error))?;
        if id.ino == Ino::ROOT_DIR {
            self.background.wake_cleaner();
        }
        self.settle_names(&[place.dir])
    }

    pub(super) fn do_rename(
        &self,
        caller: &Caller,
        from: &Place<'_>,
        to: &Place<'_>,
        flags: RenameFlags,
    ) -> Result<()> {
        let site = Site::at("rename", from);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        self.require_leaving(site, from)?;
        self.require_arriving(site, to)?;
        let moved =
            if exchange { self.fs.exchange(*from, *to) } else { self.fs.rename(*from, *to, options(caller, flags)) };
        moved.map_err(|error| site.fail(&error))?;
        self.settle_names(&[from.dir, to.dir])
    }

    pub(super) fn do_link(&self, id: InodeId, place: &Place<'_>) -> Result<Entry> {
        let site = Site::at("link", place);
        require_unprotected(&self.attributes(Site::new("link", id))?, Deed::Change)?;
        require_unprotected(&self.attributes(site)?, Deed::Append)?;
        self.fs.link(id, *place).map_err(|error| site.fail(&error))?;
        self.settle_names(&[place.dir])?;
        self.entry(site, id)
    }

    /// Fails if chattr forbids that a name goes away; gives what it leads to.
    pub(super) fn require_leaving(&self, site: Site<'_>, place: &Place<'_>) -> Result<InodeId> {
        let id = self.fs.lookup(*place).map_err(|error| site.fail(&error))?;
        require_unprotected(&self.attributes(Site::new(site.operation, place.dir))?, Deed::Change)?;
        require_unprotected(&self.attributes(Site::new(site.operation, id))?, Deed::Change)?;
        Ok(id)
    }

    /// Fails if chattr forbids that a name comes, in place of what is there.
    fn require_arriving(&self, site: Site<'_>, place: &Place<'_>) -> Result<()> {
        match self.fs.lookup(*place) {
            Ok(_) => self.require_leaving(site, place).map(drop),
            Err(Error::NotFound) => {
                require_unprotected(&self.attributes(Site::new(site.operation, place.dir))?, Deed::Append)
            }
            Err(error) => Err(site.fail(&error)),
        }
    }
}

fn options(caller: &Caller, flags: RenameFlags) -> RenameOptions {
    let replace = if flags.contains(RenameFlags::NOREPLACE) { Replace::Refuse } else { Replace::Allow };
    let leave = if flags.contains(RenameFlags::WHITEOUT) {
        Leave::Whiteout { uid: caller.uid, gid: caller.gid }
    } else {
        Leave::Nothing
    };
    RenameOptions { replace, leave }
}
