//! Standard output. Who reads it may go away: that ends the output, not in a panic.

use std::fmt::Display;
use std::io::Write;

/// Prints a line.
pub fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
