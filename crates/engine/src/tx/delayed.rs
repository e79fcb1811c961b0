//! Delayed references: changes of reference counts that the extent tree does not know yet.
//!
//! Changes are gathered by extent and settled in address order, so that a block that is made and
//! freed in one transaction never reaches the extent tree, and leaves of the extent tree are changed
//! once for many extents.

use std::collections::BTreeMap;

use butterfs_format::items::{BackRef, ExtentFlags};
use butterfs_format::{Key, Logical};

/// What an extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentKind {
    /// File data.
    Data,
    /// A tree block of this level.
    TreeBlock(u8),
}

/// An extent that has no item yet.
#[derive(Clone, Copy, Debug)]
pub struct NewExtent {
    /// The item's flags.
    pub flags: ExtentFlags,
    /// A tree block's first key, for non-skinny items.
    pub first_key: Key,
    /// The generation that its item gets, if not that of the transaction.
    pub generation: Option<u64>,
}

impl NewExtent {
    /// An extent of this transaction; a tree block needs a first key too.
    pub fn new(flags: ExtentFlags) -> Self {
        Self { flags, first_key: Key::MIN, generation: None }
    }
}

/// All pending changes of one extent.
#[derive(Clone, Debug)]
pub struct RefHead {
    /// What it is.
    pub kind: ExtentKind,
    /// Its length, in bytes.
    pub len: u64,
    /// Set if the item must be made.
    pub new: Option<NewExtent>,
    /// The item's FULL_BACKREF flag must be set.
    pub set_full_backref: bool,
    /// By how much each reference changes; never zero.
    pub changes: BTreeMap<BackRef, i64>,
}

impl RefHead {
    /// By how much the number of references changes.
    pub fn total(&self) -> i64 {
        self.changes.values().sum()
    }
}

/// Pending changes by extent address.
#[derive(Default)]
pub struct DelayedRefs {
    heads: BTreeMap<Logical, RefHead>,
}

impl DelayedRefs {
    /// How many extents have pending changes.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The pending changes of an extent.
    pub fn get(&self, at: Logical) -> Option<&RefHead> {
        self.heads.get(&at)
    }

    /// Takes the extent with the lowest address.
    pub fn pop_first(&mut self) -> Option<(Logical, RefHead)> {
        self.heads.pop_first()
    }

    fn head(&mut self, at: Logical, kind: ExtentKind, len: u64) -> &mut RefHead {
        self.heads.entry(at).or_insert_with(|| RefHead {
            kind,
            len,
            new: None,
            set_full_backref: false,
            changes: BTreeMap::new(),
        })
    }

    /// A new extent with its first reference.
    pub fn add_new(&mut self, at: Logical, kind: ExtentKind, len: u64, new: NewExtent, back_ref: BackRef) {
        let head = self.head(at, kind, len);
        debug_assert!(head.new.is_none(), "extent {at} is made twice");
        head.new = Some(new);
        *head.changes.entry(back_ref).or_insert(0) += 1;
    }

    /// Changes the count of a reference.
    pub fn change(&mut self, at: Logical, kind: ExtentKind, len: u64, back_ref: BackRef, by: i64) {
        let head = self.head(at, kind, len);
        let count = head.changes.entry(back_ref).or_insert(0);
        *count += by;
        if *count == 0 {
            head.changes.remove(&back_ref);
        }
        if head.changes.is_empty() && head.new.is_none() && !head.set_full_backref {
            self.heads.remove(&at);
        }
    }

    /// The extent's children are referred to by its address from now on.
    pub fn set_full_backref(&mut self, at: Logical, level: u8, len: u64) {
        let head = self.head(at, ExtentKind::TreeBlock(level), len);
        match &mut head.new {
            Some(new) => new.flags |= ExtentFlags::FULL_BACKREF,
            None => head.set_full_backref = true,
        }
    }
}
