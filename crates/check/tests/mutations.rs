//! Single faults in a good filesystem: each is found, and called by its name.
//!
//! A table says which field of which item is broken and what the finding must be called; each row is
//! tried on several items that a seed picks. Blocks are sealed again, so that only the fault itself can
//! give it away. Other tables have lost, stale and misdirected blocks, and the superblock.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::sync::Arc;

use butterfs_check::{Finding, Kind};
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::hash::name_hash;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::validate::Expected;
use butterfs_format::{Generation, ItemType as T, Key, Logical, Superblock, TreeBlock, TreeId};
use butterfs_testkit::damage::rows::{
    ANY, ConcatRows, DEVICES, EXTENTS_OF_FILES, FS, INODES, ROOTS, Row, SPACE, SUB, TREES, add64,
};
use butterfs_testkit::damage::{Dice, SIZE, Subject, findings};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

/// How many items each row of a table is tried on.
const TRIES: usize = 3;

/// What is wrong with what was found, if anything: nothing of that name, or a block blamed for an item.
fn misnamed(expect: Kind, findings: &[Finding]) -> Option<String> {
    let all = || findings.iter().map(|f| format!("\n    {f}")).collect::<String>();
    if !findings.iter().any(|f| f.kind == expect) {
        return Some(format!("no {expect}:{}", all()));
    }
    let blames_block = |f: &&Finding| matches!(f.kind, Kind::TreeBlock | Kind::TreeBlockCopy | Kind::TreeStructure);
    let wrong = findings
        .iter()
        .find(blames_block)
        .filter(|f| !matches!(expect, Kind::TreeBlock | Kind::TreeBlockCopy) && f.kind != expect);
    wrong.map(|_| format!("a block is blamed, not {expect}:{}", all()))
}

