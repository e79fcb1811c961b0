//! Real mounts, as root, of a filesystem in memory.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use butterfs_fuse::mount::{
    Busy, Mount, MountError, MountFlags, MountKind, MountOptions, MountSource, Unmounted, unmount,
};
use butterfs_fuse::session::{Caching, SessionOptions};
use common::{MemoryFs, Mounted, image};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, XattrFlags};
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[test]
fn files_come_back_as_they_were_written() {
    let m = Mounted::plain();
    let path = m.file("hello");
    fs::write(&path, b"hello, world").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"hello, world");
    let big: Vec<u8> = (0..5_000_000_u32).map(|n| (n / 3000) as u8).collect();
    fs::write(m.file("big"), &big).unwrap();
    drop_caches_of(&m, "big");
    assert_eq!(fs::read(m.file("big")).unwrap(), big);
    let file = fs::File::open(m.file("big")).unwrap();
    let mut part = [0; 100];
    file.read_exact_at(&mut part, 3_000_000).unwrap();
    assert_eq!(part[..], big[3_000_000..3_000_100]);
    assert_eq!(fs::metadata(&path).unwrap().ino(), 1002);
    assert_eq!(fs::metadata(&m.path).unwrap().ino(), 256);
}

/// Forgets a file's cached pages.
fn drop_caches_of(m: &Mounted, name: &str) {
    let file = fs::File::open(m.file(name)).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn direct_io_is_byte_exact() {
    let m = Mounted::plain();
    let data: Vec<u8> = (0..3 << 20).map(|n: u32| (n >> 9) as u8).collect();
    let direct = OFlags::DIRECT.bits().cast_signed();
    let mut file =
        fs::File::options().read(true).write(true).create(true).custom_flags(direct).open(m.file("d")).unwrap();
    file.write_all(&data).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert!(back == data);
}

/// With files that are not opened, O_TRUNC has to arrive as SETATTR.
#[test]
fn open_truncates() {
    let m = Mounted::plain();
    fs::write(m.file("f"), b"long contents").unwrap();
    fs::read(m.file("f")).unwrap();
    for text in [&b"new"[..], b"x", b"longer"] {
        fs::write(m.file("f"), text).unwrap();
        drop_caches_of(&m, "f");
        assert_eq!(fs::read(m.file("f")).unwrap(), text);
    }
    fs::File::options().write(true).truncate(true).open(m.file("f")).unwrap();
    drop_caches_of(&m, "f");
    assert_eq!(fs::read(m.file("f")).unwrap(), b"");
    let node = m.fs.overwrite(b"f", b"behind");
    m.fs.notifier.lock().unwrap().as_ref().unwrap().inval_inode(node);
    wait_until(|| fs::read(m.file("f")).unwrap() == b"behind");
}

#[test]
fn names_can_be_changed() {
    let m = Mounted::plain();
    fs::create_dir(m.file("dir")).unwrap();
    fs::write(m.file("dir/a"), b"a").unwrap();
    fs::rename(m.file("dir/a"), m.file("b")).unwrap();
    assert!(!m.file("dir/a").exists());
    fs::write(m.file("c"), b"c").unwrap();
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    let refused = rustix::fs::renameat_with(CWD, m.file("b"), CWD, m.file("c"), flags);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    fs::rename(m.file("b"), m.file("c")).unwrap();
    assert_eq!(fs::read(m.file("c")).unwrap(), b"a");
    fs::hard_link(m.file("c"), m.file("d")).unwrap();
    assert_eq!(fs::metadata(m.file("c")).unwrap().nlink(), 2);
    std::os::unix::fs::symlink("d", m.file("s")).unwrap();
    assert_eq!(fs::read_link(m.file("s")).unwrap(), Path::new("d"));
    assert_eq!(fs::read(m.file("s")).unwrap(), b"a");
    fs::write(m.file("dir/x"), b"").unwrap();
    assert!(fs::remove_dir(m.file("dir")).is_err());
    fs::remove_file(m.file("dir/x")).unwrap();
    fs::remove_dir(m.file("dir")).unwrap();
}

#[test]
fn large_directories_are_listed_once_and_whole() {
    let m = Mounted::plain();
    let expected: Vec<String> = (0..3000).map(|n| format!("file-with-a-long-name-{n:05}")).collect();
    for name in &expected {
        fs::write(m.file(name), b"").unwrap();
    }
    for _ in 0..2 {
        let mut found: Vec<String> = Vec::new();
        for entry in fs::read_dir(&m.path).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.metadata().unwrap().is_file());
            found.push(entry.file_name().into_string().unwrap());
        }
        found.sort();
        assert_eq!(found, expected);
    }
}

