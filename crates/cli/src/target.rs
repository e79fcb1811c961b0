//! `IMAGE[:PATH]`: an image, and a path in it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Image and path of an argument that has both; `None` if it names no path in an image.
///
/// What exists under the whole name is taken whole. Else the longest part before a colon that exists and
/// is no directory is the image.
pub fn split(target: &Path) -> Option<(&Path, &[u8])> {
    let bytes = target.as_os_str().as_bytes();
    if target.exists() {
        return None;
    }
    let colons = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b':').map(|(at, _)| at);
    let mut parts = colons.map(|at| (Path::new(OsStr::from_bytes(&bytes[..at])), &bytes[at + 1..]));
    parts.find(|(image, _)| image.exists() && !image.is_dir())
}

/// The same where an image is wanted: without a path, the empty one.
pub fn split_image(target: &Path) -> (&Path, &[u8]) {
    split(target).unwrap_or((target, &[]))
}

#[cfg(test)]
mod tests {
    use butterfs_testkit::workdir::WorkDir;

    use super::*;

    #[test]
    fn the_image_is_what_exists() {
        assert_eq!(split(Path::new("/dev/null:a:b")), Some((Path::new("/dev/null"), &b"a:b"[..])));
        assert_eq!(split(Path::new("/dev/null:")), Some((Path::new("/dev/null"), &b""[..])));
        assert_eq!(split_image(Path::new("/dev/null")), (Path::new("/dev/null"), &b""[..]));
        assert_eq!(split(Path::new("/nowhere:x")), None);
        assert_eq!(split(Path::new("/dev:x")), None);
    }

    #[test]
    fn the_longest_image_wins() {
        let work = WorkDir::new("target_split");
        let [short, long] = ["a", "a:b"].map(|name| work.file(name));
        std::fs::write(&short, "").unwrap();
        std::fs::write(&long, "").unwrap();
        let at = |text: &str| work.file(text);
        assert_eq!(split(&at("a:b:c")), Some((&*long, &b"c"[..])));
        assert_eq!(split(&at("a:c")), Some((&*short, &b"c"[..])));
        assert_eq!(split(&at("a:/b")), Some((&*short, &b"/b"[..])));
        assert_eq!(split(&at("a:b")), None);
    }
}
