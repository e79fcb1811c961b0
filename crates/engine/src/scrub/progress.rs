//! How far a scrub is, what it met, and how it is stopped.
//!
//! # Locking
//! Leaves: held for a look or a change in memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use butterfs_format::{DevId, Logical};

use super::throttle::Throttle;

/// Who waits to read looks up so often whether it is to go on.
const NAP: Duration = Duration::from_millis(20);

/// What a scrub of a device did, counted as the kernel counts it (`struct btrfs_scrub_progress`); errors are counted
/// by sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Data extents that were read.
    pub data_extents: u64,
    /// Tree blocks that were read.
    pub tree_extents: u64,
    /// Bytes of data that were read.
    pub data_bytes: u64,
    /// Bytes of tree blocks that were read.
    pub tree_bytes: u64,
    /// Sectors that could not be read.
    pub read_errors: u64,
    /// Sectors whose checksum does not match.
    pub csum_errors: u64,
    /// Sectors that have the right checksum and are wrong: of tree blocks that are not the right ones, and of parity.
    pub verify_errors: u64,
    /// Sectors of data that have no checksum.
    pub no_csum: u64,
    /// Checksums without data; never counted.
    pub csum_discards: u64,
    /// Bad superblocks.
    pub super_errors: u64,
    /// Failed allocations of memory; never counted.
    pub malloc_errors: u64,
    /// Sectors that could not be repaired.
    pub uncorrectable_errors: u64,
    /// Sectors that were repaired, or could be.
    pub corrected_errors: u64,
    /// Where on the device the scrub is.
    pub last_physical: u64,
    /// Sectors of parity that did not fit, where nobody knows whether it changed or what it was made of. (The kernel counts
    /// errors here that were gone when it looked again.)
    pub unverified_errors: u64,
}

impl ScrubProgress {
    /// The numbers in the order of the kernel's struct.
    pub fn values(&self) -> [u64; 15] {
        [
            self.data_extents,
            self.tree_extents,
            self.data_bytes,
            self.tree_bytes,
            self.read_errors,
            self.csum_errors,
            self.verify_errors,
            self.no_csum,
            self.csum_discards,
            self.super_errors,
            self.malloc_errors,
            self.uncorrectable_errors,
            self.corrected_errors,
            self.last_physical,
            self.unverified_errors,
        ]
    }

    /// From the numbers in that order.
    pub fn from_values(values: [u64; 15]) -> Self {
        Self {
            data_extents: values[0],
            tree_extents: values[1],
            data_bytes: values[2],
            tree_bytes: values[3],
            read_errors: values[4],
            csum_errors: values[5],
            verify_errors: values[6],
            no_csum: values[7],
            csum_discards: values[8],
            super_errors: values[9],
            malloc_errors: values[10],
            uncorrectable_errors: values[11],
            corrected_errors: values[12],
            last_physical: values[13],
            unverified_errors: values[14],
        }
    }

    /// Counts something that is wrong, and what became of it.
    pub(super) fn count_finding(&mut self, finding: &ScrubFinding, sector: u64) {
        let sectors = finding.len / sector;
        match finding.trouble {
            // The kernel counts no remedy of these.
            Trouble::Superblock(_) => return self.super_errors += 1,
            Trouble::Unread => self.read_errors += sectors,
            Trouble::Checksum => self.csum_errors += sectors,
            Trouble::Block(_) | Trouble::Parity | Trouble::Mirrors => self.verify_errors += sectors,
            Trouble::Unfit => self.unverified_errors += sectors,
        }
        match finding.remedy {
            Remedy::Repaired | Remedy::Possible => self.corrected_errors += sectors,
            Remedy::None => self.uncorrectable_errors += sectors,
        }
    }

    /// Adds what was done elsewhere; where the scrub is stays as it was.
    fn add(&mut self, more: Self) {
        let last_physical = self.last_physical;
        let mut values = self.values();
        values.iter_mut().zip(more.values()).for_each(|(sum, more)| *sum += more);
        *self = Self { last_physical, ..Self::from_values(values) };
    }

    /// All errors of which it is known that the device is at fault.
    pub fn errors(&self) -> u64 {
        self.read_errors + self.csum_errors + self.verify_errors + self.super_errors
    }

    /// Whether nothing was wrong.
    pub fn is_clean(&self) -> bool {
        self.errors() + self.unverified_errors == 0
    }
}

