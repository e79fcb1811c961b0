//! Space that chunks hold and hardly use, and free space that devices are told of; the kernel judges, and is compared.

mod common;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, OpenOptions};
use butterfs_engine::relocate::{GroupFilter, Room};
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::command::run_program;
use butterfs_testkit::mounter::{Mounted, Mounter};
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_volume::{FileDevice, OpenMode, Volume};
use common::{MIB, kernel, setup, subject};

const FILE: usize = 1 << 20;
const SMALL: usize = 2000;
/// One file in so many stays.
const KEPT: usize = 16;

fn write_file(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    if durable { file.sync_all() } else { Ok(()) }
}

/// Fills it with files until there is no space, and deletes nearly all; gives how many there were.
fn fill_and_thin_out(mounted: &Mounted) -> usize {
    let path = |number: usize| mounted.join(format!("data {number}"));
    let mut count = 0;
    while write_file(&path(count), &Random::new(count as u64).bytes(FILE), true).is_ok() {
        count += 1;
    }
    fs::remove_file(path(count)).ok();
    for number in (0..count).filter(|number| number % KEPT != 0) {
        fs::remove_file(path(number)).expect("remove");
    }
    // What is freed is free after a commit.
    mounted.sync();
    mounted.sync();
    count
}

/// Makes small files, all in metadata; gives how many could be made.
fn make_small_files(mounted: &Mounted, most: usize) -> usize {
    let bytes = Random::new(7).bytes(SMALL);
    let dir = mounted.join("small");
    fs::create_dir(&dir).expect("mkdir");
    for number in 0..most {
        if let Err(error) = write_file(&dir.join(number.to_string()), &bytes, number % 1000 == 999) {
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
            return number;
        }
    }
    mounted.sync();
    most
}

fn free_share(mounted: &Mounted) -> f64 {
    let found = rustix::fs::statvfs(mounted.path()).expect("statfs");
    found.f_bavail as f64 / found.f_blocks as f64
}

/// "200 GB free, and every write fails": all space is in data chunks that hold next to nothing, and metadata is full. The
/// kernel's driver (6.18, with its defaults) fails so; ours empties chunks, and the kernel finds all as it was.
#[test]
fn nearly_empty_data_chunks_give_way_to_metadata() {
    let Some(work) = setup("space_reclaim") else { return };
    const MOST: usize = 14_000;
    let image = work.file("image");
    let attempt = |mounter: &Mounter| {
        kernel().mkfs(&image, 512 * MIB, &[]);
        let mounted = mounter.mount(&image, &work.dir("mnt"), "noatime");
        let count = fill_and_thin_out(&mounted);
        let made = make_small_files(&mounted, MOST);
        let free = free_share(&mounted);
        (mounted, count, made, free)
    };
    let (mounted, _, made, free) = attempt(&kernel());
    mounted.unmount();
    assert!(made < MOST && free > 0.5, "the kernel has learned it: {made} files, {free} free");
    let (mounted, count, made, free) = attempt(&subject());
    assert_eq!(made, MOST, "with {free} free");
    let expected = Tree::read(mounted.path());
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &work.dir("mnt"), "ro");
    Tree::read(mounted.path()).assert_same(&expected, Times::Exact, "the kernel's mount | ours");
    for number in (0..count).step_by(KEPT) {
        let found = fs::read(mounted.join(format!("data {number}"))).expect("read");
        assert!(found == Random::new(number as u64).bytes(FILE), "data {number}");
    }
    assert_eq!(fs::read_dir(mounted.join("small")).expect("list").count(), MOST);
    mounted.unmount();
}

fn stored(image: &Path) -> u64 {
    fs::metadata(image).expect("the image").blocks() * 512
}

