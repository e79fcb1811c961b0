//! Open files: what each was told of lost data.
//!
//! The kernel names an open file by its handle only where OPEN is answered, which costs a round trip
//! for each open and one for each close. Where it is not ([`OpenFiles::Anonymous`]), a thread that
//! calls fsync stands for the files it has open: what one process lost another hears of, too, but of
//! two descriptors of one thread only the first to ask.
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
    /// It does not: opening a file asks nobody.
    #[default]
    Anonymous,
    /// It does: each open file is told once of each error (mount option `open_files`).
    Named,
}

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Listener {
    File(u64),
    Thread(InodeId, u32),
}

/// Open files that were named, and threads that were told something.
#[derive(Default)]
pub(super) struct Handles {
    cursors: Mutex<HashMap<Listener, ErrorCursor>>,
    last: AtomicU64,
}

impl Handles {
    /// A handle for a file that is opened.
    pub fn open(&self, cursor: ErrorCursor) -> FileHandle {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.cursors).insert(Listener::File(number), cursor);
        FileHandle(number)
    }

    /// The file is closed.
    pub fn close(&self, handle: FileHandle) {
        lock(&self.cursors).remove(&Listener::File(handle.0));
    }

    /// The kernel forgets an inode: nobody has it open.
    pub fn forget(&self, id: InodeId) {
        lock(&self.cursors).retain(|listener, _| !matches!(listener, Listener::Thread(of, _) if *of == id));
    }

    /// Runs `tell` with the caller's cursor.
    pub fn with<R>(
        &self,
        id: InodeId,
        handle: FileHandle,
        caller: &Caller,
        tell: impl FnOnce(&mut ErrorCursor) -> R,
    ) -> R {
        let listener =
            if handle == FileHandle(0) { Listener::Thread(id, caller.pid) } else { Listener::File(handle.0) };
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
    use butterfs_format::{Ino, TreeId};

    use super::*;

    #[test]
    fn files_and_threads_have_cursors_of_their_own() {
        let handles = Handles::default();
        let id = InodeId::new(TreeId::FS, Ino(257));
        let caller = |pid| Caller { uid: 0, gid: 0, pid };
        let (one, two) = (handles.open(ErrorCursor::default()), handles.open(ErrorCursor::default()));
        assert_ne!(one, two);
        for handle in [one, two, FileHandle(0)] {
            assert!(handles.with(id, handle, &caller(7), |cursor| cursor.is_new()));
        }
        assert_eq!(lock(&handles.cursors).len(), 2);
        handles.close(one);
        handles.close(two);
        handles.forget(id);
        assert!(lock(&handles.cursors).is_empty());
    }
}
