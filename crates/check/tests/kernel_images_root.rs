//! The checker against filesystems that mkfs.btrfs and the kernel made: whole they are clean; with one
//! thing broken (and checksums made right again) each kind of finding is met.
//!
//! Needs root, loop devices, and the tools mkfs.btrfs, btrfs and mount; fails without.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use butterfs_testkit::mounter::wait_until;
use butterfs_testkit::unmount::unmount;
use butterfs_testkit::workdir::loops_below;
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use butterfs_check::{Kind, Options, Report, Severity, check};
use butterfs_format::items::{BlockGroupItem, RootItem};
use butterfs_format::superblock::{Incompat, SUPERBLOCK_OFFSETS};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_volume::{BlockDevice, FileDevice, OpenMode, Volume};

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A mounted image and where it is mounted; unmounted when dropped, and no kernel writes to it then.
struct Mounted {
    image: PathBuf,
    at: PathBuf,
}

impl Mounted {
    fn new(image: &Path, at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-o", options, text(image), text(at)]);
        Self { image: image.to_owned(), at: at.to_owned() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = unmount(&self.at);
        if !std::thread::panicking() {
            assert!(unmounted.status.success(), "{unmounted}");
            wait_until("the loop device is let go", || loops_below(&self.image).is_empty());
        }
    }
}

/// Files of many kinds, links, clones, snapshots, deletions.
const FILL: &str = r#"
set -e
head -c 3000000 /dev/urandom > a; cp --reflink=always a b; echo small > s; ln s s2; ln -s s ln
mkdir -p d/e; for i in $(seq 300); do echo $i > d/f$i; done; for i in $(seq 1 3 300); do rm d/f$i; done
for i in $(seq 200); do ln s d/e/hardlink-with-a-rather-long-name-$i; done
fallocate -l 1M pre; dd if=/dev/urandom of=pre bs=4k count=3 seek=5 conv=notrunc status=none
fallocate -n -o 2M -l 64k pre; fallocate -p -o 16k -l 8k pre
dd if=/dev/urandom of=sparse bs=4k count=1 seek=1000 status=none; mknod nod c 1 3; mkfifo ff
btrfs subvolume create sub; btrfs subvolume create sub/nested; cp -r d sub/
btrfs subvolume snapshot sub snap; btrfs subvolume snapshot -r sub snapro
for i in $(seq 100); do echo x$i > snap/d/f$i; done; rm -rf sub/d/e
btrfs subvolume snapshot snap snap2; rm -r snap2/d; btrfs subvolume delete snapro
yes hello | head -c 500000 > comp; btrfs filesystem defrag -czstd comp; truncate -s 10000 a
sync; mv d/f2 d/e/moved; sync
"#;

struct Image {
    dir: tempfile::TempDir,
}

/// Quota groups of three levels over snapshots that share a part.
const FILL_QUOTA: &str = r#"
set -e
btrfs quota enable .; btrfs subvolume create a; btrfs qgroup create 1/1 .; btrfs qgroup create 2/1 .
btrfs qgroup assign 0/256 1/1 . || true; btrfs qgroup assign 1/1 2/1 . || true
head -c 3000000 /dev/urandom > a/x; for i in $(seq 400); do echo $i > a/f$i; done; sync
cp --reflink=always a/x y; btrfs subvolume snapshot a b; btrfs subvolume snapshot -i 1/1 a c; sync
for i in $(seq 1 3 400); do echo new$i > b/f$i; rm c/f$i; done; fallocate -l 1M c/pre; sync
btrfs subvolume snapshot b d; btrfs subvolume delete b; btrfs subvolume sync .; sync
btrfs quota rescan -w .; sync
"#;

/// Simple quotas: extents that outlive the subvolume that made them, and some from before.
const FILL_SIMPLE: &str = r#"
set -e
btrfs subvolume create a; btrfs qgroup create 1/1 .; btrfs qgroup assign 0/256 1/1 . || true
head -c 3000000 /dev/urandom > a/x; for i in $(seq 400); do echo $i > a/f$i; done; sync
cp --reflink=always a/x y; btrfs subvolume snapshot a b; head -c 900000 /dev/urandom > b/new; sync
for i in $(seq 1 3 400); do echo new$i > b/f$i; rm a/f$i; done; sync
btrfs subvolume delete a; btrfs subvolume sync .; head -c 50000 /dev/urandom > z; sync
"#;

/// Large enough for block groups that have a cache.
const FILL_CACHE: &str = r#"
set -e
for i in $(seq 300); do head -c $((i*100)) /dev/urandom > f$i; done; sync
for i in $(seq 1 2 300); do rm f$i; done; sync; head -c 30000000 /dev/urandom > big; sync
"#;

impl Image {
    fn new(mkfs: &[&str]) -> Self {
        Self::filled(600 << 20, mkfs, "loop", FILL)
    }

