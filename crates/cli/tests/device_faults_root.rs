//! Devices that fail under a mount: the disk below an image is full, or the device is gone. Who writes is told, nothing
//! more is written, readers go on as far as they can; and what was durable is there again afterwards.

mod common;

use butterfs_testkit::unmount::{patiently, unmount};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_fuse::mount::MountSource;
use butterfs_testkit::command::run;
use butterfs_testkit::device_files::DeviceFiles;
use butterfs_testkit::fault::errno::EIO;
use butterfs_testkit::filter::{Filter, Filtered};
use butterfs_testkit::mounter::{Mounted, is_mounted, wait_until};
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::served::Served;
use butterfs_volume::{BlockDevice, MemDevice};
use common::{GIB, MIB, setup, subject};

/// A file that was promised, and one that was not.
fn promise(mnt: &Path) {
    std::fs::create_dir(mnt.join("kept")).expect("mkdir");
    for number in 0..20_u64 {
        let mut file = File::create(mnt.join(format!("kept/{number}"))).expect("create");
        file.write_all(&content(number)).expect("write");
        file.sync_all().expect("fsync");
    }
}

fn content(number: u64) -> Vec<u8> {
    Random::new(number).bytes(10_000 + number as usize * 999)
}

fn kept(mnt: &Path) {
    for number in 0..20 {
        let found = std::fs::read(mnt.join(format!("kept/{number}"))).expect("a promised file reads");
        assert!(found == content(number), "file {number} changed");
    }
}

/// Writes and syncs until an error says that it does not reach the disk.
fn write_until_told(mnt: &Path) -> std::io::Error {
    for number in 0..2000 {
        let step = || -> std::io::Result<()> {
            let mut file = File::create(mnt.join(format!("more {number}")))?;
            file.write_all(&Random::new(number).bytes(1 << 20))?;
            file.sync_all()
        };
        if let Err(error) = step() {
            return error;
        }
    }
    panic!("nobody was told");
}

/// A commit fails, every further change is refused, and the log has the cause.
fn read_only_with_cause(mounted: &Mounted, cause: &str) {
    // On a full disk below, an fsync may still write its log where an older one was; a commit needs new space.
    let commit = || {
        let top = File::open(mounted.path())?;
        top.sync_all()?;
        std::io::Result::Ok(rustix::fs::syncfs(top)?)
    };
    commit().expect_err("a commit cannot be written");
    let refused = File::create(mounted.join("too late")).expect_err("nothing is written any more");
    assert!(matches!(refused.raw_os_error(), Some(5 | 30)), "{refused}");
    assert!(mounted.log().contains(cause), "{cause} is not in the log:\n{}", mounted.log());
}

/// Unmounts; the loss is told.
fn unmount_with_loss(mounted: Mounted) {
    let finished = patiently(|| subject().command(&["umount".as_ref(), mounted.path().as_os_str()]));
    assert_eq!(finished.status.code(), Some(32), "{finished}");
    assert!(finished.stderr.contains("lost"), "{finished}");
    assert!(!is_mounted(mounted.path()));
    std::mem::forget(mounted);
}

/// A small filesystem, unmounted when dropped.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn full_disk_below(name: &str, mount: impl Fn(&Path, &Path)) {
    let Some(work) = setup(name) else { return };
    if !subject().is_butterfs() {
        return println!("the kernel reports this by other ways");
    }
    let (dir, mnt) = (work.dir("below"), work.dir("mnt"));
    mount(&work.file("disk"), &dir);
    let below = Below(dir.clone());
    // The log stands beside this name, where there is room.
    let image = work.file("image");
    std::os::unix::fs::symlink(dir.join("image"), &image).expect("symlink");
    File::create(dir.join("image")).and_then(|file| file.set_len(GIB)).expect("a sparse image");
    subject().command(&["mkfs".as_ref(), image.as_os_str()]).ok();
    let mounted = subject().mount(&image, &mnt, "commit=600");
    promise(&mnt);
    let told = write_until_told(&mnt);
    assert!(matches!(told.raw_os_error(), Some(5 | 28 | 30)), "{told}");
    read_only_with_cause(&mounted, "No space left on device");
    kept(&mnt);
    unmount_with_loss(mounted);
    // The disk has room again: the last commit and what was fsynced since are there, and it works on.
    let room = work.file("room");
    run(Command::new("cp").arg("--sparse=always").args([&dir.join("image"), &room])).ok();
    drop(below);
    let mounted = subject().mount(&room, &mnt, "");
    kept(&mnt);
    std::fs::write(mounted.join("after"), b"after").expect("it can be written again");
    mounted.unmount();
    oracle::assert_clean(&room);
}

