//! `inspect-internal` beside btrfs-progs: the same text, line by line, of what the kernel wrote.

mod common;
mod inspect_parts;

use butterfs_testkit::command::{Finished, run, run_program};
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::report::scaled;
use butterfs_testkit::unmount::unmount;
use common::{GIB, MIB, kernel, setup};
use inspect_parts::files::{call, everything, extents, snapshots, write};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const OURS: &str = env!("CARGO_BIN_EXE_butterfs");

/// The ways to dump trees that are compared.
const DUMPS: [&[&str]; 12] = [
    &[],
    &["--dfs", "--csum-headers", "--csum-items"],
    &["-e"],
    &["-d"],
    &["-u"],
    &["-r"],
    &["-R"],
    &["-d", "-r"],
    &["-t", "fs", "--csum-items"],
    &["-t", "root"],
    &["-t", "CHUNK_TREE", "--dfs"],
    &["-t", "7", "--csum-headers"],
];

fn inspect(program: &str, arguments: &[&str], images: &[&Path]) -> Finished {
    run(Command::new(program).arg("inspect-internal").args(arguments).args(images).env("TZ", "Asia/Kathmandu"))
}

/// The text without what only btrfs-progs says: the version.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with("btrfs-progs v") && !line.starts_with("butterfs v")).collect()
}

#[track_caller]
fn assert_same(arguments: &[&str], images: &[&Path]) -> String {
    let theirs = inspect("btrfs", arguments, images).ok();
    let ours = inspect(OURS, arguments, images).ok();
    let (expected, found) = (lines(&theirs.stdout), lines(&ours.stdout));
    for (number, (theirs, ours)) in expected.iter().zip(&found).enumerate() {
        assert_eq!(ours, theirs, "line {number} of {arguments:?}");
    }
    assert_eq!(found.len(), expected.len(), "number of lines of {arguments:?}");
    assert_eq!(ours.stderr, "", "a good image is not complained of: {arguments:?}");
    ours.stdout
}

/// Compares all dumps; `features` are words that must occur, so that the image is one of those meant.
#[track_caller]
fn assert_dumps_same(images: &[&Path], features: &[&str]) {
    assert_same(&["dump-super", "-f", "-a"], &images[..1]);
    assert_same(&["dump-super"], images);
    let text = DUMPS.map(|options| assert_same(&[&["dump-tree"], options].concat(), images));
    let full = inspect(OURS, &["dump-super"], &images[..1]).stdout + &text[0];
    for feature in features {
        assert!(full.contains(feature), "the image has no {feature}");
    }
    let json = inspect(OURS, &["dump-tree", "--csum-items", "--format", "json"], images).ok().stdout;
    assert_json_agrees(&json, &text[0]);
}

/// The JSON has the blocks and items that the text has, and nothing that could not be understood.
#[track_caller]
fn assert_json_agrees(json: &str, text: &str) {
    let value: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(value["__header"]["version"], "1");
    let blocks = value["inspect-dump-tree"].as_array().expect("a list");
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    let words = text.lines().filter(|line| line.contains(" items ") && line.contains(" free space ")).count();
    assert_eq!(blocks.len(), words);
    let items = blocks.iter().filter_map(|block| block["items"].as_array()).map(Vec::len).sum::<usize>();
    assert_eq!(items, count("\titem "));
    let pointers = blocks.iter().filter_map(|block| block["pointers"].as_array()).map(Vec::len).sum::<usize>();
    assert_eq!(pointers, count("\tkey ("));
    assert!(!json.contains("\"problem\""), "an item was not understood");
}

/// Makes a filesystem, lets `fill` work on it, and compares.
fn compare(name: &str, mkfs: &[&str], options: &str, fill: fn(&Path), features: &[&str]) {
    let Some(work) = setup(name) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 700 * MIB, mkfs);
    let mounted = kernel().mount(&image, &mnt, options);
    fill(&mnt);
    mounted.unmount();
    assert_dumps_same(&[&image], features);
}

