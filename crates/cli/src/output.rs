//! Standard output. Who reads it may go away: that ends the output, not in a panic.

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Bytes that are gathered before they are written.
const BUFFER: usize = 1 << 18;

/// Prints a line.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Says on standard error that something went wrong, and that the rest goes on.
pub fn complain(command: &str, problem: impl Display) {
    let problem = problem.to_string().replace('\n', " ");
    let _ = writeln!(io::stderr().lock(), "{}", in_words_of(called_as().as_deref(), command, &problem));
}

/// Whether the program was called by the name of the stock tool, whose words scripts know.
pub fn is_stock_tool() -> bool {
    called_as().as_deref() == Some("btrfs")
}

/// The name that the program was called by.
fn called_as() -> Option<String> {
    let program = std::env::args_os().next()?;
    Path::new(&program).file_name()?.to_str().map(str::to_owned)
}

/// A line about a problem: under the name of the stock tool in the form that scripts know from that.
fn in_words_of(program: Option<&str>, command: &str, problem: &str) -> String {
    match (program, problem.strip_prefix("warning: ")) {
        (Some("btrfs"), Some(warning)) => format!("WARNING: {warning}"),
        (Some("btrfs"), None) => format!("ERROR: {problem}"),
        _ => format!("butterfs {command}: {problem}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_tools_name_has_its_words() {
        assert_eq!(in_words_of(Some("btrfs"), "device remove", "no such device"), "ERROR: no such device");
        assert_eq!(in_words_of(Some("btrfs"), "mount", "warning: old"), "WARNING: old");
        assert_eq!(in_words_of(Some("butterfs"), "mount", "warning: old"), "butterfs mount: warning: old");
        assert_eq!(in_words_of(None, "ls", "no"), "butterfs ls: no");
    }
}
