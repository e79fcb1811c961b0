//! Looking names up and listing directories.

use butterfs_format::items::{Compression, FileExtent, FileExtentBody, FileType};
use butterfs_format::{ItemType, Key};

use super::Filesystem;
use crate::dir::list::{self, Listed};
use crate::dir::{Place, entry, link, path};
use crate::error::{Error, Result};
use crate::inode::{InodeId, corrupt, lock};

/// Whether a reader wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The entry was taken.
    More,
    /// It was not, and no other will be.
    Full,
}

impl Filesystem {
    /// The inode that a name leads to; `..` leads up, across subvolumes too.
    pub fn lookup(&self, place: Place<'_>) -> Result<InodeId> {
        self.require_dir(place.dir)?;
        match place.name {
            b"." => return Ok(place.dir),
            b".." => return self.parent(place.dir),
            _ => place.check()?,
        }
        self.shared.gate.view(|tx| link::target(tx, &place))?.ok_or(Error::NotFound)
    }

    /// The directory that holds a directory; the chosen subvolume's top is its own.
    pub fn parent(&self, dir: InodeId) -> Result<InodeId> {
        if dir == self.root {
            return Ok(dir);
        }
        Ok(self.shared.gate.view(|tx| path::parent(tx, dir))?.unwrap_or(dir))
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, id: InodeId) -> Result<Vec<u8>> {
        let found = self.attributes(id)?;
        if found.file_type != FileType::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        let key = Key::new(id.ino.0, ItemType::EXTENT_DATA, 0);
        let data = self.shared.gate.view(|tx| tx.get(id.tree, &key))?;
        let data = data.ok_or_else(|| corrupt(id.tree, &key, "symbolic link without a target"))?;
        let extent = FileExtent::parse(&data).map_err(|problem| corrupt(id.tree, &key, problem))?;
        match extent.body {
            // mkfs.btrfs stores a zero behind it that is not part of it.
            FileExtentBody::Inline(target) if extent.compression == Compression::None => {
                let len = usize::try_from(found.item.size.get()).unwrap_or(usize::MAX).min(target.len());
                Ok(target[..len].to_vec())
            }
            _ => Err(corrupt(id.tree, &key, "target of a symbolic link is not inline")),
        }
    }

    /// Lists a directory from a position on: 0 is `.`, 1 is `..`, and others are indexes of entries.
    /// To go on later, start one above the last position that was taken. No lock is held while
    /// `sink` runs.
    pub fn read_dir(&self, dir: InodeId, from: u64, mut sink: impl FnMut(&Listed) -> Result<Flow>) -> Result<()> {
        self.require_dir(dir)?;
        for (position, name) in [(0, &b"."[..]), (1, b"..")] {
            if from > position {
                continue;
            }
            let id = if position == 0 { dir } else { self.parent(dir)? };
            let listed = Listed { id, file_type: FileType::Directory, name: name.to_vec(), position };
            if sink(&listed)? == Flow::Full {
                return Ok(());
            }
        }
        if dir.is_placeholder() { Ok(()) } else { self.read_entries(dir, from, sink) }
    }

    /// The position of the last entry of a directory as it is now.
    pub fn last_position(&self, dir: InodeId) -> Result<u64> {
        const DOT_DOT: u64 = 1;
        if dir.is_placeholder() {
            return Ok(DOT_DOT);
        }
        Ok(self.shared.gate.view(|tx| entry::highest_index(tx, dir))?.unwrap_or(DOT_DOT))
    }

    fn read_entries(&self, dir: InodeId, mut from: u64, mut sink: impl FnMut(&Listed) -> Result<Flow>) -> Result<()> {
        loop {
            let entries = self.shared.gate.view(|tx| list::batch(tx, dir, from))?;
            for entry in &entries {
                if sink(entry)? == Flow::Full {
                    return Ok(());
                }
            }
            match entries.last().and_then(|last| last.position.checked_add(1)) {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn require_dir(&self, dir: InodeId) -> Result<()> {
        if dir.is_placeholder() {
            return Ok(());
        }
        let inode = self.inode(dir)?;
        if lock(&inode.state).item.is_dir() { Ok(()) } else { Err(Error::NotDirectory) }
    }
}