#[test]
fn xattrs_are_kept() {
    let m = Mounted::plain();
    let path = m.file("f");
    fs::write(&path, b"").unwrap();
    for name in ["user.one", "trusted.two", "security.three", "btrfs.compression"] {
        rustix::fs::setxattr(&path, name, b"value", XattrFlags::CREATE).unwrap();
        let again = rustix::fs::setxattr(&path, name, b"value", XattrFlags::CREATE);
        assert_eq!(again, Err(rustix::io::Errno::EXIST));
    }
    let mut buffer = [0_u8; 200];
    let len = rustix::fs::getxattr(&path, "user.one", &mut buffer[..]).unwrap();
    assert_eq!(&buffer[..len], b"value");
    let short = rustix::fs::getxattr(&path, "user.one", &mut buffer[..2]);
    assert_eq!(short, Err(rustix::io::Errno::RANGE));
    let len = rustix::fs::listxattr(&path, &mut buffer[..]).unwrap();
    assert_eq!(buffer[..len].split(|byte| *byte == 0).count(), 5);
    rustix::fs::removexattr(&path, "user.one").unwrap();
    let gone = rustix::fs::getxattr(&path, "user.one", &mut buffer[..]);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let m = Mounted::plain();
    let nodes = m.fs.node_count();
    fs::write(m.file("f"), b"still here").unwrap();
    let mut file = fs::File::open(m.file("f")).unwrap();
    fs::remove_file(m.file("f")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still here");
    drop(file);
    wait_until(|| m.fs.node_count() == nodes);
}

#[test]
fn files_without_names_work() {
    let m = Mounted::plain();
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let fd = rustix::fs::open(&m.path, flags, Mode::from_raw_mode(0o600)).unwrap();
    let mut file = fs::File::from(fd);
    file.write_all(b"nameless").unwrap();
    rustix::fs::linkat(&file, "", CWD, m.file("named"), AtFlags::EMPTY_PATH).unwrap();
    assert_eq!(fs::read(m.file("named")).unwrap(), b"nameless");
}

#[test]
fn sparse_seek_copy_and_statfs_arrive() {
    let m = Mounted::plain();
    fs::write(m.file("from"), vec![7; 100_000]).unwrap();
    let from = fs::File::open(m.file("from")).unwrap();
    let to = fs::File::create(m.file("to")).unwrap();
    let copied = rustix::fs::copy_file_range(&from, None, &to, None, 100_000).unwrap();
    assert_eq!(copied, 100_000);
    assert_eq!(fs::read(m.file("to")).unwrap(), vec![7; 100_000]);
    assert_eq!(rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(5)).unwrap(), 100_000);
    let stat = rustix::fs::statfs(&m.path).unwrap();
    assert_eq!((stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_bsize), (1000, 500, 400, 4096));
}

#[test]
fn the_umask_and_device_numbers_arrive() {
    let m = Mounted::plain();
    let number = rustix::fs::makedev(259, 70_000);
    let kind = rustix::fs::FileType::BlockDevice;
    rustix::fs::mknodat(CWD, m.file("dev"), kind, Mode::from_raw_mode(0o666), number).unwrap();
    let meta = fs::metadata(m.file("dev")).unwrap();
    assert_eq!(meta.rdev(), number);
    let umask = rustix::process::umask(Mode::from_raw_mode(0o27));
    rustix::process::umask(umask);
    assert_eq!(meta.mode() & 0o777, 0o666 & !umask.as_raw_mode());
}

/// Times in the past and the far future keep their sign and nanoseconds.
#[test]
fn times_before_1970_survive() {
    let m = Mounted::plain();
    fs::write(m.file("f"), b"").unwrap();
    for seconds in [-5_i64, 1 << 33] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, m.file("f"), &times, AtFlags::empty()).unwrap();
        let meta = fs::metadata(m.file("f")).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, 123));
    }
}

#[test]
fn attributes_are_cached_and_names_can_be_invalidated() {
    let m = Mounted::plain();
    fs::write(m.file("f"), b"x").unwrap();
    let _ = rustix::fs::stat(m.file("f")).unwrap();
    let before = m.fs.counters.getattr.load(Ordering::SeqCst);
    for _ in 0..100 {
        let _ = rustix::fs::stat(m.file("f")).unwrap();
    }
    assert_eq!(m.fs.counters.getattr.load(Ordering::SeqCst), before);
    assert!(!m.file("late").exists());
    m.fs.add_behind(b"late");
    assert!(!m.file("late").exists(), "negative names are cached");
    m.fs.notifier.lock().unwrap().as_ref().unwrap().inval_entry(butterfs_fuse::NodeId::ROOT, b"late");
    wait_until(|| m.file("late").exists());
}

