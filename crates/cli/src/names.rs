//! Names of files, which are any bytes, for people to read.

use std::fmt::{self, Display, Formatter, Write};

/// A name for a terminal or a message: one line, whatever is in it. Control characters and what is not
/// UTF-8 are escaped, and so are backslashes.
pub struct Shown<'a>(pub &'a [u8]);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            chunk.valid().chars().try_for_each(|c| match c {
                '\\' | '\n' | '\r' | '\t' => write!(f, "{}", c.escape_default()),
                // What turns the order of characters around could make a name look like another.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => write!(f, "{}", c.escape_unicode()),
                c if c.is_control() && c.is_ascii() => write!(f, "\\x{:02x}", c as u32),
                c if c.is_control() => write!(f, "{}", c.escape_unicode()),
                c => f.write_char(c),
            })?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_on_its_line() {
        let shown = |name: &[u8]| Shown(name).to_string();
        assert_eq!(shown("über a b".as_bytes()), "über a b");
        assert_eq!(shown(b"a\nb\\c\x1b[2J\x7f\xff"), "a\\nb\\\\c\\x1b[2J\\x7f\\xff");
        assert_eq!(shown("\u{9b}\u{202e}gpj.exe".as_bytes()), "\\u{9b}\\u{202e}gpj.exe");
    }
}
