//! `inspect-internal` on images that our own engine made: the exact text, JSON, damage, and readers that go away.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::Environment;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_engine::subvolume::root::Access;
use butterfs_format::ChecksumType;
use butterfs_format::items::{FileType, Timespec};
use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::workdir::WorkDir;
use butterfs_volume::{FileDevice, OpenMode, Volume};

const OURS: &str = env!("CARGO_BIN_EXE_butterfs");
const MIB: u64 = 1 << 20;
const NODESIZE: usize = 16384;

/// A clock that stands, and UUIDs that count: the same image each time.
struct Fixed(AtomicU8);

impl Environment for Fixed {
    fn now(&self) -> Timespec {
        Timespec::new(1_700_000_000, 5)
    }

    fn new_uuid(&self) -> [u8; 16] {
        [self.0.fetch_add(1, Ordering::Relaxed); 16]
    }
}

fn inode(kind: NewKind<'_>) -> NewInode<'_> {
    NewInode { kind, permissions: 0o640, uid: 1000, gid: 100 }
}

/// An image with files of most kinds, and a snapshot.
fn image(work: &WorkDir) -> PathBuf {
    let path = work.file("image");
    create_sparse(&path, 256 * MIB);
    let device = Arc::new(FileDevice::open_read_write(&path).unwrap());
    mkfs::make(device.clone(), &MakeOptions::new(256 * MIB, &Fixed(AtomicU8::new(1)))).unwrap();
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(Fixed(AtomicU8::new(100)))).unwrap();
    let root = fs.root();
    let dir = fs.create(Place::new(root, b"a dir"), &inode(NewKind::Directory)).unwrap();
    let small = fs.create(Place::new(dir, b"small"), &inode(NewKind::File)).unwrap();
    fs.write(small, 0, &[1; 100]).unwrap();
    fs.link(small, Place::new(root, b"li\nnk\\")).unwrap();
    let large = fs.create(Place::new(root, b"large"), &inode(NewKind::File)).unwrap();
    fs.write(large, 0, &[2; 200_000]).unwrap();
    fs.write(large, 400_000, &[3; 5000]).unwrap();
    fs.preallocate(large, 500_000..600_000, SizeMode::Extend).unwrap();
    fs.set_xattr(large, Xattr { name: b"user.name", value: b"a value\xff" }, XattrMode::Any).unwrap();
    fs.create(Place::new(root, b"symlink"), &inode(NewKind::Symlink(b"a dir/small"))).unwrap();
    let fifo = NewKind::Special { file_type: FileType::Fifo, rdev: 0 };
    fs.create(Place::new(root, b"fifo"), &inode(fifo)).unwrap();
    fs.create_subvolume(Place::new(root, b"sub"), &NewSubvolume { permissions: 0o755, uid: 0, gid: 0 }).unwrap();
    fs.sync().unwrap();
    fs.snapshot(root.tree, Place::new(dir, b"snap"), Access::ReadOnly).unwrap();
    fs.sync().unwrap();
    path
}

fn inspect(arguments: &[&str], image: &Path) -> Finished {
    run(Command::new(OURS).arg("inspect-internal").args(arguments).arg(image).env("TZ", "UTC0"))
}

/// The text was compared with that of btrfs-progs 6.14 on the same image when it was kept. With
/// `BUTTERFS_KEEP_GOLDEN=1` it is written anew: look at what changes.
fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BUTTERFS_KEEP_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    for (number, (found, kept)) in text.lines().zip(kept.lines()).enumerate() {
        assert_eq!(found, kept, "line {} of {name}", number + 1);
    }
    assert_eq!(text.lines().count(), kept.lines().count(), "{name}");
}

#[test]
fn the_text_is_as_kept() {
    let work = WorkDir::new("inspect_golden");
    let image = image(&work);
    let tree = inspect(&["dump-tree", "--csum-headers", "--csum-items"], &image).ok();
    assert_eq!(tree.stderr, "");
    let (version, tree) = tree.stdout.split_once('\n').unwrap();
    assert_eq!(version, concat!("butterfs v", env!("CARGO_PKG_VERSION")));
    assert_golden("dump-tree.txt", tree);
    let superblock = inspect(&["dump-super", "-f"], &image).ok().stdout;
    let (head, superblock) = superblock.split_once('\n').unwrap();
    assert_eq!(head, format!("superblock: bytenr=65536, device={}", image.display()));
    assert_golden("dump-super.txt", superblock);
    assert_golden("list-chunks.txt", &inspect(&["list-chunks"], &image).ok().stdout);
    let stats = inspect(&["tree-stats", "-b"], &image).ok().stdout;
    let stats: String =
        stats.lines().filter(|line| !line.contains("read time")).map(|line| format!("{line}\n")).collect();
    assert_golden("tree-stats.txt", &stats);
}

