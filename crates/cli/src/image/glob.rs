//! Wildcards in paths in an image: `*`, `?` and `[...]`, as in a shell.
//!
//! # Invariants
//! * Time is bounded by pattern times name, whatever the pattern.

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::Filesystem;
use butterfs_engine::{Error, Result};
use butterfs_format::items::FileType;

use super::list;
use super::path::{self, Last};

/// Paths that a pattern stands for, by name; the pattern as it is if it has no wildcard, or if nothing matches.
///
/// # Errors
/// If a directory on the way cannot be read.
pub fn expand(fs: &Filesystem, pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
    if !pattern.iter().any(|byte| b"*?[\\".contains(byte)) {
        return Ok(vec![pattern.to_vec()]);
    }
    let start = if pattern.starts_with(b"/") { b"/".to_vec() } else { Vec::new() };
    let mut paths = vec![start];
    for name in pattern.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        paths = paths.iter().map(|path| step(fs, path, name)).collect::<Result<Vec<_>>>()?.concat();
    }
    if paths.is_empty() {
        return Ok(vec![pattern.to_vec()]);
    }
    if pattern.ends_with(b"/") {
        paths.iter_mut().for_each(|path| path.push(b'/'));
    }
    Ok(paths)
}

/// What a name with wildcards stands for in a directory.
fn step(fs: &Filesystem, at: &[u8], pattern: &[u8]) -> Result<Vec<Vec<u8>>> {
    let dir = match path::resolve(fs, at, Last::Follow) {
        Ok(dir) => dir,
        // A link that leads nowhere, or in a circle, has nothing in it.
        Err(Error::NotFound | Error::NotDirectory | Error::Invalid(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if fs.attributes(dir)?.file_type != FileType::Directory {
        return Ok(Vec::new());
    }
    if matches!(pattern, b"." | b"..") {
        return Ok(vec![path::join(at, pattern)]);
    }
    let exists = |name: &[u8]| fs.lookup(Place::new(dir, name)).is_ok();
    if !has_wildcard(pattern) {
        // A backslash is part of a name, if there is such a name.
        let name = if exists(pattern) { pattern.to_vec() } else { unescape(pattern) };
        return Ok(if exists(&name) { vec![path::join(at, &name)] } else { Vec::new() });
    }
    let hidden = pattern.starts_with(b".");
    let entries = list::entries(fs, dir)?;
    let wanted = entries.iter().filter(|entry| hidden || !entry.name.starts_with(b"."));
    let found: Vec<_> =
        wanted.filter(|entry| matches(pattern, &entry.name)).map(|entry| path::join(at, &entry.name)).collect();
    Ok(if found.is_empty() && exists(pattern) { vec![path::join(at, pattern)] } else { found })
}

/// One place of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// Any bytes.
    Any,
    /// One character.
    One,
    /// One byte of a set, or, with the flag, one that is not in it.
    Set(&'a [u8], Sense),
    /// This byte.
    Byte(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    In,
    NotIn,
}

/// The first token, and how long it is.
fn token(pattern: &[u8]) -> Option<(Token<'_>, usize)> {
    let token = match pattern {
        [] => return None,
        [b'*', ..] => (Token::Any, 1),
        [b'?', ..] => (Token::One, 1),
        [b'\\', byte, ..] => (Token::Byte(*byte), 2),
        [b'[', rest @ ..] => set(rest).unwrap_or((Token::Byte(b'['), 1)),
        [byte, ..] => (Token::Byte(*byte), 1),
    };
    Some(token)
}

/// A set, behind its bracket; without an end it is none.
fn set(rest: &[u8]) -> Option<(Token<'_>, usize)> {
    let (sense, skip) = match rest.first() {
        Some(b'!' | b'^') => (Sense::NotIn, 1),
        _ => (Sense::In, 0),
    };
    let body = &rest[skip..];
    // A bracket that comes first is a member.
    let end = body.iter().skip(1).position(|byte| *byte == b']')? + 1;
    Some((Token::Set(&body[..end], sense), 1 + skip + end + 1))
}

fn in_set(mut set: &[u8], byte: u8) -> bool {
    loop {
        match set {
            [] => return false,
            [low, b'-', high, rest @ ..] => {
                if (*low..=*high).contains(&byte) {
                    return true;
                }
                set = rest;
            }
            [one, rest @ ..] => {
                if *one == byte {
                    return true;
                }
                set = rest;
            }
        }
    }
}

fn has_wildcard(pattern: &[u8]) -> bool {
    let mut rest = pattern;
    while let Some((found, len)) = token(rest) {
        if !matches!(found, Token::Byte(_)) {
            return true;
        }
        rest = &rest[len..];
    }
    false
}

fn unescape(pattern: &[u8]) -> Vec<u8> {
    let mut rest = pattern;
    let mut name = Vec::new();
    while let Some((found, len)) = token(rest) {
        if let Token::Byte(byte) = found {
            name.push(byte);
        }
        rest = &rest[len..];
    }
    name
}

/// Bytes of the first character of a name: of what is not UTF-8, one.
fn first_char(name: &[u8]) -> usize {
    let len = match name.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => 1,
    };
    if name.get(..len).is_some_and(|bytes| std::str::from_utf8(bytes).is_ok()) { len } else { 1 }
}

/// Whether a name is one that the pattern stands for.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (pattern, name);
    // Where to go on if a star takes one more character.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        let step = match token(p) {
            None if n.is_empty() => return true,
            None => None,
            Some((Token::Any, len)) => {
                p = &p[len..];
                star = Some((p, n));
                continue;
            }
            Some(_) if n.is_empty() => None,
            Some((Token::One, len)) => Some((len, first_char(n))),
            Some((Token::Byte(byte), len)) => (n[0] == byte).then_some((len, 1)),
            Some((Token::Set(set, sense), len)) => {
                let right = in_set(set, n[0]) == (sense == Sense::In);
                right.then(|| (len, if sense == Sense::In { 1 } else { first_char(n) }))
            }
        };
        if let Some((pattern_len, name_len)) = step {
            (p, n) = (&p[pattern_len..], &n[name_len..]);
            continue;
        }
        match star {
            Some((after, rest)) if !rest.is_empty() => {
                (p, n) = (after, &rest[1..]);
                star = Some((p, n));
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_what_a_shell_says() {
        for (pattern, name, wanted) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("*.txt", "a.txt.txt", true),
            ("a*b*c", "axbxbxc", true),
            ("?", "a", true),
            ("?", "", false),
            ("?", "ü", true),
            ("??", "ü", false),
            ("[abc]", "b", true),
            ("[abc]", "d", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]", "b", false),
            ("[^a-c]", "d", true),
            ("[!a]", "ü", true),
            ("[]]", "]", true),
            ("[]a]", "a", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("\\[a]", "[a]", true),
            ("a", "b", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), wanted, "{pattern} {name}");
        }
        assert!(matches(b"a?", b"a\xff"));
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = b"*a".repeat(120);
        assert!(!matches(&pattern, &[b'a'; 119]));
        assert!(!matches(&[&pattern[..], b"b"].concat(), &[b'a'; 255]));
    }

    #[test]
    fn only_wildcards_are_wildcards() {
        assert!(has_wildcard(b"a*") && has_wildcard(b"[a]") && has_wildcard(b"\\\\?"));
        assert!(!has_wildcard(b"a\\*") && !has_wildcard(b"[a") && !has_wildcard(b"a"));
        assert_eq!(unescape(b"a\\*b\\\\[c"), b"a*b\\[c");
    }
}
