//! Names, labels and UUIDs.

use std::fmt::{self, Display, Formatter, Write};

/// A name or a value of an extended attribute: blanks, backslashes, and bytes that are not printable
/// ASCII are escaped, the latter in octal.
pub struct Escaped<'a>(pub &'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b' ' => f.write_str("\\ "),
            b'\\' => f.write_str("\\\\"),
            0x21..=0x7e => f.write_char(char::from(*byte)),
            _ => write_escape(f, *byte),
        })
    }
}

fn write_escape(f: &mut Formatter<'_>, byte: u8) -> fmt::Result {
    let letter = match byte {
        0x07 => 'a',
        0x08 => 'b',
        0x1b => 'e',
        0x0c => 'f',
        b'\n' => 'n',
        b'\r' => 'r',
        b'\t' => 't',
        0x0b => 'v',
        _ => return write!(f, "\\{byte:03o}"),
    };
    write!(f, "\\{letter}")
}

/// Text up to its first zero byte, for places where progs prints bytes as they are: what is not UTF-8,
/// and control characters, are escaped here, so that a line stays a line.
pub struct Plain<'a>(pub &'a [u8]);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        for chunk in text.utf8_chunks() {
            chunk.valid().chars().try_for_each(|c| match c {
                '\0'..='\x1f' | '\x7f' => write_escape(f, c as u8),
                _ => f.write_char(c),
            })?;
            chunk.invalid().iter().try_for_each(|byte| write_escape(f, *byte))?;
        }
        Ok(())
    }
}

/// Bytes of the superblock: what is not printable ASCII becomes a dot.
pub struct Printable<'a>(pub &'a [u8]);

impl Display for Printable<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            0x20..=0x7e => f.write_char(char::from(*byte)),
            _ => f.write_char('.'),
        })
    }
}

/// A UUID in lower case.
pub struct UuidText<'a>(pub &'a [u8; 16]);

impl Display for UuidText<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes_ref(self.0).as_hyphenated().fmt(f)
    }
}

/// Bytes in hexadecimal.
pub struct Hex<'a>(pub &'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
