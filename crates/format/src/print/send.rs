//! Commands of send streams, a line each, as `btrfs receive --dump` prints them: the command in 16 columns, its path
//! below `./SUBVOLUME` in 32, then its values.

use std::fmt::{self, Display, Formatter};

use super::{Escaped, LocalTime, UuidText, WallClock};
use crate::items::Timespec;
use crate::send::{Action, CloneRange, Command, EncodedWrite, Verity};

/// Makes the lines of a stream's commands, which must come in order: the subvolume that one makes is in the paths of
/// those that follow.
#[derive(Clone, Debug)]
pub struct SendText {
    subvolume: Vec<u8>,
    local_time: LocalTime,
}

impl SendText {
    /// At a stream's start.
    pub fn new(local_time: LocalTime) -> Self {
        Self { subvolume: b".".to_vec(), local_time }
    }

    /// The line of the next command, without its end.
    pub fn line<'a>(&'a mut self, command: &'a Command<'a>) -> SendLine<'a> {
        if let Action::Subvol { .. } | Action::Snapshot { .. } = command.action {
            self.subvolume = joined(b".", command.path);
        }
        SendLine { text: self, command }
    }

    fn path(&self, path: &[u8]) -> Vec<u8> {
        joined(&self.subvolume, path)
    }

    fn time(&self, time: &Timespec) -> IsoTime {
        IsoTime((self.local_time.0)(time.seconds()))
    }
}

/// A command as a line.
#[derive(Clone, Copy, Debug)]
pub struct SendLine<'a> {
    text: &'a SendText,
    command: &'a Command<'a>,
}

impl Display for SendLine<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (text, Command { path, action, .. }) = (self.text, self.command);
        let full = match action {
            Action::Subvol { .. } | Action::Snapshot { .. } => text.subvolume.clone(),
            _ => text.path(path),
        };
        write!(f, "{:<16}", action.kind())?;
        let full = Escaped(&full).to_string();
        if has_no_values(action) {
            return f.write_str(&full);
        }
        write!(f, "{full:<31} ")?;
        self.values(f)
    }
}

fn has_no_values(action: &Action<'_>) -> bool {
    matches!(
        action,
        Action::MkFile { .. }
            | Action::MkDir { .. }
            | Action::MkFifo { .. }
            | Action::MkSock { .. }
            | Action::Unlink
            | Action::RmDir
    )
}

impl SendLine<'_> {
    fn values(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.command.action {
            Action::Subvol { uuid, ctransid } => write!(f, "uuid={} transid={ctransid}", UuidText(uuid)),
            Action::Snapshot { uuid, ctransid, clone_uuid, clone_ctransid } => {
                write!(f, "uuid={} transid={ctransid} ", UuidText(uuid))?;
                write!(f, "parent_uuid={} parent_transid={clone_ctransid}", UuidText(clone_uuid))
            }
            Action::MkNod { mode, rdev, .. } => write!(f, "mode={mode:o} dev={rdev:#x}"),
            Action::Symlink { target: dest, .. } | Action::Link { existing: dest } => {
                write!(f, "dest={}", Escaped(dest))
            }
            Action::Rename { to } => write!(f, "dest={}", Escaped(&self.text.path(to))),
            Action::SetXattr { name, value } => {
                write!(f, "name={} {} len={}", Escaped(name), Escaped(value), value.len())
            }
            Action::RemoveXattr { name } => write!(f, "name={}", Escaped(name)),
            Action::Chmod { mode } => write!(f, "mode={mode:o}"),
            Action::Chown { uid, gid } => write!(f, "gid={gid} uid={uid}"),
            Action::Utimes { atime, mtime, ctime, .. } => {
                let [atime, mtime, ctime] = [atime, mtime, ctime].map(|time| self.text.time(time));
                write!(f, "atime={atime} mtime={mtime} ctime={ctime}")
            }
            // The prefix is btrfs-progs', and so is the number behind it: decimal.
            Action::FileAttr { flags } => write!(f, "fileattr=0x{flags}"),
            Action::EnableVerity(Verity { algorithm, block_size, salt, signature }) => {
                write!(f, "algorithm={algorithm} block_size={block_size} ")?;
                write!(f, "salt_len={} sig_len={}", salt.len(), signature.len())
            }
            action => self.data(f, action),
        }
    }

    fn data(&self, f: &mut Formatter<'_>, action: &Action<'_>) -> fmt::Result {
        match action {
            Action::Write { offset, data } => write!(f, "offset={offset} len={}", data.len()),
            Action::EncodedWrite(write) => encoded(f, write),
            Action::Clone(CloneRange { offset, len, path, clone_offset, .. }) => {
                let from = self.text.path(path);
                write!(f, "offset={offset} len={len} from={} clone_offset={clone_offset}", Escaped(&from))
            }
            Action::Truncate { size } => write!(f, "size={size}"),
            Action::UpdateExtent { offset, len } => write!(f, "offset={offset} len={len}"),
            // A signed number, as fallocate(2) takes it.
            Action::Fallocate { mode, offset, len } => {
                write!(f, "mode={} offset={offset} len={len}", mode.cast_signed())
            }
            _ => Ok(()),
        }
    }
}

