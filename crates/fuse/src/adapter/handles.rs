//! Open files: what each was told of lost data.
//!
//! A file that is opened by creating it has a handle at no cost. Of other opens the kernel tells only
//! where OPEN is answered, which costs a round trip for each open and one for each close. Where it is
//! not ([`OpenFiles::Anonymous`]), a thread that calls fsync stands for the existing files that it
//! opened: what one process lost another hears of, too, but of two such descriptors of one thread only
//! the first to ask.
//!
//! # Locking
//! The map is a leaf; nothing waits while it is locked.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use butterfs_engine::file::ErrorCursor;
use butterfs_engine::inode::{InodeId, lock};

use crate::types::{Caller, FileHandle};

/// Whether the kernel tells of files that are opened and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OpenFiles {
    /// It does not: opening an existing file asks nobody.
    #[default]
    Anonymous,
    /// It does: each open file is told once of each error, and what chattr protects cannot be opened for
    /// writing (mount option `open_files`).
    Named,
    /// It does, and each opened file is read anew, so that we hear of every access (mount option `strictatime`).
    Watched,
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Listener {
    File(InodeId, u64),
    Thread(InodeId, u32),
}

impl Listener {
    fn of(id: InodeId, handle: FileHandle, caller: &Caller) -> Self {
        if handle == FileHandle(0) { Self::Thread(id, caller.pid) } else { Self::File(id, handle.0) }
    }

    fn inode(self) -> InodeId {
        let (Self::File(id, _) | Self::Thread(id, _)) = self;
        id
    }
}

/// Open files and threads that were told something.
#[derive(Default)]
pub(super) struct Handles {
    cursors: Mutex<HashMap<Listener, ErrorCursor>>,
    last: AtomicU64,
}

impl Handles {
    /// A handle for a file that is opened.
    pub fn open(&self, id: InodeId, cursor: ErrorCursor) -> FileHandle {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        if !cursor.is_new() {
            lock(&self.cursors).insert(Listener::File(id, number), cursor);
        }
        FileHandle(number)
    }

    /// The file is closed.
    pub fn close(&self, id: InodeId, handle: FileHandle) {
        lock(&self.cursors).remove(&Listener::File(id, handle.0));
    }

    /// The kernel forgets an inode: nobody has it open. (Some kernels do not tell of closed files.)
    pub fn forget(&self, id: InodeId) {
        lock(&self.cursors).retain(|listener, _| listener.inode() != id);
    }

    /// Runs `tell` with the caller's cursor.
    pub fn with<R>(
        &self,
        id: InodeId,
        handle: FileHandle,
        caller: &Caller,
        tell: impl FnOnce(&mut ErrorCursor) -> R,
    ) -> R {
        let listener = Listener::of(id, handle, caller);
        let mut cursor = lock(&self.cursors).get(&listener).copied().unwrap_or_default();
        let before = cursor;
        let result = tell(&mut cursor);
        if cursor != before {
            lock(&self.cursors).insert(listener, cursor);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use butterfs_engine::file::WriteErrors;
    use butterfs_format::{Ino, TreeId};

    use super::*;

    #[test]
    fn files_and_threads_have_cursors_of_their_own() {
        let handles = Handles::default();
        let id = InodeId::new(TreeId::FS, Ino(257));
        let caller = |pid| Caller { uid: 0, gid: 0, pid };
        let errors = WriteErrors::default();
        let (one, two) = (handles.open(id, errors.sample()), handles.open(id, errors.sample()));
        assert_ne!(one, two);
        assert!(lock(&handles.cursors).is_empty(), "files that were told nothing cost nothing");
        errors.note(&butterfs_engine::Error::NoSpace);
        for handle in [one, two, FileHandle(0)] {
            handles.with(id, handle, &caller(7), |cursor| errors.tell(cursor).unwrap_err());
            handles.with(id, handle, &caller(7), |cursor| errors.tell(cursor).unwrap());
        }
        // A thread stands for itself only; who opens late is not told.
        handles.with(id, FileHandle(0), &caller(8), |cursor| errors.tell(cursor).unwrap_err());
        let late = handles.open(id, errors.sample());
        handles.with(id, late, &caller(7), |cursor| errors.tell(cursor).unwrap());
        assert_eq!(lock(&handles.cursors).len(), 5);
        handles.close(id, one);
        assert_eq!(lock(&handles.cursors).len(), 4);
        handles.forget(id);
        assert!(lock(&handles.cursors).is_empty());
    }
}