#[test]
fn each_single_fault_is_found_and_named() {
    let subject = Subject::new();
    assert_eq!(findings(&subject.device, true), [], "the filesystem is good before");
    let (mut dice, mut tried, mut wrong) = (Dice(7), 0, Vec::new());
    for row in [INODES, EXTENTS_OF_FILES, ROOTS, SPACE, DEVICES].concat_rows() {
        let mut items = subject.items(row);
        assert!(!items.is_empty(), "{}: there is no such item", row.name);
        for _ in 0..TRIES.min(items.len()) {
            let (mut leaf, slot) = items.swap_remove(dice.roll(items.len()));
            let key = leaf.key(slot);
            (row.change)(&mut leaf, slot);
            let found = findings(&subject.with_block(leaf.bytenr(), &leaf), false);
            wrong.extend(misnamed(row.expect, &found).map(|problem| format!("{} of {key}: {problem}", row.name)));
            tried += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {tried} faults:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried >= 200, "only {tried} faults were tried");
}

#[test]
fn lost_stale_and_misdirected_blocks_are_found() {
    type Break = fn(&mut TreeBlock);
    let breaks: [(&str, Break); 8] = [
        ("stale", |b| b.header_mut().generation = (b.generation().0 - 1).into()),
        ("from the future", |b| b.header_mut().generation = Generation(b.generation().0 + 1).0.into()),
        ("misdirected", |b| b.header_mut().bytenr = (b.bytenr().0 + 16384).into()),
        ("of another filesystem", |b| b.header_mut().fsid[0] ^= 1),
        ("of another level", |b| b.header_mut().level ^= 1),
        ("with too many items", |b| b.header_mut().nritems = 60_000.into()),
        ("without items", |b| b.header_mut().nritems = 0.into()),
        ("with another first key", |b| b.bytes_mut()[101 + 16] ^= 0x40),
    ];
    let subject = Subject::new();
    let mut dice = Dice(3);
    for tree in TREES {
        let blocks = subject.blocks(subject.root_of(tree));
        let block = &blocks[dice.roll(blocks.len())];
        let places = subject.places(block.bytenr());
        let zeros = vec![0; block.bytes().len()];
        let lost = findings(&subject.with_bytes(&places, &zeros), false);
        assert_eq!(misnamed(Kind::TreeBlock, &lost), None, "tree {tree}: lost in all copies");
        let flipped = findings(&subject.with_bytes(&places.iter().map(|p| p + 3000).collect::<Vec<_>>(), b"?!"), false);
        assert_eq!(misnamed(Kind::TreeBlock, &flipped), None, "tree {tree}: wrong checksum");
        let one = findings(&subject.with_bytes(&places[..1], &zeros), false);
        assert_eq!(misnamed(Kind::TreeBlockCopy, &one), None, "tree {tree}: lost in one copy");
        for (name, change) in &breaks[..6] {
            let mut broken = block.clone();
            change(&mut broken);
            let found = findings(&subject.with_block(block.bytenr(), &broken), false);
            assert_eq!(misnamed(Kind::TreeBlock, &found), None, "tree {tree}: block {name}");
        }
    }
    // These two need a block with a parent.
    let parents = subject.blocks(subject.root_of(TreeId::FS));
    for block in parents.iter().filter(|block| block.is_leaf()).take(3) {
        for (name, change) in &breaks[6..] {
            let mut broken = block.clone();
            change(&mut broken);
            let found = findings(&subject.with_block(block.bytenr(), &broken), false);
            assert!(found.iter().any(|f| matches!(f.kind, Kind::TreeBlock | Kind::TreeStructure)), "{name}: {found:?}");
        }
    }
}

#[test]
fn wrong_pointers_are_found() {
    type Break = fn(&mut TreeBlock, usize);
    let breaks: [(&str, Break); 4] = [
        ("address", |b, s| b.bytes_mut()[101 + 33 * s + 17 + 1] ^= 0x40),
        ("generation", |b, s| b.bytes_mut()[101 + 33 * s + 25] ^= 1),
        ("unaligned address", |b, s| b.bytes_mut()[101 + 33 * s + 17] ^= 1),
        ("key", |b, s| b.bytes_mut()[101 + 33 * s + 9] ^= 1),
    ];
    let subject = Subject::new();
    let mut tried = 0;
    for tree in [TreeId::FS, SUB] {
        let node = subject.volume.read_block(&Expected::at(subject.root_of(tree))).unwrap();
        assert!(!node.is_leaf(), "the population fills more than a leaf");
        for slot in 0..node.len().min(3) {
            for (name, change) in breaks {
                let mut broken = node.clone();
                change(&mut broken, slot);
                let found = findings(&subject.with_block(node.bytenr(), &broken), false);
                assert_eq!(misnamed(Kind::TreeBlock, &found), None, "tree {tree} slot {slot}: {name}");
                tried += 1;
            }
        }
    }
    assert!(tried >= 12);
}

#[test]
fn faults_of_superblocks_are_found() {
    type Break = fn(&mut Superblock);
    let breaks: [(Kind, Break); 16] = [
        (Kind::Usage, |sb| sb.bytes_used = (sb.bytes_used.get() + 4096).into()),
        (Kind::Device, |sb| sb.total_bytes = (sb.total_bytes.get() + 4096).into()),
        (Kind::Device, |sb| sb.total_bytes = (sb.total_bytes.get() - 4096).into()),
        (Kind::Device, |sb| sb.num_devices = 8.into()),
        (Kind::Superblock, |sb| sb.root_dir_objectid = 7.into()),
        (Kind::Superblock, |sb| sb.nodesize = 12288.into()),
        (Kind::Superblock, |sb| sb.flags = (1u64 << 38).into()),
        (Kind::Superblock, |sb| sb.flags = (1u64 << 60).into()),
        (Kind::TreeBlock, |sb| sb.generation = (sb.generation.get() + 1).into()),
        (Kind::TreeBlock, |sb| sb.root = (sb.root.get() + 16384).into()),
        (Kind::TreeBlock, |sb| sb.root_level += 1),
        (Kind::TreeBlock, |sb| sb.chunk_root_generation = (sb.chunk_root_generation.get() - 1).into()),
        (Kind::TreeBlock, |sb| sb.log_root = (200u64 << 20).into()),
        (Kind::Chunk, |sb| sb.sys_chunk_array[17] ^= 1),
        (Kind::Unsupported, |sb| sb.incompat_flags = (sb.incompat_flags.get() | 1 << 50).into()),
        (Kind::Unsupported, |sb| sb.compat_ro_flags = (sb.compat_ro_flags.get() | 1 << 50).into()),
    ];
    let subject = Subject::new();
    let places: Vec<u64> = SUPERBLOCK_OFFSETS.into_iter().filter(|at| at + 4096 <= SIZE).collect();
    for (index, (kind, change)) in breaks.into_iter().enumerate() {
        let mut sb = subject.volume.superblock();
        change(&mut sb);
        let device = subject.device.snapshot();
        places.iter().for_each(|at| device.write_at(*at, &sb.to_bytes_at(*at)).unwrap());
        let found = findings(&device, false);
        assert!(found.iter().any(|f| f.kind == kind), "{index}: no {kind}: {found:?}");
    }
}

#[test]
fn faults_of_superblock_copies_and_data_are_found() {
    let subject = Subject::new();
    let copy = SUPERBLOCK_OFFSETS[1];
    let torn = findings(&subject.with_bytes(&[copy + 600], &[0xff; 16]), false);
    assert_eq!(misnamed(Kind::Superblock, &torn), None);
    for change in [|sb: &mut Superblock| sb.generation = 1.into(), |sb: &mut Superblock| sb.bytes_used = 4096.into()] {
        let mut sb = subject.volume.superblock();
        change(&mut sb);
        let other = findings(&subject.with_bytes(&[copy], &sb.to_bytes_at(copy)), false);
        assert_eq!(misnamed(Kind::SuperblockMirror, &other), None);
    }
    let sums = Row { tree: TreeId::CSUM, item_type: T::EXTENT_CSUM, pick: ANY, ..INODES[0] };
    let (leaf, slot) = subject.items(&sums).swap_remove(0);
    let data = subject.places(Logical(leaf.key(slot).offset));
    let device = subject.with_bytes(&data, b"not what was written");
    assert_eq!(findings(&device, false), []);
    assert_eq!(misnamed(Kind::DataChecksum, &findings(&device, true)), None);
}

/// The flags of a header, and whose block it says to be: neither has anything to do with what it holds.
#[test]
fn faults_of_headers_are_found() {
    type Break = fn(&mut TreeBlock);
    let breaks: [(&str, Kind, Break); 4] = [
        ("revision", Kind::BlockFlags, |b| b.bytes_mut()[63] ^= 1),
        ("revision of nobody", Kind::BlockFlags, |b| b.bytes_mut()[63] = 0x5a),
        ("unknown flag", Kind::BlockFlags, |b| b.bytes_mut()[57] = 4),
        ("chunk tree", Kind::BlockFlags, |b| b.bytes_mut()[64] ^= 1),
    ];
    let subject = Subject::new();
    for tree in TREES {
        for block in subject.blocks(subject.root_of(tree)).into_iter().take(3) {
            for (name, kind, change) in &breaks {
                let mut broken = block.clone();
                change(&mut broken);
                let found = findings(&subject.with_block(block.bytenr(), &broken), false);
                // The UUID that the chunk tree's own root has is the right one.
                let is_right = *name == "chunk tree" && tree == TreeId::CHUNK && broken.bytenr() == block.bytenr();
                assert!(is_right || misnamed(*kind, &found).is_none(), "tree {tree}, {name}: {found:?}");
            }
        }
    }
    for tree in [FS, SUB] {
        for block in subject.blocks(subject.root_of(tree)) {
            let mut broken = block.clone();
            broken.header_mut().owner = 300.into();
            let found = findings(&subject.with_block(block.bytenr(), &broken), false);
            assert_eq!(misnamed(Kind::BackReference, &found), None, "owner of block {} in tree {tree}", block.bytenr());
        }
    }
}

/// The filesystem's one leaf of files with names of one length in the place of others, wherever they are.
fn renamed(leaf: &TreeBlock, renames: &[(&[u8], &[u8])]) -> TreeBlock {
    let mut changed = leaf.clone();
    changed.remove_items(0..leaf.len());
    for slot in 0..leaf.len() {
        let (mut key, mut data) = (leaf.key(slot), leaf.data(slot).to_vec());
        let new = renames.iter().find(|(old, _)| data.ends_with(old)).map(|(_, new)| *new);
        if let Some(new) = new.filter(|_| [T::DIR_ITEM, T::DIR_INDEX, T::INODE_REF].contains(&key.item_type)) {
            let at = data.len() - new.len();
            data[at..].copy_from_slice(new);
            key.offset = if key.item_type == T::DIR_ITEM { name_hash(new) } else { key.offset };
        }
        let at = changed.search(&key).unwrap_err();
        changed.insert_item(at, &key, &data);
    }
    changed
}

/// No file can be called `.` or `..`, whatever its items agree on.
#[test]
fn names_that_are_taken_are_told_of() {
    const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
    let (subject, root) = small(|fs| {
        for name in [&b"A"[..], b"BB", b"good"] {
            fs.create(Place::new(fs.root(), name), &FILE).unwrap();
        }
    });
    let leaf = subject.volume.read_block(&Expected::at(root)).unwrap();
    let found = findings(&subject.with_block(root, &renamed(&leaf, &[(b"A", b"C"), (b"BB", b"DD")])), false);
    assert_eq!(found, [], "other names are as good");
    let found = findings(&subject.with_block(root, &renamed(&leaf, &[(b"A", b"."), (b"BB", b"..")])), false);
    let told: Vec<_> = found.iter().map(|f| (f.kind, f.problem.as_str())).collect();
    let problems = [r#"an entry has the name ".", which is taken"#, r#"an entry has the name "..", which is taken"#];
    assert_eq!(told, problems.map(|problem| (Kind::DirectoryEntry, problem)));
}

/// A filesystem with little in it, and where its one leaf of files is.
fn small(fill: impl FnOnce(&Filesystem)) -> (Subject, Logical) {
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    fill(&fs);
    fs.sync().unwrap();
    drop(fs);
    let volume = Volume::open(vec![Arc::new(device.snapshot())], OpenMode::ReadOnly).unwrap();
    let subject = Subject { device: device.snapshot(), volume };
    let root = subject.root_of(FS);
    (subject, root)
}

/// A directory that is moved below itself has a name, an entry and the right size, and is out of reach.
#[test]
fn directories_in_a_circle_are_found() {
    const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
    let (mut outer, mut inner) = (0, 0);
    let (subject, root) = small(|fs| {
        let dir = fs.create(Place::new(fs.root(), b"outer"), &DIR).unwrap();
        (outer, inner) = (dir.ino.0, fs.create(Place::new(dir, b"inner"), &DIR).unwrap().ino.0);
    });
    let mut leaf = subject.volume.read_block(&Expected::at(root)).unwrap();
    assert!(leaf.is_leaf());
    // The entries of "outer" go from the root directory to "inner", and its name with them.
    for item_type in [T::DIR_ITEM, T::DIR_INDEX] {
        let slot =
            (0..leaf.len()).find(|s| leaf.key(*s).objectid == 256 && leaf.key(*s).item_type == item_type).unwrap();
        let (key, data) = (leaf.key(slot), leaf.data(slot).to_vec());
        leaf.remove_items(slot..slot + 1);
        let key = Key { objectid: inner, ..key };
        let at = leaf.search(&key).unwrap_err();
        leaf.insert_item(at, &key, &data);
    }
    for slot in 0..leaf.len() {
        let key = leaf.key(slot);
        match (key.objectid, key.item_type) {
            (256, T::INODE_ITEM) => add64(&mut leaf, slot, 16, -10),
            (ino, T::INODE_ITEM) if ino == inner => add64(&mut leaf, slot, 16, 10),
            (ino, T::INODE_REF) if ino == outer => leaf.set_item_key(slot, Key { offset: inner, ..key }),
            _ => {}
        }
    }
    let found = findings(&subject.with_block(root, &leaf), false);
    assert_eq!(found.iter().map(|f| f.kind).collect::<Vec<_>>(), [Kind::DirectoryLoop], "{found:?}");
}
