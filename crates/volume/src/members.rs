//! The devices of a volume, of which there may come more while it is in use.
//!
//! # Invariants
//! * A member keeps its place for as long as the volume lives, also after it was removed: requests that are under way,
//!   and chunks, know it by its place.
//! * There is at most one member with a number that was not removed.
//!
//! # Locking
//! `adding` is held while a member comes; looking needs no lock.

use std::ops::Index;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::member::Member;

/// So many members may come while a volume is in use.
const SPARE: usize = 1 << 10;

/// A list that only grows.
pub(crate) struct Members {
    /// Those there were when the volume was put together.
    first: Vec<Member>,
    /// Those that came later, from the front on.
    later: Vec<OnceLock<Box<Member>>>,
    came: AtomicUsize,
    adding: Mutex<()>,
}

impl From<Vec<Member>> for Members {
    fn from(first: Vec<Member>) -> Self {
        let later = std::iter::repeat_with(OnceLock::new).take(SPARE).collect();
        Self { first, later, came: AtomicUsize::new(0), adding: Mutex::default() }
    }
}

impl Members {
    /// How many there are, with those removed.
    pub fn len(&self) -> usize {
        self.first.len() + self.came.load(Ordering::Acquire)
    }

    /// All of them, with those removed, by their places.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        let later = self.later.iter().take(self.came.load(Ordering::Acquire));
        self.first.iter().chain(later.filter_map(OnceLock::get).map(Box::as_ref))
    }

    /// Those that were not removed.
    pub fn present(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|member| !member.is_removed())
    }

    /// Adds one while the volume is being put together.
    pub fn push(&mut self, member: Member) {
        debug_assert_eq!(*self.came.get_mut(), 0, "the volume is in use");
        self.first.push(member);
    }

    /// Adds one while others use the list; gives it back if there is no place left.
    pub fn add(&self, member: Member) -> Result<(), Box<Member>> {
        let _one = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.came.load(Ordering::Acquire);
        let member = Box::new(member);
        let Some(slot) = self.later.get(place) else { return Err(member) };
        slot.set(member)?;
        self.came.store(place + 1, Ordering::Release);
        Ok(())
    }
}

impl Index<usize> for Members {
    type Output = Member;

    fn index(&self, place: usize) -> &Member {
        match place.checked_sub(self.first.len()) {
            None => &self.first[place],
            Some(later) => self.later[later].get().expect("places are given out to members that came"),
        }
    }
}