/// A file of 64 MiB that is deleted leaves the image when the user wants it.
#[test]
fn freed_space_leaves_the_image() {
    let Some(work) = setup("space_discard") else { return };
    const LEN: u64 = 64 * MIB;
    for (options, by_itself) in [("nodiscard", false), ("discard=sync", true), ("discard=async", true)] {
        let image = work.file(options);
        subject().mkfs(&image, 256 * MIB, &[]);
        let mounted = subject().mount(&image, &work.dir("mnt"), options);
        let kept = Random::new(1).bytes(5_000_000);
        write_file(&mounted.join("kept"), &kept, true).expect("write");
        write_file(&mounted.join("file"), &Random::new(2).bytes(LEN as usize), true).expect("write");
        mounted.sync();
        assert!(stored(&image) > LEN);
        fs::remove_file(mounted.join("file")).expect("remove");
        mounted.sync();
        if by_itself {
            // The file may be deleted after the first sync: FUSE tells later that nobody has it any more.
            butterfs_testkit::mounter::wait_until("freed space to be discarded", || {
                mounted.sync();
                stored(&image) < LEN
            });
        } else {
            assert!(stored(&image) > LEN, "{options}");
        }
        let trim = || subject().command(&["fstrim".as_ref(), "-v".as_ref(), mounted.path().as_os_str()]).ok().stdout;
        // A file is deleted when FUSE has told of its last use, which may come after the sync.
        butterfs_testkit::mounter::wait_until("a trim to find what was freed", || {
            trim();
            stored(&image) < LEN
        });
        let ours = trim();
        // The whole line is that of fstrim(8), which our mount answers too: as much is free the second time.
        let theirs = run_program("fstrim", &["-v".as_ref(), mounted.path().as_os_str()]).ok().stdout;
        match options {
            // What is being discarded at the moment is not there to be trimmed.
            "discard=async" => assert!(theirs.ends_with(" bytes) trimmed\n"), "{theirs}"),
            _ => assert_eq!(ours, theirs, "{options}"),
        }
        let none = subject().command(&["fstrim".as_ref(), "-vm1T".as_ref(), mounted.path().as_os_str()]).ok().stdout;
        assert!(none.ends_with(": 0 B (0 bytes) trimmed\n"), "{none}");
        assert!(fs::read(mounted.join("kept")).expect("read") == kept);
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = kernel().mount(&image, &work.dir("mnt"), "ro");
        assert!(fs::read(mounted.join("kept")).expect("read") == kept);
        mounted.unmount();
    }
}

/// Extents of a file on the kernel's mount, by filefrag(8).
fn extents(path: &Path) -> usize {
    let shown = run_program("filefrag", &[path]).ok().stdout;
    let count = shown.rsplit(':').next().and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    count.unwrap_or_else(|| panic!("{shown}"))
}

/// A file that was written in pieces, out of order, is in one piece afterwards; what a snapshot shares stays.
#[test]
fn files_are_defragmented() {
    let Some(work) = setup("space_defragment") else { return };
    const PIECES: u64 = 200;
    const PIECE: u64 = 16384;
    let image = work.file("image");
    kernel().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &work.dir("mnt"), "noatime");
    subject().create_subvolume(&mounted.join("volume"));
    fs::create_dir(mounted.join("dir")).expect("mkdir");
    let bytes = Random::new(3).bytes((PIECES * PIECE) as usize);
    let scatter = |name: &str| {
        let file = File::create(mounted.join(name)).expect("create");
        for piece in (1..PIECES).step_by(2).chain((0..PIECES).step_by(2)) {
            let at = (piece * PIECE) as usize;
            file.write_all_at(&bytes[at..at + PIECE as usize], at as u64).expect("write");
            file.sync_data().expect("sync");
        }
    };
    ["dir/file", "volume/shared", "dir/packed"].into_iter().for_each(scatter);
    subject().snapshot_read_only(&mounted.join("volume"), &mounted.join("snapshot"));
    let run = |words: &[&str], path: &str| {
        let path = mounted.join(path);
        let words: Vec<&str> = ["filesystem", "defragment"].into_iter().chain(words.iter().copied()).collect();
        let all: Vec<_> = words.iter().map(|word| word.as_ref()).chain([path.as_os_str()]).collect();
        subject().command(&all).ok().stdout
    };
    assert_eq!(run(&["-v", "-f"], "dir/file"), format!("{}\n", mounted.join("dir/file").display()));
    run(&[], "volume/shared");
    run(&["-czstd", "-L", "5", "-f"], "dir/packed");
    run(&[], "volume");
    run(&["-r", "-t", "1G", "--step", "1M"], "dir");
    let expected = Tree::read(mounted.path());
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &work.dir("mnt"), "ro");
    Tree::read(mounted.path()).assert_same(&expected, Times::Exact, "the kernel's mount | ours");
    let found = ["dir/file", "volume/shared", "snapshot/shared"].map(|name| extents(&mounted.join(name)));
    assert!(found[0] <= 4 && found[1] == found[2] && found[1] > 50, "{found:?}");
    mounted.unmount();
}

