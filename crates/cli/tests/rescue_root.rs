//! `butterfs rescue` on filesystems that the kernel made: words and exit statuses are those of `btrfs rescue`, `btrfs
//! check` is content afterwards, and then the kernel mounts it and finds every file.

mod common;

use butterfs_testkit::command::{Finished, run_program};
use butterfs_testkit::oracle;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use common::{MIB, kernel, setup};
use std::fs;
use std::path::{Path, PathBuf};

const SUPERBLOCKS: [u64; 2] = [64 << 10, 64 << 20];

/// A filesystem with some files, made and filled by the kernel; and what is in it.
fn filled(work: &WorkDir, arguments: &[&str]) -> (PathBuf, Tree) {
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 512 * MIB, arguments);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    for number in 0..300usize {
        let dir = mnt.join(format!("dir {}", number % 7));
        fs::create_dir_all(&dir).expect("mkdir");
        fs::write(dir.join(format!("file {number}")), vec![number as u8; number * 100]).expect("write");
    }
    kernel().snapshot(&mnt, &mnt.join("snapshot"));
    let tree = Tree::read(&mnt);
    mounted.unmount();
    (image, tree)
}

fn rescue(image: &Path, arguments: &[&str]) -> Finished {
    let undo = image.with_file_name("undo");
    if undo.exists() {
        fs::remove_file(&undo).expect("remove");
    }
    let mut all = vec!["rescue"];
    all.extend(arguments);
    let (undo, image) = (undo.to_str().expect("UTF-8"), image.to_str().expect("UTF-8"));
    all.extend(["--undo-file", undo, image]);
    run_program(env!("CARGO_BIN_EXE_butterfs"), &all)
}

fn assert_says(finished: &Finished, code: i32, words: &str) {
    let all = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.status.code(), Some(code), "{all}");
    assert!(all.contains(words), "{words:?} is not in: {all}");
}

/// Clean for `btrfs check`; only then the kernel may mount it, and write. Gives what is there after that.
fn assert_whole(work: &WorkDir, image: &Path, expected: &Tree, what: &str) -> Tree {
    oracle::assert_clean(image);
    let mounted = kernel().mount(image, &work.dir("mnt"), "noatime");
    Tree::read(&work.dir("mnt")).assert_same(expected, Times::Exact, what);
    fs::write(work.dir("mnt").join("written afterwards"), [1; 10_000]).expect("write");
    fs::remove_file(work.dir("mnt").join("written afterwards")).expect("remove");
    let now = Tree::read(&work.dir("mnt"));
    mounted.unmount();
    oracle::assert_clean(image);
    now
}

#[test]
fn superblocks_are_recovered_as_btrfs_does() {
    let Some(work) = setup("rescue_super") else { return };
    let (image, expected) = filled(&work, &[]);
    assert_says(&rescue(&image, &["super-recover"]), 0, "All supers are valid, no need to recover");
    let undone = oracle::file_hash(&image);
    for offset in SUPERBLOCKS {
        oracle::wipe(&image, offset, 4096);
        assert_says(&rescue(&image, &["super-recover"]), 4, "say --yes");
        assert_says(&rescue(&image, &["super-recover", "--yes", "--dry-run"]), 0, "nothing was written");
        assert_says(&rescue(&image, &["super-recover", "-y"]), 2, "Recovered bad superblocks successful");
        assert_eq!(oracle::file_hash(&image), undone, "the copies were equal before");
    }
    assert_whole(&work, &image, &expected, "after super-recover");
    SUPERBLOCKS.iter().for_each(|offset| oracle::wipe(&image, *offset, 4096));
    assert_says(&rescue(&image, &["super-recover", "-y"]), 1, "no valid superblock");
}

#[test]
fn a_lost_chunk_tree_is_recovered() {
    let Some(work) = setup("rescue_chunk") else { return };
    for (shape, arguments) in [("dup", &["-m", "dup"][..]), ("small", &["-m", "single", "-n", "4096"][..])] {
        let (image, expected) = filled(&work, arguments);
        assert_says(&rescue(&image, &["chunk-recover", "-y"]), 0, "Check chunks successfully with no orphans");
        let fields = oracle::superblock(&image);
        let number =
            |name: &str| fields[name].split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect(name);
        let (root, nodesize) = (number("chunk_root"), number("nodesize"));
        for chunk in
            oracle::chunks(&image).iter().filter(|chunk| (chunk.logical..chunk.logical + chunk.length).contains(&root))
        {
            chunk.physical.iter().for_each(|at| oracle::wipe(&image, at + root - chunk.logical, nodesize));
        }
        assert_ne!(oracle::check(&image).status.code(), Some(0), "the tree is lost");
        assert_says(&rescue(&image, &["chunk-recover", "-y"]), 0, "Chunk tree recovered successfully");
        assert_whole(&work, &image, &expected, &format!("{shape} after chunk-recover"));
        fs::remove_file(&image).expect("remove");
    }
}

#[test]
fn caches_and_trees_that_can_be_made_anew_are_removed() {
    let Some(work) = setup("rescue_clear") else { return };
    let (image, expected) = filled(&work, &["-O", "^block-group-tree"]);
    assert_says(&rescue(&image, &["clear-space-cache", "v2"]), 0, "free space cache v2 cleared");
    let expected = assert_whole(&work, &image, &expected, "without a free space tree");
    assert_says(&rescue(&image, &["clear-space-cache", "v1"]), 0, "Free space cache cleared");
    let expected = assert_whole(&work, &image, &expected, "without a space cache");
    assert_says(&rescue(&image, &["clear-uuid-tree"]), 0, "UUID tree cleared");
    let expected = assert_whole(&work, &image, &expected, "without a UUID tree");
    assert_says(&rescue(&image, &["clear-ino-cache"]), 0, "Successfully cleared ino cache");
    assert_says(&rescue(&image, &["fix-device-size"]), 0, "No device size related problem found");
    assert_says(&rescue(&image, &["zero-log"]), 0, "There is no log");
    assert_whole(&work, &image, &expected, "after all");
}

#[test]
fn a_mounted_filesystem_is_not_touched() {
    let Some(work) = setup("rescue_mounted") else { return };
    let (image, _) = filled(&work, &[]);
    let mounted = kernel().mount(&image, &work.dir("mnt"), "noatime");
    for what in [&["super-recover", "-y"][..], &["zero-log"], &["clear-uuid-tree"], &["chunk-recover", "-y"]] {
        assert_says(&rescue(&image, what), 1, "mounted");
    }
    mounted.unmount();
}
