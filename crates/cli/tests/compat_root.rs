//! Programs as they are on our mount, by `butterfs compat`: the stock `btrfs`, and what clones, deduplicates and maps
//! files. What they say is held against what they say on the kernel's mount of the same image.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::mounter::Mounted;
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::workdir::WorkDir;
use common::ours::Ours;
use common::{MIB, compat_library, kernel, setup, subject};
use regex::Regex;

const BINARY: &str = env!("CARGO_BIN_EXE_butterfs");

/// Runs a program in the work directory, with the library where the mount is ours.
fn program<A: AsRef<OsStr>>(work: &WorkDir, mounted: &Mounted, arguments: &[A]) -> Finished {
    let mut command = if mounted.mounter().is_butterfs() {
        let mut command = Command::new(BINARY);
        command.args(["compat", "--"]).args(arguments);
        command
    } else {
        let (name, rest) = arguments.split_first().expect("a program");
        let mut command = Command::new(name);
        command.args(rest);
        command
    };
    run(command.current_dir(work.path()))
}

/// The same from a line of words without spaces in them.
fn words(work: &WorkDir, mounted: &Mounted, line: &str) -> Finished {
    program(work, mounted, &line.split_whitespace().collect::<Vec<_>>())
}

/// What a program said, without what must differ, line by line.
fn said(finished: &Finished) -> String {
    let device = Regex::new("/dev/loop[0-9]+").expect("it is right");
    // Columns get wider with the name of the device.
    let gap = Regex::new("  +|--+|\t+").expect("it is right");
    let text = format!("{}{}rc {:?}", finished.stdout, finished.stderr, finished.status.code());
    gap.replace_all(&device.replace_all(&text, "DEVICE"), "  ").into_owned()
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    Random::new(seed).bytes(length)
}

/// A filesystem with subvolumes, a snapshot, and files of every kind, made by the kernel.
fn populate(work: &WorkDir, image: &Path) {
    kernel().mkfs(image, 400 * MIB, &["-L", "a label"]);
    let mnt = work.dir("mnt");
    let mounted = kernel().mount(image, &mnt, "noatime");
    kernel().create_subvolume(&mnt.join("sub"));
    fs::create_dir(mnt.join("sub/dir")).expect("mkdir");
    kernel().create_subvolume(&mnt.join("sub/dir/inner"));
    fs::write(mnt.join("sub/file"), bytes(1, 3_000_000)).expect("write");
    words(work, &mounted, "cp --reflink=always mnt/sub/file mnt/clone").ok();
    fs::hard_link(mnt.join("clone"), mnt.join("link")).expect("link");
    fs::write(mnt.join("small"), b"a few bytes").expect("write");
    words(work, &mounted, "fallocate -l 1M mnt/pre").ok();
    kernel().snapshot_read_only(&mnt.join("sub"), &mnt.join("snap"));
    mounted.sync();
    let file = File::options().write(true).open(mnt.join("sub/file")).expect("open");
    file.write_all_at(&bytes(2, 100_000), 500_000).expect("write");
    drop(file);
    words(work, &mounted, "btrfs property set mnt/sub/dir compression zstd").ok();
    let text: Vec<u8> = b"all work and no play ".iter().copied().cycle().take(600_000).collect();
    fs::write(mnt.join("sub/dir/packed"), text).expect("write");
    let holes = File::create(mnt.join("holes")).expect("create");
    (0..300_u64).for_each(|at| holes.write_all_at(&bytes(at, 4096), at * 20_480).expect("write"));
    drop(holes);
    mounted.unmount();
}

/// The logical address of a file's first byte.
fn address(work: &WorkDir, mounted: &Mounted, path: &str) -> u64 {
    let map = words(work, mounted, &format!("filefrag -v {path}")).ok().stdout;
    let line = map.lines().find(|line| line.starts_with("   0:")).expect("an extent");
    let blocks = line.split(':').nth(2).and_then(|range| range.split("..").next()).expect("a range");
    blocks.trim().parse::<u64>().expect("a number") * 4096
}

