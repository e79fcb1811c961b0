//! Standard output. Who reads it may go away: that ends the output, not in a panic.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;

/// Prints a line.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Says on standard error that something went wrong, and that the rest goes on.
pub fn complain(command: &str, problem: impl Display) {
    let _ = writeln!(io::stderr().lock(), "butterfs {command}: {}", problem.to_string().replace('\n', " "));
}

/// The same, in the name of a program that people and scripts know the words of.
pub fn say_as(program: &str, text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{program}: {}", text.to_string().replace('\n', " "));
}

/// Prints much, in large pieces. That nobody reads it any more is no error.
///
/// # Errors
/// If it cannot be written for another reason.
pub fn stream(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let printed = print(&mut out).and_then(|()| out.flush());
    // What is left in the buffer has no reader, and must not be tried again.
    let _ = out.into_parts();
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
