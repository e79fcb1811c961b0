//! Requirement 7: the places where implementations of Btrfs broke before us, one test each.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::daemon::Foreground;
use butterfs_testkit::mounter::{Mounted, create_sparse, is_mounted, wait_until};
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::unmount::patiently;
use butterfs_testkit::workdir::WorkDir;
use butterfs_testkit::{oracle, strace};
use common::{GIB, MIB, kernel, setup, subject};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

// ---- leaf splits -----------------------------------------------------------------------------------------------

#[test]
fn ninety_files_in_one_directory() {
    many_files("ninety", 90);
}

#[test]
fn two_hundred_files_in_one_directory() {
    many_files("two_hundred", 200);
}

#[test]
fn twenty_thousand_files_in_one_directory() {
    many_files("twenty_thousand", scaled(20_000));
}

#[test]
fn hundred_thousand_files_in_one_directory() {
    many_files("hundred_thousand", scaled(100_000));
}

/// Leaf splits and first keys lowered in parents; then every other file goes, in another order.
fn many_files(name: &str, count: usize) {
    let Some((work, image, mnt)) = fresh(name, 2 * GIB, &["-n", if count < 1000 { "4096" } else { "16384" }]) else {
        return;
    };
    let mut random = Random::new(count as u64);
    let mut names: Vec<String> = (0..count).map(|number| format!("{:08x}-{number}", random.bits() as u32)).collect();
    let mounted = subject().mount(&image, &mnt, "");
    let dir = mounted.join("dir");
    std::fs::create_dir(&dir).expect("mkdir");
    names.iter().for_each(|name| std::fs::write(dir.join(name), name).expect("create"));
    assert_eq!(list(&dir), sorted(&names), "the listing after creating");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = subject().mount(&image, &mnt, "");
    assert_eq!(list(&dir), sorted(&names), "the listing after mounting again");
    let mut gone = names.split_off(count / 2);
    gone.reverse();
    gone.iter().for_each(|name| std::fs::remove_file(dir.join(name)).expect("unlink"));
    names.iter().for_each(|name| {
        assert_eq!(std::fs::read_to_string(dir.join(name)).expect("reads"), *name, "content");
    });
    assert_eq!(list(&dir), sorted(&names), "the listing after deleting half");
    mounted.unmount();
    oracle::assert_clean(&image);
    kernel_agrees(&image, &mnt, "dir", &sorted(&names));
    drop(work);
}

fn list(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory lists");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names
}

fn kernel_agrees(image: &Path, mnt: &Path, dir: &str, expected: &[String]) {
    let mounted = kernel().mount(image, mnt, "");
    assert_eq!(list(&mounted.join(dir)), expected, "the kernel's listing");
    mounted.unmount();
}

// ---- shared trees ----------------------------------------------------------------------------------------------

/// One time stamp changes in a tree that a snapshot shares: each block on the path is copied, its references kept.
#[test]
fn one_time_stamp_changes_in_a_shared_tree() {
    let Some((work, image, mnt)) = fresh("time_stamp", GIB, &[]) else { return };
    let before = fill_and_snapshot(&image, &mnt, false);
    let mounted = subject().mount(&image, &mnt, "noatime");
    let victim = mounted.join("source/f777");
    File::options()
        .write(true)
        .open(&victim)
        .and_then(|file| file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(123)))
        .expect("utimens");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    let after = Tree::read(&mounted.join("snapshot"));
    after.assert_same(&before, Times::Exact, "the snapshot after a change in its source");
    let source = Tree::read(&mounted.join("source"));
    assert_eq!(source.entries[Path::new("f777")].mtime, (123, 0), "the new time");
    mounted.unmount();
    kernel_deletes(&image, &mnt, "snapshot");
    drop(work);
}

