//! What lies on the host already is not lost where what was to replace it cannot be had; what is made there lies as
//! deep as it did in the image.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/images.rs"]
mod images;

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{Access, NewKind, NewSubvolume};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::InodeFlags;
use butterfs_testkit::command::run_program;
use butterfs_testkit::workdir::WorkDir;
use images::{at, butterfs, create, file, make};

const MIB: u64 = 1 << 20;
const MARK: &[u8] = b"in the middle of the file";

/// An image with a file of which a sector does not have its checksum.
fn damaged(work: &WorkDir) -> PathBuf {
    let mut content = vec![b'x'; 200_000];
    content[100_000..100_000 + MARK.len()].copy_from_slice(MARK);
    let image = make(work, "image", 128 * MIB, |fs| {
        file(fs, fs.root(), b"big", &content);
        file(fs, fs.root(), b"small", b"new");
    });
    let device = File::options().read(true).write(true).open(&image).unwrap();
    let mut bytes = vec![0; 128 << 20];
    device.read_exact_at(&mut bytes, 0).unwrap();
    let place = bytes.windows(MARK.len()).position(|part| part == MARK).unwrap();
    device.write_all_at(b"IN", place as u64).unwrap();
    image
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_copy_that_fails_leaves_what_was_there() {
    let work = WorkDir::new("replace_copy");
    let (image, out) = (damaged(&work), work.dir("out"));
    for name in ["big", "small"] {
        std::fs::write(out.join(name), "old").unwrap();
    }
    for arguments in [&["-a"][..], &["-rf"]] {
        let copied = butterfs(&[&["cp"], arguments, &[&at(&image, "/."), out.to_str().unwrap()]].concat());
        assert_eq!(copied.status.code(), Some(1), "{copied}");
        assert_eq!(std::fs::read(out.join("big")).unwrap(), b"old", "{copied}");
        assert_eq!(std::fs::read(out.join("small")).unwrap(), b"new", "{copied}");
        assert_eq!(names(&out), ["big", "small"]);
    }
}

#[test]
fn a_restore_without_damaged_files_leaves_what_was_there() {
    let work = WorkDir::new("replace_restore");
    let (image, out) = (damaged(&work), work.dir("out"));
    for name in ["big", "small"] {
        std::fs::write(out.join(name), "old").unwrap();
    }
    let run = |arguments: &[&str]| {
        butterfs(&[&["restore"], arguments, &[image.to_str().unwrap(), out.to_str().unwrap()]].concat())
    };
    let restored = run(&["-o", "--skip-damaged"]);
    assert_eq!(restored.status.code(), Some(2), "{restored}");
    assert_eq!(std::fs::read(out.join("big")).unwrap(), b"old", "{restored}");
    assert_eq!(std::fs::read(out.join("small")).unwrap(), b"new", "{restored}");
    assert_eq!(names(&out), ["big", "small"]);
    // With zeros in place of what is lost it is as whole as it gets.
    let restored = run(&["-o"]);
    assert_eq!(restored.status.code(), Some(2), "{restored}");
    assert_eq!(std::fs::metadata(out.join("big")).unwrap().len(), 200_000);
    assert_eq!(names(&out), ["big", "small"]);
}

/// Far longer paths than the system takes as one.
#[test]
fn deep_directories_are_restored_where_they_were() {
    let work = WorkDir::new("replace_deep");
    let name = [b'n'; 200];
    let image = make(&work, "image", 128 * MIB, |fs| {
        let bottom = (0..100).fold(fs.root(), |dir, _| create(fs, dir, &name, NewKind::Directory));
        file(fs, bottom, b"bottom", b"deep");
    });
    let out = work.dir("out");
    let restored = butterfs(&["restore", image.to_str().unwrap(), out.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored}");
    let found = run_program("find", &[out.to_str().unwrap(), "-name", "bottom", "-printf", "%d %s"]).ok();
    assert_eq!(found.stdout, "101 4", "{restored}");
}

/// What stands in a snapshot for a subvolume that was in its source can be entered as any new directory.
#[test]
fn placeholders_have_usual_permissions() {
    let work = WorkDir::new("replace_placeholders");
    let image = make(&work, "image", 128 * MIB, |fs| {
        let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
        let sub = fs.create_subvolume(Place::new(fs.root(), b"sub"), &new).unwrap();
        fs.create_subvolume(Place::new(InodeId::top_of(sub), b"nested"), &new).unwrap();
        fs.snapshot(sub, Place::new(fs.root(), b"snapshot"), Access::ReadOnly).unwrap();
    });
    let (out, usual) = (work.dir("out"), work.dir("usual"));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    for options in ["-sm", "-s"] {
        let restored = butterfs(&["restore", options, image.to_str().unwrap(), out.to_str().unwrap()]);
        assert!(restored.status.success(), "{restored}");
        assert_eq!(mode(&out.join("snapshot/nested")), mode(&usual), "{restored}");
    }
}

#[test]
fn immutable_files_in_an_image_are_not_replaced() {
    let work = WorkDir::new("replace_immutable");
    let image = make(&work, "image", 128 * MIB, |fs| {
        for (name, flags) in [(&b"fixed"[..], InodeFlags::IMMUTABLE), (b"log", InodeFlags::APPEND)] {
            let id = file(fs, fs.root(), name, b"old");
            fs.set_flags(id, flags).unwrap();
        }
    });
    let new = work.file("new");
    std::fs::write(&new, "new").unwrap();
    for name in ["fixed", "log"] {
        let copied = butterfs(&["cp", "-f", new.to_str().unwrap(), &at(&image, name)]);
        assert!(!copied.status.success() && copied.stderr.contains("immutable"), "{copied}");
        assert_eq!(butterfs(&["cat", &at(&image, name)]).ok().stdout, "old");
    }
}