const QUESTIONS: [&str; 42] = [
    "btrfs subvolume list mnt",
    "btrfs subvolume list -a -p -c -g -u -q -R -t mnt",
    "btrfs subvolume list -o mnt/sub",
    "btrfs subvolume list -s mnt",
    "btrfs subvolume list -r mnt",
    "btrfs subvolume show mnt",
    "btrfs subvolume show mnt/sub",
    "btrfs subvolume show mnt/snap",
    "btrfs subvolume show mnt/sub/dir",
    "btrfs subvolume show -r 257 mnt",
    "btrfs subvolume get-default mnt",
    "btrfs subvolume find-new mnt/sub 0",
    "btrfs filesystem df mnt",
    "btrfs filesystem usage -b mnt",
    "btrfs filesystem usage -T mnt",
    "btrfs filesystem label mnt",
    "btrfs filesystem du mnt",
    "btrfs filesystem du -s mnt/sub mnt/snap",
    "btrfs property get mnt/sub",
    "btrfs property get mnt/snap ro",
    "btrfs property get mnt/sub/dir compression",
    "btrfs property get mnt label",
    "btrfs property list mnt/sub",
    "btrfs inspect-internal rootid mnt/sub/file",
    "btrfs inspect-internal inode-resolve 257 mnt/sub",
    "btrfs inspect-internal inode-resolve 257 mnt",
    "btrfs inspect-internal inode-resolve 9999 mnt",
    "btrfs inspect-internal subvolid-resolve 257 mnt",
    "btrfs inspect-internal min-dev-size mnt",
    "btrfs inspect-internal list-chunks mnt",
    "btrfs device stats mnt",
    "btrfs device usage mnt",
    "btrfs balance status mnt",
    "btrfs balance cancel mnt",
    "btrfs balance pause mnt",
    "btrfs scrub cancel mnt",
    "btrfs replace status -1 mnt",
    "btrfs quota rescan -s mnt",
    "filefrag -v mnt/clone mnt/pre mnt/small mnt/holes mnt/sub/file mnt/sub/dir/packed mnt/snap/file",
    "stat -c %i:%n mnt mnt/sub mnt/sub/file mnt/sub/dir/inner",
    "stat -f -c %T mnt mnt/sub /proc",
    "find mnt -ls",
];

/// It asks all mounts of Btrfs that there are, and one that does not answer, of another version, ends it.
const SHOW: &str = "grep -E ' fuse(blk)?[.]butterfs ' /proc/self/mounts | cut -d' ' -f2 | grep -v \"^$PWD/\" |
    xargs -r umount -i -l; btrfs filesystem show mnt";

/// Answers to all questions, each with its question.
fn answers(work: &WorkDir, mounted: &Mounted) -> Vec<(String, String)> {
    let asked = |line: &str| (line.to_owned(), said(&words(work, mounted, line)));
    let mut all: Vec<_> = QUESTIONS.iter().map(|line| asked(line)).collect();
    all.push((SHOW.to_owned(), said(&program(work, mounted, &["unshare", "-m", "sh", "-c", SHOW]))));
    let at = address(work, mounted, "mnt/clone");
    for how in ["", "-o", "-P", "-P -o"] {
        let line = format!("btrfs inspect-internal logical-resolve {how} {at} mnt");
        let finished = words(work, mounted, &line);
        // In no particular order.
        let mut lines: Vec<_> = finished.stdout.lines().chain(finished.stderr.lines()).map(str::to_owned).collect();
        lines.sort();
        all.push((line, lines.join("\n")));
    }
    all
}

#[test]
fn the_stock_btrfs_says_the_same_on_both_mounts() {
    let Some(work) = setup("compat_questions") else { return };
    compat_library();
    let (image, copy, mnt) = (work.file("image"), work.file("copy"), work.dir("mnt"));
    populate(&work, &image);
    fs::copy(&image, &copy).expect("copy");
    let mounted = kernel().mount(&image, &mnt, "noatime");
    let expected = answers(&work, &mounted);
    mounted.unmount();
    let mounted = subject().mount(&copy, &mnt, "noatime");
    let found = answers(&work, &mounted);
    mounted.unmount();
    for ((question, expected), (_, found)) in expected.iter().zip(&found) {
        assert_eq!(found, expected, "{question}");
    }
}