/// Writes inside a snapshot that the kernel made: its ROOT_ITEM has its transid as offset.
#[test]
fn writes_inside_a_kernel_made_snapshot() {
    let Some((work, image, mnt)) = fresh("in_snapshot", GIB, &[]) else { return };
    fill_and_snapshot(&image, &mnt, true);
    let mounted = subject().mount(&image, &mnt, "noatime");
    let source = Tree::read(&mounted.join("source"));
    for number in (0..2000).step_by(7) {
        std::fs::write(mounted.join(format!("snapshot/f{number}")), vec![b'n'; 9000]).expect("write");
    }
    for number in (1..2000).step_by(7) {
        std::fs::remove_file(mounted.join(format!("snapshot/f{number}"))).expect("unlink");
    }
    std::fs::write(mounted.join("snapshot/big"), vec![3; 3 << 20]).expect("write");
    Tree::read(&mounted.join("source")).assert_same(&source, Times::Exact, "the source after writes in the snapshot");
    let snapshot = Tree::read(&mounted.join("snapshot"));
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    Tree::read(&mounted.join("source")).assert_same(&source, Times::Exact, "the source, by the kernel");
    Tree::read(&mounted.join("snapshot")).assert_same(&snapshot, Times::Exact, "the snapshot, by the kernel");
    mounted.unmount();
    kernel_deletes(&image, &mnt, "source");
    drop(work);
}

/// A snapshot of ours, both sides changed by us, one of them deleted by us with its cleaner.
#[test]
fn our_snapshot_lives_and_dies_clean() {
    let Some((work, image, mnt)) = fresh("our_snapshot", GIB, &[]) else { return };
    fill_and_snapshot(&image, &mnt, true);
    let mounted = subject().mount(&image, &mnt, "noatime");
    subject().snapshot(&mounted.join("snapshot"), &mounted.join("second"));
    subject().snapshot_read_only(&mounted.join("second"), &mounted.join("third"));
    for number in (0..2000).step_by(5) {
        std::fs::write(mounted.join(format!("second/f{number}")), vec![b'x'; 5000]).expect("write");
    }
    let refused = std::fs::write(mounted.join("third/new"), "no").expect_err("a read-only snapshot");
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    subject().delete_subvolume(&mounted.join("snapshot"));
    let left = (Tree::read(&mounted.join("source")), Tree::read(&mounted.join("third")));
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    Tree::read(&mounted.join("source")).assert_same(&left.0, Times::Exact, "the source, by the kernel");
    Tree::read(&mounted.join("third")).assert_same(&left.1, Times::Exact, "the third, by the kernel");
    mounted.unmount();
    kernel_deletes(&image, &mnt, "second");
    drop(work);
}

/// Makes `source` with 2,000 files and the kernel's `snapshot` of it; returns the snapshot's tree.
fn fill_and_snapshot(image: &Path, mnt: &Path, writable: bool) -> Tree {
    let mounted = kernel().mount(image, mnt, "noatime");
    let source = mounted.join("source");
    kernel().create_subvolume(&source);
    for number in 0..2000 {
        std::fs::write(source.join(format!("f{number}")), vec![b'o'; number * 3]).expect("write");
    }
    match writable {
        true => kernel().snapshot(&source, &mounted.join("snapshot")),
        false => kernel().snapshot_read_only(&source, &mounted.join("snapshot")),
    }
    let tree = Tree::read(&mounted.join("snapshot"));
    mounted.unmount();
    tree
}

fn kernel_deletes(image: &Path, mnt: &Path, subvolume: &str) {
    // `subvolume sync` waits for the next commit.
    let mounted = kernel().mount(image, mnt, "noatime,commit=1");
    kernel().delete_subvolume(&mounted.join(subvolume));
    run_program("btrfs", &["subvolume".as_ref(), "sync".as_ref(), mnt.as_os_str()]).ok();
    mounted.unmount();
    oracle::assert_clean(image);
}

// ---- space -----------------------------------------------------------------------------------------------------