fn data_address(image: &Path) -> String {
    let text = inspect(&["dump-tree", "-t", "fs"], image).stdout;
    let line = text.lines().find(|line| line.starts_with("\t\textent data disk byte ") && !line.contains(" byte 0 "));
    line.unwrap().split(' ').nth(4).unwrap().to_owned()
}

#[test]
fn paths_inodes_and_subvolumes_are_found() {
    let work = WorkDir::new("inspect_paths");
    let image = image(&work);
    let at = |path: &str| PathBuf::from(format!("{}:{path}", image.display()));
    let answer = |arguments: &[&str], target: &Path| inspect(arguments, target).ok().stdout;
    assert_eq!(answer(&["rootid"], &image), "5\n");
    assert_eq!(answer(&["rootid"], &at("/sub")), "256\n");
    assert_eq!(answer(&["rootid"], &at("a dir/snap/a dir/small")), "257\n");
    assert_eq!(answer(&["subvolid-resolve", "257"], &image), "a dir/snap\n");
    assert_eq!(answer(&["subvolid-resolve", "5"], &image), "\n");
    assert_eq!(answer(&["inode-resolve", "258"], &image), "/li\nnk\\\n/a dir/small\n");
    assert_eq!(answer(&["inode-resolve", "257"], &at("a dir/snap")), "/a dir/snap/a dir\n");
    let address = data_address(&image);
    assert_eq!(answer(&["logical-resolve", &address], &image), "/large\n/a dir/snap/large\n");
    assert_eq!(
        answer(&["logical-resolve", "-P", &address], &image),
        "inode 259 offset 0 root 5\ninode 259 offset 0 root 257\n"
    );
    for (arguments, word) in [
        (&["inode-resolve", "999"][..], "no such inode"),
        (&["subvolid-resolve", "999"], "no subvolume 999"),
        (&["subvolid-resolve", "2"], "is no subvolume"),
        (&["logical-resolve", "1"], "no data extent"),
        (&["min-dev-size", "--id", "2"], "no device 2"),
        (&["dump-tree", "-t", "tree_log"], "no tree"),
        (&["tree-stats", "-t", "999"], "no tree"),
    ] {
        let refused = inspect(arguments, &image);
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        assert!(refused.stderr.contains(word) && refused.stderr.lines().count() == 1, "{refused}");
    }
    let refused = inspect(&["rootid"], &at("nowhere"));
    assert!(refused.status.code() == Some(1) && refused.stderr.contains("no such file"), "{refused}");
}

#[test]
fn every_subcommand_has_json() {
    let work = WorkDir::new("inspect_json");
    let image = image(&work);
    let address = data_address(&image);
    let commands: [&[&str]; 12] = [
        &["dump-super", "-f", "-a"],
        &["dump-tree", "--csum-headers", "--csum-items", "-R"],
        &["dump-tree"],
        &["dump-tree", "-r"],
        &["dump-tree", "--hide-names"],
        &["tree-stats"],
        &["inode-resolve", "258"],
        &["logical-resolve", &address],
        &["subvolid-resolve", "257"],
        &["rootid"],
        &["min-dev-size"],
        &["list-chunks"],
    ];
    for command in commands {
        let text = inspect(&[command, &["--format", "json"]].concat(), &image).ok().stdout;
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["__header"]["version"], "1", "{command:?}");
        let entries = value[format!("inspect-{}", command[0])].as_array().unwrap();
        assert!(!entries.is_empty(), "{command:?}");
        assert!(!text.contains("\"problem\""), "{command:?}: {text}");
    }
    let text = inspect(&["dump-tree", "-t", "fs", "--format", "json"], &image).ok().stdout;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let items = value["inspect-dump-tree"][0]["items"].as_array().unwrap();
    assert_eq!(items[0]["key"]["text"], "(256 INODE_ITEM 0)");
    assert_eq!(items[0]["data"]["mode"], 0o40755);
    let value_hex = items.iter().filter_map(|item| item["data"]["entries"][0]["value_hex"].as_str()).next();
    assert_eq!(value_hex, Some("612076616c7565ff"));
    assert_eq!(value["filesystem"]["total_bytes"], 256 * MIB);
}