#[test]
fn a_filesystem_of_all_kinds_is_dumped_as_progs_does() {
    compare(
        "inspect_all",
        &[],
        "noatime,compress=zstd",
        everything,
        &[
            "INODE_EXTREF",
            "XATTR_ITEM",
            "system.posix_acl_access",
            "type 0 (inline)",
            "prealloc data",
            "compression 3 (zstd)",
            "\\n",
            "UUID_KEY_SUBVOL",
            "DEV_STATS",
            "NODATASUM|NODATACOW",
            "node ",
        ],
    );
}

#[test]
fn every_checksum_and_node_size_is_dumped_as_progs_does() {
    let shapes: [(&str, &[&str], &[&str]); 10] = [
        ("crc", &["--csum", "crc32c", "-n", "4096"], &["crc32c", "nodesize\t\t4096"]),
        ("xxhash", &["--csum", "xxhash", "-n", "65536"], &["xxhash64", "nodesize\t\t65536"]),
        ("sha", &["--csum", "sha256"], &["sha256"]),
        ("blake", &["--csum", "blake2"], &["blake2b"]),
        ("mixed", &["--mixed"], &["MIXED_GROUPS", "DATA|METADATA|single"]),
        ("groups", &["-O", "block-group-tree"], &["block group tree key (BLOCK_GROUP_TREE"]),
        ("holes", &["-O", "^no-holes"], &["extent data disk byte 0 nr 0"]),
        ("fat", &["-O", "^skinny-metadata"], &["tree block key ("]),
        ("dup", &["-d", "dup", "-m", "single"], &["DATA|DUP", "METADATA|single"]),
        ("label", &["-L", "a label \u{e9}"], &["label\t\t\ta label .."]),
    ];
    for (name, mkfs, features) in shapes {
        println!("mkfs.btrfs {}", mkfs.join(" "));
        compare(&format!("inspect_{name}"), mkfs, "noatime", everything, features);
    }
}

#[test]
fn the_block_group_tree_can_be_asked_for() {
    let Some(work) = setup("inspect_group_tree") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, 256 * MIB, &["-O", "block-group-tree"]);
    assert_same(&["dump-tree", "-t", "block-group"], &[&image]);
    assert_same(&["dump-tree", "-t", "10"], &[&image]);
}

#[test]
fn every_compression_is_dumped_as_progs_does() {
    for (kind, number) in [("zlib", "compression 1 (zlib)"), ("lzo", "compression 2 (lzo)")] {
        let options = format!("noatime,compress-force={kind}");
        compare(&format!("inspect_{kind}"), &[], &options, |mnt| extents(&mnt.join("extents")), &[number]);
    }
}

#[test]
fn snapshots_are_dumped_as_progs_does() {
    let features = ["ROOT_BACKREF", "flags 0x1(RDONLY)", "DEFAULT_SUBVOL", "name sub volume"];
    compare("inspect_snapshots", &[], "noatime", snapshots, &features);
}

#[test]
fn quotas_are_dumped_as_progs_does() {
    fn fill(mnt: &Path) {
        call("btrfs", &["quota".as_ref(), "enable".as_ref(), mnt.as_os_str()]);
        snapshots(mnt);
        let qgroup = |arguments: &[&str]| {
            let words = ["qgroup"].iter().chain(arguments).map(OsStr::new).chain([mnt.as_os_str()]);
            call("btrfs", &words.collect::<Vec<_>>());
        };
        qgroup(&["create", "1/7"]);
        qgroup(&["assign", "--no-rescan", "0/256", "1/7"]);
        qgroup(&["limit", "1G", "1/7"]);
    }
    let features = ["1/7 QGROUP_RELATION 0/256", "QGROUP_LIMIT 1/7", "max_referenced 1073741824", "flags ON"];
    compare("inspect_quotas", &[], "noatime", fill, &features);
}

