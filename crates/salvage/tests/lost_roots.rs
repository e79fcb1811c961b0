//! Roots of several trees lost together: what comes out is right, or it is told.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, OpenOptions};
use butterfs_format::superblock::{SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_format::{Logical, TreeId};
use butterfs_salvage::{LossKind, Report};
use butterfs_testkit::tree_blocks::{Dump, blocks_of};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};
use common::dump::{dump, zero};
use common::memory::MemorySink;
use common::{DIRECTORIES, FILE, FILES, SIZE, image, restored};

/// The filesystem after some life: files replaced, changed and deleted, in many commits.
static CHURNED: LazyLock<MemDevice> = LazyLock::new(|| {
    let device = image();
    let volume = Volume::open(vec![device.clone() as Arc<dyn BlockDevice>], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let dirs: Vec<_> = (0..DIRECTORIES).filter(|number| number % 3 != 2).collect();
    for round in 0..8 {
        for dir in dirs.iter().map(|number| format!("dir {number}")) {
            let dir = fs.lookup(Place::new(fs.root(), dir.as_bytes())).unwrap();
            for number in (round..FILES).step_by(17) {
                let name = format!("file {number}");
                let place = Place::new(dir, name.as_bytes());
                let Ok(id) = fs.lookup(place) else { continue };
                match number % 3 {
                    0 => fs.unlink(place).unwrap(),
                    1 => drop(fs.write(id, 0, format!("round {round} of {number}").as_bytes()).unwrap()),
                    _ => {
                        let name = format!("new {round} {number}");
                        let id = fs.create(Place::new(dir, name.as_bytes()), &FILE).unwrap();
                        fs.write(id, 0, &common::content(number + round)).unwrap();
                    }
                }
            }
        }
        fs.sync().unwrap();
    }
    drop(fs);
    device.snapshot()
});

/// What is lost besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Superblocks {
    Kept,
    Wiped,
}

/// The highest block of a tree.
fn root_of(all: &Dump, tree: TreeId) -> Logical {
    let own = all.iter().filter(|(_, one)| one.trees.contains(&tree) && one.block().owner() == tree);
    *own.max_by_key(|(_, one)| one.level).unwrap().0
}

struct Ruin {
    truth: MemorySink,
    sink: MemorySink,
    report: Report,
}

fn ruin(whole: &MemDevice, blocks: impl Fn(&Dump) -> Vec<Logical>, superblocks: Superblocks) -> Ruin {
    let device = Arc::new(whole.snapshot());
    let (truth, report) = restored(&device);
    assert!(report.is_whole() && report.losses.is_empty());
    zero(&device, blocks(&dump(&device)), 0..2);
    if superblocks == Superblocks::Wiped {
        for offset in SUPERBLOCK_OFFSETS.into_iter().filter(|offset| *offset < SIZE) {
            device.write_at(offset, &[0; SUPERBLOCK_SIZE]).unwrap();
        }
    }
    let (sink, report) = restored(&device);
    Ruin { truth, sink, report }
}

fn wholes() -> [MemDevice; 2] {
    [image().snapshot(), CHURNED.snapshot()]
}

/// What was made and is not right must be told by its path; what is missing, at least as a part of its tree.
#[track_caller]
fn assert_all_is_told(ruin: &Ruin) {
    let told: BTreeSet<&Vec<u8>> = ruin.report.losses.iter().map(|loss| &loss.path).collect();
    let above = |path: &[u8]| {
        let kinds = [LossKind::Root, LossKind::Listing, LossKind::Subvolume];
        ruin.report.losses.iter().any(|loss| kinds.contains(&loss.kind) && path.starts_with(&loss.path))
    };
    let (made, truth) = (ruin.sink.all(), ruin.truth.all());
    for path in ruin.sink.differences(&ruin.truth) {
        let name = path.escape_ascii();
        let linked = || truth.iter().any(|(other, node)| told.contains(other) && truth.get(&path) == Some(node));
        match made.contains_key(&path) {
            true => assert!(told.contains(&path) || linked(), "{name} is not right, and is not told of"),
            false => assert!(told.contains(&path) || above(&path), "{name} is missing, and is not told of"),
        }
    }
    assert_eq!(ruin.report.is_whole(), told.is_empty() && ruin.sink.differences(&ruin.truth).is_empty());
}

/// Superblock or extent tree tell where the trees begin, though the blocks themselves are gone.
#[test]
fn roots_that_are_known_and_lost_cost_nothing() {
    for (whole, superblocks) in wholes().iter().flat_map(|w| [(w, Superblocks::Kept), (w, Superblocks::Wiped)]) {
        let roots = |all: &Dump| {
            let fs = [TreeId::FS, TreeId(256), TreeId(257)].map(|tree| root_of(all, tree));
            blocks_of(all, TreeId::ROOT).into_iter().chain(fs).collect()
        };
        let ruin = ruin(whole, roots, superblocks);
        assert!(ruin.report.losses.is_empty(), "{superblocks:?}: {:#?}", ruin.report.losses);
        ruin.sink.assert_same(&ruin.truth);
    }
}

/// With the extent tree gone as well, nothing proves what is found of a tree.
#[test]
fn roots_that_are_guessed_are_told() {
    for (whole, superblocks) in wholes().iter().flat_map(|w| [(w, Superblocks::Kept), (w, Superblocks::Wiped)]) {
        for extents in [|all: &Dump| vec![root_of(all, TreeId::EXTENT)], |all: &Dump| blocks_of(all, TreeId::EXTENT)] {
            let roots = |all: &Dump| {
                let fs = [TreeId::FS, TreeId(256)].map(|tree| root_of(all, tree));
                blocks_of(all, TreeId::ROOT).into_iter().chain(fs).chain(extents(all)).collect()
            };
            let ruin = ruin(whole, roots, superblocks);
            assert!(!ruin.report.is_whole());
            let guessed = ruin.report.losses.iter().filter(|loss| loss.kind == LossKind::Root);
            let guessed: BTreeSet<_> = guessed.map(|loss| loss.tree).collect();
            assert!(guessed.contains(&TreeId(256)), "{guessed:?}");
            assert_eq!(guessed.contains(&TreeId::FS), superblocks == Superblocks::Wiped, "{guessed:?}");
            assert_all_is_told(&ruin);
            let files = |sink: &MemorySink| sink.all().into_values().filter(|node| node.kind == 'f').count();
            assert!(files(&ruin.sink) >= files(&ruin.truth) * 95 / 100, "{} files", files(&ruin.sink));
        }
    }
}