/// What is asked of devices.
const DEVICE_QUESTIONS: [&str; 7] = [
    "btrfs filesystem usage -b mnt",
    "btrfs filesystem usage -T -b mnt",
    "btrfs filesystem usage mnt",
    "btrfs device usage mnt",
    "btrfs device usage -b mnt",
    "btrfs device stats mnt",
    SHOW,
];

/// Answers to all of them, without the names of devices.
fn device_answers(work: &WorkDir, library: &[&str]) -> Vec<String> {
    let images = format!("{}/disk[0-9]+", regex::escape(&work.path().display().to_string()));
    let device = Regex::new(&images).expect("it is right");
    let asked = |question: &&str| {
        let words = [library, &["unshare", "-m", "sh", "-c", question]].concat();
        let finished = run(Command::new(words[0]).args(&words[1..]).current_dir(work.path()));
        assert!(finished.status.success(), "{question}: {finished}");
        let text = Finished { stdout: device.replace_all(&finished.stdout, "/dev/loop0").into_owned(), ..finished };
        said(&text)
    };
    DEVICE_QUESTIONS.iter().map(asked).collect()
}

/// Of a filesystem on several images, too: how large they are, what is on each, and what went wrong with each.
#[test]
fn the_stock_btrfs_says_the_same_of_several_images() {
    for (name, sizes, mkfs) in [
        ("compat_raid1", [600 * MIB, 500 * MIB, 700 * MIB].as_slice(), ["-d", "raid1", "-m", "raid1"]),
        ("compat_single", &[300 * MIB, 400 * MIB], ["-d", "single", "-m", "dup"]),
        ("compat_raid5", &[300 * MIB, 300 * MIB, 300 * MIB], ["-d", "raid5", "-m", "raid1"]),
    ] {
        let Some(work) = setup(name) else { return };
        compat_library();
        let mnt = work.dir("mnt");
        let images = devices::mkfs(work.path(), sizes, &mkfs);
        let mounted = KernelMount::new(&images, &mnt, "noatime");
        fs::write(mnt.join("file"), bytes(1, 30_000_000)).expect("write");
        drop(mounted);
        let mounted = KernelMount::new(&images, &mnt, "ro,noatime");
        let expected = device_answers(&work, &[]);
        drop(mounted);
        let mounted = Ours::new(&images, &mnt, "noatime");
        let found = device_answers(&work, &[BINARY, "compat", "--"]);
        drop(mounted);
        for ((question, expected), found) in DEVICE_QUESTIONS.iter().zip(&expected).zip(&found) {
            assert_eq!(found, expected, "{name}: {question}");
        }
    }
}

/// However many images there are: each has its size.
#[test]
fn the_stock_btrfs_knows_the_size_of_each_of_many_images() {
    let Some(work) = setup("compat_many") else { return };
    compat_library();
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &[100 * MIB; 70], &["-d", "single", "-m", "raid1"]);
    // Longer than their devices are, so that what is left over tells whether the size is known.
    for image in &images {
        File::options().write(true).open(image).and_then(|file| file.set_len(101 * MIB)).expect("it grows");
    }
    let mounted = Ours::new(&images, &mnt, "noatime");
    let usage = Command::new(BINARY).args(["compat", "--", "btrfs", "device", "usage", "--mbytes"]).arg(&mnt).output();
    drop(mounted);
    let usage = String::from_utf8(usage.expect("btrfs runs").stdout).expect("UTF-8");
    let slack = usage.lines().filter(|line| line.trim_start().starts_with("Device slack:"));
    let slack: Vec<&str> = slack.filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(slack, ["1.00MiB"; 70], "{usage}");
}

