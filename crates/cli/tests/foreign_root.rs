//! Filesystems as only few writers leave them, with the kernel and btrfs-progs as judges: compressed extents of every
//! shape, the inode cache of old kernels, a change of the UUID that was interrupted, plain inode references.

mod common;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_testkit::command::run;
use butterfs_testkit::devices::{KernelMount, Loop};
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::{library_tree, oracle, synthetic};
use butterfs_volume::{BlockDevice, FileDevice, OpenMode, Volume};
use common::{MIB, kernel, setup, subject};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

fn write(image: &Path) -> Filesystem {
    let device = Arc::new(FileDevice::open_read_write(image).expect("the image opens"));
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("the volume opens");
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).expect("the filesystem opens")
}

fn read(images: &[&Path]) -> Tree {
    let device =
        |image: &&Path| Arc::new(FileDevice::open_read_only(image).expect("the image opens")) as Arc<dyn BlockDevice>;
    let volume = Volume::open(images.iter().map(device).collect(), OpenMode::ReadOnly).expect("the volume opens");
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).expect("the filesystem opens");
    library_tree::read(&fs)
}

#[track_caller]
fn assert_same_as_kernel(image: &Path, mnt: &Path, what: &str) -> Tree {
    oracle::assert_clean(image);
    let mounted = kernel().mount(image, mnt, "ro,noatime");
    let want = Tree::read(mnt);
    mounted.unmount();
    read(&[image]).assert_same(&want, Times::ExactWithAccess, what);
    want
}

/// What we put in by hand, the kernel reads as we do, and as it must be.
#[test]
fn the_kernel_reads_compressed_extents_of_every_shape_alike() {
    let Some(work) = setup("gallery") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    // What kernels set that have compressed.
    oracle::set_superblock_bits(&image, 0xbc, 1 << 3 | 1 << 4);
    let fs = write(&image);
    let exhibits = synthetic::gallery(&fs, fs.root());
    drop(fs);
    assert_same_as_kernel(&image, &mnt, "compressed");
    let mounted = kernel().mount(&image, &mnt, "ro,noatime");
    for (name, want) in &exhibits {
        assert!(std::fs::read(mnt.join(name)).expect("it reads") == *want, "{name}: the kernel reads other bytes");
    }
    mounted.unmount();
    let mounted = subject().mount(&image, &mnt, "ro");
    for (name, want) in &exhibits {
        assert!(std::fs::read(mnt.join(name)).expect("it reads") == *want, "{name}: the subject reads other bytes");
    }
    mounted.unmount();
}

/// `btrfs check` knows it and wants it gone; to us it is in nobody's way.
#[test]
fn an_inode_cache_is_left_alone() {
    let Some(work) = setup("inode_cache") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let fs = write(&image);
    let new = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    let file = fs.create(Place::new(fs.root(), b"file"), &new).expect("create");
    fs.write(file, 0, &[0; 8192]).expect("write");
    fs.sync().expect("sync");
    synthetic::inode_cache(&fs, file);
    drop(fs);
    assert!(oracle::dump_tree(&image, "5").contains("key (FREE_INO INODE_ITEM 0)"));
    assert!(oracle::check(&image).stdout.contains("deprecated inode cache"));
    if !subject().is_butterfs() {
        return;
    }
    let mounted = subject().mount(&image, &mnt, "");
    std::fs::write(mnt.join("new"), "written beside it").expect("write");
    mounted.unmount();
    let tree = read(&[&image]);
    assert_eq!(tree.len(), 3);
    assert!(oracle::dump_tree(&image, "5").contains("key (FREE_INO INODE_ITEM 0)"));
}

