//! Repairs that the system stands in the way of: refused with the reason, and nothing is written.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use butterfs_testkit::unmount::unmount;
use std::path::PathBuf;
use std::process::{Command, Output};

use butterfs_format::Superblock;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_testkit::command::{Finished, run_program};
use butterfs_testkit::devices::Loop;
use butterfs_testkit::workdir::WorkDir;
use butterfs_testkit::{devices, oracle};
use butterfs_volume::{BlockDevice, FileDevice};

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_butterfs")).arg("check").args(args).output().unwrap()
}

#[track_caller]
fn assert_refused(output: &Output, word: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains(word) && text.lines().count() == 1, "{text}");
}

/// A filesystem over several images, whose superblocks count wrongly.
fn miscounted(work: &WorkDir, profiles: &[&str], count: usize) -> Vec<PathBuf> {
    let images = devices::mkfs(work.path(), &vec![400 << 20; count], profiles);
    for image in &images {
        let device = FileDevice::open_read_write(image).unwrap();
        for offset in SUPERBLOCK_OFFSETS.into_iter().take(2) {
            let mut bytes = vec![0; 4096];
            device.read_at(offset, &mut bytes).unwrap();
            let mut sb = Superblock::parse(&bytes, offset).unwrap();
            sb.bytes_used = (sb.bytes_used.get() + 4096).into();
            device.write_at(offset, &sb.to_bytes_at(offset)).unwrap();
        }
    }
    images
}

/// The other devices are looked for in a directory, as for a mere check.
#[test]
fn devices_are_found_in_a_directory() {
    let work = WorkDir::new("repair-directory");
    let images = miscounted(&work, &["-m", "raid1", "-d", "raid0"], 3);
    let (first, dir) = (images[0].to_str().unwrap(), work.path().to_str().unwrap());
    assert_refused(&check(&["--repair", "--force", first]), "missing");
    let undo_file = work.file("undo");
    let undo_file = undo_file.to_str().unwrap();
    let done = check(&["--repair", "--force", "--undo-file", undo_file, first, dir]);
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stdout));
    let clean = check_all(&images);
    assert!(clean.status.success(), "{clean}");
    let rescue =
        |args: &[&str]| run_program(env!("CARGO_BIN_EXE_butterfs"), &[&["rescue"], args, &[first, dir]].concat());
    for operation in ["zero-log", "fix-device-size"] {
        assert!(rescue(&[operation, "--dry-run"]).status.success(), "{operation}");
    }
    let undone = check(&["--undo", undo_file, first, dir]);
    assert_eq!(undone.status.code(), Some(0), "{}", String::from_utf8_lossy(&undone.stderr));
    assert_eq!(check(&["--dry-run", first, dir]).status.code(), Some(1), "it is as it was");
}

/// `btrfs check` finds the other devices only if they are block devices.
fn check_all(images: &[PathBuf]) -> Finished {
    let loops: Vec<Loop> = images.iter().map(|image| Loop::over(image)).collect();
    run_program("btrfs", &["check".as_ref(), loops[0].path().as_os_str()])
}

/// What cannot be written is refused before anything is tried; data with parity is no hindrance.
#[test]
fn metadata_with_parity_is_refused() {
    for (metadata, data, status) in [("raid5", "raid5", 1), ("raid6", "raid1", 1), ("raid1", "raid5", 0)] {
        let work = WorkDir::new("repair-parity");
        let images = miscounted(&work, &["-m", metadata, "-d", data], 3);
        let before: Vec<_> = images.iter().map(|image| oracle::file_hash(image)).collect();
        let names = images.iter().map(|image| image.to_str().unwrap());
        let args: Vec<&str> = ["--repair", "--force"].into_iter().chain(names).collect();
        let output = check(&args);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(status), "{metadata}: {text}");
        if status == 0 {
            assert!(check_all(&images).status.success());
            continue;
        }
        assert!(text.contains(&format!("its metadata is {}", metadata.to_uppercase())), "{text}");
        assert!(images.iter().map(|image| oracle::file_hash(image)).eq(before), "nothing was written");
    }
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
    unmount(&mnt).ok();
}
