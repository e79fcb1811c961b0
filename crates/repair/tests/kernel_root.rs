//! Filesystems that mkfs.btrfs and the kernel made, damaged and repaired: `btrfs check` calls them clean, and only
//! then the kernel mounts them, finds every file, writes, and leaves them clean.
//!
//! Needs root, loop devices, and the tools mkfs.btrfs, btrfs and mount; fails without.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use butterfs_testkit::unmount::unmount;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use butterfs_engine::tree::{Cursor, TreeReader};
use butterfs_format::items::ExtentItem;
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};
use butterfs_repair::store::Store;
use butterfs_repair::{Devices, Options, Plan, Renew, Verdict, apply, plan, undo};
use butterfs_testkit::oracle;
use butterfs_testkit::workdir::WorkDir;
use butterfs_volume::{BlockDevice, FileDevice, OpenMode, Volume};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Snapshots of snapshots, clones, many references to one extent, a deletion half-way, a balance.
const FILL: &str = r#"
set -e
head -c 2000000 /dev/urandom > a; for i in $(seq 60); do cp --reflink=always a b$i; done
mkdir -p d/e; for i in $(seq 400); do echo $i > d/f$i; done; for i in $(seq 1 3 400); do rm d/f$i; done
for i in $(seq 150); do ln b1 d/e/hardlink-with-a-rather-long-name-$i; done
fallocate -l 1M pre; dd if=/dev/urandom of=pre bs=4k count=3 seek=5 conv=notrunc status=none
yes hello | head -c 500000 > comp; btrfs filesystem defrag -czstd comp
btrfs subvolume create sub; cp -r d sub/; cp --reflink=always a sub/; sync
for s in $(seq 6); do btrfs subvolume snapshot sub snap$s; done; btrfs subvolume snapshot -r snap1 snapro
for i in $(seq 2 7 400); do echo new > snap2/d/f$i; rm -f snap3/d/f$i; done; rm -r snap4/d/e; sync
btrfs subvolume snapshot snap2 snap22; echo x > sub/late; btrfs subvolume delete snap5; sync
"#;

struct Image {
    work: WorkDir,
}

impl Image {
    fn new(name: &str, mkfs: &[&str], mount: &str, more: &str) -> Self {
        let image = Self { work: WorkDir::new(name) };
        File::create(image.path()).unwrap().set_len(700 << 20).unwrap();
        run("mkfs.btrfs", &[&["-q"], mkfs, &[text(&image.path())]].concat());
        image.mounted(mount, &format!("{FILL}{more}"));
        image
    }

    fn path(&self) -> PathBuf {
        self.work.file("image")
    }

    /// Runs a script in the mounted image; gives what it prints.
    fn mounted(&self, options: &str, script: &str) -> String {
        let at = self.work.dir("mnt");
        run("mount", &["-o", &format!("loop{options}"), text(&self.path()), text(&at)]);
        let out = run("sh", &["-c", &format!("cd {} && {script}", text(&at))]);
        unmount(&at).ok();
        out
    }

    fn devices(&self) -> Devices {
        vec![Arc::new(FileDevice::open_read_write(self.path()).unwrap()) as Arc<dyn BlockDevice>]
    }

    fn store(&self) -> Store {
        let volume = Volume::open(self.devices(), OpenMode::ReadOnly).unwrap();
        Store::new(Arc::new(volume), butterfs_format::Generation(0))
    }

    fn write_block(&self, store: &Store, at: Logical, bytes: &[u8]) {
        let (start, chunk) = store.volume().chunk_containing(at).unwrap();
        let file = File::options().write(true).open(self.path()).unwrap();
        for stripe in &chunk.stripes {
            file.write_all_at(bytes, stripe.offset.get() + (at.0 - start.0)).unwrap();
        }
    }

    /// Loses the root block of a tree, in all copies.
    fn lose_root(&self, tree: TreeId) {
        let store = self.store();
        let at = store.root(tree).unwrap().bytenr;
        self.write_block(&store, at, &vec![0; store.geometry().nodesize as usize]);
    }