/// Without extended references the format has room for few links; nodes of sizes that nobody uses.
#[test]
fn plain_references_and_odd_nodes() {
    let Some(work) = setup("plain_references") else { return };
    let mnt = work.dir("mnt");
    for (number, mkfs) in [
        &["-O", "^extref", "-n", "8192"][..],
        &["-n", "32768", "--csum", "blake2"],
        &["-O", "^extref,^skinny-metadata,^no-holes,^free-space-tree,^block-group-tree", "--csum", "xxhash"],
    ]
    .iter()
    .enumerate()
    {
        let image = work.file(&format!("image{number}"));
        kernel().mkfs(&image, 256 * MIB, mkfs);
        let mounted = kernel().mount(&image, &mnt, "noatime");
        for number in 0..60_usize {
            let dir = mnt.join(format!("dir{}", number % 7));
            std::fs::create_dir_all(&dir).expect("mkdir");
            std::fs::write(dir.join(format!("file{number}")), vec![number as u8; number * number * 10]).expect("write");
            std::fs::hard_link(dir.join(format!("file{number}")), dir.join(format!("link{number}"))).expect("link");
        }
        std::fs::write(mnt.join("linked"), "many").expect("write");
        for link in 0..40 {
            std::fs::hard_link(mnt.join("linked"), mnt.join(format!("link{link}"))).expect("link");
        }
        mounted.unmount();
        assert_same_as_kernel(&image, &mnt, &mkfs.join(" "));
    }
}

/// Where `flags` and `generation` are in a superblock; and the flag of a UUID that is being changed.
const FLAGS: usize = 0x38;
const CHANGING_FSID_V2: u64 = 1 << 36;
const INCOMPAT: usize = 0xbc;
const METADATA_UUID: u64 = 1 << 10;

/// `btrfstune -M` on two devices, caught between its writes of their superblocks.
#[test]
fn a_change_of_the_uuid_caught_between_two_devices() {
    let Some(work) = setup("uuid_caught") else { return };
    let (a, b, mnt) = (work.file("a"), work.file("b"), work.dir("mnt"));
    [&a, &b].iter().for_each(|image| create_sparse(image, 256 * MIB));
    run(Command::new("mkfs.btrfs").args(["-q", "-f", "-d", "raid1", "-m", "raid1"]).arg(&a).arg(&b)).ok();
    let fill = KernelMount::new(&[a.clone(), b.clone()], &mnt, "noatime");
    populate::tree(&fill.join(""), Plan { seed: 52, files: 60, huge: 0, devices: false });
    let want = Tree::read(&mnt);
    drop(fill);
    // First all superblocks get the flag and the old UUID for blocks; then the new one, without the flag.
    let before = [copied(&work.file("a0"), &a), copied(&work.file("b0"), &b)];
    let started = [copied(&work.file("a1"), &a), copied(&work.file("b1"), &b)];
    for image in &started {
        let fsid = bytes_at(image, 0x20);
        set_bytes_at(image, 0x23b, &fsid);
        oracle::set_superblock_bits(image, INCOMPAT, METADATA_UUID);
        oracle::set_superblock_bits(image, FLAGS, CHANGING_FSID_V2);
    }
    {
        let loops = [Loop::over(&a), Loop::over(&b)];
        run(Command::new("btrfstune").args(["-f", "-m"]).arg(loops[0].path())).ok();
    }
    let states = [
        ("one has begun", [&started[0], &before[1]]),
        ("both have begun", [&started[0], &started[1]]),
        ("one is done", [&a, &started[1]]),
        ("the other is done", [&started[0], &b]),
        ("done", [&a, &b]),
    ];
    for (what, images) in states {
        let found = read(&[images[0], images[1]]);
        found.assert_same(&want, Times::ExactWithAccess, what);
        let found = read(&[images[1], images[0]]);
        found.assert_same(&want, Times::ExactWithAccess, &format!("{what}, in the other order"));
    }
    if subject().is_butterfs() {
        let options = format!("ro,device={}", started[1].display());
        let mounted = subject().mount(&a, &mnt, &options);
        Tree::read(&mnt).assert_same(&want, Times::ExactWithAccess, "mounted");
        mounted.unmount();
    }
}

fn copied(to: &Path, from: &Path) -> PathBuf {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to)).ok();
    to.to_owned()
}

const SUPERBLOCK: u64 = 64 << 10;

fn bytes_at(image: &Path, at: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    let file = std::fs::File::open(image).expect("open");
    file.read_exact_at(&mut bytes, SUPERBLOCK + at).expect("read");
    bytes
}

/// In the copies that a device of 256 MiB has. The checksums are made right by who sets bits next.
fn set_bytes_at(image: &Path, at: u64, bytes: &[u8]) {
    let file = std::fs::File::options().write(true).open(image).expect("open");
    for superblock in [SUPERBLOCK, 64 << 20] {
        file.write_all_at(bytes, superblock + at).expect("write");
    }
}