/// More data and more metadata than the chunks of mkfs hold.
#[test]
fn growth_past_the_first_chunks() {
    let Some((work, image, mnt)) = fresh("growth", 3 * GIB, &[]) else { return };
    let before = oracle::chunks(&image);
    let mounted = subject().mount(&image, &mnt, "");
    let metadata = largest(&before, "METADATA").max(64 * MIB);
    // Inline files are metadata alone.
    let files = metadata / 2048 + metadata / 8192;
    for number in 0..files {
        if number % 2000 == 0 {
            std::fs::create_dir(mounted.join(format!("d{}", number / 2000))).expect("mkdir");
        }
        let path = mounted.join(format!("d{}/f{number}", number / 2000));
        std::fs::write(path, Random::new(number).bytes(2000)).expect("an inline file");
    }
    let data = largest(&before, "DATA") + 100 * MIB;
    write_data(&mounted.join("data"), data);
    mounted.sync();
    assert_eq!(std::fs::metadata(mounted.join("data")).expect("stat").len(), data);
    mounted.unmount();
    let after = oracle::chunks(&image);
    for kind in ["DATA", "METADATA"] {
        // A count would not do: a chunk that nothing is in goes away.
        let is_new = |chunk: &&oracle::ChunkCopies| before.iter().all(|old| old.logical != chunk.logical);
        let mut new = after.iter().filter(|chunk| is_kind(chunk, kind)).filter(is_new);
        assert!(new.next().is_some(), "no new {kind} chunk: {after:?}");
    }
    oracle::assert_clean(&image);
    oracle::assert_superblocks(&image);
    drop(work);
}

fn is_kind(chunk: &oracle::ChunkCopies, kind: &str) -> bool {
    chunk.kind.split('|').next() == Some(kind)
}

fn largest(chunks: &[oracle::ChunkCopies], kind: &str) -> u64 {
    chunks.iter().filter(|chunk| is_kind(chunk, kind)).map(|chunk| chunk.length).max().unwrap_or(0)
}

fn write_data(path: &Path, length: u64) {
    let mut file = File::create(path).expect("create");
    let block = Random::new(9).bytes(1 << 20);
    for _ in 0..length >> 20 {
        std::io::Write::write_all(&mut file, &block).expect("write");
    }
}

/// Data all over the first 300 MiB, the superblock copy at 64 MiB included.
#[test]
fn the_superblock_copy_at_64_mib_is_not_overwritten() {
    let Some((work, image, mnt)) = fresh("copy_64", 300 * MIB, &[]) else { return };
    let mounted = subject().mount(&image, &mnt, "");
    fill_up(&mounted, 300 * MIB);
    mounted.unmount();
    let covered = oracle::chunks(&image).iter().any(|chunk| {
        chunk.physical.iter().any(|start| (*start..start + chunk.length).contains(&oracle::SUPERBLOCKS[1]))
    });
    assert!(covered, "no chunk lies over the superblock copy: the test proves nothing");
    oracle::assert_superblocks(&image);
    oracle::assert_clean(&image);
    drop(work);
}

/// The kernel fills 300 GiB with preallocated extents and frees those around 256 GiB: nothing else is left for us.
#[test]
fn the_superblock_copy_at_256_gib_is_not_overwritten() {
    let Some(work) = setup("copy_256") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    create_sparse(&image, 260 * GIB);
    run_program("mkfs.btrfs", &["-q".as_ref(), "-f".as_ref(), image.as_os_str()]).ok();
    let mounted = kernel().mount(&image, &mnt, "");
    // Space for metadata first, which data would else take.
    let mut count = 0;
    while allocate(&mounted.join(format!("a{count:05}")), 64 * MIB) {
        count += 1;
    }
    mounted.unmount();
    let victims = files_around(&image, oracle::SUPERBLOCKS[2], 48 * MIB);
    assert!(!victims.is_empty(), "{count} files, none around 256 GiB");
    let mounted = kernel().mount(&image, &mnt, "");
    for name in &victims {
        std::fs::remove_file(mounted.join(name)).expect("unlink");
    }
    mounted.unmount();

    let mounted = subject().mount(&image, &mnt, "");
    let written = fill_up(&mounted, 64 * MIB * (victims.len() as u64 + 1));
    println!("{count} files, {} freed around 256 GiB, {written} bytes written there", victims.len());
    assert!(written >= 32 * MIB, "only {written} bytes were written");
    mounted.unmount();
    oracle::assert_superblocks(&image);
    oracle::assert_clean(&image);
    drop(work);
}

