//! A device that fails when it is told to.
//!
//! # Invariants
//! * Requests of each kind are counted from 0; a rule strikes at its number, or from there on.
//! * Without a rule that strikes, a request goes to the inner device unchanged.
//!
//! # Locking
//! The counters are atomic; the bytes kept for stale reads have a lock of their own.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use butterfs_volume::BlockDevice;

use crate::filter::{Filter, Filtered};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reads.
    Read,
    /// Writes, each part of a batch for itself.
    Write,
    /// Flushes.
    Flush,
    /// All of them, counted together.
    Any,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request fails with this error number, and nothing is done.
    Error(i32),
    /// The first half is done, then it fails with this error number.
    Short(i32),
    /// The first half is written, and all is acknowledged.
    Torn,
    /// A write is acknowledged and not done.
    Lost,
    /// A write goes so many bytes further.
    Misdirected(u64),
    /// A read gives what was there before the last write.
    Stale,
    /// One bit of what is read is wrong.
    FlipOnRead,
    /// One bit of what is to be written is wrong.
    FlipOnWrite,
}

/// How long it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// One request.
    Once,
    /// All from then on.
    Forever,
}

/// Which request goes wrong, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is counted.
    pub request: Request,
    /// The number of the request.
    pub at: u64,
    /// What goes wrong.
    pub fault: Fault,
    /// How long.
    pub lasting: Lasting,
}

/// Linux's numbers of errors that devices give.
pub mod errno {
    /// Input/output error.
    pub const EIO: i32 = 5;
    /// No such device.
    pub const ENODEV: i32 = 19;
    /// No space left.
    pub const ENOSPC: i32 = 28;
}

impl Rule {
    /// A request of a kind that fails once.
    pub fn error(request: Request, at: u64) -> Self {
        Self { request, at, fault: Fault::Error(errno::EIO), lasting: Lasting::Once }
    }

    /// Another fault, once.
    pub fn once(request: Request, at: u64, fault: Fault) -> Self {
        Self { request, at, fault, lasting: Lasting::Once }
    }

    /// The file below is on a disk that is full from some write on.
    pub fn no_space(at: u64) -> Self {
        Self { request: Request::Write, at, fault: Fault::Error(errno::ENOSPC), lasting: Lasting::Forever }
    }

    /// The device is gone from some request on.
    pub fn vanish(at: u64) -> Self {
        Self { request: Request::Any, at, fault: Fault::Error(errno::ENODEV), lasting: Lasting::Forever }
    }
}

/// How many requests there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
}

const SECTOR: u64 = 512;

/// A device over another that fails by a rule.
pub type FaultDevice = Filtered<Faults>;

/// Counts requests and lets some of them fail.
pub struct Faults {
    rule: Option<Rule>,
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    struck: AtomicU64,
    /// What sectors held before their last write; kept only for stale reads.
    before: Mutex<HashMap<u64, Vec<u8>>>,
}

impl FaultDevice {
    /// A device that fails by `rule`, or only counts.
    pub fn new(inner: Arc<dyn BlockDevice>, rule: Option<Rule>) -> Self {
        let zero = AtomicU64::default;
        let (reads, writes, flushes, struck) = (zero(), zero(), zero(), zero());
        Self::over(inner, Faults { rule, reads, writes, flushes, struck, before: Mutex::default() })
    }
}

impl Faults {
    /// How many requests there were.
    pub fn counts(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { reads: load(&self.reads), writes: load(&self.writes), flushes: load(&self.flushes) }
    }

    /// How many requests the rule struck.
    pub fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// Counts a request; gives the fault that strikes it.
    fn strike(&self, request: Request) -> Option<Fault> {
        let all = self.counts();
        let own = match request {
            Request::Read => self.reads.fetch_add(1, Ordering::Relaxed),
            Request::Write => self.writes.fetch_add(1, Ordering::Relaxed),
            Request::Flush => self.flushes.fetch_add(1, Ordering::Relaxed),
            Request::Any => return None,
        };
        let rule = self.rule?;
        let number = match rule.request {
            Request::Any => all.reads + all.writes + all.flushes,
            kind if kind == request => own,
            _ => return None,
        };
        let struck = number == rule.at || number > rule.at && rule.lasting == Lasting::Forever;
        if struck {
            self.struck.fetch_add(1, Ordering::Relaxed);
        }
        struck.then_some(rule.fault)
    }