#[test]
fn fsync_arrives_and_ioctl_answers() {
    let m = Mounted::plain();
    let file = fs::File::create(m.file("f")).unwrap();
    file.sync_all().unwrap();
    assert_eq!(m.fs.counters.fsync.load(Ordering::SeqCst), 1);
    assert_eq!(rustix::fs::ioctl_getflags(&file), Ok(rustix::fs::IFlags::IMMUTABLE));
    let refused = rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::empty());
    assert!(refused.is_err());
}

#[test]
fn many_threads_at_once() {
    let options = SessionOptions { threads: 4, ..SessionOptions::default() };
    let source = MountSource::Named("memory".into());
    let m = Mounted::with(MemoryFs::new(), source, &MountOptions::for_root(), options);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let m = &m;
            scope.spawn(move || {
                for n in 0..100 {
                    let path = m.file(&format!("{thread}-{n}"));
                    fs::write(&path, format!("{thread}{n}").repeat(3000)).unwrap();
                    assert_eq!(fs::read(&path).unwrap(), format!("{thread}{n}").repeat(3000).into_bytes());
                    fs::remove_file(&path).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(&m.path).unwrap().count(), 0);
}

#[test]
fn the_writeback_cache_loses_nothing() {
    let options = SessionOptions { caching: Caching::Writeback, ..SessionOptions::default() };
    let source = MountSource::Named("memory".into());
    let m = Mounted::with(MemoryFs::new(), source, &MountOptions::for_root(), options);
    let data: Vec<u8> = (0..2_000_000_u32).map(|n| (n / 999) as u8).collect();
    fs::write(m.file("f"), &data).unwrap();
    drop_caches_of(&m, "f");
    assert!(fs::read(m.file("f")).unwrap() == data);
    assert_eq!(fs::metadata(m.file("f")).unwrap().len(), 2_000_000);
}

#[test]
fn fuseblk_on_an_image_passes_sync_and_waits_for_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let source = MountSource::at(&image(directory.path(), 16 << 20)).unwrap();
    let fs = MemoryFs::slow(Duration::from_millis(300));
    let options = SessionOptions::default();
    let mut m = Mounted::with(fs, source, &MountOptions::for_root(), options);
    assert_eq!(m.kind, MountKind::Fuseblk);
    let entry = m.entry().unwrap();
    assert_eq!(entry.kind, "fuseblk.butterfs");
    assert!(entry.source.starts_with("/dev/loop"));
    fs::write(m.file("f"), b"x").unwrap();
    let root = fs::File::open(&m.path).unwrap();
    rustix::fs::syncfs(&root).unwrap();
    assert!(m.fs.counters.syncfs.load(Ordering::SeqCst) >= 1);
    drop(root);
    assert_eq!(unmount(&m.path, Busy::Refuse).unwrap(), Unmounted::Gone);
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 1, "umount waits for destroy");
    m.join().unwrap();
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 1, "destroyed once");
    let image = directory.path().join("image");
    let attached = || loop_file(&entry.source).is_some_and(|file| Path::new(file.trim()) == image);
    wait_until(|| !attached());
}

/// Its number may be that of a mount before it, whose daemon is still at its end.
#[test]
fn a_mount_that_follows_at_once_is_left_alone() {
    let fs = MemoryFs::slow(Duration::from_millis(500));
    let options = SessionOptions::default();
    let mut m = Mounted::with(fs, MountSource::Named("first".into()), &MountOptions::for_root(), options);
    let number = m.entry().unwrap().id;
    // An answer shows that the session has begun.
    fs::metadata(&m.path).unwrap();
    assert_eq!(unmount(&m.path, Busy::Refuse).unwrap(), Unmounted::Gone);
    let mount = || Mount::new(&MountSource::Named("second".into()), &m.path, &MountOptions::for_root()).unwrap();
    let is_same = |_: &Mount| m.entry().unwrap().id == number;
    let second = (0..100).map(|_| mount()).find(is_same).expect("the kernel gives numbers out again");
    m.join().unwrap();
    assert_eq!(m.entry().unwrap().source, "second");
    drop(second);
    assert_eq!(m.entry(), None);
}

