//! Reading `/proc/self/mountinfo`, which does not touch the mounted filesystems.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A mount, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// Unique among the mounts there are.
    pub id: u64,
    /// Device number, as in `st_dev`.
    pub device: (u32, u32),
    /// What of the filesystem is mounted: `/`, or by a bind mount a part of it.
    pub root: PathBuf,
    /// The mount point.
    pub target: PathBuf,
    /// The type, for example `fuseblk.butterfs`.
    pub kind: String,
    /// The source, for example `/dev/sda1`.
    pub source: String,
}

impl MountEntry {
    /// The mount one sees at `target`, an absolute path.
    pub fn at(target: &Path) -> io::Result<Option<Self>> {
        find(target)
    }
}

impl MountEntry {
    /// All mounts that Butterfs serves.
    pub fn of_butterfs() -> io::Result<Vec<Self>> {
        all(|entry| entry.kind.ends_with(".butterfs"))
    }

    /// All mounts of Btrfs, those that the kernel's driver serves, too.
    pub fn of_any_btrfs() -> io::Result<Vec<Self>> {
        all(|entry| entry.kind == "btrfs" || entry.kind.ends_with(".butterfs"))
    }
}

fn all(wanted: fn(&MountEntry) -> bool) -> io::Result<Vec<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    let entries = text.split(|&byte| byte == b'\n').filter_map(parse);
    Ok(entries.filter(wanted).collect())
}

/// The topmost mount at a path.
pub(super) fn find(target: &Path) -> io::Result<Option<MountEntry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    let mut entries = text.split(|&byte| byte == b'\n').filter_map(parse);
    Ok(entries.rfind(|entry| entry.target == target))
}

/// One line.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| std::str::from_utf8(fields.get(index)?).ok();
    let (major, minor) = text(2)?.split_once(':')?;
    Some(MountEntry {
        id: text(0)?.parse().ok()?,
        device: (major.parse().ok()?, minor.parse().ok()?),
        root: PathBuf::from(OsString::from_vec(unescape(fields.get(3)?))),
        target: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: text(dash + 1)?.into(),
        source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
    })
}

/// Resolves `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, octal(tail)) {
            (b'\\', Some(value)) => {
                out.push(value);
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Three octal digits at the start.
fn octal(bytes: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(bytes.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = br"36 35 0:41 / /mnt/a\040b rw,noatime shared:2 - fuse.butterfs /x\134y rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.id, 36);
        assert_eq!(entry.device, (0, 41));
        assert_eq!((&*entry.root, &*entry.target), (Path::new("/"), Path::new("/mnt/a b")));
        assert_eq!(entry.kind, "fuse.butterfs");
        assert_eq!(entry.source, r"/x\y");
    }

    #[test]
    fn garbage_is_no_entry() {
        for line in [&b""[..], b"-", b"a b c - d e", b"1 2 3:4 / - x"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn the_root_is_mounted() {
        assert!(find(Path::new("/")).unwrap().is_some());
    }
}