/// What is wrong with a place on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be read.
    Unread,
    /// The checksum does not match.
    Checksum,
    /// The checksum of a tree block matches, and it is not the right one.
    Block(String),
    /// Parity that does not fit the data, all of which is right.
    Parity,
    /// Parity that does not fit what it was made of, and some of that has no checksum or is free space: nobody knows which
    /// of them changed.
    Unfit,
    /// Data without checksums that differs from its first copy: nobody knows which is right.
    Mirrors,
    /// A superblock.
    Superblock(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unread => f.write_str("cannot be read"),
            Self::Checksum => f.write_str("checksum does not match"),
            Self::Block(problem) | Self::Superblock(problem) => f.write_str(problem),
            Self::Parity => f.write_str("parity does not fit the data"),
            Self::Unfit => f.write_str(
                "does not fit what has no checksum, or is free, in its row: which of them changed is not known",
            ),
            Self::Mirrors => f.write_str("differs from the first copy, and has no checksum"),
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It was repaired.
    Repaired,
    /// It could be repaired, and nothing was to be written.
    Possible,
    /// There is none.
    None,
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Repaired => "repaired",
            Self::Possible => "not repaired: nothing is written",
            Self::None => "not repairable",
        })
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubFinding {
    /// The device.
    pub devid: DevId,
    /// Where on it.
    pub physical: u64,
    /// How many bytes.
    pub len: u64,
    /// The address of what lies there; none for superblocks and parity.
    pub logical: Option<Logical>,
    /// Whether that is file data.
    pub is_data: bool,
    /// What is wrong.
    pub trouble: Trouble,
    /// What became of it.
    pub remedy: Remedy,
}

impl std::fmt::Display for ScrubFinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (devid, physical, len) = (self.devid, self.physical, self.len);
        let what = match (self.logical, self.is_data) {
            (Some(at), true) => format!("data at logical {at}"),
            (Some(at), false) => format!("tree block {at}"),
            (None, _) if matches!(self.trouble, Trouble::Parity | Trouble::Unfit) => "parity".into(),
            (None, _) => "superblock".into(),
        };
        write!(f, "device {devid} physical {physical} length {len}: {what}: {}; {}", self.trouble, self.remedy)
    }
}

/// More findings than anybody reads; they are counted all the same.
const MOST_FINDINGS: usize = 10_000;

/// What can be seen of a running scrub, and done to it.
#[derive(Debug, Default)]
pub struct ScrubMonitor {
    progress: Mutex<ScrubProgress>,
    findings: Mutex<Vec<ScrubFinding>>,
    cancelled: AtomicBool,
    bytes_per_second: AtomicU64,
    throttle: Mutex<Throttle>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScrubMonitor {
    /// How far it is.
    pub fn progress(&self) -> ScrubProgress {
        *lock(&self.progress)
    }

    /// Takes what was found since the last call.
    pub fn take_findings(&self) -> Vec<ScrubFinding> {
        std::mem::take(&mut lock(&self.findings))
    }

    /// What was found so far.
    pub fn findings(&self) -> Vec<ScrubFinding> {
        lock(&self.findings).clone()
    }

    /// Asks it to stop; it can be resumed where it was.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether it was asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// How many bytes it reads in a second at most; 0: as many as there come.
    pub fn set_limit(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// See [`ScrubMonitor::set_limit`].
    pub fn limit(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }

    /// Waits until so many more bytes may be read of its device, or it or the scrub that wants to read was cancelled. A
    /// limit that changes counts at once.
    pub(super) fn wait_to_read(&self, bytes: u64, reader: &Self) {
        while !self.is_cancelled() && !reader.is_cancelled() {
            let taken = lock(&self.throttle).take(self.limit(), bytes);
            let Err(left) = taken else { break };
            std::thread::sleep(NAP.min(left));
        }
    }

    /// Takes over what was counted and found elsewhere.
    pub(super) fn absorb(&self, other: &Self) {
        self.count(|progress| progress.add(other.progress()));
        self.keep(other.take_findings());
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut ScrubProgress)) {
        change(&mut lock(&self.progress));
    }

    /// Counts what is wrong, says it, and keeps it.
    pub(super) fn report(&self, finding: ScrubFinding, sector: u64) {
        tracing::error!("scrub: {finding}");
        self.count(|progress| progress.count_finding(&finding, sector));
        self.keep(vec![finding]);
    }

    fn keep(&self, more: Vec<ScrubFinding>) {
        let mut findings = lock(&self.findings);
        let room = MOST_FINDINGS.saturating_sub(findings.len());
        findings.extend(more.into_iter().take(room));
    }
}
