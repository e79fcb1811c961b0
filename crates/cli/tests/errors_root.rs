//! What a user sees of a device that fails: errors to those who asked, a read-only mount, and the cause.

mod common;

use butterfs_testkit::command::run;
use butterfs_testkit::mounter::Mounted;
use butterfs_testkit::oracle;
use butterfs_testkit::unmount::patiently;
use butterfs_testkit::workdir::WorkDir;
use common::{GIB, setup, subject};
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// An image on a disk that is nearly full: what the image needs beyond that cannot be written.
struct SmallDisk {
    image: PathBuf,
    ballast: PathBuf,
}

impl SmallDisk {
    /// A disk of 60 MiB, of which `ballast` MiB can be given back.
    fn new(work: &WorkDir, ballast: usize) -> Self {
        let below = work.dir("below");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=60M", "none"]).arg(&below)).ok();
        let (image, file) = (below.join("image"), below.join("ballast"));
        subject().mkfs(&image, GIB, &[]);
        std::fs::write(&file, vec![1; ballast << 20]).expect("the disk holds the ballast");
        Self { image, ballast: file }
    }
}

fn status(path: &Path, format: &str) -> (Option<i32>, String) {
    let finished = subject().command(&["status".as_ref(), path.as_os_str(), "--format".as_ref(), format.as_ref()]);
    (finished.status.code(), finished.stdout)
}

fn errno(result: std::io::Result<impl Sized>) -> Option<Errno> {
    result.err().as_ref().and_then(Errno::from_io_error)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).expect("statvfs").f_flag.contains(StatVfsMountFlags::RDONLY)
}

/// Writes 64 KiB blocks; whoever hears of an error here, or later, is not of interest.
fn write_much(file: &File, mebibytes: u64) {
    let _ = (0..mebibytes * 16).try_for_each(|block| file.write_all_at(&[7; 1 << 16], block << 16));
}

fn work(name: &str) -> Option<WorkDir> {
    let work = setup(name)?;
    if !subject().is_butterfs() {
        println!("the kernel shows its errors by other ways");
        return None;
    }
    Some(work)
}

/// After a commit that failed: EROFS to writers, the old data to readers, the cause to who asks, a read-only mount to the
/// kernel, and an error from umount.
#[test]
fn a_failed_commit_makes_the_mount_read_only_and_is_shown() {
    let Some(work) = work("failed_commit") else { return };
    let (disk, mnt) = (SmallDisk::new(&work, 0), work.dir("mnt"));
    let mounted = subject().mount(&disk.image, &mnt, "commit=600");
    std::fs::write(mounted.join("kept"), b"kept").expect("a small file");
    mounted.sync();
    let (code, text) = status(&mnt, "text");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("read-write") && text.contains("commit=600") && text.contains("last commit"), "{text}");

    let open = File::create(mounted.join("big")).expect("create");
    write_much(&open, 100);
    assert_eq!(errno(open.sync_all()), Some(Errno::IO));
    // The disk below is full, so the next commit fails, too.
    let _ = std::fs::write(mounted.join("other"), vec![1; 1 << 20]);
    let _ = File::open(&mnt).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    wait_until("the error", || status(&mnt, "text").0 == Some(1));
    wait_until("a stop", || errno(std::fs::create_dir(mounted.join("late"))) == Some(Errno::ROFS));
    let (code, json) = status(&mnt, "json");
    assert_eq!(code, Some(1), "{json}");
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let mount = &value["mounts"][0];
    assert_eq!((mount["state"].as_str(), mount["changes_lost"].as_bool()), (Some("error"), Some(true)), "{json}");
    let cause = mount["error"]["cause"].as_str().expect("a cause");
    assert!(cause.contains("image") && cause.contains("offset"), "neither device nor offset: {cause}");
    assert!(mount["error"]["time"].as_str().is_some_and(|time| time.starts_with("20")), "{json}");
    assert!(mount["daemon_pid"].as_u64().is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists()), "{json}");
    assert!(status(&mnt, "text").1.contains(cause));

    // For the kernel it is read-only once no file is open for writing.
    drop(open);
    wait_until("a read-only mount", || is_read_only(&mnt));
    assert_eq!(errno(File::create(mounted.join("late"))), Some(Errno::ROFS));
    assert_eq!(errno(std::fs::remove_file(mounted.join("kept"))), Some(Errno::ROFS));
    assert_eq!(std::fs::read(mounted.join("kept")).expect("reading goes on"), b"kept");

    let finished = patiently(|| subject().command(&["umount".as_ref(), mnt.as_os_str()]));
    assert_eq!(finished.status.code(), Some(32), "{finished}");
    assert!(finished.stderr.contains(cause), "umount does not tell the first cause: {finished}");
    std::mem::forget(mounted);
    oracle::assert_clean(&disk.image);
}