#[test]
fn the_disk_below_is_a_full_tmpfs() {
    full_disk_below("full_tmpfs", |_, dir| {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=40M", "none"]).arg(dir)).ok();
    });
}

#[test]
fn the_disk_below_is_a_full_ext4() {
    full_disk_below("full_ext4", |disk, dir| {
        run(Command::new("truncate").args(["-s", "48M"]).arg(disk)).ok();
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk)).ok();
        run(Command::new("mount").args(["-o", "loop"]).arg(disk).arg(dir)).ok();
    });
}

/// Fails every request once it is gone.
struct Vanishing(Arc<AtomicBool>);

impl Vanishing {
    fn there(&self) -> std::io::Result<()> {
        if self.0.load(Ordering::SeqCst) { Err(std::io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
    }
}

impl Filter for Vanishing {
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        self.there().and_then(|()| inner.read_at(offset, buf))
    }

    fn write_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &[u8]) -> std::io::Result<()> {
        self.there().and_then(|()| inner.write_at(offset, buf))
    }

    fn flush(&self, inner: &dyn BlockDevice) -> std::io::Result<()> {
        self.there().and_then(|()| inner.flush())
    }

    fn discard(&self, inner: &dyn BlockDevice, offset: u64, len: u64) -> std::io::Result<()> {
        self.there().and_then(|()| inner.discard(offset, len))
    }
}

/// The device that a daemon works on is a file that this process serves; it goes, and comes back.
#[test]
fn the_device_vanishes_under_the_daemon() {
    let Some(work) = setup("vanishes") else { return };
    if !subject().is_butterfs() {
        return println!("the kernel reports this by other ways");
    }
    let gone = Arc::new(AtomicBool::new(false));
    let device = Filtered::over(Arc::new(MemDevice::named("disk", 256 * MIB)), Vanishing(Arc::clone(&gone)));
    let source = MountSource::Named("devices".into());
    let files = Served::mount(DeviceFiles::new(vec![Arc::new(device)]), &source, &work.dir("devices"));
    // The log stands beside this name.
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    std::os::unix::fs::symlink(files.path().join(DeviceFiles::name(0)), &image).expect("symlink");
    subject().command(&["mkfs".as_ref(), image.as_os_str()]).ok();
    // Files that are served have no loop device: the mount is a plain one.
    let mounted = subject().mount(&image, &mnt, "commit=600,plain_fuse");
    promise(&mnt);
    gone.store(true, Ordering::SeqCst);
    let told = write_until_told(&mnt);
    assert!(matches!(told.raw_os_error(), Some(5 | 30)), "{told}");
    read_only_with_cause(&mounted, "Input/output error");
    unmount_with_loss(mounted);
    gone.store(false, Ordering::SeqCst);
    let mounted = subject().mount(&image, &mnt, "plain_fuse");
    kept(&mnt);
    std::fs::write(mounted.join("after"), b"after").expect("it can be written again");
    mounted.unmount();
    wait_until("the daemon lets go of the device", || oracle::check(&image).status.success());
    oracle::assert_clean(&image);
    files.unmount().expect("the devices are taken away");
}