fn allocate(path: &Path, length: u64) -> bool {
    let file = File::create_new(path).expect("create");
    match fallocate(&file, FallocateFlags::empty(), 0, length) {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::NOSPC, "fallocate");
            std::fs::remove_file(path).expect("unlink");
            false
        }
    }
}

/// The names of the files with an extent whose physical place is within `distance` of `place`.
fn files_around(image: &Path, place: u64, distance: u64) -> Vec<String> {
    let chunks = oracle::chunks(image);
    let to_physical = |logical: u64| {
        let chunk = chunks.iter().find(|chunk| (chunk.logical..chunk.logical + chunk.length).contains(&logical))?;
        chunk.physical.first().map(|start| start + (logical - chunk.logical))
    };
    let mut names = std::collections::HashMap::new();
    let mut inodes = std::collections::BTreeSet::new();
    let (mut inode, mut wants_name) = (0_u64, false);
    for line in oracle::dump_tree(image, "5").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(key) = line.split("key (").nth(1) {
            inode = key.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            wants_name = line.contains("INODE_REF");
        } else if wants_name && let Some(name) = line.split("name: ").nth(1) {
            names.insert(inode, name.trim().to_owned());
        } else if let ["prealloc" | "extent", "data", "disk", "byte", logical, "nr", length] = words.as_slice() {
            let length: u64 = length.parse().expect("a length");
            let start = to_physical(logical.parse().expect("an address")).unwrap_or(0);
            if start + length > place - distance && start < place + distance {
                inodes.insert(inode);
            }
        }
    }
    inodes.iter().filter_map(|inode| names.get(inode).cloned()).collect()
}

/// Writes one file until ENOSPC or `limit`; returns its length.
fn fill_up(mounted: &Mounted, limit: u64) -> u64 {
    let path = mounted.join("fill");
    let mut file = File::create(&path).expect("create");
    let block = Random::new(3).bytes(1 << 20);
    let mut done = 0;
    while done < limit {
        match std::io::Write::write(&mut file, &block) {
            Ok(written) => done += written as u64,
            Err(error) => {
                let error = rustix::io::Errno::from_io_error(&error);
                assert_eq!(error, Some(rustix::io::Errno::NOSPC), "the error of a full disk");
                break;
            }
        }
    }
    let _ = file.sync_all();
    done
}

/// A block group becomes so fragmented that its free space turns into bitmaps, and back when it is freed.
#[test]
fn free_space_bitmaps_are_made_and_unmade() {
    let Some((work, image, mnt)) = fresh("bitmaps", GIB, &[]) else { return };
    let mounted = subject().mount(&image, &mnt, "");
    let name = |number: usize| format!("d{}/f{number}", number / 1000);
    let count = 12_000;
    for number in 0..count {
        if number % 1000 == 0 {
            std::fs::create_dir(mounted.join(format!("d{}", number / 1000))).expect("mkdir");
        }
        std::fs::write(mounted.join(name(number)), vec![number as u8; 4096]).expect("write");
    }
    mounted.sync();
    (0..count).step_by(2).for_each(|number| std::fs::remove_file(mounted.join(name(number))).expect("unlink"));
    mounted.unmount();
    assert!(bitmaps(&image) > 0, "no bitmap was made");
    oracle::assert_clean(&image);

    let mounted = subject().mount(&image, &mnt, "");
    (1..count).step_by(2).for_each(|number| {
        let path = mounted.join(name(number));
        assert_eq!(std::fs::read(&path).expect("reads"), vec![number as u8; 4096]);
        std::fs::remove_file(path).expect("unlink");
    });
    mounted.unmount();
    assert_eq!(bitmaps(&image), 0, "bitmaps are left");
    oracle::assert_clean(&image);
    drop(work);
}

