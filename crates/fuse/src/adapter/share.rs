//! Extents that files share: `copy_file_range`, and the clones and deduplications that ioctls ask for.
//!
//! Linux does FICLONE and FIDEDUPERANGE in the VFS and passes neither to FUSE. So `copy_file_range` shares what it can,
//! and the commands of [`crate::control`] name the source by an [`Offers`] token, because an ioctl carries one file.
//!
//! Before COPY_FILE_RANGE the kernel writes back its pages of both ranges, and afterwards it drops those of the
//! destination. For the ioctls their caller does that.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::rights::{CallerCapability, Deed, READ, WRITE, has, require_unprotected};
use super::{EngineFrontEnd, Site};
use crate::types::{Caller, FilePos, NodeId};
use crate::{Errno, Result};
use butterfs_engine::Error;
use butterfs_engine::file::{CloneLen, Dedupe, Seek};
use butterfs_engine::filesystem::{Attributes, FileOffset};
use butterfs_engine::inode::{InodeId, lock};
use butterfs_format::items::FileType;
use butterfs_format::{Ino, TreeId};

/// So many bytes are copied for one request at most: the caller asks again.
const COPY_MOST: u64 = 8 << 20;
/// And so many at a time.
const PIECE: u64 = 256 << 10;
/// So much is shared by one command, so that a file is not locked for long; a hole that is longer counts as nothing.
const CLONE_MOST: u64 = 1 << 30;
/// So many offers are remembered.
const OFFERS: usize = 256;

/// What names a file that is offered.
pub(super) type Token = [u8; 16];

/// Files that callers want to share the extents of. Who has a token had the file open, and may read it.
#[derive(Default)]
pub(super) struct Offers(Mutex<VecDeque<Offer>>);

struct Offer {
    token: Token,
    uid: u32,
    id: InodeId,
}

impl Offers {
    fn add(&self, offer: Offer) {
        let mut offers = lock(&self.0);
        if offers.len() == OFFERS {
            offers.pop_front();
        }
        offers.push_back(offer);
    }

    /// The file that this user offered.
    fn find(&self, caller: &Caller, token: &Token) -> Option<InodeId> {
        let offers = lock(&self.0);
        offers.iter().find(|offer| offer.token == *token && offer.uid == caller.uid).map(|offer| offer.id)
    }
}

/// How a part of a `copy_file_range` is done, and how long that part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Share(u64),
    Copy(u64),
}

/// What is asked for, in bytes.
#[derive(Clone, Copy)]
struct Wish {
    from: u64,
    to: u64,
    length: u64,
    source_size: u64,
    dest_size: u64,
}

impl Wish {
    fn way(&self, sector: u64) -> Way {
        let (head, tail) = (self.from % sector, self.length % sector);
        if head != self.to % sector {
            return Way::Copy(self.length.min(COPY_MOST));
        }
        if head != 0 {
            return Way::Copy(self.length.min(sector - head));
        }
        let ends = self.from + self.length == self.source_size && self.to.saturating_add(self.length) >= self.dest_size;
        match self.length - tail {
            _ if ends => Way::Share(self.length),
            0 => Way::Copy(tail),
            whole => Way::Share(whole),
        }
    }
}

impl EngineFrontEnd {
    pub(super) fn do_copy(&self, caller: &Caller, from: &FilePos, to: &FilePos, length: u64) -> Result<u64> {
        let (source, dest) = (self.id(from.node)?, self.id(to.node)?);
        let site = Site::new("copy_file_range", dest);
        let source_size = self.attributes(Site::new("copy_file_range", source))?.item.size.get();
        let found = self.attributes(site)?;
        require_unprotected(&found, Deed::Change)?;
        let length = length.min(source_size.saturating_sub(from.offset));
        if length == 0 {
            return Ok(0);
        }
        self.before_changing(caller, to.node, &found)?;
        let dest_size = found.item.size.get();
        let wish = Wish { from: from.offset, to: to.offset, length, source_size, dest_size };
        let places = (FileOffset { id: source, offset: from.offset }, FileOffset { id: dest, offset: to.offset });
        let sector = self.fs.shared().gate.volume().superblock().sectorsize.get().into();
        let done = match wish.way(sector) {
            Way::Share(length) => self.share_or_copy(places, length),
            Way::Copy(length) => self.copy(places, length),
        };
        self.note_access(source);
        done.map_err(|error| site.fail(&error))
    }