#[test]
fn simple_quotas_are_dumped_as_progs_does() {
    let features = ["ON|SIMPLE_MODE", "enable_gen", "textent owner root", "SIMPLE_QUOTA"];
    compare("inspect_squota", &["-O", "squota"], "noatime", everything, &features);
}

#[test]
fn the_old_space_cache_is_dumped_as_progs_does() {
    let features = ["(FREE_SPACE UNTYPED", "cache generation"];
    let Some(work) = setup("inspect_v1") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    // Only block groups of 100 MiB and more have a cache.
    kernel().mkfs(&image, 8 * GIB, &["-O", "^free-space-tree"]);
    let mounted = kernel().mount(&image, &mnt, "noatime,space_cache=v1");
    everything(&mnt);
    write(&mnt.join("large"), 40 << 20);
    mounted.sync();
    std::fs::remove_file(mnt.join("extents/regular")).expect("remove");
    mounted.unmount();
    assert_dumps_same(&[&image], &features);
}

#[test]
fn bitmaps_of_free_space_are_dumped_as_progs_does() {
    fn fill(mnt: &Path) {
        for number in 0..1500 {
            write(&mnt.join(format!("{number}")), 8192);
        }
        call("sync", &["-f".as_ref(), mnt.as_os_str()]);
        for number in (0..1500).step_by(2) {
            std::fs::remove_file(mnt.join(format!("{number}"))).expect("remove");
        }
    }
    compare("inspect_bitmaps", &[], "noatime", fill, &["FREE_SPACE_BITMAP", "flags 1"]);
}

