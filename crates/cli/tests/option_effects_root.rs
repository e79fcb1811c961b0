//! What mount options do, where it can be seen from outside; beside the kernel where it has them.

mod common;

use butterfs_testkit::command::{run, run_program};
use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::oracle;
use common::{MIB, kernel, setup, subject};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

/// What the kernel finds of a file in a copy of the image that is taken now: what a power cut would leave.
fn durable(image: &Path, copy: &Path, mnt: &Path, name: &str) -> Option<Vec<u8>> {
    run_program("cp", &["--sparse=always".as_ref(), image.as_os_str(), copy.as_os_str()]).ok();
    let mounted = kernel().mount(copy, mnt, "");
    let found = fs::read(mnt.join(name)).ok();
    mounted.unmount();
    found
}

#[test]
fn commit_says_how_long_a_power_cut_may_reach_back() {
    let Some(work) = setup("effects_commit") else { return };
    let (image, copy, mnt, seen) = (work.file("image"), work.file("copy"), work.dir("mnt"), work.dir("seen"));
    for (options, there) in [("commit=1", true), ("commit=300", false)] {
        kernel().mkfs(&image, 128 * MIB, &[]);
        let mounted = subject().mount(&image, &mnt, options);
        fs::write(mnt.join("file"), b"bytes").expect("write");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(durable(&image, &copy, &seen, "file").is_some(), there, "{options}");
        mounted.unmount();
    }
}

/// What is in memory of files goes with each commit, with and without the option: a power cut finds the whole file.
#[test]
fn flushoncommit_has_whole_files_in_each_commit() {
    let Some(work) = setup("effects_flush") else { return };
    let (image, copy, mnt, seen) = (work.file("image"), work.file("copy"), work.dir("mnt"), work.dir("seen"));
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number.wrapping_mul(number) >> 11) as u8).collect();
    for options in ["flushoncommit,commit=1", "noflushoncommit,commit=1"] {
        kernel().mkfs(&image, 128 * MIB, &[]);
        let mounted = subject().mount(&image, &mnt, options);
        fs::write(mnt.join("file"), &bytes).expect("write");
        std::thread::sleep(Duration::from_millis(3500));
        assert!(durable(&image, &copy, &seen, "file").as_ref() == Some(&bytes), "{options}");
        mounted.unmount();
    }
}

#[test]
fn metadata_ratio_gives_metadata_its_chunks() {
    let Some(work) = setup("effects_ratio") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let chunks = |options: &str| {
        kernel().mkfs(&image, 640 * MIB, &["-m", "single"]);
        let mounted = subject().mount(&image, &mnt, options);
        for name in ["a", "b", "c"] {
            fs::write(mnt.join(name), vec![7; 56 << 20]).expect("write");
            mounted.sync();
        }
        mounted.unmount();
        oracle::assert_clean(&image);
        let dump = oracle::dump_tree(&image, "chunk");
        ["METADATA", "DATA"]
            .map(|kind| dump.lines().filter(|line| line.contains(&format!("type {kind}|single"))).count())
    };
    let ([metadata, data], [metadata_then, data_then]) = (chunks(""), chunks("metadata_ratio=1"));
    assert!(metadata < data, "{metadata} for metadata, {data} for data");
    assert!(metadata_then >= data_then && data_then > 2, "{metadata_then} for metadata, {data_then} for data");
}

/// Where no device is missing they change nothing; one that is named has to be there.
#[test]
fn degraded_and_device_do_no_harm_to_one_device() {
    let Some(work) = setup("effects_device") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    let named = format!("device={}", image.display());
    for options in ["degraded", &named, &format!("degraded,{named},device={}", work.path().display())] {
        let mounted = subject().mount(&image, &mnt, options);
        fs::write(mnt.join("file"), options).expect("write");
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = kernel().mount(&image, &mnt, "degraded");
        assert_eq!(fs::read_to_string(mnt.join("file")).expect("read"), options);
        mounted.unmount();
    }
    let refused = subject().try_mount(&image, &mnt, "device=/nowhere/image").map(drop).expect_err("it is not there");
    assert!(refused.stderr.contains("/nowhere/image"), "{refused}");
}

