//! Balance: block groups that the user chooses are written anew, in the profile that they have or in another one.
//!
//! # Invariants
//! * The item in the root tree is there from before the first move until the end, or until it is cancelled: who opens
//!   the filesystem after a power cut, the kernel too, finds what is to go on.
//! * What cannot be is refused before anything is written.
//!
//! # Locking
//! `progress` is a leaf. One balance at a time, by its exclusive turn.

use std::sync::{Mutex, PoisonError};

use butterfs_format::ids::objectid;
use butterfs_format::items::{BalanceItem, BlockGroupFlags};
use butterfs_format::{Corruption, ItemType, Key, Logical, TreeId};
use zerocopy::{FromBytes, IntoBytes};

use super::exclusive::{Exclusive, ExclusiveTurn};
use super::{Access, Filesystem};
use crate::error::{Error, Result};
use crate::inode::lock;
use crate::relocate::balance::{self, Candidate, Choice};
use crate::relocate::{Relocated, Room};
use crate::tx::{GroupInfo, Need, Transaction};

const KEY: Key = Key { objectid: objectid::BALANCE, item_type: ItemType::TEMPORARY_ITEM, offset: 0 };
const KINDS: [BlockGroupFlags; 3] = [BlockGroupFlags::DATA, BlockGroupFlags::METADATA, BlockGroupFlags::SYSTEM];
/// What others put into groups of the old profile while a balance converts is found in another round.
const ROUNDS: usize = 4;

/// How far a balance is, in block groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalanceProgress {
    /// Those that were chosen.
    pub expected: u64,
    /// Those that were looked at: of all kinds, chosen or not, as in the kernel.
    pub considered: u64,
    /// Those that are done.
    pub completed: u64,
}

/// What a balance is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    GoOn,
    Pause,
    Cancel,
}

/// A balance that is under way or paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceStatus {
    /// What it does.
    pub item: BalanceItem,
    /// How far it is.
    pub progress: BalanceProgress,
    /// Whether somebody works on it at this moment.
    pub running: bool,
    /// Whether it was asked to pause.
    pub pausing: bool,
    /// Whether it was asked to end.
    pub cancelling: bool,
}

/// How a balance ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceEnd {
    /// All is done.
    Done,
    /// It can go on later.
    Paused,
    /// It does not go on.
    Cancelled,
}

#[derive(Debug)]
struct State {
    item: BalanceItem,
    progress: BalanceProgress,
    running: bool,
    asked: Asked,
    /// What there is to do, looked up before the first commit, which takes empty groups away: they are balanced then.
    first: Option<(Vec<GroupInfo>, Choice)>,
}

/// The balance of a filesystem.
#[derive(Debug, Default)]
pub(super) struct Balancing {
    state: Mutex<Option<State>>,
    ended: std::sync::Condvar,
}

fn read_item(tx: &Transaction) -> Result<Option<BalanceItem>> {
    let Some(data) = tx.get(TreeId::ROOT, &KEY)? else { return Ok(None) };
    let parsed = BalanceItem::read_from_bytes(&data);
    let parsed = parsed.map_err(|_| Corruption::new(format!("root tree {KEY}"), format!("{} bytes", data.len())))?;
    Ok(Some(parsed))
}

impl Filesystem {
    /// Finds the balance that was interrupted, if one was. Once, when the filesystem is opened.
    pub(super) fn find_balance(&self) -> Result<()> {
        if let Some(item) = self.shared.gate.view(read_item)? {
            let item = balance::resumed(&item);
            *lock(&self.balancing.state) = Some(State {
                item,
                progress: BalanceProgress::default(),
                running: false,
                asked: Asked::GoOn,
                first: None,
            });
            self.exclusive.set_paused(true);
        }
        Ok(())
    }

    /// The balance that is under way or paused.
    pub fn balance_status(&self) -> Option<BalanceStatus> {
        lock(&self.balancing.state).as_ref().map(|state| BalanceStatus {
            item: state.item,
            progress: state.progress,
            running: state.running,
            pausing: state.asked == Asked::Pause,
            cancelling: state.asked == Asked::Cancel,
        })
    }