#[test]
fn the_stock_btrfs_makes_and_removes_subvolumes() {
    let Some(work) = setup("compat_changes") else { return };
    compat_library();
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    populate(&work, &image);
    let mounted = subject().mount(&image, &mnt, "noatime");
    for line in [
        "btrfs subvolume create mnt/new",
        "btrfs subvolume snapshot mnt/sub mnt/new/writable",
        "btrfs subvolume snapshot -r mnt/sub mnt/frozen",
        "btrfs subvolume snapshot mnt/sub mnt/gone",
        "btrfs property set mnt/new/writable ro true",
        "btrfs subvolume delete -c mnt/gone",
        "btrfs subvolume sync mnt",
        "btrfs filesystem label mnt other",
        "btrfs filesystem sync mnt",
    ] {
        words(&work, &mounted, line).ok();
    }
    for (line, problem) in [
        ("btrfs subvolume snapshot mnt/small mnt/x", "Not a Btrfs subvolume"),
        ("btrfs subvolume create mnt/sub", "exists"),
        ("btrfs subvolume delete mnt/sub/dir", "Not a Btrfs subvolume"),
        ("touch mnt/new/writable/x", "Read-only file system"),
        ("btrfs balance cancel mnt", "Not in progress"),
        ("btrfs quota enable mnt", "Operation not supported"),
    ] {
        let finished = words(&work, &mounted, line);
        assert!(!finished.status.success() && finished.stderr.contains(problem), "{finished}");
    }
    assert!(!mnt.join("x").exists() && mnt.join("frozen/file").exists());
    let listed = words(&work, &mounted, "btrfs subvolume list -u mnt").ok().stdout;
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    assert_eq!(words(&work, &mounted, "btrfs subvolume list -u mnt").ok().stdout, listed);
    assert_eq!(words(&work, &mounted, "btrfs filesystem label mnt").ok().stdout, "other\n");
    for (name, access) in [("frozen", "ro=true\n"), ("new/writable", "ro=true\n"), ("new", "ro=false\n")] {
        let shown = words(&work, &mounted, &format!("btrfs property get mnt/{name} ro")).ok();
        assert_eq!(shown.stdout, access, "{name}");
    }
    mounted.unmount();
}

#[test]
fn a_label_is_committed_when_nothing_else_changed() {
    let Some(work) = setup("compat_label") else { return };
    compat_library();
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 128 * MIB, &[]);
    for label in ["first", "second"] {
        let mounted = subject().mount(&image, &mnt, "noatime");
        words(&work, &mounted, &format!("btrfs filesystem label mnt {label}")).ok();
        mounted.unmount();
        oracle::assert_clean(&image);
        assert_eq!(oracle::superblock(&image)["label"], label);
    }
}

const MAPPED: &str = "filefrag -v mnt/one mnt/cp mnt/sub/cp mnt/range mnt/same mnt/bash mnt/python";

#[test]
fn programs_clone_deduplicate_and_map() {
    let Some(work) = setup("compat_clones") else { return };
    compat_library();
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime");
    subject().create_subvolume(&mnt.join("sub"));
    let content = bytes(5, 2_000_000);
    for name in ["one", "same", "range"] {
        fs::write(mnt.join(name), &content).expect("write");
    }
    let python = "import subprocess; subprocess.run(['cp', '--reflink=always', 'mnt/one', 'mnt/python'], check=True)";
    for arguments in [
        ["cp", "--reflink=always", "mnt/one", "mnt/cp"].as_slice(),
        // Another subvolume, which has another device number.
        &["cp", "--reflink=always", "mnt/one", "mnt/sub/cp"],
        &["xfs_io", "-c", "dedupe mnt/one 0 0 1998848", "mnt/same"],
        &["xfs_io", "-c", "reflink mnt/one 65536 0 131072", "mnt/range"],
        // Children: by fork and exec, and by vfork.
        &["bash", "-c", "cp --reflink=always mnt/one mnt/bash; true"],
        &["python3", "-c", python],
    ] {
        program(&work, &mounted, arguments).ok();
    }
    for name in ["one", "cp", "sub/cp", "same", "bash", "python"] {
        assert!(fs::read(mnt.join(name)).expect("read") == content, "{name}");
    }
    let range = fs::read(mnt.join("range")).expect("read");
    assert!(range[..131_072] == content[65_536..196_608] && range[131_072..] == content[131_072..]);
    refusals(&work, &mounted);
    let shown = words(&work, &mounted, MAPPED).ok().stdout;
    let shared = |part: &&str| part.contains("shared");
    assert_eq!(shown.split("File size").skip(1).filter(shared).count(), 7, "{shown}");
    let ours = subject().command(&["inspect-internal", "fiemap", &mnt.join("sub/cp").to_string_lossy()]).ok().stdout;
    let theirs = words(&work, &mounted, &format!("filefrag -v {}", mnt.join("sub/cp").display())).ok().stdout;
    assert_eq!(theirs.split_once('\n').map(|(_, rest)| rest), Some(ours.as_str()));
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    assert_eq!(words(&work, &mounted, MAPPED).ok().stdout, shown, "the kernel's mount | ours");
    mounted.unmount();
}