/// The bitmaps of data block groups of more than 72 MiB: with less, the kernel's threshold for going back is no extents
/// at all, and never reached. Those of metadata come and go as they like.
fn bitmaps(image: &Path) -> usize {
    let chunks = oracle::chunks(image);
    let is_data = |place: u64| {
        let holds = |chunk: &&oracle::ChunkCopies| (chunk.logical..chunk.logical + chunk.length).contains(&place);
        chunks.iter().find(holds).is_some_and(|chunk| is_kind(chunk, "DATA") && chunk.length > 72 * MIB)
    };
    let dump = oracle::dump_tree(image, "free-space");
    let keys = dump.lines().filter(|line| line.contains(" FREE_SPACE_BITMAP ")).filter_map(|line| {
        line.split("key (").nth(1).and_then(|key| key.split(' ').next()).and_then(|start| start.parse().ok())
    });
    keys.filter(|start| is_data(*start)).count()
}

/// Block groups are filled, emptied, and given back.
#[test]
fn block_groups_are_emptied_and_removed() {
    let Some((work, image, mnt)) = fresh("block_groups", 4 * GIB, &[]) else { return };
    let mounted = subject().mount(&image, &mnt, "");
    for number in 0..3 {
        write_data(&mounted.join(format!("data{number}")), 400 * MIB);
    }
    mounted.unmount();
    let count = || oracle::chunks(&image).iter().filter(|chunk| is_kind(chunk, "DATA")).count();
    let full = count();
    assert!(full >= 3, "{full} data chunks hold 1.2 GiB");
    oracle::assert_clean(&image);
    // With its default discard=async the kernel keeps an empty block group for two minutes more.
    let options = if subject().is_butterfs() { "commit=1" } else { "commit=1,nodiscard" };
    let mounted = subject().mount(&image, &mnt, options);
    for number in 0..3 {
        std::fs::remove_file(mounted.join(format!("data{number}"))).expect("unlink");
    }
    mounted.sync();
    // The removal may be the work of a cleaner that runs after a commit or two.
    std::thread::sleep(Duration::from_secs(4));
    mounted.sync();
    mounted.unmount();
    let empty = count();
    assert!(empty <= 1, "{empty} data chunks of {full} are left, all empty");
    oracle::assert_clean(&image);
    drop(work);
}

// ---- durability ------------------------------------------------------------------------------------------------

/// From a trace of the daemon's calls: blocks, flush, superblocks, flush.
#[test]
fn flushes_stand_on_both_sides_of_the_superblock() {
    let Some((work, image, mnt)) = fresh("order", 300 * MIB, &[]) else { return };
    if !subject().is_butterfs() {
        println!("the kernel cannot be traced from here; the reading of traces has its own tests");
        return;
    }
    let trace = work.file("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=pwrite64,pwritev,pwritev2,fsync,fdatasync", "-o"]).arg(&trace);
    command.arg(env!("CARGO_BIN_EXE_butterfs")).args(["mount", "-f", "-o", "commit=300"]).arg(&image).arg(&mnt);
    let mut daemon = Foreground::start(&mut command, &work.file("log"));
    wait_until("the mount appears", || is_mounted(&mnt));
    for round in 0..5 {
        std::fs::write(mnt.join(format!("f{round}")), vec![1; 300_000]).expect("write");
        let dir = File::open(&mnt).expect("opens");
        rustix::fs::syncfs(&dir).expect("syncfs");
        dir.sync_all().expect("fsync");
    }
    patiently(|| subject().command(&["umount".as_ref(), mnt.as_os_str()])).ok();
    assert!(daemon.wait(Duration::from_secs(20)), "the daemon ends");
    let events = strace::events(&std::fs::read_to_string(&trace).expect("the trace reads"));
    let commits = strace::superblock_order(&events).unwrap_or_else(|text| panic!("{text}\n{events:?}"));
    assert!(commits >= 5, "{commits} commits in the trace: {events:?}");
    for copy in 0..2 {
        assert!(events.contains(&strace::Event::Superblock(copy)), "superblock copy {copy} is never written");
    }
    oracle::assert_clean(&image);
}