    /// Balances; returns at the end, or when it is paused or cancelled. Gives what was done.
    ///
    /// # Errors
    /// [`Error::InProgress`] if a balance is there already, paused ones too, or another operation is under way; if the
    /// filesystem has not the devices for it; [`Error::NoSpace`] if some groups could not be emptied (the others are).
    pub fn balance(&self, item: &BalanceItem) -> Result<(BalanceEnd, BalanceProgress)> {
        let begun = self.begin_balance(item)?;
        self.run_balance(begun)
    }

    /// The same, up to the first move: what is refused is refused here. [`Filesystem::run_balance`] does the rest.
    ///
    /// # Errors
    /// As [`Filesystem::balance`].
    pub fn begin_balance(&self, item: &BalanceItem) -> Result<ExclusiveTurn> {
        if let Some(status) = self.balance_status() {
            let name = if status.running { Exclusive::Balance } else { Exclusive::BalancePaused }.name();
            return Err(Error::InProgress(name));
        }
        let turn = self.begin_exclusive(Exclusive::Balance)?;
        let (groups, devices) = self.shared.gate.view(|tx| {
            let groups: Vec<_> =
                KINDS.into_iter().flat_map(|kind| tx.all_groups_of(kind)).map(|group| group.flags).collect();
            Ok((groups, tx.writable_devices()))
        })?;
        balance::check(item, &groups, devices)?;
        self.shared.gate.view(|tx| {
            let target = |kind| Some(kind | item.of_kind(kind)?.target_profile()?);
            KINDS.into_iter().filter_map(target).try_for_each(|flags| tx.require_writable_profile(flags))
        })?;
        let first = Some(self.chosen_for(item)?);
        self.shared.gate.change(Need::Items(4), |tx| tx.put(TreeId::ROOT, &KEY, item.as_bytes()))?;
        self.shared.gate.commit()?;
        *lock(&self.balancing.state) =
            Some(State { item: *item, progress: BalanceProgress::default(), running: true, asked: Asked::GoOn, first });
        Ok(turn)
    }

    /// Goes on with the balance that is paused, up to the first move.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if none is; [`Error::InProgress`] if it runs, or another operation does.
    pub fn begin_resumed_balance(&self) -> Result<ExclusiveTurn> {
        if self.balance_status().ok_or(Error::NotRunning)?.running {
            return Err(Error::InProgress(Exclusive::Balance.name()));
        }
        let turn = self.begin_exclusive(Exclusive::Balance)?;
        if let Some(state) = lock(&self.balancing.state).as_mut() {
            state.item = balance::resumed(&state.item);
            (state.progress, state.running, state.asked) = (BalanceProgress::default(), true, Asked::GoOn);
        }
        Ok(turn)
    }

    /// Goes on with the balance that is paused; returns as [`Filesystem::balance`].
    ///
    /// # Errors
    /// As [`Filesystem::begin_resumed_balance`] and [`Filesystem::balance`].
    pub fn resume_balance(&self) -> Result<(BalanceEnd, BalanceProgress)> {
        let begun = self.begin_resumed_balance()?;
        self.run_balance(begun)
    }

    /// Does what was begun.
    ///
    /// # Errors
    /// As [`Filesystem::balance`].
    pub fn run_balance(&self, turn: ExclusiveTurn) -> Result<(BalanceEnd, BalanceProgress)> {
        let worked = self.balance_status().ok_or(Error::NotRunning).and_then(|status| self.convert(&status.item));
        let ended = self.end_balance(&worked);
        drop(turn);
        // What went wrong first is what is told.
        let end = worked?;
        Ok((end, ended?))
    }

    fn convert(&self, item: &BalanceItem) -> Result<BalanceEnd> {
        let wish = |tx: &mut Transaction, kind: BlockGroupFlags| {
            tx.wish_profile(kind, item.of_kind(kind).and_then(|args| args.target_profile()));
            Ok(())
        };
        let gate = &self.shared.gate;
        KINDS.into_iter().try_for_each(|kind| gate.change(Need::Promised, |tx| wish(tx, kind)))?;
        let worked = self.rounds(item);
        let unwish = |tx: &mut Transaction| {
            KINDS.into_iter().for_each(|kind| tx.wish_profile(kind, None));
            Ok(())
        };
        // After an error that stopped all writing it does not matter any more.
        let _ = gate.change(Need::Promised, unwish);
        worked
    }