/// A file that is one hole, but for its end, is cloned as fast as its extents can be.
#[test]
fn vast_holes_are_cloned_at_once() {
    let Some(work) = setup("compat_holes") else { return };
    compat_library();
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime");
    let end = 1 << 62;
    File::create(mnt.join("vast")).and_then(|vast| vast.write_all_at(b"end", end)).expect("write");
    words(&work, &mounted, "cp --reflink=always mnt/vast mnt/copy").ok();
    let mut bytes = [0; 3];
    File::open(mnt.join("copy")).and_then(|copy| copy.read_exact_at(&mut bytes, end)).expect("read");
    assert_eq!(&bytes, b"end");
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// What has no extent yet is shown as that, as in the kernel, unless the program asks to have it written first.
#[test]
fn a_map_shows_what_is_not_written_yet() {
    let Some(work) = setup("compat_delalloc") else { return };
    compat_library();
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime,commit=600");
    fs::write(mnt.join("file"), bytes(6, 1_000_000)).expect("write");
    let map = |how: &str| words(&work, &mounted, &format!("filefrag {how} mnt/file")).ok().stdout;
    assert!(map("-v").contains("delalloc"), "{}", map("-v"));
    assert!(!map("-sv").contains("delalloc"), "{}", map("-v"));
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// What the kernel's Btrfs refuses, with its words.
fn refusals(work: &WorkDir, mounted: &Mounted) {
    fs::write(work.file("outside"), b"not on the mount").expect("write");
    for (arguments, problem) in [
        (["cp", "--reflink=always", "outside", "mnt/outside"].as_slice(), "Invalid cross-device link"),
        (&["xfs_io", "-c", "reflink mnt/one 0 0 1000", "mnt/same"], "Invalid argument"),
        (&["xfs_io", "-r", "-c", "reflink mnt/one 0 0 4096", "mnt/same"], "Bad file descriptor"),
        (&["xfs_io", "-c", "dedupe mnt/one 0 4096 4096", "mnt/same"], "did not match"),
    ] {
        let finished = program(work, mounted, arguments);
        let text = format!("{}{}", finished.stdout, finished.stderr);
        assert!(text.contains(problem), "{finished}");
    }
    // Nothing but mounts of ours is another thing than before.
    let finished = program(work, mounted, &["cp", "--reflink=always", "/proc/version", "outside"]);
    assert!(!finished.status.success(), "{finished}");
}

#[test]
fn duperemove_finds_and_shares_what_is_twice() {
    let Some(work) = setup("compat_duperemove") else { return };
    compat_library();
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime");
    let content = bytes(6, 4 << 20);
    for name in ["a", "b", "c"] {
        fs::write(mnt.join(name), &content).expect("write");
    }
    mounted.sync();
    words(&work, &mounted, "duperemove -dr --hashfile=:memory: mnt").ok();
    let shown = words(&work, &mounted, "btrfs filesystem du --raw -s mnt").ok().stdout;
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    assert_eq!(words(&work, &mounted, "btrfs filesystem du --raw -s mnt").ok().stdout, shown);
    for name in ["a", "b", "c"] {
        let line = format!("btrfs filesystem du --raw mnt/{name}");
        let du = words(&work, &mounted, &line).ok().stdout;
        let numbers: Vec<u64> = du.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        assert_eq!(numbers[..2], [4 << 20, 0], "{name} shares all it has\n{du}");
        assert!(fs::read(mnt.join(name)).expect("read") == content, "{name}");
    }
    mounted.unmount();
}
