//! A stream, read from its start, one command at a time.
//!
//! # Invariants
//! * Nothing is read beyond the command that ends the stream: another stream may follow in the same input.
//! * Once the stream is broken, it stays so.

use std::fmt::Display;
use std::io::{self, Read};

use super::attributes::{Attributes, Problem};
use super::{COMMAND_HEADER, Command, CommandKind, MAGIC, STREAM_HEADER, command_checksum, parse};
use crate::Corruption;

/// The longest command that is read, without its header. Linux keeps to 64 KiB in version 1 and to some 144 KiB in
/// version 2 (`BTRFS_SEND_BUF_SIZE_V1` and `_V2` in `fs/btrfs/send.h`), which names no limit for others.
pub const MAX_COMMAND: u32 = 16 << 20;

/// The version of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Version {
    /// The first; what `btrfs send` makes if it is not told otherwise.
    V1 = 1,
    /// Data attributes without a length; fallocate, flags of files, encoded writes. Linux 6.0.
    V2 = 2,
    /// fs-verity. Only kernels with `CONFIG_BTRFS_EXPERIMENTAL` send it.
    V3 = 3,
}

impl Version {
    /// The version of a number in a stream.
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::V1, Self::V2, Self::V3].into_iter().find(|version| *version as u32 == number)
    }
}

/// Why a command could not be read. What it says of the stream begins with the place in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input cannot be read.
    #[error("send stream offset {offset}: read from stream failed: {source}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// Why no further.
        source: io::Error,
    },
    /// Nothing that follows can be read.
    #[error(transparent)]
    Broken(Corruption),
    /// One command is wrong; it was passed over, and the next one can be read.
    #[error(transparent)]
    Command(Corruption),
}

type Result<T> = std::result::Result<T, Error>;

/// Reads a stream. Give it a buffered input: it reads small pieces.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    version: Version,
    /// Bytes read so far.
    offset: u64,
    /// The command that was read last, with its header.
    command: Vec<u8>,
    skipped: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Running,
    Ended,
    Broken(Corruption),
}