/// Nothing is said, and nothing fails, when the reader has seen enough.
#[test]
fn a_reader_may_go_away() {
    let work = WorkDir::new("inspect_pipe");
    let image = image(&work);
    for format in ["text", "json"] {
        let mut child = Command::new(OURS)
            .args(["inspect-internal", "dump-tree", "--format", format])
            .arg(&image)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 10];
        let mut stdout = child.stdout.take().unwrap();
        if format == "json" {
            stdout.read_exact(&mut first).unwrap();
        }
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

/// What cannot be opened is told of in a line, with status 1.
#[test]
fn what_is_no_filesystem_is_refused() {
    let work = WorkDir::new("inspect_refused");
    let empty = work.file("empty");
    create_sparse(&empty, MIB);
    for command in ["dump-super", "dump-tree", "tree-stats", "rootid", "list-chunks", "min-dev-size"] {
        for target in [empty.as_path(), Path::new("/nowhere"), work.path()] {
            let refused = inspect(&[command], target);
            assert_eq!(refused.status.code(), Some(1), "{refused}");
            assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
        }
    }
    assert!(inspect(&["dump-super", "-F"], &empty).ok().stdout.contains("magic\t\t\t........ [DON'T MATCH]"));
    let refused = run(Command::new(OURS).args(["inspect-internal", "dump-tree", "-t", "nonsense"]).arg(&empty));
    assert_eq!(refused.status.code(), Some(1), "{refused}");
}

/// The offsets of the tree blocks in an image.
fn blocks(image: &Path) -> Vec<u64> {
    let text = inspect(&["dump-tree"], image).stdout;
    let logical: Vec<u64> = text
        .lines()
        .filter(|line| (line.starts_with("leaf ") || line.starts_with("node ")) && line.contains(" items "))
        .map(|line| line.split(' ').nth(1).unwrap().parse().unwrap())
        .collect();
    let device = Arc::new(FileDevice::open_unlocked(image).unwrap());
    let volume = Volume::open(vec![device], OpenMode::ReadOnly).unwrap();
    let physical = |at: u64| {
        let (start, chunk) = volume.chunk_containing(at.into()).unwrap();
        chunk.stripes.iter().map(|stripe| stripe.offset.get() + at - start.0).collect::<Vec<_>>()
    };
    logical.into_iter().flat_map(physical).collect()
}

/// Blocks with random bytes in them and a right checksum, in all copies: no panic, no hang, and a status.
#[test]
fn damage_ends_in_text_and_a_status() {
    let work = WorkDir::new("inspect_damage");
    let image = image(&work);
    let blocks = blocks(&image);
    let mut random = Random::new(11);
    for round in 0..scaled(60) {
        let hurt = work.file("hurt");
        run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(&image).arg(&hurt)).ok();
        damage(&hurt, &blocks, &mut random);
        let commands: [&[&str]; 7] = [
            &["dump-tree"],
            &["dump-tree", "--dfs", "--format", "json"],
            &["dump-tree", "-e"],
            &["tree-stats"],
            &["list-chunks"],
            &["inode-resolve", "258"],
            &["logical-resolve", "13631488"],
        ];
        for command in commands {
            let finished = run(Command::new("timeout").args(["20", OURS, "inspect-internal"]).args(command).arg(&hurt));
            let status = finished.status.code();
            assert!(matches!(status, Some(0 | 1)), "round {round}: {finished}");
            assert!(!finished.stderr.contains("panicked"), "round {round}: {finished}");
        }
    }
}

fn damage(image: &Path, blocks: &[u64], random: &mut Random) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(image).unwrap();
    // Copies of one block follow each other.
    let pair = (random.below(blocks.len() as u64 / 2) * 2) as usize;
    let mut bytes = vec![0; NODESIZE];
    file.read_exact_at(&mut bytes, blocks[pair]).unwrap();
    for _ in 0..=random.below(4) {
        // Headers of items, or their bytes.
        let at = if random.percent(60) { 97 + random.below(400) } else { NODESIZE as u64 - 1 - random.below(3000) };
        bytes[at as usize] = random.bits() as u8;
    }
    let csum = ChecksumType::Crc32c.compute_block(&bytes);
    bytes[..4].copy_from_slice(&csum[..4]);
    for at in &blocks[pair..pair + 2] {
        file.write_all_at(&bytes, *at).unwrap();
    }
}

/// With a bad first superblock another copy is used, and that is said.
#[test]
fn another_superblock_is_told_of() {
    let work = WorkDir::new("inspect_superblock");
    let image = image(&work);
    let whole = inspect(&["dump-tree"], &image).ok().stdout;
    let file = std::fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&[0; 4096], 65536).unwrap();
    let found = inspect(&["dump-tree"], &image).ok();
    assert_eq!(found.stdout, whole);
    assert!(found.stderr.contains("superblock") && found.stderr.lines().count() == 1, "{found}");
}
