//! Old and rare layouts: what we write on filesystems that `mkfs.btrfs` and the kernel made, and the kernel on those
//! that we made. Where the kernel does not mount, `btrfs check` and what is read back are the judges.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use butterfs_testkit::command::run;
use butterfs_testkit::mounter::{Mounter, create_sparse};
use butterfs_testkit::oracle;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::{MIB, kernel, setup, subject};

const BINARY: &str = env!("CARGO_BIN_EXE_butterfs");

fn populated(dir: &Path, name: &str, seed: u64) {
    let inner = dir.join(name);
    fs::create_dir(&inner).expect("mkdir");
    populate::tree(&inner, Plan { seed, files: scaled(300), huge: 0, devices: true });
    // Over what is there, and with holes.
    let file = fs::File::options().create(true).truncate(false).write(true).read(true).open(inner.join("rewritten"));
    let file = file.expect("open");
    file.write_all_at(&Random::new(seed).bytes(3_000_000), 0).expect("write");
    file.sync_all().expect("fsync");
    for at in 0..30 {
        file.write_all_at(&Random::new(seed + at).bytes(5000 + at as usize * 700), at * 170_001).expect("write");
    }
    file.set_len(6_000_000).expect("truncate");
}

/// Our own check, which shares nothing with what wrote.
fn checked(image: &Path) {
    run(Command::new(BINARY).args(["check", "--check-data-csum"]).arg(image)).ok();
    oracle::assert_clean(image);
}

/// Sectors that the kernel does not mount here: on filesystems that either made.
fn large_sectors(name: &str, sizes: &[(&str, &str)]) {
    let Some(work) = setup(name) else { return };
    let (image, mnt, source) = (work.file("image"), work.dir("mnt"), work.dir("source"));
    populated(&source, "from mkfs", 1);
    for (sector, node) in sizes {
        println!("sectors of {sector}, nodes of {node}");
        let shape = ["-s", sector, "-n", node];
        subject().mkfs(&image, 400 * MIB, &shape);
        written_and_read(&image, &mnt, 2, checked);
        create_sparse(&image, 400 * MIB);
        let mkfs =
            run(Command::new("mkfs.btrfs").args(["-q", "-f"]).args(shape).arg("--rootdir").arg(&source).arg(&image));
        mkfs.ok();
        let mounted = subject().mount(&image, &mnt, "noatime");
        same_files(&mnt, &source);
        mounted.unmount();
        // Symbolic links that mkfs puts in have a zero behind them.
        written_and_read(&image, &mnt, 3, checked);
        fs::remove_file(&image).expect("remove");
    }
}

/// Names and bytes are the same; sizes and links of directories are each filesystem's own.
fn same_files(found: &Path, expected: &Path) {
    let (a, b) = (Tree::read(found), Tree::read(expected));
    assert!(a.entries.keys().eq(b.entries.keys()), "the names differ");
    for path in b.entries.keys().filter(|path| expected.join(path).symlink_metadata().is_ok_and(|meta| meta.is_file()))
    {
        let bytes = |root: &Path| fs::read(root.join(path)).expect("read");
        assert!(bytes(found) == bytes(expected), "{}", path.display());
    }
}

fn written_and_read(image: &Path, mnt: &Path, seed: u64, judge: fn(&Path)) {
    let mounted = subject().mount(image, mnt, "noatime");
    populated(mnt, "first", seed);
    subject().create_subvolume(&mnt.join("sub"));
    populated(&mnt.join("sub"), "inner", seed + 10);
    subject().snapshot(&mnt.join("sub"), &mnt.join("snap"));
    fs::remove_dir_all(mnt.join("sub/inner")).expect("remove");
    mounted.unmount();
    judge(image);
    let mounted = subject().mount(image, mnt, "noatime,compress-force=zstd");
    populated(mnt, "packed", seed + 20);
    let expected = Tree::content_of(mnt);
    mounted.unmount();
    judge(image);
    let mounted = subject().mount(image, mnt, "noatime");
    Tree::content_of(mnt).assert_same(&expected, Times::Exact, "our second mount | the first");
    fs::remove_dir_all(mnt.join("first")).expect("remove");
    mounted.unmount();
    judge(image);
}

#[test]
fn sectors_of_8_and_16_kib() {
    large_sectors("ly-sectors", &[("8192", "8192"), ("16384", "65536")]);
}

#[test]
fn sectors_of_32_and_64_kib() {
    large_sectors("ly-pages", &[("32768", "32768"), ("65536", "65536")]);
}