/// Two open files of one file hear of lost data, each once; then, with space again, all is well.
fn two_open_files(mounted: &Mounted, disk: &SmallDisk) {
    let path = mounted.join("file");
    let one = File::create(&path).expect("create");
    one.sync_all().expect("a first fsync");
    let two = File::options().write(true).open(&path).expect("open");
    write_much(&one, 60);
    assert_eq!(errno(two.sync_all()), Some(Errno::IO), "the first to ask");
    std::fs::remove_file(&disk.ballast).expect("space for the disk below");
    assert_eq!(errno(one.sync_all()), Some(Errno::IO), "the other open file");
    let late = File::options().write(true).open(&path).expect("open");
    for file in [&one, &two, &late] {
        file.sync_all().expect("it was told, or came later");
    }
    // What is written again is kept.
    one.set_len(0).expect("truncate");
    one.write_all_at(b"again", 0).expect("write");
    two.sync_all().expect("fsync");
}

#[test]
fn each_open_file_is_told_once_of_lost_data() {
    let Some(work) = work("told_once") else { return };
    let (disk, mnt) = (SmallDisk::new(&work, 30), work.dir("mnt"));
    let mounted = subject().mount(&disk.image, &mnt, "commit=600,open_files");
    two_open_files(&mounted, &disk);
    let (code, text) = status(&mnt, "text");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("data of files was lost"), "{text}");
    assert_eq!(errno(rustix::fs::syncfs(File::open(&mnt).expect("open")).map_err(Into::into)), Some(Errno::IO));
    rustix::fs::syncfs(File::open(&mnt).expect("open")).expect("it was told");
    mounted.unmount();
    let mounted = subject().mount(&disk.image, &mnt, "");
    assert_eq!(std::fs::read(mounted.join("file")).expect("read"), b"again");
    mounted.unmount();
    oracle::assert_clean(&disk.image);
}

/// Who created a file has an open file of his own, whatever else the thread opened.
#[test]
fn who_created_a_file_is_told_once_of_lost_data() {
    let Some(work) = work("creator_told") else { return };
    let (disk, mnt) = (SmallDisk::new(&work, 30), work.dir("mnt"));
    let mounted = subject().mount(&disk.image, &mnt, "commit=600");
    two_open_files(&mounted, &disk);
    mounted.unmount();
    oracle::assert_clean(&disk.image);
}

/// Without handles each thread is told, and each process.
#[test]
fn each_thread_is_told_once_of_lost_data() {
    let Some(work) = work("threads_told") else { return };
    let (disk, mnt) = (SmallDisk::new(&work, 30), work.dir("mnt"));
    let mounted = subject().mount(&disk.image, &mnt, "commit=600");
    drop(File::create(mounted.join("file")).expect("create"));
    let file = File::options().write(true).open(mounted.join("file")).expect("open");
    file.sync_all().expect("a first fsync");
    write_much(&file, 60);
    assert_eq!(errno(file.sync_all()), Some(Errno::IO));
    std::fs::remove_file(&disk.ballast).expect("space for the disk below");
    let other = std::thread::scope(|scope| scope.spawn(|| errno(file.sync_all())).join().expect("the thread"));
    assert_eq!(other, Some(Errno::IO));
    file.sync_all().expect("it was told");
    drop(file);
    mounted.unmount();
    oracle::assert_clean(&disk.image);
}

#[test]
fn status_says_what_it_cannot_say() {
    let Some(work) = work("status_elsewhere") else { return };
    let finished = subject().command(&["status".as_ref(), work.dir("plain").as_os_str()]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("not on a filesystem mounted by butterfs"), "{finished}");
}