impl<R: Read> Reader<R> {
    /// Begins to read; `None` if there is not one byte.
    ///
    /// # Errors
    /// If it is no stream, or of a version that is not known.
    pub fn open(input: R) -> Result<Option<Self>> {
        let mut reader =
            Self { input, version: Version::V1, offset: 0, command: Vec::new(), skipped: 0, state: State::Running };
        match reader.fill(STREAM_HEADER)? {
            0 => return Ok(None),
            STREAM_HEADER => {}
            len => return Err(Error::Broken(short(len as u64, STREAM_HEADER, len, None))),
        }
        let (magic, version) = reader.command.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(Error::Broken(Corruption::new(place(0, None), "unexpected header: not a send stream")));
        }
        let number = u32::from_le_bytes(version.try_into().expect("four bytes follow the magic"));
        reader.version = Version::from_number(number).ok_or_else(|| {
            let text = format!("stream version {number} not supported; versions 1, 2 and 3 are");
            Error::Broken(Corruption::new(place(MAGIC.len() as u64, None), text))
        })?;
        Ok(Some(reader))
    }

    /// The stream's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many commands of unknown kinds were passed over, as `btrfs receive` does.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next command; `None` after the one that ends the stream.
    ///
    /// # Errors
    /// See [`Error`]: after [`Error::Command`] one may go on.
    pub fn read_command(&mut self) -> Result<Option<Command<'_>>> {
        match &self.state {
            State::Running => {}
            State::Ended => return Ok(None),
            State::Broken(corruption) => return Err(Error::Broken(corruption.clone())),
        }
        let (offset, kind) = loop {
            let offset = self.offset;
            match CommandKind::from_number(self.next_command()?) {
                Some(kind) => break (offset, kind),
                None => self.skip(offset)?,
            }
        };
        if kind == CommandKind::End {
            self.state = State::Ended;
        }
        let wrong = |problem| wrong_command(offset, kind, problem);
        let attributes = Attributes::parse(&self.command[COMMAND_HEADER..], self.version).map_err(wrong)?;
        let parsed = parse::command(kind, &attributes).map_err(wrong)?;
        Ok(parsed.map(|(path, action)| Command { offset, path, action }))
    }

    /// A command of an unknown kind must have attributes of known kinds nevertheless.
    fn skip(&mut self, offset: u64) -> Result<()> {
        let checked = Attributes::parse(&self.command[COMMAND_HEADER..], self.version);
        let number = self.number();
        checked.map_err(|problem| wrong_command(offset, format_args!("number {number}"), problem))?;
        self.skipped += 1;
        Ok(())
    }

    /// Reads a command and holds it against its checksum; gives its number.
    fn next_command(&mut self) -> Result<u16> {
        let offset = self.offset;
        let header = self.fill(COMMAND_HEADER)?;
        if header < COMMAND_HEADER {
            return Err(self.break_off(short(self.offset, COMMAND_HEADER, header, None)));
        }
        let len = u32::from_le_bytes(self.command[..4].try_into().expect("four bytes of ten"));
        let number = self.number();
        let name = name_of(number);
        if len > MAX_COMMAND {
            let text = format!("a command of {len} bytes; at most {MAX_COMMAND} are read");
            return Err(self.break_off(Corruption::new(place(offset, Some(&name)), text)));
        }
        let body = self.add(len as usize)?;
        if body < len as usize {
            return Err(self.break_off(short(self.offset, len as usize, body, Some(&name))));
        }
        let stored = u32::from_le_bytes(self.command[6..10].try_into().expect("four bytes of ten"));
        let computed = command_checksum(&self.command);
        if stored != computed {
            let text = format!("crc32 mismatch in command: {stored:#010x} is stored, {computed:#010x} is right");
            return Err(Error::Command(Corruption::new(place(offset, Some(&name)), text)));
        }
        Ok(number)
    }

    /// The number of the command that was read last.
    fn number(&self) -> u16 {
        u16::from_le_bytes(self.command[4..6].try_into().expect("two bytes of ten"))
    }

    /// Reads so many bytes in place of what was read before, or fewer at the input's end.
    fn fill(&mut self, len: usize) -> Result<usize> {
        self.command.clear();
        self.add(len)
    }

    /// Reads so many bytes behind what was read, or fewer at the input's end. Memory grows with what comes.
    fn add(&mut self, len: usize) -> Result<usize> {
        let before = self.command.len();
        let read = self.input.by_ref().take(len as u64).read_to_end(&mut self.command);
        let got = self.command.len() - before;
        self.offset += got as u64;
        read.map_err(|source| Error::Read { offset: self.offset, source })
    }

    fn break_off(&mut self, corruption: Corruption) -> Error {
        self.state = State::Broken(corruption.clone());
        Error::Broken(corruption)
    }
}

fn name_of(number: u16) -> String {
    CommandKind::from_number(number).map_or_else(|| format!("number {number}"), |kind| kind.to_string())
}

fn place(offset: u64, command: Option<&dyn Display>) -> String {
    let command = command.map(|command| format!(", command {command}")).unwrap_or_default();
    format!("send stream offset {offset}{command}")
}

/// The input ends where more is needed.
fn short(offset: u64, wanted: usize, got: usize, command: Option<&dyn Display>) -> Corruption {
    let text = match got {
        0 => "unexpected EOF in stream".to_owned(),
        _ => format!("short read from stream: expected {wanted} read {got}"),
    };
    Corruption::new(place(offset, command), text)
}

/// `offset` is where the command begins.
fn wrong_command(offset: u64, command: impl Display, problem: Problem) -> Error {
    let within = problem.at.map_or(0, |at| (COMMAND_HEADER + at) as u64);
    let attribute = problem.attribute.map(|attribute| format!(", attribute {attribute}")).unwrap_or_default();
    let place = place(offset + within, Some(&command)) + &attribute;
    Error::Command(Corruption::new(place, problem.text))
}