    fn remember(&self, inner: &dyn BlockDevice, offset: u64, len: usize) {
        if self.rule.is_none_or(|rule| rule.fault != Fault::Stale) {
            return;
        }
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        for at in (offset / SECTOR..(offset + len as u64).div_ceil(SECTOR)).map(|sector| sector * SECTOR) {
            let mut old = vec![0; SECTOR as usize];
            if inner.read_at(at, &mut old).is_ok() {
                before.insert(at, old);
            }
        }
    }

    fn make_stale(&self, offset: u64, buf: &mut [u8]) {
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, part) in buf.chunks_mut(SECTOR as usize).enumerate() {
            if let Some(old) = before.get(&(offset + index as u64 * SECTOR)) {
                part.copy_from_slice(&old[..part.len()]);
            }
        }
    }
}

fn flip(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
}

impl Filter for Faults {
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let fault = self.strike(Request::Read);
        if let Some(Fault::Error(errno) | Fault::Short(errno)) = fault {
            let half = buf.len() / 2;
            inner.read_at(offset, &mut buf[..half])?;
            return Err(io::Error::from_raw_os_error(errno));
        }
        inner.read_at(offset, buf)?;
        match fault {
            Some(Fault::FlipOnRead) => flip(buf),
            Some(Fault::Stale) => self.make_stale(offset, buf),
            _ => {}
        }
        Ok(())
    }

    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> io::Result<()> {
        let fault = self.strike(Request::Write);
        self.remember(inner, offset, buf.len());
        let half = &buf[..buf.len() / 2];
        match fault {
            Some(Fault::Error(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Short(errno)) => {
                inner.write_at(offset, half)?;
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Fault::Torn) => inner.write_at(offset, half),
            Some(Fault::Lost) => Ok(()),
            Some(Fault::Misdirected(by)) => {
                let last = inner.len().saturating_sub(buf.len() as u64);
                inner.write_at((offset + by).min(last), buf)
            }
            Some(Fault::FlipOnWrite) => {
                let mut wrong = buf.to_vec();
                flip(&mut wrong);
                inner.write_at(offset, &wrong)
            }
            Some(Fault::Stale | Fault::FlipOnRead) | None => inner.write_at(offset, buf),
        }
    }

    fn flush(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        match self.strike(Request::Flush) {
            Some(Fault::Error(errno) | Fault::Short(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Fault::Lost) => Ok(()),
            _ => inner.flush(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use butterfs_volume::MemDevice;

    fn device(rule: Rule) -> FaultDevice {
        FaultDevice::new(Arc::new(MemDevice::named("disk", 1 << 20)), Some(rule))
    }

    fn read(device: &FaultDevice, offset: u64) -> io::Result<[u8; 4]> {
        let mut bytes = [0; 4];
        device.read_at(offset, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let after_two_writes = |fault| {
            let device = device(Rule::once(Request::Write, 1, fault));
            device.write_at(0, &[1; 4]).unwrap();
            let result = device.write_at(0, &[2; 4]);
            (result.is_ok(), read(&device, 0).unwrap(), read(&device, 4096).unwrap())
        };
        assert_eq!(after_two_writes(Fault::Error(5)), (false, [1; 4], [0; 4]));
        assert_eq!(after_two_writes(Fault::Short(5)), (false, [2, 2, 1, 1], [0; 4]));
        assert_eq!(after_two_writes(Fault::Torn), (true, [2, 2, 1, 1], [0; 4]));
        assert_eq!(after_two_writes(Fault::Lost), (true, [1; 4], [0; 4]));
        assert_eq!(after_two_writes(Fault::Misdirected(4096)), (true, [1; 4], [2; 4]));
        assert_eq!(after_two_writes(Fault::FlipOnWrite), (true, [2, 2, 18, 2], [0; 4]));
        for (fault, bytes) in [(Fault::FlipOnRead, [2, 2, 18, 2]), (Fault::Stale, [1; 4])] {
            let device = device(Rule::once(Request::Read, 0, fault));
            device.write_at(0, &[1; 4]).unwrap();
            device.write_at(0, &[2; 4]).unwrap();
            assert_eq!((read(&device, 0).unwrap(), read(&device, 0).unwrap()), (bytes, [2; 4]));
        }
    }

    #[test]
    fn a_device_that_is_gone_stays_gone() {
        let device = device(Rule::vanish(2));
        device.write_at(0, &[1; 4]).unwrap();
        device.flush().unwrap();
        assert!(read(&device, 0).is_err() && device.flush().is_err() && device.write_at(0, &[1]).is_err());
        assert_eq!(device.counts(), Counts { reads: 1, writes: 2, flushes: 2 });
        assert_eq!(device.struck(), 3);
    }
}
