//! References to data that went since the last durable commit. Whoever held them has them again after a power cut,
//! and must find there what was there.
//!
//! # Invariants
//! * A reference that went in generation G is known until G is durable; then also no log tree of G counts any more.
//! * An extent without any reference left is forgotten: its space is not used again before that either.

use std::collections::HashMap;

use butterfs_format::Logical;
use butterfs_format::items::BackRef;

/// So many extents are remembered; with more, all count as extents that somebody lost.
const MANY: usize = 1 << 18;

/// What went in one generation.
#[derive(Default)]
struct Lost {
    /// Whose reference went; `None` if those of several did.
    by: HashMap<Logical, Option<BackRef>>,
    too_many: bool,
}

/// References that went, of the running generation and of the one that is being written.
#[derive(Default)]
pub(super) struct LostRefs {
    running: Lost,
    frozen: Lost,
}

impl Lost {
    fn note(&mut self, at: Logical, back_ref: BackRef) {
        if self.by.len() >= MANY {
            self.too_many = true;
        }
        if self.too_many {
            self.by = HashMap::new();
            return;
        }
        let by = self.by.entry(at).or_insert(Some(back_ref));
        if *by != Some(back_ref) {
            *by = None;
        }
    }

    fn by_others(&self, at: Logical, own: &BackRef) -> bool {
        self.too_many || self.by.get(&at).is_some_and(|by| by.as_ref() != Some(own))
    }
}

impl LostRefs {
    /// A reference to an extent went.
    pub fn note(&mut self, at: Logical, back_ref: BackRef) {
        self.running.note(at, back_ref);
    }

    /// An extent went.
    pub fn forget(&mut self, at: Logical) {
        self.running.by.remove(&at);
    }

    /// Whether a reference to an extent went, other than `own`, and may come back.
    pub fn by_others(&self, at: Logical, own: &BackRef) -> bool {
        self.running.by_others(at, own) || self.frozen.by_others(at, own)
    }

    /// The running generation is going to be written.
    pub fn freeze(&mut self) {
        self.frozen = std::mem::take(&mut self.running);
    }

    /// The frozen generation is durable.
    pub fn finish(&mut self) {
        self.frozen = Lost::default();
    }
}

#[cfg(test)]
mod tests {
    use butterfs_format::{Ino, TreeId};

    use super::*;

    fn of(ino: u64) -> BackRef {
        BackRef::Data { root: TreeId::FS, objectid: Ino(ino), offset: 0 }
    }

    #[test]
    fn what_another_lost_counts_until_that_is_durable() {
        let (mut lost, at) = (LostRefs::default(), Logical(1 << 20));
        lost.note(at, of(257));
        assert!(!lost.by_others(at, &of(257)) && lost.by_others(at, &of(258)));
        lost.freeze();
        lost.note(at, of(258));
        assert!(lost.by_others(at, &of(257)) && lost.by_others(at, &of(258)));
        lost.finish();
        assert!(lost.by_others(at, &of(257)) && !lost.by_others(at, &of(258)));
        lost.forget(at);
        assert!(!lost.by_others(at, &of(257)));
    }

    #[test]
    fn too_many_are_all_there_are() {
        let mut lost = LostRefs::default();
        for at in 0..=MANY as u64 {
            lost.note(Logical(at), of(257));
        }
        assert!(lost.by_others(Logical(u64::MAX), &of(257)));
        lost.freeze();
        lost.finish();
        assert!(!lost.by_others(Logical(u64::MAX), &of(257)));
    }
}
