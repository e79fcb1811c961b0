//! Bad input: one line that says what is wrong, an exit status as mount(8)'s, and not a byte written.
//!
//! These judge our own command line; with the kernel in its place there is nothing to judge.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::mounter::{Mounter, create_sparse, is_mounted};
use butterfs_testkit::workdir::WorkDir;
use butterfs_testkit::{daemon, oracle};
use common::{MIB, kernel, setup, subject};
use std::path::{Path, PathBuf};
use std::process::Command;

const USAGE: i32 = 1;
const SYSTEM: i32 = 2;
const FAILED: i32 = 32;

const INCOMPAT_FLAGS: usize = 0xbc;
const COMPAT_RO_FLAGS: usize = 0xb4;

/// A good image and a mount point, or nothing when the subject is the kernel.
fn prepared(name: &str) -> Option<(WorkDir, PathBuf, PathBuf)> {
    let work = setup(name)?;
    if !subject().is_butterfs() {
        println!("only Butterfs has this command line");
        return None;
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    Some((work, image, mnt))
}

/// One line on standard error, one of `statuses`, one of `words` in it, and the file as it was.
#[track_caller]
fn assert_refused(finished: &Finished, statuses: &[i32], words: &[&str]) {
    let lines: Vec<_> = finished.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "one line is wanted: {finished}");
    assert!(finished.stdout.is_empty(), "nothing on standard output is wanted: {finished}");
    assert!(finished.status.code().is_some_and(|code| statuses.contains(&code)), "status {statuses:?}: {finished}");
    let text = lines[0].to_lowercase();
    assert!(words.iter().any(|word| text.contains(word)), "one of {words:?} is wanted: {finished}");
}

#[track_caller]
fn refused_mount(image: &Path, mnt: &Path, options: &str, statuses: &[i32], words: &[&str]) {
    let before = image.is_file().then(|| oracle::file_hash(image));
    let finished = subject().try_mount(image, mnt, options).map(|_| ()).expect_err("this must be refused");
    assert_refused(&finished, statuses, words);
    assert_eq!(image.is_file().then(|| oracle::file_hash(image)), before, "a refused mount wrote: {finished}");
    assert!(!is_mounted(mnt), "refused, but mounted");
}

#[test]
fn a_file_that_is_not_btrfs() {
    let Some((work, _, mnt)) = prepared("not_btrfs") else { return };
    let text = work.file("text");
    std::fs::write(&text, "hello".repeat(100_000)).expect("write");
    refused_mount(&text, &mnt, "", &[FAILED], &["btrfs", "superblock"]);
    let empty = work.file("empty");
    create_sparse(&empty, 0);
    refused_mount(&empty, &mnt, "", &[FAILED], &["btrfs", "small", "short", "superblock"]);
    refused_mount(work.path(), &mnt, "", &[FAILED], &["directory", "not a"]);
}

/// The one of several devices that is none is named, and what to do.
#[test]
fn a_device_that_is_none() {
    let Some((work, image, mnt)) = prepared("no_device") else { return };
    let none = work.file("none");
    create_sparse(&none, 64 * MIB);
    for more in ["", "degraded,"] {
        let options = format!("{more}device={}", none.display());
        refused_mount(&image, &mnt, &options, &[FAILED], &["none: no btrfs filesystem found"]);
        refused_mount(&image, &mnt, &options, &[FAILED], &["leave it out"]);
    }
}

#[test]
fn a_truncated_image() {
    let Some((_work, image, mnt)) = prepared("truncated") else { return };
    let file = std::fs::OpenOptions::new().write(true).open(&image).expect("opens");
    file.set_len(128 * MIB).expect("truncate");
    refused_mount(&image, &mnt, "", &[FAILED], &["truncated", "smaller", "short", "size", "bytes"]);
}

