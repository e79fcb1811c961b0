//! Requirement 4: a full disk says ENOSPC to the write that asks, keeps what it has, and can be emptied again.

mod common;

use butterfs_testkit::command::run;
use butterfs_testkit::mounter::{Mounted, Mounter};
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::unmount::patiently;
use common::{GIB, MIB, kernel, setup, subject};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Small files of mixed sizes, inline and not, twice over the same space.
#[test]
fn filled_by_small_files() {
    for maker in [kernel(), subject()] {
        full_disk("small_files", &maker, |mounted| fill_with_small_files(mounted.path()));
    }
}

/// One file that takes everything.
#[test]
fn filled_by_one_big_file() {
    for maker in [kernel(), subject()] {
        full_disk("big_file", &maker, |mounted| {
            let path = mounted.join("big");
            let length = fill_with_one_file(&path, 1);
            BTreeMap::from([(path, (1, length))])
        });
    }
}

/// On a full filesystem every file can still be truncated to nothing, and a directory removed.
#[test]
fn a_full_filesystem_still_deletes() {
    let Some(work) = setup("still_deletes") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    let files = fill_with_small_files(&mnt);
    mounted.sync();
    for path in files.keys() {
        let file = std::fs::OpenOptions::new().write(true).open(path).expect("a file opens on a full filesystem");
        file.set_len(0).expect("truncation on a full filesystem");
    }
    for entry in std::fs::read_dir(&mnt).expect("the root lists") {
        std::fs::remove_dir_all(entry.expect("an entry").path()).expect("deletion on a full filesystem");
    }
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// The kernel fills mixed block groups up to a reserve that is much smaller than ours; what it left is enough to
/// delete all of it.
#[test]
fn mixed_groups_that_the_kernel_filled_are_emptied() {
    let Some(work) = setup("mixed_full") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    // mkfs.btrfs finds 64 MiB too small for two copies.
    let shapes = [(kernel(), 128 * MIB, "single"), (subject(), 64 * MIB, "dup"), (kernel(), 600 * MIB, "single")];
    for (maker, size, profile) in shapes {
        println!("{size} bytes, {profile}");
        maker.mkfs(&image, size, &["-M", "-m", profile, "-d", profile]);
        let mounted = kernel().mount(&image, &mnt, "");
        let files = fill_to_the_brim(&mnt);
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = subject().mount(&image, &mnt, "");
        let (first, rest) = files.split_at(3);
        std::fs::remove_file(&first[0]).expect("rm on a full filesystem");
        File::options().write(true).open(&first[1]).and_then(|file| file.set_len(0)).expect("truncate");
        File::create(&first[2]).expect("opening with O_TRUNC");
        rest.iter().for_each(|path| std::fs::remove_file(path).expect("rm on a full filesystem"));
        mounted.sync();
        // There is room for something else.
        std::fs::write(mounted.join("new"), pattern(9, 8 << 20)).expect("a file in what was given back");
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = kernel().mount(&image, &mnt, "");
        assert_eq!(std::fs::read_dir(&mnt).expect("the root lists").count(), 3);
        verify(&Contents::from([(mounted.join("new"), (9, 8 << 20))]));
        mounted.unmount();
        std::fs::remove_file(&image).expect("remove the image");
    }
}

/// Files of ever smaller sizes, until not one sector fits; the names in the order in which they are to go.
fn fill_to_the_brim(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for length in [8 << 20, 1 << 20, 100_000, 4096] {
        for number in 0.. {
            let path = dir.join(format!("f{length}.{number}"));
            let written = std::fs::write(&path, vec![7; length]).and_then(|()| File::open(&path)?.sync_all());
            files.extend(path.exists().then_some(path));
            if let Err(error) = written {
                assert!(is_no_space(&error), "{error}");
                break;
            }
        }
    }
    // Those of one sector first: they give back the least.
    files.reverse();
    files
}

/// At 0 to 2% of free space, with snapshots of everything: threads overwrite, cut, make and delete; only who asks for
/// space is told that there is none. In the end all names of the live subvolume go, one by one.
#[test]
fn deletes_succeed_beside_snapshots_on_a_full_filesystem() {
    let Some(work) = setup("snapshots_full") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    for number in 0..6000_u64 {
        let dir = mnt.join(format!("d{}", number % 3));
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::write(dir.join(format!("f{number}")), pattern(number, 200 + number as usize % 6000)).expect("a file");
    }
    for number in 0..3 {
        subject().snapshot_read_only(&mnt, &mnt.join(format!("s{number}")));
    }
    let _filled = fill_with_one_file(&mnt.join("big"), 1);
    mounted.sync();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let dir = mnt.join(format!("d{thread}"));
            scope.spawn(move || (0..1500).for_each(|step| change(&dir, thread, step)));
        }
    });
    mounted.sync();
    std::fs::remove_file(mnt.join("big")).expect("the big file");
    let _filled = fill_with_one_file(&mnt.join("big"), 2);
    for thread in 0..3 {
        let dir = mnt.join(format!("d{thread}"));
        for entry in std::fs::read_dir(&dir).expect("a directory lists") {
            std::fs::remove_file(entry.expect("an entry").path()).expect("deletion beside snapshots");
        }
        std::fs::remove_dir(&dir).expect("an empty directory");
        mounted.sync();
    }
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// One step of a thread that has a third of the files.
fn change(dir: &Path, thread: u64, step: u64) {
    let mut random = Random::new(thread * 10_000 + step);
    let path = dir.join(format!("f{}", random.below(2000) * 3 + thread));
    let asks = |result: std::io::Result<()>| match result {
        Err(error) if is_no_space(&error) || error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
    };
    let open = || File::options().write(true).open(&path);
    match random.below(5) {
        0 => asks(std::fs::write(dir.join(format!("n{step}")), pattern(step, 5000))),
        1 => asks(open().and_then(|file| file.write_all_at(&pattern(step, 3000), 0))),
        2 => {
            if let Ok(file) = open() {
                file.set_len(0).expect("truncation on a full filesystem");
            }
        }
        _ => match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.expect("deletion on a full filesystem"),
        },
    }
}

