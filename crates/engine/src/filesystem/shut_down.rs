//! Stopping a filesystem as it is, as a power cut would: for tests of what is durable.

use super::{Access, Filesystem};
use crate::error::Result;

/// What becomes of changes that are in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutDown {
    /// They are made durable first.
    Flush,
    /// They are lost, but for what fsync made durable.
    Lose,
}

impl Filesystem {
    /// Stops writing for good: every change is refused with [`Error::ShutDown`] from now on, closing
    /// writes nothing, and the next who opens the devices finds what is durable now. Who shows the filesystem to
    /// others refuses to read, too: what is in memory only is lost already.
    ///
    /// [`Error::ShutDown`]: crate::Error::ShutDown
    pub fn shut_down(&self, how: ShutDown) -> Result<()> {
        if how == ShutDown::Flush && self.access() == Access::ReadWrite && !self.is_shut_down() {
            self.sync_quietly()?;
        }
        self.shared.gate.shut_down();
        Ok(())
    }

    /// Whether [`Filesystem::shut_down`] was called.
    pub fn is_shut_down(&self) -> bool {
        self.shared.gate.is_shut_down()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{FILE, device, judge, open, top};
    use super::*;
    use crate::error::Error;

    /// What is durable stays, what is not goes, and closing writes nothing.
    #[test]
    fn a_shutdown_leaves_what_a_power_cut_leaves() {
        for how in [ShutDown::Lose, ShutDown::Flush] {
            let device = device();
            let fs = open(&device);
            fs.create(top(b"committed"), &FILE).unwrap();
            fs.sync().unwrap();
            let logged = fs.create(top(b"logged"), &FILE).unwrap();
            fs.write(logged, 0, b"bytes").unwrap();
            fs.fsync(logged).unwrap();
            let in_memory = fs.create(top(b"in memory"), &FILE).unwrap();
            fs.write(in_memory, 0, b"bytes").unwrap();
            fs.shut_down(how).unwrap();
            assert!(fs.is_shut_down());
            assert!(matches!(fs.create(top(b"late"), &FILE), Err(Error::ShutDown)));
            // What is durable needs nothing.
            assert_eq!(matches!(fs.fsync(in_memory), Err(Error::ShutDown)), how == ShutDown::Lose);
            assert!(matches!(fs.sync(), Err(Error::ShutDown)));
            fs.shut_down(how).unwrap();
            drop(fs);

            let fs = open(&device);
            fs.lookup(top(b"committed")).unwrap();
            let mut bytes = [0; 8];
            assert_eq!(fs.read(fs.lookup(top(b"logged")).unwrap(), 0, &mut bytes).unwrap(), 5);
            assert_eq!(fs.lookup(top(b"in memory")).is_ok(), how == ShutDown::Flush);
            judge(&device, fs);
        }
    }
}