/// A log tree, an orphan and a balance under way, caught while the kernel has the filesystem mounted.
#[test]
fn what_a_crash_leaves_is_dumped_as_progs_does() {
    let Some(work) = setup("inspect_crash") else { return };
    let (image, mnt, copy) = (work.file("image"), work.dir("mnt"), work.file("copy"));
    kernel().mkfs(&image, GIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime,commit=300");
    everything(&mnt);
    let orphan = File::create(mnt.join("orphan")).expect("create");
    orphan.write_all_at(&[1; 50_000], 0).expect("write");
    mounted.sync();
    std::fs::remove_file(mnt.join("orphan")).expect("remove");
    mounted.sync();
    std::fs::create_dir(mnt.join("logged")).expect("mkdir");
    for number in 0..50 {
        let file = File::create(mnt.join(format!("logged/{number}"))).expect("create");
        file.write_all_at(&[number; 10_000], 0).expect("write");
        file.sync_all().expect("fsync");
    }
    std::fs::rename(mnt.join("logged/1"), mnt.join("logged/renamed")).expect("rename");
    File::open(mnt.join("logged/renamed")).expect("open").sync_all().expect("fsync");
    std::fs::copy(&image, &copy).expect("copy");
    let features = ["log root tree", "TREE_LOG ROOT_ITEM", "ORPHAN ORPHAN_ITEM", "DIR_LOG_INDEX"];
    assert_dumps_same(&[&copy], &features);
    assert_same(&["dump-tree", "-t", "tree_log"], &[&copy]);
    drop(orphan);
    mounted.unmount();
}

#[test]
fn a_balance_is_dumped_as_progs_does() {
    let Some(work) = setup("inspect_balance") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let caught = (0..10).any(|_| {
        kernel().mkfs(&image, 2 * GIB, &[]);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        (0..16).for_each(|number| write(&mnt.join(format!("{number}")), 40 << 20));
        mounted.sync();
        let balance = |words: &[&str]| {
            let words = ["balance"].iter().chain(words).map(OsStr::new).chain([mnt.as_os_str()]);
            run_program("btrfs", &words.collect::<Vec<_>>())
        };
        balance(&["start", "--bg", "-dusage=1..100,limit=1..90", "-musage=99"]).ok();
        // It may be over before it is paused: then once more.
        let paused = balance(&["pause"]).status.success();
        mounted.unmount();
        paused
    });
    assert!(caught, "no balance could be paused");
    assert_dumps_same(&[&image], &["BALANCE TEMPORARY_ITEM", "balance status flags", "usage_min 1 usage_max 100"]);
}

/// Blocks one by one: each that the dump of all has, a few hundred of them.
#[test]
fn blocks_are_dumped_one_by_one() {
    let Some(work) = setup("inspect_blocks") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 700 * MIB, &["-n", "4096"]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    everything(&mnt);
    mounted.unmount();
    let all = assert_same(&["dump-tree"], &[&image]);
    let root = all.lines().find(|line| line.starts_with("node ")).and_then(|line| line.split(' ').nth(1));
    let root = root.expect("a node").to_owned();
    assert_same(&["dump-tree", "-b", &root, "--follow"], &[&image]);
    assert_same(&["dump-tree", "-b", &root, "--follow", "--dfs"], &[&image]);
    assert_same(&["dump-tree", "-b", &root], &[&image]);
    let blocks: BTreeSet<&str> = all
        .lines()
        .filter(|line| (line.starts_with("leaf ") || line.starts_with("node ")) && line.contains(" items "))
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    let options: Vec<&str> = blocks.iter().take(100).flat_map(|block| ["-b", block]).collect();
    let text = assert_same(&[&["dump-tree"], &options[..]].concat(), &[&image]);
    assert!(text.matches(" free space ").count() >= 100);
}

/// With hidden names the text is progs's, but for names of subvolumes, which progs shows all the same.
#[test]
fn names_are_hidden() {
    let Some(work) = setup("inspect_hidden") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 700 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    snapshots(&mnt);
    mounted.unmount();
    let theirs = inspect("btrfs", &["dump-tree", "--hide-names"], &[&image]).ok().stdout;
    let ours = inspect(OURS, &["dump-tree", "--hide-names"], &[&image]).ok().stdout;
    let hidden = |line: &str| match line.find(" sequence ").filter(|_| line.starts_with("\t\troot ")) {
        Some(at) => format!("{} name HIDDEN", line[..at + 11 + line[at + 10..].find(' ').unwrap_or(0)].trim_end()),
        None => line.to_owned(),
    };
    let expected: Vec<String> = lines(&theirs).into_iter().map(hidden).collect();
    assert_eq!(lines(&ours).join("\n"), expected.join("\n"));
    assert!(!ours.contains("sub volume") && !ours.contains("snapshot\n"));
    let json = inspect(OURS, &["dump-tree", "--hide-names", "--format", "json"], &[&image]).ok().stdout;
    assert!(!json.contains("sub volume") && !json.contains("user.text"));
}

/// Devices of a filesystem with several, as loop devices that go away with the value.
struct Loops(Vec<PathBuf>);

impl Loops {
    fn new(images: &[PathBuf]) -> Self {
        let attach = |image: &PathBuf| {
            let said = run_program("losetup", &["-f".as_ref(), "--show".as_ref(), image.as_os_str()]).ok().stdout;
            PathBuf::from(said.trim())
        };
        Self(images.iter().map(attach).collect())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            let _ = run_program("losetup", &["-d".as_ref(), device.as_os_str()]);
        }
    }
}

#[test]
fn several_devices_are_dumped_as_progs_does() {
    for (profile, devices) in [("raid0", 2), ("raid1", 3), ("raid1c3", 3), ("raid1c4", 4), ("raid10", 4)] {
        let Some(work) = setup(&format!("inspect_{profile}")) else { return };
        let images: Vec<_> = (0..devices).map(|number| work.file(&format!("image{number}"))).collect();
        images.iter().for_each(|image| butterfs_testkit::mounter::create_sparse(image, 700 * MIB));
        let loops = Loops::new(&images);
        run(Command::new("mkfs.btrfs").args(["-q", "-f", "-d", profile, "-m", profile]).args(&loops.0)).ok();
        let mnt = work.dir("mnt");
        let options: Vec<_> = loops.0.iter().map(|device| format!("device={}", device.display())).collect();
        run(Command::new("mount").arg("-o").arg(options.join(",")).arg(&loops.0[0]).arg(&mnt)).ok();
        everything(&mnt);
        unmount(&mnt).ok();
        drop(loops);
        let paths: Vec<&Path> = images.iter().map(PathBuf::as_path).collect();
        assert_dumps_same(&paths, &[&format!("METADATA|{}", profile.to_uppercase()), "num_devices\t\t"]);
    }
}