/// The seed and the length of each file that was written whole.
type Contents = BTreeMap<PathBuf, (u64, usize)>;

fn full_disk(name: &str, maker: &Mounter, fill: impl Fn(&Mounted) -> Contents) {
    let Some(work) = setup(name) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    maker.mkfs(&image, 300 * MIB, &[]);
    let mut first_total = 0;
    for round in 0..2 {
        let mounted = subject().mount(&image, &mnt, "");
        let contents = fill(&mounted);
        let total: usize = contents.values().map(|(_, length)| length).sum();
        println!("{name}, round {round}: {} files, {total} bytes", contents.len());
        verify(&contents);
        mounted.unmount();
        oracle::assert_clean(&image);
        oracle::assert_superblocks(&image);
        if round == 0 {
            first_total = total;
            assert!(total as u64 > 60 * MIB, "ENOSPC came at {total} bytes of 300 MiB");
        }
        assert!(total >= first_total / 10 * 9, "only {total} bytes fit again, {first_total} did at first");

        let mounted = subject().mount(&image, &mnt, "");
        verify(&contents);
        let free = free_bytes(&mnt);
        contents.keys().for_each(|path| std::fs::remove_file(path).expect("deletion on a full filesystem"));
        mounted.sync();
        let freed = free_bytes(&mnt).saturating_sub(free);
        assert!(freed >= total as u64 / 2, "deleting {total} bytes freed {freed} by statfs");
        mounted.unmount();
        oracle::assert_clean(&image);
    }
}

fn free_bytes(dir: &Path) -> u64 {
    let stat = rustix::fs::statvfs(dir).expect("statfs");
    stat.f_bavail * stat.f_frsize
}

