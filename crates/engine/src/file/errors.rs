//! Errors of writeback, told once to each open file.
//!
//! Writeback runs when nobody waits for it. So an error is kept with a number, and every open file
//! has a cursor: the number it was told last. This is what Linux does (`errseq_t`), with the same
//! rule for files opened later: they are told of an error only if nobody was told before.
//!
//! # Locking
//! A leaf.

use std::sync::Mutex;

use butterfs_volume::Error::Device;

use super::sectors::lock;
use crate::error::{Error, Result};

/// What an open file was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCursor(u64);

impl ErrorCursor {
    /// Whether nothing was ever told, so that this cursor need not be kept.
    pub fn is_new(self) -> bool {
        self.0 == 0
    }
}

/// The errors of one file, or of all.
#[derive(Debug, Default)]
pub struct WriteErrors(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    number: u64,
    told: bool,
    last: Option<Error>,
}

impl WriteErrors {
    /// Data was lost because of this.
    pub fn note(&self, error: &Error) {
        let mut inner = lock(&self.0);
        inner.number += 1;
        inner.told = false;
        inner.last = Some(twin(error));
    }

    /// Whether there was one.
    pub fn any(&self) -> bool {
        lock(&self.0).number > 0
    }

    /// How many there were, and the last one.
    pub fn count(&self) -> (u64, Option<String>) {
        let inner = lock(&self.0);
        (inner.number, inner.last.as_ref().map(Error::to_string))
    }

    /// The cursor of a file that is opened now.
    pub fn sample(&self) -> ErrorCursor {
        let inner = lock(&self.0);
        ErrorCursor(if inner.told { inner.number } else { 0 })
    }

    /// The last error, if one came since the cursor's; the cursor is told of it with that.
    pub fn tell(&self, cursor: &mut ErrorCursor) -> Result<()> {
        let mut inner = lock(&self.0);
        if cursor.0 == inner.number {
            return Ok(());
        }
        cursor.0 = inner.number;
        inner.told = true;
        inner.last.as_ref().map_or(Ok(()), |error| Err(twin(error)))
    }
}

/// An error like this one, to be told later.
fn twin(error: &Error) -> Error {
    match error {
        Error::NoSpace => Error::NoSpace,
        Error::NotFound => Error::NotFound,
        Error::ReadOnly => Error::ReadOnly,
        Error::Aborted(cause) => Error::Aborted(cause.clone()),
        Error::ShutDown => Error::ShutDown,
        Error::Corruption(corruption) => Error::Corruption(corruption.clone()),
        Error::Unsupported(what) => Error::Unsupported(what.clone()),
        Error::Volume(Device { name, devid, source }) => {
            let source = std::io::Error::new(source.kind(), source.to_string());
            Error::Volume(Device { name: name.clone(), devid: *devid, source })
        }
        other => {
            let source = std::io::Error::other(other.to_string());
            Error::Volume(Device { name: "earlier writeback".into(), devid: None, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_open_file_is_told_once() {
        let errors = WriteErrors::default();
        let (mut first, mut second) = (errors.sample(), errors.sample());
        assert!(errors.tell(&mut first).is_ok());
        errors.note(&Error::NoSpace);
        // Nobody was told yet: who opens the file now is told, too.
        let mut third = errors.sample();
        for cursor in [&mut first, &mut second, &mut third] {
            assert!(matches!(errors.tell(cursor), Err(Error::NoSpace)));
            assert!(errors.tell(cursor).is_ok());
        }
        let mut late = errors.sample();
        assert!(errors.tell(&mut late).is_ok());
        errors.note(&Error::NotFound);
        assert!(matches!(errors.tell(&mut late), Err(Error::NotFound)));
        assert!(errors.tell(&mut first).is_err() && errors.tell(&mut first).is_ok());
    }
}
