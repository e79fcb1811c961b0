//! What the kernel keeps for a mount: the space that files take, and, with `writeback_cache`, written bytes.

mod common;

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, SystemTime};

use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::{MIB, kernel, setup, subject};
use rustix::fs::{FallocateFlags, fallocate};

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    Random::new(seed).bytes(length)
}

/// The kernel remembers the space of a new file; of one that writeback may change, it must ask.
#[test]
fn space_is_as_stat_shows_it() {
    let Some(work) = setup("kernel_caches_space") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    for options in ["noatime", "noatime,compress=zstd"] {
        let mounted = subject().mount(&image, &mnt, options);
        let shown = |name: &str| fs::metadata(mnt.join(name)).expect("stat").blocks();
        let names = ["new", "text", "small", "appended", "sparse", "overwritten", "cut", "allocated"];
        fs::write(mnt.join("new"), bytes(1, 300_000)).expect("write");
        fs::write(mnt.join("text"), "again and again ".repeat(20_000)).expect("write");
        fs::write(mnt.join("small"), b"a few bytes").expect("write");
        for name in ["appended", "sparse", "overwritten", "cut", "allocated"] {
            fs::write(mnt.join(name), bytes(2, 100_000)).expect("write");
        }
        names.iter().for_each(|name| assert!(shown(name) > 0, "{name}"));
        mounted.sync();
        let open = |name: &str| File::options().write(true).open(mnt.join(name)).expect("open");
        open("appended").write_all_at(&bytes(3, 50_000), 100_000).expect("write");
        open("sparse").write_all_at(&bytes(3, 50_000), 10_000_000).expect("write");
        open("overwritten").write_all_at(&bytes(3, 50_000), 1234).expect("write");
        open("cut").set_len(5000).expect("truncate");
        fallocate(open("allocated"), FallocateFlags::KEEP_SIZE, 0, 400_000).expect("fallocate");
        names.iter().for_each(|name| assert!(shown(name) > 0, "{name}"));
        mounted.sync();
        let remembered: Vec<u64> = names.iter().map(|name| shown(name)).collect();
        mounted.unmount();
        let mounted = subject().mount(&image, &mnt, options);
        let asked: Vec<u64> = names.iter().map(|name| shown(name)).collect();
        assert_eq!(remembered, asked, "{options}: {names:?}");
        names.iter().for_each(|name| fs::remove_file(mnt.join(name)).expect("remove"));
        mounted.unmount();
    }
    oracle::assert_clean(&image);
}

/// Bytes, sizes and times are those of the calls, whoever kept them meanwhile; a snapshot has what was written before.
#[test]
fn the_writeback_cache_keeps_what_calls_did() {
    let Some(work) = setup("kernel_caches_writeback") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime,writeback_cache");
    subject().create_subvolume(&mnt.join("sub"));
    let mut numbers = Random::new(5);
    let mut expected = bytes(1, 8 << 20);
    fs::write(mnt.join("sub/file"), &expected).expect("write");
    let file = File::options().read(true).write(true).open(mnt.join("sub/file")).expect("open");
    for number in 0..2000_u64 {
        let at = numbers.below(expected.len() as u64 - 5000) as usize;
        let new = bytes(number, numbers.between(1, 5000) as usize);
        file.write_all_at(&new, at as u64).expect("write");
        expected[at..at + new.len()].copy_from_slice(&new);
    }
    subject().snapshot(&mnt.join("sub"), &mnt.join("snapshot"));
    assert!(fs::read(mnt.join("snapshot/file")).expect("read") == expected, "the snapshot has what was written before");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 1_000_000, 500_000).expect("fallocate");
    expected[1_000_000..1_500_000].fill(0);
    file.set_len(7_654_321).expect("truncate");
    file.set_len(8_000_000).expect("truncate");
    expected.truncate(7_654_321);
    expected.resize(8_000_000, 0);
    let mut appended = File::options().append(true).open(mnt.join("sub/file")).expect("open");
    for _ in 0..100 {
        std::io::Write::write_all(&mut appended, b"one more line\n").expect("write");
        expected.extend_from_slice(b"one more line\n");
    }
    assert!(fs::read(mnt.join("sub/file")).expect("read") == expected);
    file.sync_all().expect("fsync");
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    file.write_all_at(b"x", 0).expect("write");
    expected[0] = b'x';
    file.set_times(FileTimes::new().set_modified(then)).expect("utimens");
    drop((file, appended));
    assert_eq!(fs::metadata(mnt.join("sub/file")).expect("stat").modified().expect("a time"), then);
    let tree = Tree::read(&mnt);
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    Tree::read(&mnt).assert_same(&tree, Times::Exact, "the kernel's mount | ours");
    assert!(fs::read(mnt.join("sub/file")).expect("read") == expected);
    mounted.unmount();
}
