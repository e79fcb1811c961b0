//! The transaction gate: who may change trees, and when they are frozen.
//!
//! # Invariants
//! * Space is promised before a change begins, so that a change never runs out of metadata space.
//! * A change that fails after its first step, and a commit that fails, end all writing; the first
//!   cause is kept.
//!
//! # Locking
//! Rank: inode < range < gate. One commit or write of the log at a time (`turns`); the trees are held alone for a
//! change or for the short parts of a commit, never while its blocks are written. Where there is parity, who has space for
//! data writes to it before anything is frozen ([`super::row_turns`]).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use butterfs_format::Superblock;
use butterfs_format::items::Timespec;
use butterfs_volume::Volume;

use super::in_flight::InFlight;
use super::log::Led;
use super::promises::{DataReservation, Need, SpaceUsage, Wanted};
use super::row_turns::{RowHold, RowTurns, RowsAlone};
use super::stopped::{Listeners, Stopped, StoppedBy};
use super::turn::Turns;
use super::{BadGroups, LogTicket, Transaction, WhyCommit};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::space::{DiscardRule, SpaceRules};

/// However small the cache is, so many bytes of changed tree blocks may be in memory.
const DIRTY_BYTES_LEAST: u64 = 32 << 20;

/// How the gate works.
#[derive(Clone, Copy, Debug, Default)]
pub struct GateSettings {
    /// Nothing is ever written.
    pub read_only: bool,
    /// Budget for clean tree blocks in memory, in bytes; with as many changed ones a change commits.
    pub cache_bytes: usize,
    /// How space is managed.
    pub space: SpaceRules,
}

/// What was logged, or why it has to be committed.
pub type Loggable<T = ()> = std::result::Result<T, WhyCommit>;

/// What reservations and the gate share.
pub(super) struct Trees {
    tx: RwLock<Transaction>,
}