#[test]
fn unknown_incompat_features() {
    let Some((_work, image, mnt)) = prepared("incompat") else { return };
    oracle::set_superblock_bits(&image, INCOMPAT_FLAGS, 1 << 41);
    refused_mount(&image, &mnt, "", &[FAILED], &["incompat", "feature"]);
    refused_mount(&image, &mnt, "ro", &[FAILED], &["incompat", "feature"]);
}

/// That the kernel refuses the patched image for its features, and not for its checksum, proves the patch.
#[test]
fn the_patched_superblock_is_otherwise_good() {
    let Some(work) = setup("patch") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, 256 * MIB, &[]);
    oracle::set_superblock_bits(&image, INCOMPAT_FLAGS, 1 << 41);
    oracle::assert_superblocks(&image);
    assert!(kernel().try_mount(&image, &work.dir("mnt"), "ro").is_err(), "the kernel mounts it");
    kernel().mkfs(&image, 256 * MIB, &[]);
    oracle::set_superblock_bits(&image, COMPAT_RO_FLAGS, 1 << 41);
    kernel().mount(&image, &work.dir("mnt"), "ro").unmount();
}

/// Unknown compat_ro features: to be read, never written.
#[test]
fn unknown_compat_ro_features() {
    let Some((_work, image, mnt)) = prepared("compat_ro") else { return };
    oracle::set_superblock_bits(&image, COMPAT_RO_FLAGS, 1 << 41);
    let before = oracle::file_hash(&image);
    if let Ok(mounted) = subject().try_mount(&image, &mnt, "") {
        assert!(std::fs::write(mounted.join("new"), "no").is_err(), "written in spite of unknown compat_ro bits");
        mounted.unmount();
    }
    subject().mount(&image, &mnt, "ro").unmount();
    assert_eq!(oracle::file_hash(&image), before, "something was written");
}

#[test]
fn a_missing_device() {
    let Some((work, image, mnt)) = prepared("missing") else { return };
    let second = work.file("second");
    create_sparse(&second, 256 * MIB);
    run(Command::new("mkfs.btrfs").args(["-q", "-f", "-d", "raid0", "-m", "raid1"]).arg(&image).arg(&second)).ok();
    refused_mount(&image, &mnt, "", &[FAILED], &["device"]);
    refused_mount(&work.file("nowhere"), &mnt, "", &[FAILED, USAGE], &["no such file", "does not exist", "not found"]);
}

#[test]
fn a_mount_point_that_is_busy_or_none() {
    let Some((work, image, mnt)) = prepared("mount_point") else { return };
    let other = work.file("other");
    kernel().mkfs(&other, 256 * MIB, &[]);
    refused_mount(&image, &work.file("nowhere"), "", &[FAILED, USAGE], &["no such", "does not exist", "not found"]);
    refused_mount(&image, &other, "", &[FAILED, USAGE], &["directory"]);
    let mounted = subject().mount(&other, &mnt, "");
    let finished = subject().try_mount(&image, &mnt, "").map(|_| ()).expect_err("a busy mount point");
    assert_refused(&finished, &[FAILED], &["busy", "already", "mounted"]);
    mounted.unmount();
}

/// A mount whose daemon died is in the way until it is unmounted.
#[test]
fn a_mount_point_without_its_daemon() {
    let Some((_work, image, mnt)) = prepared("dead_mount") else { return };
    if !subject().is_butterfs() {
        println!("the kernel has no daemon");
        return;
    }
    let mounted = subject().mount(&image, &mnt, "");
    daemon::kill(mounted.daemon().expect("a daemon"));
    let finished = subject().try_mount(&image, &mnt, "").map(|_| ()).expect_err("a mount point in use");
    assert_refused(&finished, &[FAILED], &["lost its daemon"]);
    mounted.unmount();
    subject().mount(&image, &mnt, "").unmount();
}

