//! What a workload did to its devices, in one order over all of them.
//!
//! # Invariants
//! * A write is noted before it is done, a flush after it returned: what the recording calls durable was durable.
//! * A flush makes durable what was written before it began; a write that was under way then is not covered.
//!
//! # Locking
//! One lock over the list of events, held to append; never while the inner device works.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use butterfs_volume::BlockDevice;

use crate::filter::{Filter, Filtered};

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes were given to a device.
    Write {
        /// Which device, in the order of [`Recorder::device`].
        device: usize,
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// A range was declared unneeded.
    Discard {
        /// Which device.
        device: usize,
        /// Where.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// A flush returned.
    Flush {
        /// Which device.
        device: usize,
        /// How many events there were when it began.
        begun: usize,
        /// Writes that were under way then.
        under_way: Vec<usize>,
    },
    /// The workload says something, such as "commit 7 returned".
    Mark(String),
}

impl Event {
    /// The device, if this event changes one.
    pub fn changed_device(&self) -> Option<usize> {
        match self {
            Self::Write { device, .. } | Self::Discard { device, .. } => Some(*device),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Log {
    events: Vec<Event>,
    under_way: BTreeSet<usize>,
    devices: usize,
}

/// Gathers the events of several devices.
#[derive(Default)]
pub struct Recorder {
    log: Mutex<Log>,
}

impl Recorder {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A device that records what is done to `inner`.
    pub fn device(self: &Arc<Self>, inner: Arc<dyn BlockDevice>) -> Arc<RecordingDevice> {
        let mut log = self.log();
        let number = log.devices;
        log.devices += 1;
        Arc::new(Filtered::over(inner, Recording { recorder: Arc::clone(self), number }))
    }

    /// Notes what the workload says; gives the number of events up to and with this one.
    pub fn mark(&self, label: impl Into<String>) -> usize {
        let mut log = self.log();
        log.events.push(Event::Mark(label.into()));
        log.events.len()
    }

    /// How many events there are.
    pub fn position(&self) -> usize {
        self.log().events.len()
    }

    /// All events so far.
    pub fn events(&self) -> Vec<Event> {
        self.log().events.clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event that changes a device, does it, and notes that it is done.
    fn change(&self, event: Event, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let number = {
            let mut log = self.log();
            let number = log.events.len();
            log.events.push(event);
            log.under_way.insert(number);
            number
        };
        let result = work();
        // One that failed may have been done in part, and is never known to be durable.
        if result.is_ok() {
            self.log().under_way.remove(&number);
        }
        result
    }

    fn flush(&self, device: usize, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let (begun, under_way) = {
            let log = self.log();
            (log.events.len(), log.under_way.iter().copied().collect())
        };
        work()?;
        self.log().events.push(Event::Flush { device, begun, under_way });
        Ok(())
    }
}

/// A device that notes all writes, discards and flushes.
pub type RecordingDevice = Filtered<Recording>;

/// Which device of which recorder.
pub struct Recording {
    recorder: Arc<Recorder>,
    number: usize,
}

impl Filter for Recording {
    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> io::Result<()> {
        let event = Event::Write { device: self.number, offset, bytes: buf.into() };
        self.recorder.change(event, || inner.write_at(offset, buf))
    }

    fn flush(&self, inner: &dyn BlockDevice) -> io::Result<()> {
        self.recorder.flush(self.number, || inner.flush())
    }

    fn discard(&self, inner: &dyn BlockDevice, offset: u64, len: u64) -> io::Result<()> {
        let event = Event::Discard { device: self.number, offset, len };
        self.recorder.change(event, || inner.discard(offset, len))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use butterfs_volume::MemDevice;

    #[test]
    fn events_of_two_devices_are_in_one_order() {
        let recorder = Recorder::new();
        let devices = [0, 1].map(|n| recorder.device(Arc::new(MemDevice::named(format!("disk {n}"), 1 << 20))));
        devices[1].write_batch(&[(0, &[1]), (9, &[2])]).unwrap();
        devices[0].write_at(5, &[3]).unwrap();
        devices[1].flush().unwrap();
        assert_eq!(recorder.mark("done"), 5);
        assert!(devices[0].write_at(1 << 20, &[1]).is_err());
        let events = recorder.events();
        let changed: Vec<_> = events.iter().map(Event::changed_device).collect();
        assert_eq!(changed, [Some(1), Some(1), Some(0), None, None, Some(0)]);
        assert!(matches!(&events[3], Event::Flush { device: 1, begun: 3, under_way } if under_way.is_empty()));
        devices[0].flush().unwrap();
        let Event::Flush { under_way, .. } = &recorder.events()[6] else { panic!() };
        assert_eq!(under_way, &[5], "a failed write is not durable");
    }
}