/// The kernel left a cache that it would believe; what we write takes it away, and the kernel makes a new one.
#[test]
fn a_v1_space_cache_is_dropped() {
    let Some(work) = setup("ly-cache") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    // The kernel keeps caches of groups from 100 MiB on.
    kernel().mkfs(&image, 2048 * MIB, &["-O", "^free-space-tree,^block-group-tree"]);
    let kernels = |seed| {
        let mounted = kernel().mount(&image, &mnt, "noatime,space_cache=v1");
        populated(&mnt, &format!("kernel {seed}"), seed);
        fs::write(mnt.join("noise"), Random::new(seed).bytes(30_000_000)).expect("write");
        mounted.unmount();
        let superblock = oracle::superblock(&image);
        assert_eq!(superblock["cache_generation"], superblock["generation"], "the kernel would believe its cache");
        assert!(oracle::dump_tree(&image, "root").contains("FREE_SPACE UNTYPED"));
        oracle::assert_clean(&image);
    };
    kernels(1);
    // What is only read stays as it is.
    let before = oracle::superblock(&image);
    subject().mount(&image, &mnt, "ro").unmount();
    assert_eq!(oracle::superblock(&image), before);
    let mounted = subject().mount(&image, &mnt, "noatime");
    fs::remove_dir_all(mnt.join("kernel 1")).expect("remove");
    populated(&mnt, "ours", 2);
    let expected = Tree::content_of(&mnt);
    mounted.unmount();
    let superblock = oracle::superblock(&image);
    assert_eq!(superblock["cache_generation"], u64::MAX.to_string());
    assert!(!oracle::dump_tree(&image, "root").contains("FREE_SPACE UNTYPED"));
    checked(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime,space_cache=v1");
    Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "the kernel's mount | ours");
    mounted.unmount();
    kernels(3);
    // A mount of ours that changes nothing else drops it, too, and dies before that is durable.
    let mounted = subject().mount(&image, &mnt, "noatime");
    fs::write(mnt.join("lost"), "never committed").expect("write");
    mounted.kill();
    checked(&image);
    let mounted = subject().mount(&image, &mnt, "noatime");
    fs::write(mnt.join("kept"), "committed").expect("write");
    mounted.unmount();
    checked(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime,space_cache=v1");
    assert_eq!(fs::read(mnt.join("kept")).expect("read"), b"committed");
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// Fills a small filesystem; gives how many files there are.
fn filled(dir: &Path, seed: u64) -> usize {
    let mut random = Random::new(seed);
    for number in 0.. {
        let len = 1 + random.below(300_000) as usize;
        let path = dir.join(format!("{seed}-{number}"));
        let written = fs::write(&path, random.bytes(len)).and_then(|()| fs::File::open(&path)?.sync_all());
        if let Err(error) = written {
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
            return number;
        }
    }
    0
}

/// Mixed block groups are full when they are: deleting works then, and so does writing what was deleted again.
#[test]
fn mixed_block_groups_are_filled_and_emptied() {
    let Some(work) = setup("ly-mixed") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let makers: [(&Mounter, &[&str]); 3] =
        [(&subject(), &["-M"]), (&kernel(), &["--mixed"]), (&subject(), &["-M", "-m", "dup", "-d", "dup"])];
    for (maker, mkfs) in makers {
        println!("{mkfs:?} {maker:?}");
        maker.mkfs(&image, 96 * MIB, mkfs);
        let mounted = subject().mount(&image, &mnt, "noatime");
        let first = filled(&mnt, 1);
        assert!(first > 50, "only {first} files went in");
        subject().command(&["filesystem".as_ref(), "usage".as_ref(), mnt.as_os_str()]).ok();
        for number in (0..first).step_by(2) {
            fs::remove_file(mnt.join(format!("1-{number}"))).expect("deleting works on a full filesystem");
        }
        mounted.sync();
        let second = filled(&mnt, 2);
        assert!(second * 4 > first, "after {first} files, half of which are gone, only {second} more");
        let expected = Tree::content_of(&mnt);
        mounted.unmount();
        checked(&image);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "the kernel's mount | ours");
        for number in 0..second {
            fs::remove_file(mnt.join(format!("2-{number}"))).expect("the kernel deletes");
        }
        mounted.unmount();
        oracle::assert_clean(&image);
        let mounted = subject().mount(&image, &mnt, "noatime");
        for entry in fs::read_dir(&mnt).expect("list") {
            fs::remove_file(entry.expect("an entry").path()).expect("remove");
        }
        mounted.unmount();
        checked(&image);
        fs::remove_file(&image).expect("remove");
    }
}

/// A writer gets nearly as much of mixed block groups as on the kernel's mount.
#[test]
fn mixed_block_groups_hold_what_they_hold_for_the_kernel() {
    let Some(work) = setup("ly-mixed-size") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let held = |mounter: &Mounter| {
        kernel().mkfs(&image, 256 * MIB, &["--mixed"]);
        let mounted = mounter.mount(&image, &mnt, "noatime");
        let file = fs::File::create(mnt.join("file")).expect("create");
        let piece = Random::new(3).bytes(1 << 20);
        let count =
            (0..512u64).take_while(|n| file.write_all_at(&piece, n << 20).and_then(|()| file.sync_data()).is_ok());
        let count = count.count();
        drop(file);
        fs::remove_file(mnt.join("file")).expect("deleting works on a full filesystem");
        mounted.unmount();
        checked(&image);
        count
    };
    let (theirs, ours) = (held(&kernel()), held(&subject()));
    println!("kernel {theirs} MiB, ours {ours} MiB");
    assert!(ours * 100 >= theirs * 95, "kernel {theirs} MiB, ours {ours} MiB");
}
