//! A block device is mounted as itself, as the kernel's Btrfs mounts it: what lists mounts shows the device, and nobody
//! else can have it meanwhile.

mod common;

use butterfs_testkit::command::{run, run_program};
use butterfs_testkit::devices::Loop;
use butterfs_testkit::oracle;
use common::{GIB, MIB, kernel, setup, subject};
use std::path::Path;
use std::process::Command;

fn butterfs(arguments: &[&Path]) -> butterfs_testkit::command::Finished {
    run(Command::new(env!("CARGO_BIN_EXE_butterfs")).args(arguments))
}

#[test]
fn a_block_device_is_mounted_as_itself() {
    let Some(work) = setup("block_device") else { return };
    if !subject().is_butterfs() {
        println!("this is about our mount");
        return;
    }
    let (image, mnt, other) = (work.file("image"), work.file("mnt"), work.dir("other"));
    kernel().mkfs(&image, GIB, &[]);
    let device = Loop::over(&image);
    butterfs(&["mount".as_ref(), device.path(), &mnt]).ok();
    let shown = run_program("findmnt", &["-no".as_ref(), "SOURCE,FSTYPE".as_ref(), mnt.as_os_str()]).ok().stdout;
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(words, [device.path().to_str().expect("UTF-8"), "fuseblk.butterfs"]);
    std::fs::write(mnt.join("file"), "kept").expect("write");
    // A file is a mount point, too; its umount does not wait for a daemon that goes on.
    let bound = mnt.join("bound");
    std::fs::write(&bound, "").expect("write");
    run_program("mount", &["--bind".as_ref(), mnt.join("file").as_os_str(), bound.as_os_str()]).ok();
    butterfs(&["umount".as_ref(), &bound]).ok();
    assert_eq!(std::fs::read_to_string(mnt.join("file")).expect("the mount is still there"), "kept");
    // Neither the kernel nor mkfs.
    let by_kernel = ["-i".as_ref(), "-t".as_ref(), "btrfs".as_ref(), device.path().as_os_str(), other.as_os_str()];
    assert!(!run_program("mount", &by_kernel).status.success(), "the kernel mounts it, too");
    assert!(!run_program("mkfs.btrfs", &["-f".as_ref(), device.path().as_os_str()]).status.success(), "mkfs takes it");
    // umount(8) takes devices, too.
    butterfs(&["umount".as_ref(), device.path()]).ok();
    oracle::assert_clean(&image);
    run_program("mount", &by_kernel).ok();
    assert_eq!(std::fs::read_to_string(other.join("file")).expect("reads"), "kept");
    run_program("umount", &[other.as_os_str()]).ok();
}

/// As the kernel's: the device can be mounted again, whole or in part, and the last umount ends it.
#[test]
fn a_block_device_is_mounted_twice() {
    let Some(work) = setup("mounted_twice") else { return };
    if !subject().is_butterfs() {
        println!("this is about our mount");
        return;
    }
    let (image, mnt, other) = (work.file("image"), work.file("mnt"), work.dir("other"));
    kernel().mkfs(&image, GIB, &[]);
    let device = Loop::over(&image);
    let mount =
        |options: &str, dir: &Path| butterfs(&["mount".as_ref(), "-o".as_ref(), options.as_ref(), device.path(), dir]);
    mount("noatime", &mnt).ok();
    subject().create_subvolume(&mnt.join("sub"));
    std::fs::write(mnt.join("sub/file"), "one").expect("write");
    mount("subvol=sub,ro", &other).ok();
    std::fs::write(mnt.join("sub/file"), "two").expect("write");
    assert_eq!(std::fs::read_to_string(other.join("file")).expect("reads"), "two");
    assert!(std::fs::write(other.join("file"), "three").is_err(), "written through a read-only mount");
    assert!(!mount("subvol=nothing", &work.dir("third")).status.success(), "what is not there is mounted");
    butterfs(&["umount".as_ref(), &mnt]).ok();
    assert_eq!(std::fs::read_to_string(other.join("file")).expect("the other goes on"), "two");
    mount("", &mnt).ok();
    butterfs(&["umount".as_ref(), &other]).ok();
    butterfs(&["umount".as_ref(), &mnt]).ok();
    oracle::assert_clean(&image);
}

/// A write-protected loop device. That stays with its number, so it is taken back.
struct Protected(Loop);

impl Protected {
    fn over(image: &Path) -> Self {
        let device = Self(Loop::over(image));
        run_program("blockdev", &["--setro".as_ref(), device.0.path().as_os_str()]).ok();
        device
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        run_program("blockdev", &["--setrw".as_ref(), self.0.path().as_os_str()]);
    }
}

/// As mount(8) does with the kernel's Btrfs, and in its words.
#[test]
fn a_write_protected_device_is_mounted_read_only() {
    let Some(work) = setup("write_protected") else { return };
    if !subject().is_butterfs() {
        println!("this is about our mount");
        return;
    }
    let (image, mnt) = (work.file("image"), work.file("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let device = Protected::over(&image);
    let before = std::fs::read(&image).expect("reads");
    let said = butterfs(&["mount".as_ref(), device.0.path(), &mnt]).ok().stderr;
    let warning = format!("mount: {}: WARNING: source write-protected, mounted read-only.", mnt.display());
    assert_eq!(said.trim(), warning);
    let refused = std::fs::write(mnt.join("file"), "").expect_err("written");
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    butterfs(&["umount".as_ref(), &mnt]).ok();
    // What is for reading only needs no ro.
    let said = butterfs(&["mount".as_ref(), "-o".as_ref(), "norecovery".as_ref(), device.0.path(), &mnt]).ok().stderr;
    assert_eq!(said.trim(), warning);
    butterfs(&["umount".as_ref(), &mnt]).ok();
    // Who asked for that is told nothing.
    let said = butterfs(&["mount".as_ref(), "-o".as_ref(), "ro".as_ref(), device.0.path(), &mnt]).ok().stderr;
    assert_eq!(said, "");
    butterfs(&["umount".as_ref(), &mnt]).ok();
    assert!(before == std::fs::read(&image).expect("reads"), "a write-protected device was written");
    drop(device);
    run_program("btrfstune", &["-S".as_ref(), "1".as_ref(), image.as_os_str()]).ok();
    assert_eq!(butterfs(&["mount".as_ref(), &image, &mnt]).ok().stderr.trim(), warning, "a seed");
    butterfs(&["umount".as_ref(), &mnt]).ok();
}