fn verify(contents: &Contents) {
    for (path, (seed, length)) in contents {
        let found = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(found == pattern(*seed, *length), "{}: the content changed", path.display());
    }
}

fn pattern(seed: u64, length: usize) -> Vec<u8> {
    Random::new(seed).bytes(length)
}

fn is_no_space(error: &std::io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NOSPC)
}

/// Files that were written and fsynced, or closed without an error, belong to the result.
fn fill_with_small_files(root: &Path) -> Contents {
    let mut random = Random::new(4);
    let mut contents = Contents::new();
    let mut failures = 0;
    for number in 0..200_000_u64 {
        let dir = root.join(format!("d{}", number / 500));
        let length = random.between(1, if random.clone().percent(20) { 60_000 } else { 9000 }) as usize;
        match write_file(&dir, number, length) {
            Ok(path) => _ = contents.insert(path, (number, length)),
            Err(error) => {
                assert!(is_no_space(&error), "file {number}: {error}");
                _ = std::fs::remove_file(dir.join(format!("f{number}")));
                failures += 1;
                // One failure may be a large file; the disk is full when it says so again and again.
                if failures == 20 {
                    return contents;
                }
            }
        }
    }
    panic!("200,000 files and no ENOSPC");
}

/// fsync makes it sure that a delayed ENOSPC reaches us here and not nobody.
fn write_file(dir: &Path, number: u64, length: usize) -> std::io::Result<PathBuf> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = dir.join(format!("f{number}"));
    let mut file = std::fs::File::create_new(&path)?;
    file.write_all(&pattern(number, length))?;
    if number.is_multiple_of(50) {
        file.sync_all()?;
    }
    Ok(path)
}

fn fill_with_one_file(path: &Path, seed: u64) -> usize {
    let whole = pattern(seed, 300 << 20);
    let file = std::fs::File::create_new(path).expect("create");
    let mut done = 0;
    while done < whole.len() {
        let end = (done + (128 << 10)).min(whole.len());
        match file.write_at(&whole[done..end], done as u64) {
            Ok(written) => done += written,
            Err(error) => {
                assert!(is_no_space(&error), "at {done}: {error}");
                file.set_len(done as u64).expect("truncation on a full filesystem");
                file.sync_all().expect("what was accepted is written");
                return done;
            }
        }
    }
    panic!("300 MiB fit into a filesystem of 300 MiB");
}

/// A sparse image on a disk that fills up, the daemon's log beside it: what cannot be stored is said by umount.
#[test]
fn a_full_disk_below_the_image_is_reported_at_the_end() {
    let Some(work) = setup("disk_below") else { return };
    if !subject().is_butterfs() {
        println!("the kernel reports this by other ways");
        return;
    }
    let (below, mnt) = (work.dir("below"), work.dir("mnt"));
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=60M", "none"]).arg(&below)).ok();
    let image = below.join("image");
    subject().mkfs(&image, GIB, &[]);
    for options in ["commit=600", "commit=1"] {
        let mounted = subject().mount(&image, &mnt, options);
        let file = File::create(mounted.join("big")).expect("create");
        // It may fail already here, or only when the bytes go to the device.
        let _ = (0..100).try_for_each(|_| (&file).write_all(&vec![7; 1 << 20]));
        drop(file);
        if options == "commit=1" {
            std::thread::sleep(std::time::Duration::from_secs(3));
        }
        let finished = patiently(|| subject().command(&["umount".as_ref(), mnt.as_os_str()]));
        assert_eq!(finished.status.code(), Some(32), "{finished}");
        assert!(finished.stderr.contains("lost"), "{finished}");
        assert!(!butterfs_testkit::mounter::is_mounted(&mnt));
        std::mem::forget(mounted);
    }
    // What was durable is still there.
    oracle::assert_clean(&image);
}