#[test]
fn a_busy_image() {
    let Some((work, image, mnt)) = prepared("busy") else { return };
    let second = work.dir("second");
    for mounter in [subject(), kernel()] {
        let mounted = mounter.mount(&image, &mnt, "");
        // What we mounted we can mount once more.
        let again = subject().command(&["mount".as_ref(), image.as_os_str(), second.as_os_str()]);
        if mounter.is_butterfs() {
            again.ok();
            subject().command(&["umount".as_ref(), second.as_os_str()]).ok();
        } else {
            assert_refused(&again, &[FAILED], &["busy", "in use", "mounted", "lock"]);
        }
        let finished = subject().command(&["mkfs".as_ref(), "-f".as_ref(), image.as_os_str()]);
        assert!(!finished.status.success(), "mkfs over a mounted image: {finished}");
        std::fs::write(mounted.join("still"), "works").expect("the first mount works on");
        mounted.unmount();
    }
    oracle::assert_clean(&image);
}

#[test]
fn no_permission() {
    let Some((work, image, mnt)) = prepared("permission") else { return };
    let Mounter::Butterfs { binary } = subject() else { return };
    // The user must reach the program and the image's directory, but not the image.
    let program = work.file("butterfs");
    std::fs::copy(binary, &program).expect("copy");
    for (path, mode) in [(work.path(), 0o755), (&program, 0o755), (&image, 0o600), (&mnt, 0o777)] {
        rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode)).expect("chmod");
    }
    let before = oracle::file_hash(&image);
    let as_user = |image: &Path| {
        run(Command::new("runuser")
            .args(["-u", "butterfs-test1", "--"])
            .arg(&program)
            .arg("mount")
            .arg(image)
            .arg(&mnt))
    };
    assert_refused(&as_user(&image), &[USAGE, FAILED], &["permission"]);
    assert_eq!(oracle::file_hash(&image), before, "a refused mount wrote");
}

#[test]
fn no_fuse() {
    let Some((work, image, mnt)) = prepared("no_fuse") else { return };
    let before = oracle::file_hash(&image);
    let dev = work.dir("dev");
    let script = "set -e; mount -t tmpfs none $1; mkdir $1/shm; mount --bind /dev/shm $1/shm
        cp -a /dev/null /dev/zero /dev/urandom /dev/loop* $1/; mount --rbind $1 /dev; exec \"$2\" mount \"$3\" \"$4\"";
    let finished = run(Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&dev)
        .arg(env!("CARGO_BIN_EXE_butterfs"))
        .arg(&image)
        .arg(&mnt));
    assert_refused(&finished, &[SYSTEM, FAILED], &["fuse"]);
    assert_eq!(oracle::file_hash(&image), before, "a refused mount wrote");
}

#[test]
fn wrong_usage() {
    let Some((_work, image, mnt)) = prepared("usage") else { return };
    let finished = subject().command(&["mount"]);
    assert_eq!(finished.status.code(), Some(USAGE), "{finished}");
    let finished = subject().command(&["mount", "--no-such-option"]);
    assert_eq!(finished.status.code(), Some(USAGE), "{finished}");
    refused_mount(&image, &mnt, "no_such_option=1", &[USAGE, FAILED], &["no_such_option"]);
    refused_mount(&image, &mnt, "subvol=nowhere", &[FAILED], &["nowhere", "subvol"]);
    let finished = subject().command(&["umount".as_ref(), mnt.as_os_str()]);
    assert_refused(&finished, &[USAGE, FAILED], &["not mounted", "no mount"]);
}

#[test]
fn mkfs_spares_a_known_filesystem() {
    let Some((work, image, _mnt)) = prepared("mkfs") else { return };
    let other = work.file("ext4");
    create_sparse(&other, 256 * MIB);
    run(Command::new("mkfs.ext4").arg("-q").arg(&other)).ok();
    for image in [&image, &other] {
        let before = oracle::file_hash(image);
        let finished = subject().command(&["mkfs".as_ref(), image.as_os_str()]);
        assert_refused(&finished, &[1], &["-f", "force"]);
        assert_eq!(oracle::file_hash(image), before, "mkfs without -f wrote");
        subject().command(&["mkfs".as_ref(), "-f".as_ref(), image.as_os_str()]).ok();
        oracle::assert_clean(image);
    }
}