/// The first copy of every metadata chunk is gone: everything reads from the second, and is healed.
#[test]
fn a_wiped_mirror_of_metadata_is_read_around() {
    wiped_mirror("wiped_metadata", "METADATA", 0);
}

/// The second copy likewise.
#[test]
fn the_other_wiped_mirror_of_metadata_is_read_around() {
    wiped_mirror("wiped_metadata_2", "METADATA", 1);
}

/// And of data, which is DUP here.
#[test]
fn a_wiped_mirror_of_data_is_read_around() {
    wiped_mirror("wiped_data", "DATA", 0);
}

fn wiped_mirror(name: &str, kind: &str, copy: usize) {
    let Some((work, image, mnt)) = fresh(name, GIB, &["-d", "dup"]) else { return };
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for number in 0..1500_usize {
        std::fs::write(mounted.join(format!("f{number}")), Random::new(number as u64).bytes(number * 5))
            .expect("write");
    }
    let expected = Tree::read(&mnt);
    mounted.unmount();
    let victims: Vec<_> = oracle::chunks(&image).into_iter().filter(|chunk| is_kind(chunk, kind)).collect();
    assert!(victims.iter().any(|chunk| chunk.physical.len() == 2), "no DUP chunk: {victims:?}");
    for chunk in &victims {
        let (start, superblock) = (chunk.physical[copy], oracle::SUPERBLOCKS[1]);
        let end = start + chunk.length;
        if (start..end).contains(&superblock) {
            oracle::wipe(&image, start, superblock - start);
            oracle::wipe(&image, superblock + 65536, end - superblock - 65536);
        } else {
            oracle::wipe(&image, start, chunk.length);
        }
    }
    let mounted = subject().mount(&image, &mnt, "noatime");
    Tree::read(&mnt).assert_same(&expected, Times::Exact, "the tree with one copy gone");
    std::fs::write(mounted.join("new"), vec![8; 100_000]).expect("write");
    mounted.unmount();
    // The kernel's scrub rewrites what was never read; then nothing may be amiss.
    let mounted = kernel().mount(&image, &mnt, "noatime");
    run_program("btrfs", &["scrub".as_ref(), "start".as_ref(), "-B".as_ref(), mnt.as_os_str()]);
    let scrub = run_program("btrfs", &["scrub".as_ref(), "start".as_ref(), "-B".as_ref(), mnt.as_os_str()]).ok();
    assert!(scrub.stdout.contains("no errors found"), "after a scrub: {scrub}");
    assert_eq!(std::fs::read(mounted.join("new")).expect("reads"), vec![8; 100_000]);
    mounted.unmount();
    oracle::assert_clean(&image);
    drop(work);
}

