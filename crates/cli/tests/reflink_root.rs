//! Extents that files share: `cp` on our mount, the commands, and files that go back and forth between the kernel's
//! clones and ours.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use butterfs_testkit::command::{Finished, run_program};
use butterfs_testkit::mounter::Mounted;
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::{MIB, kernel, setup, subject};
use rustix::fs::{FallocateFlags, fallocate};

fn cp(from: &Path, to: &Path) {
    run_program("cp", &[from, to]).ok();
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    Random::new(seed).bytes(length)
}

/// Bytes of a file that nothing else has, by `btrfs filesystem du` on the kernel's mount.
fn exclusive(path: &Path) -> u64 {
    let shown = run_program("btrfs", &["filesystem".as_ref(), "du".as_ref(), "--raw".as_ref(), path.as_os_str()]).ok();
    let line = shown.stdout.lines().last().expect("a line").to_owned();
    let mut words = line.split_whitespace();
    let total: u64 = words.next().and_then(|word| word.parse().ok()).expect("a total");
    assert!(total > 0, "{line}");
    words.next().and_then(|word| word.parse().ok()).expect("an exclusive part")
}

#[test]
fn cp_shares_extents_on_our_mount() {
    let Some(work) = setup("reflink_cp") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime");
    subject().create_subvolume(&mnt.join("other"));
    let (long, sparse, small) = (mnt.join("long"), mnt.join("sparse"), mnt.join("small"));
    fs::write(&long, bytes(1, 5_000_123)).expect("write");
    let file = File::create(&sparse).expect("create");
    for place in 0..5 {
        file.write_all_at(&bytes(place, 100_000), place * 1_000_000 / 4096 * 4096).expect("write");
    }
    file.set_len(9_000_000).expect("truncate");
    drop(file);
    fs::write(&small, b"a few bytes").expect("write");
    let copies = [("long", "copy"), ("long", "other/copy"), ("copy", "other/again")];
    // One that is read before, so that the kernel has its old pages.
    fs::write(mnt.join("copy"), vec![7; 6_000_000]).expect("write");
    assert_eq!(fs::read(mnt.join("copy")).expect("read").len(), 6_000_000);
    for (from, to) in copies {
        cp(&mnt.join(from), &mnt.join(to));
        assert!(fs::read(mnt.join(to)).expect("read") == fs::read(mnt.join(from)).expect("read"), "{from} {to}");
    }
    // cp itself reads and writes what has holes.
    let hollow = mnt.join("other/hollow");
    File::create(&hollow).expect("create");
    let mut done = 0;
    while done < 9_000_000 {
        done += share((&sparse, done as u64), (&hollow, done as u64), 9_000_000 - done);
    }
    assert!(fs::read(&hollow).expect("read") == fs::read(&sparse).expect("read"));
    cp(&small, &mnt.join("other/small"));
    assert_eq!(fs::read(mnt.join("other/small")).expect("read"), b"a few bytes");
    let expected = Tree::read(&mnt);
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    Tree::read(&mnt).assert_same(&expected, Times::Exact, "the kernel's mount | ours");
    for name in ["long", "copy", "other/copy", "other/again", "sparse", "other/hollow"] {
        assert_eq!(exclusive(&mnt.join(name)), 0, "{name} shares all it has");
    }
    // What the kernel writes now is one file's alone.
    File::options().write(true).open(&long).and_then(|file| file.write_all_at(&[9; 100], 50_000)).expect("write");
    mounted.sync();
    assert_eq!(exclusive(&mnt.join("other/copy")), 0);
    assert!(fs::read(mnt.join("other/copy")).expect("read") == bytes(1, 5_000_123));
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// What `copy_file_range` does, in a directory whose filesystem shares, and on plain bytes.
fn share(from: (&Path, u64), to: (&Path, u64), len: usize) -> usize {
    let (source, dest) = (File::open(from.0).expect("open"), File::options().write(true).open(to.0).expect("open"));
    let (mut offset, mut target) = (from.1, to.1);
    rustix::fs::copy_file_range(&source, Some(&mut offset), &dest, Some(&mut target), len).expect("copy_file_range")
}

const FILES: [&str; 6] = ["text", "random", "prealloc", "inline", "other/text", "other/empty"];

/// Files of all kinds, on a mount that compresses what compresses well.
fn fill(dir: &Path) {
    let text = |length: usize| "all work and no play makes jack a dull boy\n".bytes().cycle().take(length).collect();
    let contents: [Vec<u8>; 6] =
        [text(1_000_000), bytes(2, 700_000), bytes(3, 50_000), text(1500), text(300_001), Vec::new()];
    for (name, content) in FILES.iter().zip(contents) {
        fs::write(dir.join(name), content).expect("write");
    }
    let file = File::options().write(true).open(dir.join("prealloc")).expect("open");
    fallocate(&file, FallocateFlags::empty(), 65_536, 400_000).expect("fallocate");
    file.write_all_at(&bytes(4, 40_000), 131_072).expect("write");
}

/// Shares parts of files, and changes some; the same on plain bytes.
fn exercise(dir: &Path, plain: &Path, seed: u64, steps: usize) {
    let mut random = Random::new(seed);
    for _ in 0..steps {
        let (from, to) = (*random.pick(&FILES).expect("some"), *random.pick(&FILES).expect("some"));
        let source = fs::read(plain.join(from)).expect("read");
        let offset = random.below(source.len() as u64 / 4096 + 1) * 4096;
        let target = random.below(200) * 4096;
        let len = if random.percent(60) { random.between(1, 60) as usize * 4096 } else { 1 << 20 };
        let len = len.min(source.len().saturating_sub(offset as usize));
        if len == 0 || (from == to && offset < target + len as u64 && target < offset + len as u64) {
            continue;
        }
        let mut done = 0;
        while done < len {
            let places = ((offset + done as u64), (target + done as u64));
            done += share((&dir.join(from), places.0), (&dir.join(to), places.1), len - done);
        }
        let dest = File::options().write(true).open(plain.join(to)).expect("open");
        dest.write_all_at(&source[offset as usize..offset as usize + len], target).expect("write");
        if random.percent(40) {
            let (name, at) = (*random.pick(&FILES).expect("some"), random.below(900_000));
            let length = random.between(1, 30_000) as usize;
            let data = random.bytes(length);
            for root in [dir, plain] {
                let file = File::options().write(true).open(root.join(name)).expect("open");
                file.write_all_at(&data, at).expect("write");
            }
        }
    }
}

fn compare(dir: &Path, plain: &Path, what: &str) {
    for name in FILES {
        let (found, wanted) = (fs::read(dir.join(name)).expect("read"), fs::read(plain.join(name)).expect("read"));
        assert!(found == wanted, "{what}: {name}, {} and {} bytes", found.len(), wanted.len());
    }
}

#[test]
fn clones_go_back_and_forth() {
    there_and_back("reflink_default", &[]);
}

#[test]
fn clones_go_back_and_forth_with_small_nodes_and_holes() {
    there_and_back("reflink_small", &["-n", "4096", "-O", "^no-holes", "--csum", "sha256"]);
}

fn there_and_back(name: &str, mkfs: &[&str]) {
    let Some(work) = setup(name) else { return };
    let (image, mnt, plain) = (work.file("image"), work.dir("mnt"), work.dir("plain"));
    fs::create_dir(plain.join("other")).expect("mkdir");
    kernel().mkfs(&image, 512 * MIB, mkfs);
    let turn = |mounted: Mounted, seed: u64| {
        compare(&mnt, &plain, &format!("{name}, turn {seed}, as it was left"));
        exercise(&mnt, &plain, seed, 60);
        compare(&mnt, &plain, &format!("{name}, turn {seed}"));
        if seed % 2 == 1 {
            mounted.mounter().snapshot(&mnt, &mnt.join(format!("snapshot{seed}")));
        }
        mounted.unmount();
        oracle::assert_clean(&image);
    };
    let mounted = kernel().mount(&image, &mnt, "noatime,compress=zstd");
    kernel().create_subvolume(&mnt.join("other"));
    fill(&mnt);
    fill(&plain);
    turn(mounted, 1);
    turn(subject().mount(&image, &mnt, "noatime"), 2);
    turn(kernel().mount(&image, &mnt, "noatime,compress=zstd"), 3);
    turn(subject().mount(&image, &mnt, "noatime"), 4);

    // Half of what shares goes.
    let mounted = subject().mount(&image, &mnt, "noatime");
    for gone in ["text", "prealloc", "other/text"] {
        fs::remove_file(mnt.join(gone)).expect("unlink");
    }
    subject().delete_subvolume(&mnt.join("snapshot1"));
    for name in ["random", "inline", "other/empty"] {
        assert!(fs::read(mnt.join(name)).expect("read") == fs::read(plain.join(name)).expect("read"), "{name}");
    }
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for name in ["random", "inline", "other/empty"] {
        assert!(fs::read(mnt.join(name)).expect("read") == fs::read(plain.join(name)).expect("read"), "{name}");
    }
    mounted.unmount();
}

fn butterfs(arguments: &[&Path]) -> Finished {
    subject().command(arguments)
}

fn told(finished: &Finished, code: i32, words: &str) {
    assert_eq!(finished.status.code(), Some(code), "{finished}");
    assert!(finished.stderr.contains(words) && finished.stderr.lines().count() == 1, "{finished}");
}

#[test]
fn the_commands_share_and_say_what_is_wrong() {
    if !subject().is_butterfs() {
        return;
    }
    let Some(work) = setup("reflink_commands") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 512 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "noatime");
    subject().create_subvolume(&mnt.join("sub"));
    let (a, b, c) = (mnt.join("a"), mnt.join("sub/b"), mnt.join("c"));
    let [reflink, dedupe, option] = ["reflink", "dedupe", "--range"].map(PathBuf::from);
    fs::write(&a, bytes(1, 3_000_001)).expect("write");
    fs::set_permissions(&a, fs::Permissions::from_mode(0o640)).expect("chmod");
    fs::write(&c, vec![3; 4_000_000]).expect("write");
    assert_eq!(fs::read(&c).expect("read").len(), 4_000_000);
    butterfs(&[&reflink, &a, &b]).ok();
    butterfs(&[&reflink, &a, &c]).ok();
    let content = bytes(1, 3_000_001);
    assert!(fs::read(&b).expect("read") == content && fs::read(&c).expect("read") == content);
    assert_eq!(fs::metadata(&b).expect("stat").permissions().mode() & 0o777, 0o640);
    let part = |text: &str| PathBuf::from(text);
    butterfs(&[&reflink, &option, &part("1M:64K:4M"), &a, &c]).ok();
    butterfs(&[&reflink, &option, &part("0:64K:128K"), &c, &c]).ok();
    let mut changed = content.clone();
    changed.resize((4 << 20) + (64 << 10), 0);
    changed[4 << 20..].copy_from_slice(&content[1 << 20..(1 << 20) + (64 << 10)]);
    changed.copy_within(0..64 << 10, 128 << 10);
    assert!(fs::read(&c).expect("read") == changed);

    let outside = work.file("outside");
    fs::write(&outside, bytes(1, 3_000_001)).expect("write");
    told(&butterfs(&[&reflink, &option, &part("1:4K:0"), &a, &c]), 1, "multiples of the sector size");
    told(&butterfs(&[&reflink, &a, &a]), 1, "the source itself");
    told(&butterfs(&[&reflink, &a, &outside]), 1, "only files of one mount");
    told(&butterfs(&[&reflink, &outside, &c]), 1, "not on a filesystem mounted by butterfs");
    told(&butterfs(&[&reflink, &mnt, &c]), 1, "not a regular file");
    told(&butterfs(&[&reflink, &mnt.join("none"), &c]), 1, "no such file");
    assert!(fs::read(&c).expect("read") == changed && fs::read(&outside).expect("read") == content);

    let (same, other) = (mnt.join("same"), mnt.join("sub/other"));
    fs::write(&same, &content).expect("write");
    let mut differing = content.clone();
    differing[2_999_999] ^= 1;
    fs::write(&other, &differing).expect("write");
    let done = butterfs(&[&dedupe, &a, &same]).ok();
    assert!(done.stdout.contains("shares 3000001 bytes"), "{done}");
    told(&butterfs(&[&dedupe, &a, &other]), 1, "differs from");
    told(&butterfs(&[&dedupe, &a, &c]), 1, "differs from");
    butterfs(&[&dedupe, &option, &part("0:1M:0"), &a, &other]).ok();
    assert!(fs::read(&same).expect("read") == content && fs::read(&other).expect("read") == differing);
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    for path in [&a, &b, &same] {
        assert_eq!(exclusive(path), 0, "{}", path.display());
        assert!(fs::read(path).expect("read") == content);
    }
    assert!(fs::read(&c).expect("read") == changed && fs::read(&other).expect("read") == differing);
    mounted.unmount();
}