#[test]
fn with_sync_what_is_written_is_durable() {
    let Some(work) = setup("effects_sync") else { return };
    let (image, copy, mnt, seen) = (work.file("image"), work.file("copy"), work.dir("mnt"), work.dir("seen"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "sync,commit=300");
    fs::write(mnt.join("file"), b"bytes").expect("write");
    assert_eq!(durable(&image, &copy, &seen, "file").as_deref(), Some(b"bytes".as_slice()));
    mounted.unmount();
}

/// Lengths of the files that are kept in the tree.
fn inline_lengths(mounter: &Mounter, image: &Path, mnt: &Path, options: &str) -> Vec<String> {
    kernel().mkfs(image, 128 * MIB, &[]);
    let mounted = mounter.mount(image, mnt, options);
    for length in [0, 1, 500, 1000, 1001, 2047, 2048, 2049, 3000, 3996, 4000, 4095, 4096] {
        fs::write(mnt.join(format!("{length}")), vec![7; length]).expect("write");
    }
    mounted.unmount();
    oracle::assert_clean(image);
    let dump = oracle::dump_tree(image, "fs");
    dump.lines().filter(|line| line.contains("inline extent data size")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn max_inline_decides_what_is_kept_in_the_tree() {
    let Some(work) = setup("effects_inline") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    for options in ["", "max_inline=0", "max_inline=1000", "max_inline=3k", "max_inline=64k"] {
        let theirs = inline_lengths(&kernel(), &image, &mnt, options);
        assert_eq!(inline_lengths(&subject(), &image, &mnt, options), theirs, "{options}");
    }
}

#[test]
fn thread_pool_is_the_number_of_threads_that_answer() {
    let Some(work) = setup("effects_threads") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    let workers = |daemon: u32| {
        let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let tasks = fs::read_dir(format!("/proc/{daemon}/task")).expect("tasks");
        tasks.map(|task| name(task.expect("a task"))).filter(|name| name.trim() == "fuse-worker").count()
    };
    let count = |options: &str| {
        let mounted = subject().mount(&image, &mnt, options);
        let daemon = mounted.daemon().expect("a daemon");
        // Threads get their names when they run.
        std::thread::sleep(Duration::from_secs(1));
        let found = workers(daemon);
        mounted.unmount();
        found
    };
    let (few, more) = (count("transport=device,thread_pool=2"), count("transport=device,thread_pool=7"));
    assert_eq!(more - few, 5, "{few} {more}");
}

/// So many files that inodes leave the daemon's memory which the kernel still knows.
#[test]
fn with_small_caches_open_files_are_what_they_were() {
    let Some(work) = setup("effects_caches") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "cache_size=16M");
    let open = |name: &str| fs::File::options().read(true).write(true).create_new(true).open(mnt.join(name));
    let (named, nameless) = (open("named").expect("a file"), open("nameless").expect("a file"));
    let before = named.metadata().expect("attributes");
    fs::remove_file(mnt.join("nameless")).expect("it can be removed");
    let dir = mnt.join("dir");
    fs::create_dir(&dir).expect("a directory");
    for number in 0..10_000 {
        fs::write(dir.join(format!("{number}")), b"few bytes").expect("write");
    }
    for (file, byte) in [(&named, 1), (&nameless, 2)] {
        file.write_all_at(&[byte; 5000], 0).expect("write");
        file.sync_all().expect("fsync");
    }
    for number in (0..10_000).step_by(7) {
        assert_eq!(fs::read(dir.join(format!("{number}"))).expect("read"), b"few bytes");
        fs::remove_file(dir.join(format!("{number}"))).expect("it can be removed");
    }
    for (file, byte) in [(&named, 1), (&nameless, 2)] {
        let mut bytes = [0; 5000];
        file.read_exact_at(&mut bytes, 0).expect("read");
        assert_eq!(bytes, [byte; 5000]);
    }
    assert_eq!(fs::metadata(mnt.join("named")).expect("attributes").ino(), before.ino());
    drop((named, nameless));
    mounted.unmount();
    oracle::assert_clean(&image);
}

#[test]
fn a_full_disk_is_explained_where_that_is_wanted() {
    let Some(work) = setup("effects_enospc") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    for (options, told) in [("", false), ("enospc_debug", true)] {
        kernel().mkfs(&image, 128 * MIB, &[]);
        let mounted = subject().mount(&image, &mnt, options);
        let before = mounted.log();
        assert!(fs::write(mnt.join("file"), vec![7; 200 << 20]).is_err(), "it does not fit");
        let log = mounted.log();
        assert_eq!(log[before.len().min(log.len())..].contains("no space"), told, "{options}: {log}");
        mounted.unmount();
    }
}

#[test]
fn the_subvolume_that_is_named_is_shown() {
    let Some(work) = setup("effects_subvolume") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "");
    for path in ["a", "a/b", "default"] {
        kernel().create_subvolume(&mnt.join(path));
        fs::write(mnt.join(path).join("name"), path).expect("write");
    }
    fs::write(mnt.join("name"), "top").expect("write");
    run_program("btrfs", &["subvolume".as_ref(), "set-default".as_ref(), mnt.join("default").as_os_str()]).ok();
    mounted.unmount();
    for options in [
        "",
        "subvol=/",
        "subvol=a",
        "subvol=/a/b",
        "subvolid=5",
        "subvolid=0",
        "subvolid=257",
        "subvol=/a,subvolid=256",
    ] {
        let seen = [kernel(), subject()].map(|mounter| {
            let mounted = mounter.mount(&image, &mnt, options);
            let seen = fs::read_to_string(mnt.join("name")).expect("read");
            mounted.unmount();
            seen
        });
        assert_eq!(seen[1], seen[0], "{options}");
    }
    for options in ["subvol=/a,subvolid=257", "subvol=/nope", "subvolid=999"] {
        assert!(kernel().try_mount(&image, &mnt, options).is_err(), "{options}: the kernel takes it");
        assert!(subject().try_mount(&image, &mnt, options).is_err(), "{options}");
    }
}

/// What cannot be done says why, and what to do in its place.
#[test]
fn what_is_refused_has_a_reason() {
    let Some(work) = setup("effects_refused") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    for (options, reason) in [
        ("clear_cache", "rescue clear-space-cache"),
        ("nospace_cache", "leave it out"),
        ("fragment=data", "CONFIG_BTRFS_DEBUG"),
        ("ref_verify", "CONFIG_BTRFS_DEBUG"),
        ("offset=4096", "losetup -o"),
        ("sizelimit=4096", "losetup --sizelimit"),
        ("space_cache=v1", "v2"),
        ("compress=gzip", "lzo, zstd"),
        ("compress=zlib:x", "zlib:x"),
        ("discard=often", "sync, async"),
        ("thread_pool=many", "from 1 to"),
        ("ssd=5", "write just ssd"),
        ("subvol=", "give the path"),
        ("subvolid=abc", "give the number"),
        ("ro,rescue=foo", "'foo'; allowed are: usebackuproot"),
        ("usebackuproot", "add ro"),
        ("commit=soon", "a number"),
        ("metadata_ratio=-1", "a number"),
        ("max_inline=much", "max_inline=much"),
        ("transport=tcp", "best, device, uring"),
        ("fatal_errors=laugh", "bug"),
        ("fancy", "fancy"),
        ("rescue=all", "add ro"),
        ("generation=3", "add ro"),
        ("norecovery", "add ro"),
    ] {
        let refused = subject().try_mount(&image, &mnt, options).map(drop).expect_err(options);
        let name = options.trim_start_matches("ro,").split('=').next().unwrap_or_default();
        let named = refused.stderr.contains(name) && refused.stderr.contains(reason);
        assert!(named && refused.stderr.trim_end().lines().count() == 1, "{options}: {refused}");
    }
}

/// As root a mount has a block device behind it, for which the kernel waits; `plain_fuse` does without.
#[test]
fn plain_fuse_has_no_device() {
    let Some(work) = setup("effects_plain") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 128 * MIB, &[]);
    for (options, kind) in [("", "fuseblk.butterfs"), ("plain_fuse", "fuse.butterfs")] {
        let mounted = subject().mount(&image, &mnt, options);
        let shown = run_program("findmnt", &["-no".as_ref(), "FSTYPE".as_ref(), mnt.as_os_str()]).ok().stdout;
        assert_eq!(shown.trim(), kind, "{options}");
        fs::write(mnt.join("file"), b"bytes").expect("write");
        mounted.unmount();
        oracle::assert_clean(&image);
    }
}

/// On an error that ends all writing the daemon ends, if that is wanted.
#[test]
fn fatal_errors_can_end_the_daemon() {
    let Some(work) = setup("effects_fatal") else { return };
    let (below, mnt) = (work.dir("below"), work.dir("mnt"));
    run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=60M", "none"]).arg(&below)).ok();
    let image = below.join("image");
    subject().mkfs(&image, 1024 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "fatal_errors=panic,commit=600");
    let daemon = mounted.daemon().expect("a daemon");
    // The disk below is full before that.
    let _ = fs::write(mnt.join("big"), vec![7; 100 << 20]);
    let _ = fs::File::open(&mnt).and_then(|root| Ok(rustix::fs::syncfs(root)?));
    butterfs_testkit::mounter::wait_until("the daemon ends", || !Path::new(&format!("/proc/{daemon}")).exists());
    mounted.kill();
    run_program("umount", &[below.as_os_str()]).ok();
}