    /// Changes the first items of a type in a tree, behind right checksums.
    fn edit(&self, tree: TreeId, item_type: ItemType, change: fn(&mut TreeBlock, usize)) {
        let store = self.store();
        let key = |key: &Key| key.item_type == item_type;
        let mut cursor = Cursor::seek(&store, tree, &Key::MIN).unwrap();
        while cursor.key().is_some_and(|k| !key(&k)) {
            cursor.advance().unwrap();
        }
        let wanted = cursor.key().expect("there is such an item");
        let leaf = leaf_of(&store, tree, &wanted);
        let mut leaf = store.read(&Expected::at(leaf)).unwrap().as_ref().clone();
        let slots: Vec<usize> = (0..leaf.len()).filter(|slot| key(&leaf.key(*slot))).take(3).collect();
        slots.into_iter().rev().for_each(|slot| change(&mut leaf, slot));
        let csum = store.geometry().csum_type.compute_block(leaf.bytes());
        leaf.header_mut().csum = csum;
        self.write_block(&store, leaf.bytenr(), leaf.bytes());
    }

    fn plan(&self, renew: Renew) -> Plan {
        plan(&self.devices(), &Options { renew, ..Options::default() }).unwrap()
    }

    /// Clean; but the old space cache is told to be older than the commit, as it is after every commit of others.
    fn assert_clean(&self) {
        let finished = oracle::check(&self.path());
        let mut complaints = oracle::complaints(&finished);
        complaints.retain(|line| line != "cache and super generation don't match, space cache will be invalidated");
        assert!(finished.status.success() && complaints.is_empty(), "{complaints:#?}\n{finished}");
    }

    /// Repairs, takes it back, repairs again; the judges must agree. `files` is what there was.
    fn repair(&self, what: &str, renew: Renew, files: &str) {
        let before = run("sha256sum", &[text(&self.path())]);
        for round in 0..2 {
            let plan = self.plan(renew);
            assert_eq!(plan.verdict, Verdict::Repaired, "{what}: {plan}\n{}", plan.after);
            let undo_file = self.work.file(&format!("undo-{what}-{round}"));
            apply(&plan, &self.devices(), &undo_file, [0; 16]).unwrap();
            self.assert_clean();
            if round == 0 {
                undo(&undo_file, &self.devices()).unwrap();
                assert_eq!(run("sha256sum", &[text(&self.path())]), before, "{what}: undone");
            }
        }
        assert_eq!(self.mounted("", SUMS), files, "{what}");
        self.mounted("", "echo more > more; cp -r d d2; rm -r d2; btrfs subvolume snapshot sub again; btrfs subvolume delete again; sync");
        oracle::assert_clean(&self.path());
    }
}

fn leaf_of(store: &Store, tree: TreeId, key: &Key) -> Logical {
    let mut ptr = butterfs_engine::tree::ChildPtr::from(store.root(tree).unwrap());
    loop {
        let block = store.block(tree, &ptr).unwrap();
        if block.is_leaf() {
            return block.bytenr();
        }
        ptr = butterfs_engine::tree::ChildPtr::of(&block, block.child_slot(key));
    }
}

/// Every file and its bytes, without what the test adds.
const SUMS: &str = "find . -type f ! -name more -print0 | sort -z | xargs -0 sha256sum";

fn damage_and_repair(image: &Image, has_space_tree: bool) {
    oracle::assert_clean(&image.path());
    let files = image.mounted("", SUMS);
    let nothing = Renew::default();
    image.lose_root(TreeId::EXTENT);
    image.repair("extent-tree", nothing, &files);
    image.edit(TreeId::EXTENT, ItemType::EXTENT_ITEM, |leaf, slot| leaf.data_mut(slot)[0] ^= 1);
    image.edit(TreeId::EXTENT, ItemType::EXTENT_ITEM, |leaf, slot| leaf.remove_items(slot..slot + 1));
    image.repair("extent-items", nothing, &files);
    image.lose_root(TreeId::CSUM);
    image.lose_root(TreeId::DEV);
    image.repair("checksums-and-devices", nothing, &files);
    if has_space_tree {
        image.lose_root(TreeId::FREE_SPACE);
        image.repair("free-space", nothing, &files);
    }
    image.repair("init", Renew { extent_tree: true, checksum_tree: true }, &files);
}