    /// What a write would do first.
    pub(super) fn before_changing(&self, caller: &Caller, node: NodeId, found: &Attributes) -> Result<()> {
        self.remove_capability(node, found.id)?;
        let privileges = found.item.mode.get() & 0o6000 != 0;
        match privileges && !has(caller, CallerCapability::Fsetid) {
            true => self.drop_privileges_of(caller, node, found),
            false => Ok(()),
        }
    }

    /// Ranges that cannot be shared (files with and without checksums, or files that change meanwhile) are copied.
    fn share_or_copy(
        &self,
        (from, to): (FileOffset, FileOffset),
        length: u64,
    ) -> std::result::Result<u64, butterfs_engine::Error> {
        match self.fs.clone_range(from, to, CloneLen::Bytes(length)) {
            Err(Error::Invalid(_) | Error::Busy(_)) => self.copy((from, to), length.min(COPY_MOST)),
            result => result,
        }
    }

    fn copy(&self, (from, to): (FileOffset, FileOffset), length: u64) -> std::result::Result<u64, Error> {
        let mut buffer = vec![0; length.min(PIECE) as usize];
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(PIECE) as usize;
            let step = self.fs.read(from.id, from.offset + done, &mut buffer[..piece]).and_then(|got| {
                let written = self.fs.write(to.id, to.offset + done, &buffer[..got])?;
                Ok(written as u64)
            });
            match step {
                Ok(0) => break,
                Ok(copied) => done += copied,
                // What is done is done; the next call hears of it.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Offers a file to be shared by who may read it, or the top directory of a subvolume to its owner, for a snapshot.
    /// Who has it open came to it by a path that let him through.
    pub(super) fn offer(&self, caller: &Caller, id: InodeId) -> Result<Token> {
        let found = self.attributes(Site::new("offering a file", id))?;
        if id.ino == Ino::ROOT_DIR {
            self.require_owner(caller, &found)?;
        } else {
            require_regular(&found)?;
            self.require_owner_or(caller, &found, READ)?;
        }
        let token = self.fs.shared().environment.new_uuid();
        self.offers.add(Offer { token, uid: caller.uid, id });
        Ok(token)
    }

    /// How a file was opened is not known here. Its owner could give himself the permission.
    fn require_owner_or(&self, caller: &Caller, found: &Attributes, wanted: u16) -> Result<()> {
        self.require_owner(caller, found).or_else(|_| self.require_access(caller, found, wanted))
    }

    /// The file with this token, at an offset.
    pub(super) fn offered(&self, caller: &Caller, token: &Token, offset: u64) -> Result<FileOffset> {
        let id = self.offers.find(caller, token).ok_or(Errno::ESTALE)?;
        if id.ino == Ino::ROOT_DIR { Err(Errno::EISDIR) } else { Ok(FileOffset { id, offset }) }
    }

    /// The subvolume whose top directory has this token.
    pub(super) fn offered_subvolume(&self, caller: &Caller, token: &Token) -> Result<TreeId> {
        let id = self.offers.find(caller, token).ok_or(Errno::ESTALE)?;
        if id.ino == Ino::ROOT_DIR { Ok(id.tree) } else { Err(Errno::EINVAL) }
    }

    /// How much of a clone is done now. What will be refused is asked for whole.
    fn clone_step(&self, from: FileOffset, len: CloneLen) -> std::result::Result<CloneLen, Error> {
        let rest = self.fs.attributes(from.id)?.item.size.get().saturating_sub(from.offset);
        let wanted = match len {
            CloneLen::Bytes(bytes) if bytes > CLONE_MOST && bytes <= rest => bytes,
            len => return Ok(len),
        };
        let data = self.fs.seek(from.id, from.offset, Seek::Data)?.unwrap_or(u64::MAX);
        let hole = data.saturating_sub(from.offset) / CLONE_MOST * CLONE_MOST;
        Ok(CloneLen::Bytes(wanted.min(hole.max(CLONE_MOST))))
    }

    /// Shares a range of an offered file, or the first part of a long one; gives how many bytes.
    pub(super) fn clone_offered(&self, caller: &Caller, from: FileOffset, to: FilePos, len: CloneLen) -> Result<u64> {
        let id = self.id(to.node)?;
        let site = Site::new("reflink", id);
        let found = self.attributes(site)?;
        require_regular(&found)?;
        require_unprotected(&found, Deed::Change)?;
        self.require_owner_or(caller, &found, WRITE)?;
        self.before_changing(caller, to.node, &found)?;
        let step = self.clone_step(from, len).map_err(|error| site.fail(&error))?;
        let done = self.fs.clone_range(from, FileOffset { id, offset: to.offset }, step);
        let done = done.map_err(|error| site.fail(&error))?;
        self.notifier().inval_inode(to.node);
        Ok(done)
    }

    /// Shares a range of an offered file that has the same bytes.
    pub(super) fn dedupe_offered(&self, caller: &Caller, from: FileOffset, to: FilePos, len: u64) -> Result<Dedupe> {
        let id = self.id(to.node)?;
        let site = Site::new("dedupe", id);
        let found = self.attributes(site)?;
        require_regular(&found)?;
        require_unprotected(&found, Deed::Change)?;
        // As in the kernel: the owner, or who may write.
        self.require_owner_or(caller, &found, WRITE)?;
        let outcome = self.fs.dedupe_range(from, FileOffset { id, offset: to.offset }, len);
        let outcome = outcome.map_err(|error| site.fail(&error))?;
        self.notifier().inval_attr(to.node);
        Ok(outcome)
    }
}

fn require_regular(found: &Attributes) -> Result<()> {
    match found.file_type {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_sectors_and_ends_are_shared_and_the_rest_is_copied() {
        let way =
            |from, to, length, source_size, dest_size| Wish { from, to, length, source_size, dest_size }.way(4096);
        let cases = [
            (way(0, 0, 10_000, 10_000, 0), Way::Share(10_000), "a whole file"),
            (way(0, 4096, 10_000, 10_000, 14_096), Way::Share(10_000), "up to the end of both"),
            (way(0, 0, 10_000, 10_000, 20_000), Way::Share(8192), "a tail that something follows"),
            (way(8192, 8192, 1808, 10_000, 20_000), Way::Copy(1808), "the tail alone"),
            (way(0, 0, 5000, 10_000, 0), Way::Share(4096), "not up to the end"),
            (way(100, 4196, 50_000, 60_000, 0), Way::Copy(3996), "up to a boundary that both have"),
            (way(100, 200, 50_000, 60_000, 0), Way::Copy(50_000), "boundaries apart"),
            (way(1, 0, 1 << 40, 1 << 41, 0), Way::Copy(COPY_MOST), "not all at once"),
        ];
        for (found, expected, what) in cases {
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn an_offer_is_found_by_its_maker_until_many_follow() {
        let offers = Offers::default();
        let id = InodeId::new(TreeId::FS, Ino(257));
        let (own, other) = (Caller { uid: 1, gid: 1, pid: 1 }, Caller { uid: 2, gid: 1, pid: 1 });
        offers.add(Offer { token: [1; 16], uid: 1, id });
        assert_eq!(offers.find(&own, &[1; 16]), Some(id));
        assert_eq!(offers.find(&other, &[1; 16]), None);
        assert_eq!(offers.find(&own, &[2; 16]), None);
        (0..OFFERS).for_each(|_| offers.add(Offer { token: [3; 16], uid: 1, id }));
        assert_eq!(offers.find(&own, &[1; 16]), None);
    }
}