/// Of a tree that is on no Btrfs that is said once, not of each file.
#[test]
fn what_is_no_btrfs_is_not_defragmented() {
    let Some(work) = setup("space_no_btrfs") else { return };
    let dir = work.dir("foreign");
    run_program("mount", &["-t", "tmpfs", "none", dir.to_str().expect("UTF-8")]).ok();
    ["a", "b", "c"].iter().for_each(|name| fs::write(dir.join(name), b"x").expect("write"));
    let words = ["filesystem", "defragment", "-r"].map(|word| word.as_ref());
    let finished = subject().command(&[&words[..], &[dir.as_os_str()]].concat());
    run_program("umount", &[&dir]).ok();
    let told = finished.stderr.lines().filter(|line| line.contains("cannot be defragmented")).count();
    assert!(!finished.status.success() && told == 1, "{finished}");
}

/// All block groups are emptied, twice; gives how many went.
fn relocate_everything(image: &Path) -> usize {
    let device = std::sync::Arc::new(FileDevice::open_read_write(image).expect("open"));
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("a volume");
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).expect("a filesystem");
    let mut gone = 0;
    for kind in [BlockGroupFlags::DATA, BlockGroupFlags::METADATA].repeat(2) {
        gone += fs.relocate(&GroupFilter::used_at_most(kind, 100), Room::NewChunks).expect("relocate");
    }
    fs.sync().expect("sync");
    gone
}

/// What the kernel wrote and shared is moved; the kernel finds it as it was, and goes on with it: blocks that were moved
/// are copied, unshared, moved by its own balance, and dropped.
#[test]
fn the_kernel_goes_on_with_what_was_moved() {
    let Some(work) = setup("space_relocate") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, 640 * MIB, &[]);
    let mounted = kernel().mount(&image, &work.dir("mnt"), "noatime,compress=zstd");
    kernel().create_subvolume(&mounted.join("volume"));
    for number in 0..400u64 {
        let bytes = Random::new(number).bytes(1 + (number as usize * 997) % 60_000);
        write_file(&mounted.join(format!("volume/file {number}")), &bytes, false).expect("write");
        write_file(&mounted.join(format!("volume/text {number}")), &vec![number as u8; 70_000], false).expect("write");
    }
    mounted.sync();
    kernel().snapshot_read_only(&mounted.join("volume"), &mounted.join("first"));
    kernel().snapshot(&mounted.join("volume"), &mounted.join("second"));
    let overwrite = |dir: &str, every: usize| {
        for number in (0..400).step_by(every) {
            let file = File::options().write(true).open(mounted.join(format!("{dir}/text {number}"))).expect("open");
            file.write_all_at(&[9; 20_000], 10_000).expect("write");
        }
    };
    overwrite("volume", 7);
    overwrite("second", 11);
    run_program(
        "cp",
        &["--reflink=always".as_ref(), mounted.join("first/file 50").as_os_str(), mounted.join("clone").as_os_str()],
    )
    .ok();
    kernel().snapshot(&mounted.join("second"), &mounted.join("third"));
    kernel().delete_subvolume(&mounted.join("volume"));
    run_program("btrfs", &["subvolume".as_ref(), "sync".as_ref(), mounted.path().as_os_str()]).ok();
    let expected = Tree::read(mounted.path());
    mounted.unmount();

    assert!(relocate_everything(&image) >= 4);
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &work.dir("mnt"), "noatime");
    Tree::read(mounted.path()).assert_same(&expected, Times::Exact, "moved | before");
    for number in (0..400).step_by(5) {
        let path = mounted.join(format!("third/text {number}"));
        File::options().write(true).open(path).and_then(|file| file.write_all_at(&[8; 9000], 30_000)).expect("write");
    }
    kernel().snapshot(&mounted.join("third"), &mounted.join("fourth"));
    kernel().delete_subvolume(&mounted.join("second"));
    run_program("btrfs", &["subvolume".as_ref(), "sync".as_ref(), mounted.path().as_os_str()]).ok();
    let balance = ["balance", "start", "--full-balance"].map(std::ffi::OsStr::new);
    run_program("btrfs", &[&balance[..], &[mounted.path().as_os_str()]].concat()).ok();
    let expected = Tree::read(mounted.path());
    mounted.unmount();
    oracle::assert_clean(&image);
    // And ours with what the kernel's balance moved.
    assert!(relocate_everything(&image) >= 4);
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &work.dir("mnt"), "ro");
    Tree::read(mounted.path()).assert_same(&expected, Times::Exact, "moved again | before");
    mounted.unmount();
}