    fn filled(size: u64, mkfs: &[&str], options: &str, fill: &str) -> Self {
        let image = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::File::create(image.path()).unwrap().set_len(size).unwrap();
        let path = image.path();
        run("mkfs.btrfs", &[&["-q"], mkfs, &[text(&path)]].concat());
        let mount = image.dir.path().join("mnt");
        let mounted = Mounted::new(&path, &mount, options);
        run("sh", &["-c", &format!("cd {} && {fill}", text(&mount))]);
        drop(mounted);
        image
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn copy(&self) -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap() };
        run("cp", &["--sparse=always", text(&self.path()), text(&copy.path())]);
        copy
    }

    fn read_only(&self) -> Arc<dyn BlockDevice> {
        Arc::new(FileDevice::open_read_only(self.path()).unwrap())
    }

    fn volume(&self) -> Volume {
        Volume::open(vec![self.read_only()], OpenMode::ReadOnly).unwrap()
    }

    fn check(&self, data_csums: bool) -> Report {
        let options = Options { data_csums, devices: vec![self.read_only()], ..Options::default() };
        check(&self.volume(), &options)
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        // Not by a FileDevice: a process that another test starts may hold its lock for a moment.
        let file = std::fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Where the copies of an address lie; for single and DUP.
    fn places(&self, at: Logical) -> Vec<u64> {
        let (start, chunk) = self.volume().chunk_containing(at).unwrap();
        chunk.stripes.iter().map(|s| s.offset.get() + (at.0 - start.0)).collect()
    }

    /// Changes a leaf and writes it with the right checksum, every copy.
    fn edit(&self, tree: TreeId, wanted: Wanted, change: &dyn Fn(&mut TreeBlock, usize)) {
        let volume = self.volume();
        let (mut leaf, slot) = find(&volume, root_of(&volume, tree), wanted).expect("the item exists");
        change(&mut leaf, slot);
        let csum = volume.geometry().csum_type.compute_block(leaf.bytes());
        leaf.header_mut().csum = csum;
        drop(volume);
        for place in self.places(leaf.bytenr()) {
            self.write(place, leaf.bytes());
        }
    }

    fn edit_superblock(&self, copies: &[u64], change: &dyn Fn(&mut Superblock)) {
        let mut sb = self.volume().superblock();
        change(&mut sb);
        copies.iter().for_each(|at| self.write(*at, &sb.to_bytes_at(*at)));
    }
}

fn has_error(report: &Report, kind: Kind) -> bool {
    report.findings.iter().any(|f| f.kind == kind && f.severity == Severity::Error)
}

type Wanted<'a> = &'a dyn Fn(&Key, &[u8]) -> bool;

fn find(volume: &Volume, at: Logical, wanted: Wanted) -> Option<(TreeBlock, usize)> {
    let block = volume.read_block(&Expected::at(at)).unwrap();
    if block.is_leaf() {
        let slot = (0..block.len()).find(|slot| wanted(&block.key(*slot), block.data(*slot)))?;
        return Some((block, slot));
    }
    (0..block.len()).find_map(|slot| find(volume, Logical(block.ptr(slot).blockptr.get()), wanted))
}

fn root_of(volume: &Volume, tree: TreeId) -> Logical {
    let sb = volume.superblock();
    match tree {
        TreeId::ROOT => sb.root(),
        TreeId::CHUNK => Logical(sb.chunk_root.get()),
        _ => {
            let wanted = |key: &Key, _: &[u8]| key.objectid == tree.0 && key.item_type == ItemType::ROOT_ITEM;
            let (leaf, slot) = find(volume, sb.root(), &wanted).expect("the tree exists");
            RootItem::parse(leaf.data(slot)).unwrap().bytenr()
        }
    }
}

/// Adds to the 64-bit number at `offset` of an item.
fn add(leaf: &mut TreeBlock, slot: usize, offset: usize, by: u64) {
    let field = &mut leaf.data_mut(slot)[offset..offset + 8];
    let old = u64::from_le_bytes(field.try_into().unwrap());
    field.copy_from_slice(&old.wrapping_add(by).to_le_bytes());
}

#[test]
fn what_the_kernel_wrote_is_clean() {
    let variants: [&[&str]; 6] = [
        &[],
        &["-O", "^no-holes,^free-space-tree"],
        &["-m", "dup", "-d", "dup", "--csum", "xxhash"],
        &["-O", "block-group-tree"],
        &["-M"],
        &["-n", "4096", "--csum", "sha256"],
    ];
    for mkfs in variants {
        let report = Image::new(mkfs).check(true);
        assert!(report.is_clean(), "{mkfs:?}: {report}");
        assert!(report.statistics.verified_bytes > 0 && report.statistics.inodes > 100, "{mkfs:?}: {report}");
    }
}

/// mkfs.btrfs leaves free space of a block group that it removed again, between others that stay: nobody reads it.
#[test]
fn what_mkfs_leaves_between_block_groups_is_no_error() {
    for fill in ["true", "set -e; head -c 30000000 /dev/urandom > file; sync"] {
        let image = Image::filled(600 << 20, &["-d", "dup", "-m", "single"], "loop", fill);
        let report = image.check(true);
        assert!(report.is_clean() && report.has(Kind::FreeSpace), "{report}");
    }
}

/// A part of a tree's metadata moved by a balance: below moved nodes there are blocks that stayed where they were.
#[test]
fn what_the_kernel_balanced_in_part_is_clean() {
    const FILL: &str = r#"
set -e
head -c 1900 /dev/urandom > file; for i in $(seq 12000); do echo file > f$i; cat file >> f$i; done; sync
btrfs subvolume snapshot . snap; for i in $(seq 1 40 12000); do echo x >> f$i; done; sync
btrfs balance start -f -mlimit=1 .; sync
"#;
    let image = Image::filled(1 << 30, &["-n", "4096"], "loop", FILL);
    let report = image.check(true);
    assert!(report.is_clean(), "{report}");
}

/// The kernel's counters are those that we count, and each wrong one is found.
#[test]
fn quotas_are_counted_as_the_kernel_counts() {
    let good = Image::filled(600 << 20, &[], "loop", FILL_QUOTA);
    let report = good.check(false);
    assert!(report.is_clean() && !report.has(Kind::QuotaUsage), "{report}");
    assert!(report.quota_groups.len() >= 6 && report.quota_groups.iter().all(|group| group.agrees()), "{report}");
    assert!(report.quota_groups.iter().any(|group| group.exclusive.stored < group.referenced.stored));
    let breaks: [(Kind, ItemType, Change); 6] = [
        (Kind::QuotaUsage, ItemType::QGROUP_INFO, |l, s| add(l, s, 8, 4096)),
        (Kind::QuotaUsage, ItemType::QGROUP_INFO, |l, s| add(l, s, 24, 4096)),
        (Kind::Quota, ItemType::QGROUP_INFO, |l, s| l.remove_items(s..s + 1)),
        (Kind::Quota, ItemType::QGROUP_LIMIT, |l, s| l.remove_items(s..s + 1)),
        (Kind::Quota, ItemType::QGROUP_RELATION, |l, s| l.remove_items(s..s + 1)),
        (Kind::Quota, ItemType::QGROUP_STATUS, |l, s| add(l, s, 0, 1)),
    ];
    for (number, (kind, item_type, change)) in breaks.into_iter().enumerate() {
        let image = good.copy();
        image.edit(TreeId::QUOTA, &|k, _| of_type(k, item_type), &change);
        let report = image.check(false);
        assert!(has_error(&report, kind), "{number}: no {kind}: {report}");
    }
}

/// Simple quotas of the kernel are read and judged: whole they are clean, a wrong counter is found.
#[test]
fn simple_quotas_are_counted_as_the_kernel_counts() {
    let empty = Image { dir: tempfile::tempdir().unwrap() };
    std::fs::File::create(empty.path()).unwrap().set_len(600 << 20).unwrap();
    run("mkfs.btrfs", &["-q", "-O", "squota", text(&empty.path())]);
    assert!(empty.check(true).is_clean(), "{}", empty.check(true));
    let good = Image::filled(600 << 20, &["-O", "squota"], "loop", FILL_SIMPLE);
    let report = good.check(true);
    assert!(report.is_clean() && !report.has(Kind::QuotaUsage), "{report}");
    assert!(report.quota_groups.len() >= 3 && report.quota_groups.iter().all(|group| group.agrees()), "{report}");
    let large = |group: &butterfs_check::QuotaGroup| group.referenced.stored > 3_000_000;
    assert!(report.quota_groups.iter().any(large), "{:?}", report.quota_groups);
    let breaks: [(Kind, ItemType, Change); 4] = [
        (Kind::QuotaUsage, ItemType::QGROUP_INFO, |l, s| add(l, s, 8, 4096)),
        (Kind::QuotaUsage, ItemType::QGROUP_INFO, |l, s| add(l, s, 24, 4096)),
        (Kind::Quota, ItemType::QGROUP_STATUS, |l, s| add(l, s, 16, 1 << 3)),
        (Kind::Quota, ItemType::QGROUP_STATUS, |l, s| add(l, s, 32, 1 << 40)),
    ];
    for (number, (kind, item_type, change)) in breaks.into_iter().enumerate() {
        let image = good.copy();
        image.edit(TreeId::QUOTA, &|k, _| of_type(k, item_type), &change);
        let report = image.check(false);
        assert!(has_error(&report, kind), "{number}: no {kind}: {report}");
    }
    // Whose data it is: the groups of two subvolumes are wrong then.
    let image = good.copy();
    let owned = |k: &Key, d: &[u8]| of_type(k, ItemType::EXTENT_ITEM) && d.len() > 24 && d[24] == 172;
    image.edit(TreeId::EXTENT, &owned, &|l, s| add(l, s, 25, 1));
    assert!(has_error(&image.check(false), Kind::QuotaUsage));
}

/// The kernel's v1 caches agree with its extent tree, and are looked at: with one extent item gone they do not.
#[test]
fn the_space_cache_is_compared() {
    let options = "loop,space_cache=v1";
    let image = Image::filled(20 << 30, &["-O", "^free-space-tree,^block-group-tree"], options, FILL_CACHE);
    let report = image.check(false);
    assert!(report.worst().is_none(), "{report}");
    let large = |k: &Key, _: &[u8]| of_type(k, ItemType::EXTENT_ITEM) && k.offset > 1 << 20;
    image.edit(TreeId::EXTENT, &large, &|l, s| l.remove_items(s..s + 1));
    assert!(image.check(false).has(Kind::SpaceCache));
}

type Change = fn(&mut TreeBlock, usize);
type Pick = fn(&Key, &[u8]) -> bool;

fn of_type(key: &Key, item_type: ItemType) -> bool {
    key.item_type == item_type
}

/// One broken thing each: kind expected, tree, item, change.
const BREAKS: &[(Kind, TreeId, Pick, Change)] = &[
    (Kind::Device, TreeId::CHUNK, |k, _| of_type(k, ItemType::DEV_ITEM), |l, s| add(l, s, 16, 1 << 20)),
    (Kind::Chunk, TreeId::CHUNK, |k, _| of_type(k, ItemType::CHUNK_ITEM), |l, s| add(l, s, 48 + 8, 4096)),
    (Kind::DeviceExtent, TreeId::DEV, |k, _| of_type(k, ItemType::DEV_EXTENT), |l, s| add(l, s, 16, 4096)),
    (Kind::Chunk, TreeId::DEV, |k, _| of_type(k, ItemType::DEV_EXTENT), |l, s| add(l, s, 24, 4096)),
    (
        Kind::BlockGroup,
        TreeId::EXTENT,
        |k, _| of_type(k, ItemType::BLOCK_GROUP_ITEM),
        |l, s| {
            l.remove_items(s..s + 1);
        },
    ),
    (Kind::BlockGroup, TreeId::EXTENT, |k, _| of_type(k, ItemType::BLOCK_GROUP_ITEM), |l, s| add(l, s, 8, 1)),
    (
        Kind::Usage,
        TreeId::EXTENT,
        |k, _| of_type(k, ItemType::BLOCK_GROUP_ITEM),
        |l, s| {
            assert_eq!(l.data(s).len(), size_of::<BlockGroupItem>());
            add(l, s, 0, 4096);
        },
    ),
    (Kind::Extent, TreeId::EXTENT, |k, _| of_type(k, ItemType::EXTENT_ITEM), |l, s| add(l, s, 8, 1 << 30)),
    (Kind::MissingExtent, TreeId::EXTENT, |k, _| of_type(k, ItemType::EXTENT_ITEM), |l, s| l.remove_items(s..s + 1)),
    (Kind::FreeSpace, TreeId::EXTENT, |k, _| of_type(k, ItemType::METADATA_ITEM), |l, s| l.remove_items(s..s + 1)),
    (Kind::BackReference, TreeId::EXTENT, |k, _| of_type(k, ItemType::EXTENT_ITEM), |l, s| add(l, s, 0, 1)),
    (
        Kind::BackReference,
        TreeId::EXTENT,
        |k, d| of_type(k, ItemType::EXTENT_ITEM) && d.len() == 53,
        |l, s| {
            add(l, s, 25 + 8, 1);
        },
    ),
    (
        Kind::FreeSpace,
        TreeId::FREE_SPACE,
        |k, _| of_type(k, ItemType::FREE_SPACE_INFO) && k.objectid > 20 << 20,
        |l, s| {
            l.data_mut(s)[0] += 1;
        },
    ),
    (
        Kind::FreeSpace,
        TreeId::FREE_SPACE,
        |k, _| of_type(k, ItemType::FREE_SPACE_EXTENT) && k.objectid > 20 << 20,
        |l, s| {
            l.remove_items(s..s + 1);
        },
    ),
    (
        Kind::FreeSpace,
        TreeId::FREE_SPACE,
        |k, _| of_type(k, ItemType::FREE_SPACE_INFO) && k.objectid > 20 << 20,
        |l, s| {
            l.data_mut(s)[4] = 1;
        },
    ),
    (
        Kind::InodeSize,
        TreeId::FS,
        |k, _| k.objectid == 256 && of_type(k, ItemType::INODE_ITEM),
        |l, s| add(l, s, 16, 2),
    ),
    (
        Kind::MissingInode,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_ITEM),
        |l, s| {
            l.remove_items(s..s + 1);
        },
    ),
    (
        Kind::LinkCount,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_ITEM),
        |l, s| {
            l.data_mut(s)[40] += 1;
        },
    ),
    (
        Kind::LinkCount,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_REF),
        |l, s| {
            l.remove_items(s..s + 1);
        },
    ),
    (
        Kind::InodeBytes,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_ITEM),
        |l, s| {
            add(l, s, 24, 4096);
        },
    ),
    (
        Kind::InodeBytes,
        TreeId::FS,
        |k, _| k.objectid == 258 && of_type(k, ItemType::EXTENT_DATA),
        |l, s| {
            l.remove_items(s..s + 1);
        },
    ),
    (Kind::DirectoryEntry, TreeId::FS, |k, _| of_type(k, ItemType::DIR_INDEX), |l, s| l.remove_items(s..s + 1)),
    (Kind::DirectoryEntry, TreeId::FS, |k, _| of_type(k, ItemType::DIR_ITEM), |l, s| l.remove_items(s..s + 1)),
    (
        Kind::DirectoryEntry,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_REF),
        |l, s| {
            add(l, s, 0, 1);
        },
    ),
    (
        Kind::DirectoryEntry,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_ITEM),
        |l, s| {
            l.data_mut(s)[52..56].copy_from_slice(&0o010_644u32.to_le_bytes());
        },
    ),
    (
        Kind::UnknownKey,
        TreeId::FS,
        |k, _| k.objectid == 257 && of_type(k, ItemType::INODE_ITEM),
        |l, s| {
            l.insert_item(s + 1, &Key::new(257, ItemType(8), 0), &[]);
        },
    ),
    (Kind::Subvolume, TreeId::ROOT, |k, _| of_type(k, ItemType::ROOT_REF), |l, s| l.remove_items(s..s + 1)),
    (Kind::Subvolume, TreeId::ROOT, |k, _| of_type(k, ItemType::ROOT_BACKREF), |l, s| l.remove_items(s..s + 1)),
    (
        Kind::Orphan,
        TreeId::ROOT,
        |k, _| k.objectid == 257 && of_type(k, ItemType::ROOT_ITEM),
        |l, s| {
            l.data_mut(s)[216] = 0;
        },
    ),
    (
        Kind::RootItem,
        TreeId::ROOT,
        |k, _| k.objectid == 256 && of_type(k, ItemType::ROOT_ITEM),
        |l, s| {
            add(l, s, 168, 1);
        },
    ),
    (
        Kind::TreeBlock,
        TreeId::ROOT,
        |k, _| k.objectid == 256 && of_type(k, ItemType::ROOT_ITEM),
        |l, s| {
            l.data_mut(s)[238] += 1;
        },
    ),
    (Kind::Checksum, TreeId::CSUM, |k, _| of_type(k, ItemType::EXTENT_CSUM), |l, s| l.remove_items(s..s + 1)),
    (
        Kind::Checksum,
        TreeId::CSUM,
        |_, d| d.len() > 8,
        |l, s| {
            let key = Key { offset: l.key(s).offset + (100 << 20), ..l.key(s) };
            let last = l.len() - 1;
            l.insert_item(last + 1, &Key { offset: key.offset.max(l.key(last).offset + (100 << 20)), ..key }, &[1; 4]);
        },
    ),
];

