//! What is made is where it should be, and nowhere else.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use butterfs_format::items::Timespec;
use butterfs_testkit::workdir::WorkDir;

use super::*;

fn attributes(mode: u32) -> Attributes {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let (atime, mtime) = (Timespec::new(-5, 7), Timespec::new(1_600_000_000, 123_456_789));
    Attributes { mode, uid, gid, atime, mtime, xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())] }
}

const ALL: Policy = Policy { preserve: Preserve::all(), umask: 0o022 };

#[test]
fn names_that_lead_away_are_refused() {
    let work = WorkDir::new("host_names");
    let dir = Directory::open(&work.dir("dest")).unwrap();
    for name in [&b""[..], b".", b"..", b"../a", b"/etc", b"a/b", b"a\0b"] {
        let refused = |kind| assert_eq!(kind, ErrorKind::InvalidInput, "{name:?}");
        refused(dir.make_file(name, Existing::Force).unwrap_err().kind());
        refused(dir.make_directory(name).unwrap_err().kind());
        refused(dir.make_symlink(name, b"x", Existing::Force).unwrap_err().kind());
        refused(dir.make_special(name, Special::Fifo, Existing::Force).unwrap_err().kind());
        refused(dir.enter(name).unwrap_err().kind());
        refused(dir.link(name, (&dir, b"x"), Existing::Force).unwrap_err().kind());
    }
    assert_eq!(std::fs::read_dir(work.path()).unwrap().count(), 1);
}

#[test]
fn links_in_the_way_are_not_followed() {
    let work = WorkDir::new("host_links");
    let (dest, outside) = (work.dir("dest"), work.dir("outside"));
    std::fs::write(outside.join("file"), "precious").unwrap();
    symlink(outside.join("file"), dest.join("file")).unwrap();
    symlink(&outside, dest.join("dir")).unwrap();
    std::fs::hard_link(outside.join("file"), dest.join("hard")).unwrap();
    let dir = Directory::open(&dest).unwrap();
    assert_eq!(dir.make_directory(b"dir").unwrap_err().kind(), ErrorKind::NotADirectory);
    assert_eq!(dir.make_file(b"file", Existing::Keep).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for name in [&b"file"[..], b"hard"] {
        let mut file = dir.make_file(name, Existing::Replace).unwrap();
        file.write_at(0, b"new").unwrap();
        file.finish(3, &attributes(0o644), ALL).unwrap();
    }
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"precious");
    assert_eq!(std::fs::read(dest.join("file")).unwrap(), b"new");
    let node = dir.make_symlink(b"link", b"../outside/file", Existing::Replace).unwrap();
    node.set_attributes(&attributes(0o777), ALL).unwrap();
    assert_eq!(std::fs::symlink_metadata(dest.join("link")).unwrap().mtime(), 1_600_000_000);
    assert_ne!(std::fs::metadata(outside.join("file")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn attributes_and_holes_are_as_asked_for() {
    let work = WorkDir::new("host_attributes");
    let dest = work.dir("dest");
    let dir = Directory::open(&dest).unwrap();
    let mut file = dir.make_file(b"file", Existing::Keep).unwrap();
    file.write_at(1 << 20, b"data").unwrap();
    let lost = file.finish(8 << 20, &attributes(0o4751), ALL).unwrap();
    assert!(!lost.owner, "the owner is who runs the test");
    let meta = std::fs::metadata(dest.join("file")).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (8 << 20, 0o4751));
    assert!(meta.blocks() <= 16, "{} blocks", meta.blocks());
    assert_eq!((meta.atime(), meta.atime_nsec()), (-5, 7));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_600_000_000, 123_456_789));

    let plain = Policy { preserve: Preserve::empty(), umask: 0o027 };
    dir.make_file(b"plain", Existing::Keep).unwrap().finish(0, &attributes(0o6777), plain).unwrap();
    let meta = std::fs::metadata(dest.join("plain")).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o750);
    assert_ne!(meta.mtime(), 1_600_000_000);

    // Without the owner, or where it cannot be set, no set-ID bits.
    let mode = Policy { preserve: Preserve::MODE, umask: 0 };
    dir.make_file(b"mode", Existing::Keep).unwrap().finish(0, &attributes(0o6755), mode).unwrap();
    assert_eq!(std::fs::metadata(dest.join("mode")).unwrap().mode() & 0o7777, 0o755);
    let nobody = Attributes { uid: u32::MAX, ..attributes(0o6755) };
    assert!(dir.make_file(b"nobody", Existing::Keep).unwrap().finish(0, &nobody, ALL).unwrap().owner);
    assert_eq!(std::fs::metadata(dest.join("nobody")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn only_what_may_go_is_replaced() {
    let work = WorkDir::new("host_replace");
    let dest = work.dir("dest");
    let dir = Directory::open(&dest).unwrap();
    dir.make_directory(b"dir").unwrap();
    dir.make_directory(b"dir").unwrap().set_attributes(&attributes(0o750), ALL).unwrap();
    assert_eq!(std::fs::metadata(dest.join("dir")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(dir.make_file(b"dir", Existing::Force).unwrap_err().kind(), ErrorKind::IsADirectory);
    let fifo = || dir.make_special(b"fifo", Special::Fifo, Existing::Replace);
    fifo().unwrap().set_attributes(&attributes(0o642), ALL).unwrap();
    fifo().unwrap();
    assert_eq!(std::fs::metadata(dest.join("fifo")).unwrap().mode() & 0o7777, 0o642);
    assert_eq!(dir.make_file(b"fifo", Existing::Replace).unwrap_err().kind(), ErrorKind::AlreadyExists);
    dir.make_file(b"fifo", Existing::Force).unwrap().finish(0, &attributes(0o600), ALL).unwrap();
    dir.link(b"second", (&dir, b"fifo"), Existing::Keep).unwrap();
    dir.link(b"second", (&dir, b"fifo"), Existing::Replace).unwrap();
    assert_eq!(std::fs::metadata(dest.join("fifo")).unwrap().nlink(), 2);
    dir.make_symlink(b"second", b"x", Existing::Replace).unwrap();
    assert_eq!(std::fs::metadata(dest.join("fifo")).unwrap().nlink(), 1);
    assert_eq!(std::fs::read_dir(&dest).unwrap().count(), 3);
}

#[test]
fn what_is_there_stays_until_the_new_file_is_whole() {
    let work = WorkDir::new("host_whole");
    let dest = work.dir("dest");
    let dir = Directory::open(&dest).unwrap();
    let names = || std::fs::read_dir(&dest).unwrap().count();
    std::fs::write(dest.join("file"), "precious").unwrap();
    let mut file = dir.make_file(b"file", Existing::Replace).unwrap();
    file.write_at(0, b"half").unwrap();
    assert_eq!((std::fs::read(dest.join("file")).unwrap().as_slice(), names()), (&b"precious"[..], 2));
    drop(file);
    assert_eq!((std::fs::read(dest.join("file")).unwrap().as_slice(), names()), (&b"precious"[..], 1));
    let file = dir.make_file(b"file", Existing::Force).unwrap();
    file.finish(u64::MAX, &attributes(0o600), ALL).unwrap_err();
    assert_eq!((std::fs::read(dest.join("file")).unwrap().as_slice(), names()), (&b"precious"[..], 1));
    // One that replaces nothing goes, too.
    dir.make_file(b"other", Existing::Keep).unwrap().finish(u64::MAX, &attributes(0o600), ALL).unwrap_err();
    assert_eq!(names(), 1);
}
