//! Repairs that the system stands in the way of: refused with the reason, and nothing is written.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::process::{Command, Output};

use butterfs_testkit::command::run_program;
use butterfs_testkit::oracle;
use butterfs_testkit::workdir::WorkDir;

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_butterfs")).arg("check").args(args).output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, word: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains(word) && text.lines().count() == 1, "{text}");
}

#[test]
fn no_room_for_the_undo_file() {
    let work = WorkDir::new("repair-no-room");
    let (image, small) = (work.file("image"), work.dir("small"));
    std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    run_program("mkfs.btrfs", &["-q".as_ref(), image.as_os_str()]).ok();
    run_program("mount", &["-t", "tmpfs", "-o", "size=16k", "none", small.to_str().unwrap()]).ok();
    let before = oracle::file_hash(&image);
    let undo_file = small.join("undo");
    let (file, image_name) = (undo_file.to_str().unwrap(), image.to_str().unwrap());
    let refused = check(&["--init-extent-tree", "--force", "--undo-file", file, image_name]);
    assert_refused(&refused, "does not fit");
    assert!(!undo_file.exists(), "nothing is left of it");
    assert_eq!(oracle::file_hash(&image), before, "nothing was written");
}

#[test]
fn a_mounted_image() {
    let work = WorkDir::new("repair-mounted");
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    std::fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    run_program("mkfs.btrfs", &["-q".as_ref(), image.as_os_str()]).ok();
    run_program("mount", &["-o", "loop", image.to_str().unwrap(), mnt.to_str().unwrap()]).ok();
    assert_refused(&check(&["--repair", "--force", image.to_str().unwrap()]), "mounted");
    run_program("umount", &[mnt.to_str().unwrap()]).ok();
}