#[test]
fn each_broken_thing_is_found() {
    let good = Image::new(&[]);
    let mut missed = Vec::new();
    for (number, (kind, tree, pick, change)) in BREAKS.iter().enumerate() {
        let image = good.copy();
        image.edit(*tree, pick, change);
        let report = image.check(false);
        if !has_error(&report, *kind) {
            missed.push(format!("{number}: no {kind} in tree {tree}: {report}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn bad_copies_of_blocks_superblocks_and_data_are_found() {
    let good = Image::new(&["-d", "dup"]);
    let at = root_of(&good.volume(), TreeId::CSUM);
    let (leaf, slot) = find(&good.volume(), at, &|k, _| of_type(k, ItemType::EXTENT_CSUM)).unwrap();
    let data = Logical(leaf.key(slot).offset);

    let image = good.copy();
    image.write(image.places(at)[1] + 500, &[0xff; 16]);
    let report = image.check(false);
    assert!(report.has(Kind::TreeBlockCopy) && !report.has(Kind::TreeBlock), "{report}");

    let image = good.copy();
    image.places(at).iter().for_each(|place| image.write(place + 500, &[0xff; 16]));
    assert!(image.check(false).has(Kind::TreeBlock));

    let image = good.copy();
    image.write(image.places(data)[1] + 500, b"not what was written");
    assert!(image.check(false).is_clean());
    assert!(image.check(true).has(Kind::DataChecksum));

    let image = good.copy();
    image.write(SUPERBLOCK_OFFSETS[1] + 600, &[0xff; 16]);
    assert!(image.check(false).has(Kind::Superblock));

    let image = good.copy();
    image.edit_superblock(&SUPERBLOCK_OFFSETS[1..2], &|sb| sb.bytes_used = 4096.into());
    assert!(image.check(false).has(Kind::SuperblockMirror));
}

#[test]
fn wrong_superblock_counters_are_found() {
    let good = Image::new(&[]);
    type Break = fn(&mut Superblock);
    let breaks: [(Kind, Break); 4] = [
        (Kind::Usage, |sb| sb.bytes_used = (sb.bytes_used.get() + 4096).into()),
        (Kind::Device, |sb| sb.total_bytes = (sb.total_bytes.get() + 4096).into()),
        (Kind::Superblock, |sb| sb.root_dir_objectid = 7.into()),
        (Kind::Unsupported, |sb| sb.incompat_flags = (sb.incompat_flags.get() | Incompat::RAID56.bits()).into()),
    ];
    for (kind, change) in breaks {
        let image = good.copy();
        image.edit_superblock(&SUPERBLOCK_OFFSETS[..2], &change);
        let report = image.check(false);
        assert!(report.has(kind), "no {kind}: {report}");
    }
}

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Random bytes in random blocks, with right checksums: an answer each time, no panic and no hang.
#[test]
fn hostile_bytes_get_an_answer() {
    let image = Image::new(&["-m", "single"]);
    let blocks = RefCell::new(Vec::new());
    let root = root_of(&image.volume(), TreeId::EXTENT);
    find(&image.volume(), root, &|key, _| {
        if key.item_type == ItemType::METADATA_ITEM {
            blocks.borrow_mut().push(key.objectid);
        }
        false
    });
    let blocks = blocks.into_inner();
    let mut dice = Dice(1);
    for _ in 0..300 {
        let at = Logical(blocks[dice.roll(blocks.len())]);
        let old = image.volume().read_block(&Expected::at(at)).unwrap();
        let mut block = old.clone();
        for _ in 0..=dice.roll(4) {
            let used = if dice.roll(2) == 0 { 600 } else { block.bytes().len() - 101 };
            let byte = 101 + dice.roll(used);
            block.bytes_mut()[byte] = [0, 1, 0x7f, 0xff][dice.roll(4)];
        }
        let csum = image.volume().geometry().csum_type.compute_block(block.bytes());
        block.header_mut().csum = csum;
        let places = image.places(at);
        places.iter().for_each(|place| image.write(*place, block.bytes()));
        let device = image.read_only();
        if let Ok(volume) = Volume::open(vec![device], OpenMode::ReadOnly) {
            check(&volume, &Options { data_csums: true, ..Options::default() });
        }
        places.iter().for_each(|place| image.write(*place, old.bytes()));
    }
    assert!(image.check(true).is_clean());
}
