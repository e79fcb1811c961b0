//! Files that share extents, and go.

use butterfs_engine::dir::Place;
use butterfs_engine::file::CloneLen;
use butterfs_engine::filesystem::FileOffset;
use butterfs_engine::{Error, Result};

use super::{FILE, Worker, bytes};

impl Worker<'_> {
    /// A part of a file into a new one, at the same place: bytes tell their number and place.
    pub(super) fn clone(&mut self) {
        let Some((number, id)) = self.file() else { return };
        let size = self.fs.attributes(id).unwrap().item.size.get();
        self.next += 1;
        let (dir, name) = (self.dir(), format!("f{number}_c{}", self.next).into_bytes());
        let Some(copy) = self.asks("create", self.fs.create(Place::new(dir, &name), &FILE)) else { return };
        let offset = self.random.below(size / 4096 + 1) * 4096;
        let at = |id| FileOffset { id, offset };
        self.asks("clone", self.fs.clone_range(at(id), at(copy), CloneLen::ToEnd));
        if self.random.percent(30) {
            let len = self.length();
            self.asks("overwrite a clone", self.fs.write(copy, offset, &bytes(number, offset, len)));
        }
        if self.random.percent(20) {
            self.asks("dedupe", self.fs.dedupe_range(at(copy), at(id), 4096).map(drop).or_else(invalid));
        }
        self.clones.push((dir, name));
        if self.clones.len() > 40 {
            let (dir, name) = self.clones.swap_remove(self.random.below(40) as usize);
            self.deletes("unlink of a clone", self.fs.unlink(Place::new(dir, &name)));
        }
    }

    /// A file whose extents are all shared, and gone at once; or its source is.
    pub(super) fn clone_and_delete(&mut self) {
        let Some((number, id)) = self.file() else { return };
        self.next += 1;
        let name = format!("f{number}_c{}", self.next).into_bytes();
        let place = Place::new(self.fs.root(), &name);
        let Some(copy) = self.asks("create", self.fs.create(place, &FILE)) else { return };
        let whole = |id| FileOffset { id, offset: 0 };
        self.asks("clone", self.fs.clone_range(whole(id), whole(copy), CloneLen::ToEnd));
        if self.random.percent(50) {
            let old = self.fs.attributes(id).unwrap().item.size.get();
            let size = self.random.below(old / 4096 + 1) * 4096;
            self.deletes("truncation of a shared file", self.fs.set_size(id, size));
        }
        self.deletes("unlink of a clone", self.fs.unlink(place));
    }
}

/// Ranges that cannot be compared.
fn invalid<T: Default>(error: Error) -> Result<T> {
    match error {
        Error::Invalid(_) => Ok(T::default()),
        other => Err(other),
    }
}