fn encoded(f: &mut Formatter<'_>, write: &EncodedWrite<'_>) -> fmt::Result {
    let EncodedWrite { offset, unencoded_file_len, unencoded_len, unencoded_offset, compression, encryption, data } =
        write;
    write!(f, "offset={offset} len={} unencoded_file_len={unencoded_file_len} ", data.len())?;
    write!(f, "unencoded_len={unencoded_len} unencoded_offset={unencoded_offset} ")?;
    write!(f, "compression={compression} encryption={encryption}")
}

/// Two paths with one slash between them: the last one of each goes.
fn joined(before: &[u8], after: &[u8]) -> Vec<u8> {
    let bare = |path: &[u8]| path.strip_suffix(b"/").unwrap_or(path).to_vec();
    [bare(before), bare(after)].join(&b'/')
}

/// `2026-11-28T02:49:04+0545`.
struct IsoTime(WallClock);

impl Display for IsoTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let WallClock { year, month, day, clock: [hour, minute, second], ahead } = self.0;
        let (sign, zone) = (if ahead < 0 { '-' } else { '+' }, ahead.unsigned_abs() / 60);
        write!(f, "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        write!(f, "{sign}{:02}{:02}", zone / 60, zone % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Generation;

    fn command<'a>(path: &'a [u8], action: Action<'a>) -> Command<'a> {
        Command { offset: 17, path, action }
    }

    #[test]
    fn paths_are_below_the_subvolume_that_came_last() {
        let mut text = SendText::new(LocalTime::UTC);
        let mut line = |path, action| text.line(&command(path, action)).to_string();
        assert_eq!(line(b"x", Action::Unlink), "unlink          ./x");
        let subvol = Action::Subvol { uuid: [0x11; 16], ctransid: Generation(7) };
        let uuid = "11111111-1111-1111-1111-111111111111";
        let made = format!("subvol          ./a\\ b                          uuid={uuid} transid=7");
        assert_eq!(line(b"a b/", subvol), made);
        assert_eq!(line(b"", Action::RmDir), "rmdir           ./a\\ b/");
        let renamed = "rename          ./a\\ b/\\351                     dest=./a\\ b/y\\n";
        assert_eq!(line(b"\xe9", Action::Rename { to: b"y\n" }), renamed);
        assert_eq!(
            line(&[b'l'; 40], Action::Chmod { mode: 0o644 })[16..][..49],
            format!("./a\\ b/{} m", "l".repeat(40))
        );
    }

    #[test]
    fn what_the_kernel_does_not_send_yet_has_its_lines() {
        let mut text = SendText::new(LocalTime(|seconds| WallClock { ahead: -12_660, ..WallClock::utc(seconds) }));
        let mut line =
            |action| text.line(&command(b"x", action)).to_string()[16..].trim_start_matches("./x").to_owned();
        let verity = Verity { algorithm: 1, block_size: 4096, salt: b"ab", signature: b"" };
        let values = line(Action::EnableVerity(verity));
        assert_eq!(values.trim_start(), "algorithm=1 block_size=4096 salt_len=2 sig_len=0");
        assert_eq!(line(Action::FileAttr { flags: 64 }).trim_start(), "fileattr=0x64");
        let mode = Action::Fallocate { mode: u32::MAX, offset: 1, len: 2 };
        assert_eq!(line(mode).trim_start(), "mode=-1 offset=1 len=2");
        let [atime, mtime, ctime] = [0, -1, 5_000_000_000].map(|seconds| Timespec::new(seconds, 9));
        assert_eq!(
            line(Action::Utimes { atime, mtime, ctime, otime: None }).trim_start(),
            "atime=1970-01-01T00:00:00-0331 mtime=1969-12-31T23:59:59-0331 ctime=2128-06-11T08:53:20-0331"
        );
    }
}
