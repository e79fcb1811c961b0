//! Names that lead nowhere else.

use std::io;

/// Fails unless this is a name of something in a directory.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`].
pub fn check(name: &[u8]) -> io::Result<()> {
    let problem = match name {
        b"" => "an empty name",
        b"." | b".." => "the names . and .. are no names of files",
        _ if name.contains(&b'/') => "a name with a slash in it",
        _ if name.contains(&0) => "a name with a zero byte in it",
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}