/// Data that does not have its checksum is an I/O error, and the log says on which device, where, and in which file.
#[test]
fn a_flipped_byte_of_data_is_an_error_and_named() {
    let Some((work, image, mnt)) = fresh("flipped", GIB, &[]) else { return };
    let mounted = subject().mount(&image, &mnt, "");
    std::fs::create_dir(mounted.join("some dir")).expect("mkdir");
    let (content, good) = (Random::new(77).bytes(100_000), Random::new(78).bytes(100_000));
    std::fs::write(mounted.join("some dir/bad"), &content).expect("write");
    std::fs::write(mounted.join("good"), &good).expect("write");
    mounted.unmount();
    let bytes = std::fs::read(&image).expect("reads");
    let start = sector_with(&bytes, &content[..4096]).expect("the file's first sector is in the image");
    oracle::wipe(&image, start as u64 + 100, 1);

    let mounted = subject().mount(&image, &mnt, "ro");
    let bad = [mounted.join("some dir/bad"), mounted.join("good")].map(|path| std::fs::read(&path));
    let [Err(error), Ok(read)] = bad else { panic!("one of the two is damaged, and no more: {}", mounted.log()) };
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert_eq!(read, good);
    if subject().is_butterfs() {
        let log = mounted.log();
        for word in ["/some dir/bad", &format!("offset {start}"), image.to_str().expect("UTF-8"), "checksum"] {
            assert!(log.contains(word), "no '{word}' in the log:\n{log}");
        }
    }
    mounted.unmount();
    drop(work);
}

/// Where `needle` begins, at a sector.
fn sector_with(hay: &[u8], needle: &[u8]) -> Option<usize> {
    (0..hay.len()).step_by(4096).find(|start| hay[*start..].starts_with(needle))
}

/// A log tree that the kernel left behind: replayed, or ignored on demand; one that cannot be read is refused, by name,
/// with nothing written.
#[test]
fn a_dirty_log_tree_is_replayed_or_refused() {
    let Some((work, image, mnt)) = fresh("fsync_cut", GIB, &[]) else { return };
    let mounted = kernel().mount(&image, &mnt, "commit=300");
    std::fs::write(mounted.join("old"), "old").expect("write");
    mounted.sync();
    std::fs::write(mounted.join("fsynced"), "in the log").expect("write");
    File::open(mounted.join("fsynced")).and_then(|file| file.sync_all()).expect("fsync");
    let (copy, broken) = (work.file("copy"), work.file("broken"));
    for to in [&copy, &broken] {
        run_program("cp", &["--sparse=always".as_ref(), image.as_os_str(), to.as_os_str()]).ok();
    }
    mounted.unmount();
    let log: u64 = oracle::superblock(&copy)["log_root"].parse().expect("dump-super names log_root");
    assert_ne!(log, 0, "the kernel left no log tree: the test proves nothing");

    for chunk in oracle::chunks(&broken).iter().filter(|c| (c.logical..c.logical + c.length).contains(&log)) {
        chunk.physical.iter().for_each(|start| oracle::wipe(&broken, start + (log - chunk.logical), 16384));
    }
    let before = oracle::file_hash(&broken);
    if subject().is_butterfs() {
        for options in ["", "ro"] {
            let finished = subject().try_mount(&broken, &mnt, options).map(|_| ()).expect_err("a broken log");
            assert_eq!(finished.status.code(), Some(32), "{finished}");
            assert!(finished.stderr.contains("log"), "the message names the log: {finished}");
        }
        let mounted = subject().mount(&broken, &mnt, "ro,norecovery");
        assert_eq!(std::fs::read_to_string(mounted.join("old")).expect("reads"), "old");
        assert!(!mounted.join("fsynced").exists(), "the log was not ignored");
        mounted.unmount();
    }
    assert_eq!(oracle::file_hash(&broken), before, "a refused mount wrote");

    let mounted = subject().mount(&copy, &mnt, "");
    assert_eq!(std::fs::read_to_string(mounted.join("fsynced")).expect("reads"), "in the log");
    mounted.unmount();
    assert_eq!(oracle::superblock(&copy)["log_root"], "0", "the log is still there");
    oracle::assert_clean(&copy);
}

/// A work directory with a fresh filesystem of the subject's making.
fn fresh(name: &str, size: u64, mkfs: &[&str]) -> Option<(WorkDir, PathBuf, PathBuf)> {
    let work = setup(name)?;
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    // DUP data is an option that only the kernel's mkfs has.
    let maker = if mkfs.contains(&"-d") { kernel() } else { subject() };
    maker.mkfs(&image, size, mkfs);
    Some((work, image, mnt))
}