/// A device is missing: what the others have is printed.
#[test]
fn a_missing_device_is_told_of() {
    let Some(work) = setup("inspect_missing") else { return };
    let images: Vec<_> = (0..2).map(|number| work.file(&format!("image{number}"))).collect();
    images.iter().for_each(|image| butterfs_testkit::mounter::create_sparse(image, 300 * MIB));
    run(Command::new("mkfs.btrfs").args(["-q", "-f", "-d", "raid1", "-m", "raid1"]).args(&images)).ok();
    let whole = inspect(OURS, &["dump-tree"], &[&images[0], &images[1]]).ok();
    std::fs::remove_file(&images[1]).expect("remove");
    let half = inspect(OURS, &["dump-tree"], &[&images[0]]).ok();
    assert_eq!(half.stdout, whole.stdout);
    assert!(half.stderr.contains("device 2 is missing"), "{half}");
}

fn without_time(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.contains("Total read time")).collect()
}

#[test]
fn statistics_of_trees_are_those_of_progs() {
    let Some(work) = setup("inspect_stats") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 2 * GIB, &["-n", "4096"]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for seed in 0..4 {
        let dir = mnt.join(seed.to_string());
        std::fs::create_dir(&dir).expect("mkdir");
        populate::tree(&dir, Plan { seed, files: scaled(800), huge: 0, devices: false });
        mounted.sync();
    }
    mounted.unmount();
    for options in [&["-b"][..], &[], &["--si"], &["--kbytes"], &["-t", "5"], &["-b", "-t", "2"], &["-t", "7"]] {
        let arguments = [&["tree-stats"], options].concat();
        let (theirs, ours) = (inspect("btrfs", &arguments, &[&image]).ok(), inspect(OURS, &arguments, &[&image]).ok());
        assert_eq!(without_time(&ours.stdout), without_time(&theirs.stdout), "{options:?}");
    }
    let text = inspect(OURS, &["tree-stats"], &[&image]).stdout;
    assert!(text.contains("Seek histogram"), "too few seeks to judge: {text}");
    let missing = inspect(OURS, &["tree-stats", "-t", "999"], &[&image]);
    assert_eq!(missing.status.code(), Some(1), "{missing}");
}

/// Other names of the program, and groups by the front of their names.
#[test]
fn the_program_answers_to_the_name_of_btrfs() {
    let Some(work) = setup("inspect_names") else { return };
    let (image, link) = (work.file("image"), work.file("btrfs"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    std::os::unix::fs::symlink(OURS, &link).expect("symlink");
    let link = link.to_str().expect("UTF-8");
    let full = inspect(OURS, &["dump-super"], &[&image]).ok().stdout;
    for words in [&["inspect-internal", "dump-super"][..], &["inspect", "dump-super"], &["ins", "dump-s"]] {
        assert_eq!(run(Command::new(link).args(words).arg(&image)).ok().stdout, full, "{words:?}");
    }
    run(Command::new(link).arg("check").arg(&image)).ok();
    let json =
        run(Command::new(link).args(["--format", "json", "inspect-internal", "dump-super"]).arg(&image)).ok().stdout;
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(value["inspect-dump-super"][0]["magic_match"], true);
    let refused = run(Command::new(link).args(["--format", "json", "subvolume", "list"]).arg(work.path()));
    assert_eq!(refused.status.code(), Some(1), "{refused}");
}