/// The file behind a loop device.
fn loop_file(device: &str) -> Option<String> {
    let name = device.strip_prefix("/dev/").unwrap();
    fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}

#[test]
fn a_device_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let source = MountSource::at(&image(directory.path(), 16 << 20)).unwrap();
    let m = Mounted::new(source, &MountOptions::for_root());
    let device = MountSource::BlockDevice(m.entry().unwrap().source.into());
    let target = tempfile::tempdir().unwrap();
    let error = Mount::new(&device, target.path(), &MountOptions::for_root()).unwrap_err();
    assert!(matches!(error, MountError::DeviceBusy { .. }), "{error}");
}

#[test]
fn a_mount_that_is_never_served_goes_away() {
    let target = tempfile::tempdir().unwrap();
    let source = MountSource::Named("memory".into());
    let mount = Mount::new(&source, target.path(), &MountOptions::for_root()).unwrap();
    let point = mount.point();
    drop(mount);
    assert_eq!(point.unmount(Busy::Refuse).unwrap(), Unmounted::WasNot);
}

#[test]
fn a_mount_that_is_in_use_for_a_moment_is_waited_for() {
    let mut m = Mounted::plain();
    let passer_by = fs::File::open(&m.path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(passer_by);
        });
        assert_eq!(unmount(&m.path, Busy::Refuse).unwrap(), Unmounted::Gone);
    });
    m.join().unwrap();
}

#[test]
fn a_mount_that_stays_in_use_is_left() {
    let m = Mounted::plain();
    let user = fs::File::open(&m.path).unwrap();
    let error = unmount(&m.path, Busy::Refuse).unwrap_err();
    assert!(matches!(error, MountError::Busy { .. }), "{error}");
    drop(user);
}

#[test]
fn unmounting_ends_the_session_and_destroys_once() {
    let mut m = Mounted::plain();
    fs::write(m.file("f"), b"x").unwrap();
    assert_eq!(unmount(&m.path, Busy::Refuse).unwrap(), Unmounted::Gone);
    m.join().unwrap();
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 1);
    assert_eq!(m.stop.stop().unwrap(), Unmounted::WasNot);
    assert!(matches!(unmount(&m.path, Busy::Refuse), Err(MountError::NotMounted { .. })));
}

#[test]
fn a_busy_mount_is_detached_and_ends_with_its_last_user() {
    let mut m = Mounted::plain();
    let mut file = fs::File::create(m.file("f")).unwrap();
    assert!(matches!(m.stop.stop_if_idle(), Err(MountError::Busy { .. })));
    assert_eq!(m.stop.stop().unwrap(), Unmounted::Detached);
    file.write_all(b"still served").unwrap();
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 0);
    drop(file);
    m.join().unwrap();
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 1);
}

/// The caller gets an error instead of hanging for ever.
#[test]
fn a_panic_in_the_front_end_is_eio() {
    let m = Mounted::plain();
    let error = fs::metadata(m.file("panic!")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(5));
}

#[test]
fn an_aborted_connection_ends_the_session() {
    let mut m = Mounted::plain();
    fs::write(m.file("f"), b"x").unwrap();
    m.stop.abort().unwrap();
    m.join().unwrap();
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 1);
    assert!(!m.file("f").exists(), "still mounted");
}

#[test]
fn ioctls_carry_their_bytes() {
    let m = Mounted::plain();
    fs::write(m.file("f"), b"x").unwrap();
    let out = std::process::Command::new("lsattr").arg("-v").arg(m.file("f")).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).trim_start().starts_with("77 "), "{out:?}");
}

#[test]
fn read_only_mounts_refuse_changes() {
    let mut options = MountOptions::for_root();
    options.flags |= MountFlags::READ_ONLY;
    let directory = tempfile::tempdir().unwrap();
    let path = image(directory.path(), 16 << 20);
    let m = Mounted::new(MountSource::at(&path).unwrap(), &options);
    assert_eq!(m.kind, MountKind::Fuseblk);
    let error = fs::write(m.file("f"), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn wrong_mount_points_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = image(directory.path(), 1);
    let source = MountSource::Named("memory".into());
    let options = MountOptions::for_root();
    let error = Mount::new(&source, &file, &options).unwrap_err();
    assert!(matches!(error, MountError::NotADirectory { .. }), "{error}");
    let error = Mount::new(&source, &directory.path().join("none"), &options).unwrap_err();
    assert!(matches!(error, MountError::NoTarget { .. }), "{error}");
}

/// Waits for something that happens soon.
fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < end, "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