    /// The first round is what the user chose; more follow for what others put into old groups meanwhile.
    fn rounds(&self, item: &BalanceItem) -> Result<BalanceEnd> {
        let first = lock(&self.balancing.state).as_mut().and_then(|state| state.first.take());
        let (mut groups, mut choice) = first.map_or_else(|| self.chosen_for(item), Ok)?;
        let highest = choice.groups.first().map_or(0, |group| group.start);
        let limits =
            butterfs_format::items::BalanceFilters::LIMIT | butterfs_format::items::BalanceFilters::LIMIT_RANGE;
        let args = [item.data, item.metadata, item.system];
        let is_limited = args.iter().any(|args| args.filters().intersects(limits));
        let again = balance::conversions(&balance::resumed(item));
        let (mut filters, mut failed) = (item, false);
        for round in 0..ROUNDS {
            self.count(|progress| progress.expected += choice.expected);
            let mut chosen = choice.groups.iter().peekable();
            for group in &groups {
                if self.asked() != Asked::GoOn {
                    return Ok(self.asked_end());
                }
                self.count(|progress| progress.considered += 1);
                let is_chosen = chosen.next_if(|next| next.start == group.start).is_some();
                if !is_chosen || !self.is_let_through_now(filters, group)? {
                    continue;
                }
                match self.balance_group(group)? {
                    Relocated::Gone => self.count(|progress| progress.completed += 1),
                    Relocated::NoRoom => failed = true,
                    Relocated::Stopped => return Ok(self.asked_end()),
                }
            }
            let converts = args.iter().any(|args| args.target_profile().is_some());
            if failed || is_limited || !converts || round + 1 == ROUNDS {
                break;
            }
            let (_, mut todo) = self.chosen_for(&again)?;
            todo.groups.retain(|group| group.start <= highest && group.used > 0);
            if todo.groups.is_empty() {
                break;
            }
            // The others were looked at before.
            todo.expected = todo.groups.len() as u64;
            (groups, choice, filters) = (todo.groups.clone(), todo, &again);
        }
        if failed { Err(Error::NoSpace) } else { Ok(BalanceEnd::Done) }
    }

    /// Whether the filters let a group through when its turn comes, as in the kernel: what was moved before may have gone into
    /// it. One that is gone is done.
    fn is_let_through_now(&self, item: &BalanceItem, group: &GroupInfo) -> Result<bool> {
        let now = self.shared.gate.view(|tx| Ok(tx.group_at(group.start)))?;
        let chunk = self.shared.gate.volume().chunk_containing(Logical(group.start));
        match (now, chunk) {
            (Some(group), Some((_, chunk))) => balance::lets_through(item, &Candidate { group, chunk }),
            _ => Ok(true),
        }
    }

    fn balance_group(&self, group: &GroupInfo) -> Result<Relocated> {
        let _one = lock(&self.reclaiming);
        let still_there = self.shared.gate.view(|tx| Ok(tx.may_be_emptied(group)))?;
        if !still_there {
            return Ok(Relocated::Gone);
        }
        self.relocate_until(group, Room::NewChunks, &|| self.asked() != Asked::GoOn)
    }

    /// All groups, those with the highest address first, as in the kernel, and which of them a balance chooses.
    fn chosen_for(&self, item: &BalanceItem) -> Result<(Vec<GroupInfo>, Choice)> {
        let mut groups = self.shared.gate.view(|tx| Ok(KINDS.map(|kind| tx.all_groups_of(kind)).concat()))?;
        groups.sort_by_key(|group| std::cmp::Reverse(group.start));
        // Mixed groups are of two kinds.
        groups.dedup_by_key(|group| group.start);
        let volume = self.shared.gate.volume();
        let candidate = |group: GroupInfo| {
            let (_, chunk) = volume.chunk_containing(Logical(group.start))?;
            Some(Candidate { group, chunk })
        };
        let candidates: Vec<Candidate> = groups.into_iter().filter_map(candidate).collect();
        let choice = balance::choose(item, &candidates)?;
        Ok((candidates.into_iter().map(|candidate| candidate.group).collect(), choice))
    }