#[test]
fn a_kernel_filesystem_is_repaired() {
    let image = Image::new("repair-default", &[], "", "");
    damage_and_repair(&image, true);
}

#[test]
fn small_nodes_without_skinny_extents_are_repaired() {
    let mkfs = ["-n", "4096", "-O", "^skinny-metadata,^no-holes", "-R", "^free-space-tree", "-m", "single"];
    let image = Image::new("repair-wide", &mkfs, "", "");
    damage_and_repair(&image, false);
}

#[test]
fn a_balanced_filesystem_with_a_block_group_tree_is_repaired() {
    let more = "btrfs balance start --full-balance . >/dev/null; btrfs subvolume snapshot snap3 snap33; echo y > snap3/y; sync";
    let image = Image::new("repair-bgt", &["-O", "block-group-tree", "--csum", "xxhash"], "", more);
    damage_and_repair(&image, true);
    let files = image.mounted("", SUMS);
    image.lose_root(TreeId::BLOCK_GROUP);
    image.repair("block-groups", Renew::default(), &files);
}

#[test]
fn quotas_are_counted() {
    let more = "btrfs quota enable .; btrfs quota rescan -w . >/dev/null; echo q > sub/q; sync";
    let image = Image::new("repair-quota", &[], "", more);
    let files = image.mounted("", SUMS);
    image.edit(TreeId::QUOTA, ItemType::QGROUP_INFO, |leaf, slot| leaf.data_mut(slot)[9] ^= 1);
    image.repair("quota", Renew::default(), &files);
    image.lose_root(TreeId::EXTENT);
    image.repair("extents-with-quota", Renew::default(), &files);
}

/// Each extent keeps its owner where its item can be read, and gets one that the counters fit where it cannot.
#[test]
fn simple_quotas_are_kept() {
    let more = "for i in $(seq 9); do head -c 9000 /dev/urandom > sub/o$i; head -c 9000 /dev/urandom > snap3/o$i; done; \
                cp --reflink=always snap3/o1 clone; rm snap3/o1; btrfs qgroup limit 1G sub; sync";
    let image = Image::new("repair-squota", &["-O", "squota"], "", more);
    oracle::assert_clean(&image.path());
    let files = image.mounted("", SUMS);
    let nothing = Renew::default();
    image.edit(TreeId::EXTENT, ItemType::EXTENT_ITEM, |leaf, slot| leaf.data_mut(slot)[0] ^= 1);
    let owners = owners(&image);
    assert!(owners.len() > 15, "{owners:?}");
    image.repair("owners", nothing, &files);
    image.repair("made-anew", Renew { extent_tree: true, ..nothing }, &files);
    let now = self::owners(&image);
    let lost: Vec<_> = owners.iter().filter(|owner| !now.contains(owner)).collect();
    assert!(lost.is_empty(), "{lost:?} of {owners:?}");
    image.edit(TreeId::EXTENT, ItemType::EXTENT_ITEM, |leaf, slot| leaf.remove_items(slot..slot + 1));
    image.repair("lost-items", nothing, &files);
    image.lose_root(TreeId::QUOTA);
    image.repair("quotas", nothing, &files);
}

/// Extents and their owners, by the extent tree.
fn owners(image: &Image) -> Vec<(u64, TreeId)> {
    let (store, mut owners) = (image.store(), Vec::new());
    let mut cursor = Cursor::seek(&store, TreeId::EXTENT, &Key::MIN).unwrap();
    while let Some((key, data)) = cursor.item() {
        if key.item_type == ItemType::EXTENT_ITEM {
            let item = ExtentItem::parse(&key, data).unwrap();
            owners.extend(item.owner.map(|owner| (key.objectid, owner)));
        }
        cursor.advance().unwrap();
    }
    owners
}
