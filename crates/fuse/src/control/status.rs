//! How a mount is.

use std::io;
use std::os::fd::BorrowedFd;

use butterfs_os::flat_ioctl::flat_ioctl;
use zerocopy::FromBytes;

use super::wire::{self, StatusRecord};

/// What can be done with a mounted filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountState {
    /// Reading and writing.
    ReadWrite,
    /// Reading, as was asked for.
    ReadOnly,
    /// Reading, because of an error.
    Error,
}

/// The error that made a filesystem read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFailure {
    /// The first cause.
    pub cause: String,
    /// When: seconds since 1970, and nanoseconds.
    pub at: (i64, u32),
    /// The transaction that was not committed any more.
    pub generation: u64,
}

/// How a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountStatus {
    /// What can be done.
    pub state: MountState,
    /// Why no more.
    pub failure: Option<MountFailure>,
    /// How often data of a file was lost on its way to the devices.
    pub lost_writes: u64,
    /// The last such error.
    pub last_lost_write: Option<String>,
    /// The image or device.
    pub device: String,
    /// The options it was mounted with.
    pub options: String,
    /// The process that serves it.
    pub pid: u32,
    /// The last durable transaction.
    pub committed: u64,
    /// When it became durable: seconds since 1970 and nanoseconds; `None` if before this mount.
    pub committed_at: Option<(i64, u32)>,
    /// Bytes of files that are in memory only.
    pub dirty_bytes: u64,
    /// Subvolumes that are deleted and not gone yet.
    pub deleted_subvolumes: u64,
}

impl MountStatus {
    /// Whether nothing went wrong.
    pub fn is_healthy(&self) -> bool {
        self.state != MountState::Error && self.lost_writes == 0
    }
}

/// Asks a mount, by any file in it.
pub fn status(file: BorrowedFd<'_>) -> io::Result<MountStatus> {
    let mut answer = vec![0; wire::size_of_command(wire::STATUS)];
    flat_ioctl(file, wire::STATUS, &mut answer)?;
    parse(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse(answer: &[u8]) -> Option<MountStatus> {
    let (record, mut rest) = StatusRecord::read_from_prefix(answer).ok()?;
    let mut texts = [const { String::new() }; 4];
    for (text, len) in texts.iter_mut().zip(record.texts) {
        let (own, behind) = rest.split_at_checked(usize::from(len.get()))?;
        *text = String::from_utf8_lossy(own).into_owned();
        rest = behind;
    }
    let [cause, lost, device, options] = texts;
    let state = match record.state.get() {
        0 => MountState::ReadWrite,
        1 => MountState::ReadOnly,
        2 => MountState::Error,
        _ => return None,
    };
    let at = (record.error_sec.get().cast_signed(), record.error_nsec.get());
    let failure = MountFailure { cause, at, generation: record.error_generation.get() };
    let committed_at = (record.committed_sec.get().cast_signed(), record.committed_nsec.get());
    Some(MountStatus {
        state,
        failure: (state == MountState::Error).then_some(failure),
        lost_writes: record.lost_writes.get(),
        last_lost_write: (!lost.is_empty()).then_some(lost),
        device,
        options,
        pid: record.pid.get(),
        committed: record.committed.get(),
        committed_at: (committed_at.0 != 0).then_some(committed_at),
        dirty_bytes: record.dirty_bytes.get(),
        deleted_subvolumes: record.deleted_subvolumes.get(),
    })
}

/// The answer of a mount; texts that are too long are cut.
pub(crate) fn pack(status: &MountStatus) -> Vec<u8> {
    use zerocopy::IntoBytes;
    /// All of them together fit the command.
    const LONGEST: usize = 1900;
    let cut = |text: &str| text.as_bytes()[..text.len().min(LONGEST)].to_vec();
    let cause = status.failure.as_ref().map_or("", |failure| &failure.cause);
    let lost = status.last_lost_write.as_deref().unwrap_or_default();
    let texts = [cause, lost, &status.device, &status.options].map(cut);
    let at = status.failure.as_ref().map_or((0, 0), |failure| failure.at);
    let committed_at = status.committed_at.unwrap_or_default();
    let record = StatusRecord {
        state: match status.state {
            MountState::ReadWrite => 0,
            MountState::ReadOnly => 1,
            MountState::Error => 2,
        }
        .into(),
        pid: status.pid.into(),
        error_sec: at.0.cast_unsigned().into(),
        error_nsec: at.1.into(),
        error_generation: status.failure.as_ref().map_or(0, |failure| failure.generation).into(),
        lost_writes: status.lost_writes.into(),
        committed: status.committed.into(),
        committed_sec: committed_at.0.cast_unsigned().into(),
        committed_nsec: committed_at.1.into(),
        dirty_bytes: status.dirty_bytes.into(),
        deleted_subvolumes: status.deleted_subvolumes.into(),
        texts: [0, 1, 2, 3].map(|index: usize| (texts[index].len() as u16).into()),
    };
    let mut answer = record.as_bytes().to_vec();
    texts.iter().for_each(|text| answer.extend(text));
    answer.resize(wire::size_of_command(wire::STATUS), 0);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_round_trips() {
        let failure = MountFailure { cause: "the disk burns".into(), at: (5, 6), generation: 7 };
        let failed = MountStatus {
            state: MountState::Error,
            failure: Some(failure),
            lost_writes: 3,
            last_lost_write: Some("too hot".into()),
            device: "/dev/x".into(),
            options: "rw,commit=5".into(),
            pid: 4711,
            committed: 6,
            committed_at: Some((4, 0)),
            dirty_bytes: 4096,
            deleted_subvolumes: 2,
        };
        assert_eq!(parse(&pack(&failed)), Some(failed.clone()));
        let well = MountStatus {
            state: MountState::ReadWrite,
            failure: None,
            lost_writes: 0,
            last_lost_write: None,
            committed_at: None,
            options: "x".repeat(5000),
            ..failed
        };
        let found = parse(&pack(&well)).unwrap();
        assert_eq!((found.options.len(), &found.failure, found.is_healthy()), (1900, &None, true));
        assert_eq!(parse(&[0; 10]), None);
    }
}