    fn count(&self, count: impl FnOnce(&mut BalanceProgress)) {
        if let Some(state) = lock(&self.balancing.state).as_mut() {
            count(&mut state.progress);
        }
    }

    fn asked(&self) -> Asked {
        lock(&self.balancing.state).as_ref().map_or(Asked::Cancel, |state| state.asked)
    }

    fn asked_end(&self) -> BalanceEnd {
        if self.asked() == Asked::Pause { BalanceEnd::Paused } else { BalanceEnd::Cancelled }
    }

    /// A balance that paused stays on disk; all others are over.
    fn end_balance(&self, worked: &Result<BalanceEnd>) -> Result<BalanceProgress> {
        let progress = self.balance_status().map(|status| status.progress).unwrap_or_default();
        let pauses = matches!(worked, Ok(BalanceEnd::Paused)) || self.shared.gate.check_writable().is_err();
        let removed = if pauses { Ok(()) } else { self.remove_balance_item() };
        let mut state = lock(&self.balancing.state);
        match state.as_mut() {
            Some(state) if pauses || removed.is_err() => (state.running, state.asked) = (false, Asked::GoOn),
            _ => *state = None,
        }
        self.exclusive.set_paused(state.is_some());
        self.balancing.ended.notify_all();
        removed.map(|()| progress)
    }

    fn remove_balance_item(&self) -> Result<()> {
        self.shared.gate.change(Need::Deletion, |tx| tx.remove(TreeId::ROOT, &KEY).map(drop))?;
        self.shared.gate.commit()
    }

    /// Has the balance that runs pause, and waits until it does.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if none runs.
    pub fn pause_balance(&self) -> Result<()> {
        let mut state = lock(&self.balancing.state);
        match state.as_mut() {
            Some(state) if state.running => state.asked = Asked::Pause,
            _ => return Err(Error::NotRunning),
        }
        while state.as_ref().is_some_and(|state| state.running) {
            state = self.balancing.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Asks the balance that runs to pause, without waiting.
    pub fn ask_balance_to_pause(&self) {
        if let Some(state) = lock(&self.balancing.state).as_mut()
            && state.running
        {
            state.asked = Asked::Pause;
        }
    }

    /// Ends the balance that runs or is paused, and waits until that is done.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if there is none.
    pub fn cancel_balance(&self) -> Result<()> {
        let mut state = lock(&self.balancing.state);
        state.as_mut().ok_or(Error::NotRunning)?.asked = Asked::Cancel;
        while state.as_ref().is_some_and(|state| state.running) {
            state = self.balancing.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_there = state.is_some();
        drop(state);
        if is_there {
            // It was paused, or paused before it heard.
            let turn = self.exclusive.begin(Exclusive::Balance)?;
            self.end_balance(&Ok(BalanceEnd::Cancelled))?;
            drop(turn);
        }
        Ok(())
    }

    /// What is under way of the operations that exclude each other.
    pub fn exclusive(&self) -> &super::exclusive::ExclusiveState {
        &self.exclusive
    }

    /// Whether kinds have groups of several profiles, as an interrupted balance leaves them: kinds, and their profiles.
    pub fn mixed_profiles(&self) -> Result<Vec<(BlockGroupFlags, Vec<BlockGroupFlags>)>> {
        self.shared.gate.view(|tx| {
            let mut mixed = Vec::new();
            for kind in KINDS {
                let mut profiles: Vec<_> = tx.all_groups_of(kind).iter().map(|group| group.flags.profile()).collect();
                profiles.sort_by_key(|profile| profile.bits());
                profiles.dedup();
                if profiles.len() > 1 {
                    mixed.push((kind, profiles));
                }
            }
            Ok(mixed)
        })
    }

    /// Lets the balance that runs come to rest before the filesystem is closed or made read-only.
    pub fn rest_balance(&self) {
        if self.access() == Access::ReadWrite {
            // That none runs is as good.
            let _ = self.pause_balance();
        }
    }
}