impl Trees {
    // A panic inside a change poisons the lock; the gate is stopped then, and readers may go on.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Transaction> {
        self.tx.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Transaction> {
        self.tx.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The gate to the running transaction.
pub struct Gate {
    volume: Arc<Volume>,
    trees: Arc<Trees>,
    turns: Turns,
    row_turns: RowTurns,
    read_only: AtomicBool,
    cache_bytes: usize,
    space: RwLock<SpaceRules>,
    /// Changed tree blocks in memory beyond which a change commits.
    dirty_bytes: u64,
    stopped: OnceLock<Stopped>,
    listeners: Listeners,
    in_flight: InFlight,
    /// Tells when things happened.
    clock: Option<Arc<dyn Environment>>,
    /// When this mount committed last.
    committed: Mutex<Option<Timespec>>,
}

impl Gate {
    /// Opens the filesystem of a volume, as the last commit left it.
    pub fn open(volume: Arc<Volume>, settings: GateSettings) -> Result<Self> {
        let superblock = volume.superblock();
        Self::open_at(volume, settings, &superblock, BadGroups::Refuse)
    }

    /// Opens the filesystem of a volume as this superblock describes it.
    pub fn open_at(
        volume: Arc<Volume>,
        settings: GateSettings,
        superblock: &Superblock,
        bad_groups: BadGroups,
    ) -> Result<Self> {
        let tx = Transaction::open(volume.clone(), settings.cache_bytes, superblock, bad_groups)?;
        Ok(Self::around(volume, tx, settings))
    }

    pub(super) fn around(volume: Arc<Volume>, mut tx: Transaction, settings: GateSettings) -> Self {
        let GateSettings { read_only, cache_bytes, space } = settings;
        tx.rules = space;
        let trees = Arc::new(Trees { tx: RwLock::new(tx) });
        let dirty_bytes = (cache_bytes as u64).max(DIRTY_BYTES_LEAST);
        Self {
            volume,
            trees,
            turns: Turns::default(),
            row_turns: RowTurns::default(),
            read_only: AtomicBool::new(read_only),
            cache_bytes,
            space: RwLock::new(space),
            dirty_bytes,
            stopped: OnceLock::new(),
            listeners: Listeners::default(),
            in_flight: InFlight::default(),
            clock: None,
            committed: Mutex::default(),
        }
    }

    /// A gate that can tell when things happened.
    pub fn with_clock(self, clock: Arc<dyn Environment>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    fn now(&self) -> Timespec {
        self.clock.as_ref().map_or(Timespec::default(), |clock| clock.now())
    }

    /// The devices.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// What the user chose about space.
    pub fn space_rules(&self) -> SpaceRules {
        *self.space.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other rules, from the next change on.
    pub fn set_space_rules(&self, rules: SpaceRules) {
        let mut tx = self.trees.write();
        tx.set_rules(rules);
        *self.space.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Whoever reads or writes data where trees say that it lies is counted here meanwhile.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The trees, held alone, for what changes none of them.
    pub(super) fn trees_alone(&self) -> RwLockWriteGuard<'_, Transaction> {
        self.trees.write()
    }

    /// Looks at trees; changes wait until `look` returns.
    pub fn view<R>(&self, look: impl FnOnce(&Transaction) -> Result<R>) -> Result<R> {
        look(&self.trees.read())
    }

    /// Changes trees. Space is promised first, so inside `change` there is no [`Error::NoSpace`]
    /// for metadata. `change` must find out whether it can do its work before its first change: an
    /// error after that makes the filesystem read-only.
    pub fn change<R>(&self, need: Need, change: impl FnOnce(&mut Transaction) -> Result<R>) -> Result<R> {
        self.check_writable()?;
        let mut tx = self.enter(|tx| tx.ensure_metadata(need))?;
        let before = tx.changes;
        let result = change(&mut tx).and_then(|value| {
            tx.settle_if_many()?;
            Ok(value)
        });
        if let Err(error) = &result
            && tx.changes != before
        {
            self.abort(&format!("a change failed half-way: {error}"));
        }
        // Changed blocks stay in memory until the commit.
        let many = tx.dirty_bytes() > self.dirty_bytes;
        drop(tx);
        if many && result.is_ok() {
            self.commit()?;
        }
        result
    }

    /// Takes space for data, which changes no tree. What this gives is to be held until the space is written, or
    /// given back; who holds it must not commit, nor wait for who may.
    pub fn take_space<R>(&self, take: impl FnOnce(&mut Transaction) -> Result<R>) -> Result<(R, Option<RowHold<'_>>)> {
        self.check_writable()?;
        let hold = self.row_turns.hold();
        let mut tx = self.trees.write();
        let taken = take(&mut tx)?;
        Ok((taken, tx.has_rows().then_some(hold)))
    }

    /// Enters alone to freeze something.
    fn enter_to_freeze(&self) -> (Option<RowsAlone<'_>>, RwLockWriteGuard<'_, Transaction>) {
        loop {
            // The trees are let go of before rows are waited for.
            let has_rows = self.trees.read().has_rows();
            let rows = has_rows.then(|| self.row_turns.alone());
            let tx = self.trees.write();
            if rows.is_some() || !tx.has_rows() {
                return (rows, tx);
            }
        }
    }

    /// Enters alone once `ready` says yes. When space is short, a commit brings back what was freed
    /// since the last one.
    fn enter(&self, ready: impl Fn(&mut Transaction) -> Result<()>) -> Result<RwLockWriteGuard<'_, Transaction>> {
        for _ in 0..2 {
            let mut tx = self.trees.write();
            let before = tx.changes;
            match ready(&mut tx) {
                Ok(()) => return Ok(tx),
                Err(Error::NoSpace) => {}
                Err(error) => {
                    if tx.changes != before {
                        self.abort(&format!("making a chunk failed half-way: {error}"));
                    }
                    return Err(error);
                }
            }
            drop(tx);
            self.commit()?;
        }
        let mut tx = self.trees.write();
        ready(&mut tx).inspect_err(|error| {
            if matches!(error, Error::NoSpace) {
                tracing::debug!(target: "enospc", usage = ?tx.space_usage(), "no space");
            }
        })?;
        Ok(tx)
    }

    /// Promises space for data that will be written later, together with the metadata that it will
    /// need.
    pub fn reserve_data(&self, wanted: Wanted) -> Result<DataReservation> {
        self.check_writable()?;
        let mut tx = self.enter(|tx| tx.ensure_data(&wanted))?;
        tx.promise(&wanted);
        drop(tx);
        Ok(DataReservation::new(self.trees.clone(), self.volume.geometry().sectorsize, &wanted))
    }

    /// Replays a log before anybody else looks at the trees: as a commit of its own, or, if nothing may
    /// be written, in memory alone.
    pub(crate) fn replay<R>(&self, replay: impl FnOnce(&mut Transaction) -> Result<R>) -> Result<R> {
        let mut tx = self.trees.write();
        let result = replay(&mut tx).inspect_err(|error| self.abort(&format!("log replay failed: {error}")))?;
        if self.is_read_only() {
            return Ok(result);
        }
        // Nobody writes data yet.
        self.commit_entered(None, tx)?;
        // What was set aside is free again.
        let (volume, superblock) = (self.volume.clone(), self.volume.superblock());
        let mut tx = Transaction::open(volume, self.cache_bytes, &superblock, BadGroups::Refuse)?;
        tx.rules = self.space_rules();
        *self.trees.write() = tx;
        Ok(result)
    }

    /// Takes what the last commit left for the truth, a log of it brought in by `replay` and committed, and allows
    /// changes from now on. The volume can be written already.
    pub(crate) fn begin_writing<R>(&self, replay: Option<impl FnOnce(&mut Transaction) -> Result<R>>) -> Result<()> {
        let settings = GateSettings { read_only: false, cache_bytes: self.cache_bytes, space: self.space_rules() };
        // Nobody else sees it before it is done.
        let fresh = Self::open(Arc::clone(&self.volume), settings)?;
        if let Some(replay) = replay {
            fresh.replay(replay)?;
        }
        std::mem::swap(&mut *self.trees.write(), &mut *fresh.trees.write());
        self.allow_changes();
        Ok(())
    }

    /// Makes everything changed so far durable. Data in memory is the caller's business.
    pub fn commit(&self) -> Result<()> {
        self.check_writable()?;
        if self.trees.read().only_devices_changed() && !self.has_room_for_devices()? {
            return Ok(());
        }
        let _turn = self.turns.take();
        let (rows, tx) = self.enter_to_freeze();
        self.commit_entered(rows, tx)
    }

    /// Changes the log, or says why that cannot be done and a commit is needed. `write` must find out
    /// whether it can do its work before its first change.
    pub fn log(&self, write: impl FnOnce(&mut Transaction) -> Result<Loggable>) -> Result<Loggable<LogTicket>> {
        self.check_writable()?;
        let mut tx = self.trees.write();
        if let Some(why) = tx.log_refused() {
            return Ok(Err(why));
        }
        if !self.has_room(&mut tx, Need::Items(u32::MAX))? {
            return Ok(Err(WhyCommit::NoSpace));
        }
        // Making room may have made a chunk.
        if let Some(why) = tx.log_refused() {
            return Ok(Err(why));
        }
        match write(&mut tx) {
            Ok(Ok(())) => Ok(tx.log_refused().map_or_else(|| Ok(tx.log_ticket()), Err)),
            Ok(Err(why)) => Ok(Err(why)),
            Err(error) => {
                // Whatever it is: the log is not whole, the transaction is.
                tracing::debug!(%error, "an inode could not be logged");
                tx.refuse_log(WhyCommit::Failed);
                Ok(Err(WhyCommit::Failed))
            }
        }
    }

    /// Whether what devices say of themselves is to be committed now, if it is all that changed: nobody promised space for it, and
    /// where there is none a commit would bring none back. Statistics wait for a commit that writes something else.
    ///
    /// # Errors
    /// [`Error::NoSpace`] for what a replacement has to say: that must not wait.
    fn has_room_for_devices(&self) -> Result<bool> {
        let mut tx = self.trees.write();
        if self.has_room(&mut tx, Need::Deletion)? || self.volume.owes_commit() {
            return Ok(true);
        }
        if self.volume.replace_item_changed() { Err(Error::NoSpace) } else { Ok(false) }
    }

    /// Whether there is metadata space for something that may do without, or wait: the log (on a full filesystem a commit needs
    /// less: it has the reserve).
    fn has_room(&self, tx: &mut Transaction, need: Need) -> Result<bool> {
        let before = tx.changes;
        match tx.ensure_metadata(need) {
            Ok(()) => Ok(true),
            // Of several chunks some may have been made.
            Err(Error::NoSpace) => Ok(false),
            Err(error) => {
                if tx.changes != before {
                    self.abort(&format!("making a chunk failed half-way: {error}"));
                }
                Err(error)
            }
        }
    }

    /// Makes durable what was logged up to a moment. Calls at the same time share one write.
    pub fn sync_log(&self, ticket: LogTicket) -> Result<()> {
        let Some(_turn) = self.turns.take_unless(|| self.trees.read().is_log_durable(ticket)) else { return Ok(()) };
        self.check_writable()?;
        let (rows, mut tx) = self.enter_to_freeze();
        if tx.is_log_durable(ticket) {
            return Ok(());
        }
        // A superblock with a log is of the last commit, as that of a device that was dropped may be.
        if tx.log_refused().is_some() || self.volume.owes_commit() {
            return self.commit_entered(rows, tx);
        }
        let Ok(frozen) = tx.freeze_log() else {
            tx.refuse_log(WhyCommit::Failed);
            return self.commit_entered(rows, tx);
        };
        drop((tx, rows));
        let led =
            frozen.write(&self.volume).inspect_err(|error| self.abort(&format!("writing the log failed: {error}")))?;
        if led == Led::Nowhere {
            let (rows, mut tx) = self.enter_to_freeze();
            tx.give_up_log(frozen);
            return self.commit_entered(rows, tx);
        }
        self.trees.write().finish_log(frozen);
        // Its own superblock may be what a device failed at, or one is missing.
        self.commit_what_is_owed()
    }

    /// Commits, if a device was dropped and its superblock is not behind the others' far enough yet. To be asked before and
    /// after written extents are overwritten, by which no superblock changes: until then a power cut would leave mirrors
    /// that differ, and nothing tells which of them is old.
    pub fn commit_if_owed(&self) -> Result<()> {
        if self.volume.owes_commit() { self.commit() } else { Ok(()) }
    }

    /// Runs `before` in the exclusive part of a commit, just before the trees are frozen, and
    /// commits: for snapshots. Space is promised as for [`Gate::change`].
    pub fn commit_with(&self, need: Need, before: impl FnOnce(&mut Transaction) -> Result<()>) -> Result<()> {
        self.check_writable()?;
        // Makes room, by a commit of its own if it must.
        drop(self.enter(|tx| tx.ensure_metadata(need))?);
        let _turn = self.turns.take();
        let (rows, mut tx) = self.enter_to_freeze();
        tx.ensure_metadata(need)?;
        let changes = tx.changes;
        if let Err(error) = before(&mut tx) {
            if tx.changes != changes {
                self.abort(&format!("a change failed half-way: {error}"));
            }
            return Err(error);
        }
        self.commit_entered(rows, tx)
    }

    /// Freezes with the trees held alone, and writes with nothing held but the turn to commit.
    fn commit_entered(&self, rows: Option<RowsAlone<'_>>, mut tx: RwLockWriteGuard<'_, Transaction>) -> Result<()> {
        self.check_writable()?;
        if tx.is_clean() {
            return Ok(());
        }
        let frozen = tx.freeze().inspect_err(|error| self.abort(&format!("commit failed: {error}")))?;
        drop((tx, rows));
        frozen.write(&self.volume).inspect_err(|error| self.abort(&format!("commit failed: {error}")))?;
        self.trees.write().finish(frozen);
        if self.space_rules().discard == DiscardRule::Sync {
            // What removed chunks had.
            self.discard_some(usize::MAX)?;
        }
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.as_ref().map(|clock| clock.now());
        self.commit_what_is_owed()
    }

    /// Commits beyond what a device that was dropped may have. The caller holds the turn.
    fn commit_what_is_owed(&self) -> Result<()> {
        if !self.volume.owes_commit() {
            return Ok(());
        }
        let (rows, tx) = self.enter_to_freeze();
        self.commit_entered(rows, tx)
    }

    /// How the devices' space is given out at this moment.
    pub fn space(&self) -> SpaceUsage {
        self.trees.read().space_usage()
    }

    /// Stops all writing for good, because of `cause`; the first one is kept.
    pub fn abort(&self, cause: &str) {
        if self.stop(StoppedBy::Error, cause) {
            tracing::error!("the filesystem is read-only from now on: {cause}");
            self.listeners.tell();
        }
    }

    /// Stops all writing for good because a user wants it: what is not durable stays so. A commit that is on its
    /// way may still get there.
    pub(crate) fn shut_down(&self) {
        if self.stop(StoppedBy::Request, "it was shut down") {
            tracing::warn!("the filesystem was shut down: nothing is written any more");
        }
    }

    /// Notes why writing stops; `false` if it was stopped before.
    fn stop(&self, by: StoppedBy, cause: &str) -> bool {
        // The running transaction's number without its lock, which may be held here.
        let generation = self.volume.superblock().generation().next();
        self.stopped.set(Stopped { by, cause: cause.to_owned(), at: self.now(), generation }).is_ok()
    }

    /// Whether [`Gate::shut_down`] came before any error.
    pub fn is_shut_down(&self) -> bool {
        self.stopped.get().is_some_and(|stopped| stopped.by == StoppedBy::Request)
    }

    /// Has `listener` called once, when writing is stopped; it must not wait for anything. Whoever comes
    /// too late has to ask [`Gate::stopped`] after this.
    pub fn on_stop(&self, listener: impl Fn() + Send + Sync + 'static) {
        self.listeners.add(Box::new(listener));
    }

    /// Why writing was stopped, if it was.
    pub fn stopped(&self) -> Option<&Stopped> {
        self.stopped.get()
    }

    /// When this mount committed last, if it did and has a clock.
    pub fn last_commit_time(&self) -> Option<Timespec> {
        *self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing may be written.
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Acquire)
    }

    /// Refuses changes from now on. One that is on its way is finished: the trees are held alone for a moment.
    pub(crate) fn refuse_changes(&self) {
        let _alone = self.trees.write();
        self.read_only.store(true, Ordering::Release);
    }

    /// Allows changes again.
    pub(crate) fn allow_changes(&self) {
        self.read_only.store(false, Ordering::Release);
    }

    /// Fails if the filesystem is read-only or was stopped.
    pub fn check_writable(&self) -> Result<()> {
        match self.stopped.get() {
            Some(stopped) if stopped.by == StoppedBy::Request => Err(Error::ShutDown),
            Some(stopped) => Err(Error::Aborted(stopped.cause.clone())),
            None if self.is_read_only() => Err(Error::ReadOnly),
            None => Ok(()),
        }
    }
}
