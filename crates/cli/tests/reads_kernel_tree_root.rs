//! Requirement 1: what the kernel wrote reads through our mount as through the kernel's.

mod common;

use butterfs_testkit::oracle;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::{GIB, kernel, setup, subject};
use std::path::Path;

/// 20,000 files and more of every kind, with two snapshots, one of them changed since.
#[test]
fn a_kernel_tree_reads_the_same() {
    reads_the_same("kernel_tree", scaled(20_000), 3, &[]);
}

/// A smaller tree on each shape of filesystem that mkfs.btrfs makes.
#[test]
fn a_kernel_tree_reads_the_same_on_other_shapes() {
    for (number, arguments) in [
        &["-n", "4096"][..],
        &["-n", "65536"],
        &["-O", "block-group-tree"],
        &["-O", "^no-holes"],
        &["-O", "^free-space-tree"],
        &["--csum", "xxhash"],
        &["--csum", "sha256"],
        &["--csum", "blake2"],
        &["-m", "single"],
        &["-d", "dup"],
    ]
    .iter()
    .enumerate()
    {
        println!("mkfs.btrfs {}", arguments.join(" "));
        reads_the_same(&format!("shape{number}"), scaled(600), 0, arguments);
    }
}

fn reads_the_same(name: &str, files: usize, huge: usize, mkfs: &[&str]) {
    let Some(work) = setup(name) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 3 * GIB, mkfs);
    let start = std::time::Instant::now();
    fill(&image, &mnt, files, huge);
    println!("filled after {:?}", start.elapsed());
    let mounted = kernel().mount(&image, &mnt, "ro,noatime");
    let expected = Tree::read(&mnt);
    mounted.unmount();
    println!("read by the kernel after {:?}", start.elapsed());
    assert!(expected.len() >= files, "the tree has {} objects", expected.len());

    let before = oracle::file_hash(&image);
    let mounted = subject().mount(&image, &mnt, "ro");
    let found = Tree::read(&mnt);
    mounted.unmount();
    found.assert_same(&expected, Times::ExactWithAccess, "our read-only mount | the kernel's");
    println!("read by the subject after {:?}", start.elapsed());
    assert_eq!(oracle::file_hash(&image), before, "a read-only mount changed the image");

    let mounted = subject().mount(&image, &mnt, "noatime");
    let found = Tree::read(&mnt);
    mounted.unmount();
    found.assert_same(&expected, Times::ExactWithAccess, "our read-write mount | the kernel's");
    oracle::assert_clean(&image);
}

fn fill(image: &Path, mnt: &Path, files: usize, huge: usize) {
    let mounted = kernel().mount(image, mnt, "");
    let tree = mounted.join("tree");
    kernel().create_subvolume(&tree);
    populate::tree(&tree, Plan { seed: 1, files, huge, devices: true });
    let nested = tree.join("nested subvolume");
    kernel().create_subvolume(&nested);
    std::fs::write(nested.join("inside"), "inside").expect("write");
    kernel().snapshot_read_only(&tree, &mounted.join("snapshot-1"));
    populate::tree(&nested, Plan { seed: 2, files: files / 10, huge: 0, devices: true });
    for number in 1..huge {
        std::fs::remove_file(tree.join(format!("huge{number}"))).expect("delete in the source");
    }
    std::fs::remove_dir_all(tree.join("deep/level-0")).expect("delete in the source");
    std::fs::write(tree.join("special/many-links"), "changed after the snapshot").expect("write");
    kernel().snapshot(&tree, &mounted.join("snapshot-2"));
    std::fs::remove_dir_all(mounted.join("snapshot-2/special")).expect("delete in the snapshot");
    mounted.unmount();
}
