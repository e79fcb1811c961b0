//! Defragmentation: few extents where many were, and nothing else that anybody sees.

use butterfs_format::TreeId;
use butterfs_format::compression::Choice;
use butterfs_format::items::Compression;

use super::tests::{device, judge, made, open, top};
use super::{Autodefrag, FileOffset, Filesystem, OpenOptions};
use crate::environment::SystemEnvironment;
use crate::file::{CloneLen, Defrag, MappedKind, SharedExtents, map};
use crate::inode::InodeId;
use crate::subvolume::root::Access;

const PIECES: u64 = 64;
const PIECE: u64 = 8192;

fn byte(piece: u64) -> u8 {
    piece as u8 + 1
}

/// A file of many extents, none of which goes on in the next: its even pieces are written last.
fn scattered(fs: &Filesystem, name: &[u8]) -> InodeId {
    let id = made(fs, top(name));
    for first in [1, 0] {
        for piece in (first..PIECES).step_by(2) {
            fs.write(id, piece * PIECE, &[byte(piece); PIECE as usize]).unwrap();
            fs.fsync(id).unwrap();
        }
    }
    fs.sync().unwrap();
    id
}

fn extents(fs: &Filesystem, id: InodeId) -> Vec<crate::file::extents::DataExtent> {
    let mapped = fs.shared.gate.view(|tx| map(tx, id, 0..PIECES * PIECE)).unwrap();
    let data = mapped.into_iter().filter_map(|extent| match extent.kind {
        MappedKind::Regular(data) => Some(data),
        _ => None,
    });
    data.collect()
}

fn assert_content(fs: &Filesystem, id: InodeId) {
    let mut bytes = vec![0; (PIECES * PIECE) as usize];
    assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), bytes.len());
    for (piece, bytes) in bytes.chunks(PIECE as usize).enumerate() {
        assert!(bytes.iter().all(|found| *found == byte(piece as u64)), "piece {piece}");
    }
}

#[test]
fn scattered_extents_become_one() {
    let device = device();
    let fs = open(&device);
    let id = scattered(&fs, b"file");
    let before = (extents(&fs, id).len(), fs.attributes(id).unwrap().item);
    assert_eq!(before.0, PIECES as usize);
    let half = Defrag { range: 0..PIECES * PIECE / 2, ..Defrag::default() };
    assert_eq!(fs.defragment(id, &half).unwrap(), PIECES * PIECE / 2);
    assert_eq!(extents(&fs, id).len(), PIECES as usize / 2 + 1);
    assert!(fs.defragment(id, &Defrag::default()).unwrap() > 0);
    assert!(extents(&fs, id).len() <= 2);
    assert_eq!(fs.defragment(id, &Defrag { large: 4096, ..Defrag::default() }).unwrap(), 0, "all are large");
    let after = fs.attributes(id).unwrap().item;
    assert_eq!((after.mtime, after.size, after.nbytes), (before.1.mtime, before.1.size, before.1.nbytes));
    assert_content(&fs, id);
    judge(&device, fs);
}

#[test]
fn shared_extents_stay_unless_they_are_to_be_broken() {
    let device = device();
    let fs = open(&device);
    let (cloned, kept) = (scattered(&fs, b"cloned"), scattered(&fs, b"in a snapshot"));
    let clone = made(&fs, top(b"clone"));
    fs.clone_range(FileOffset { id: cloned, offset: 0 }, FileOffset { id: clone, offset: 0 }, CloneLen::ToEnd).unwrap();
    let tree = fs.snapshot(TreeId::FS, top(b"snapshot"), Access::ReadOnly).unwrap();
    for id in [cloned, kept, clone] {
        assert_eq!(fs.defragment(id, &Defrag::default()).unwrap(), 0);
    }
    let broken = Defrag { shared: SharedExtents::Break, ..Defrag::default() };
    assert_eq!(fs.defragment(kept, &broken).unwrap(), PIECES * PIECE);
    assert_eq!((extents(&fs, kept).len(), extents(&fs, InodeId { tree, ..kept }).len()), (1, PIECES as usize));
    for id in [cloned, kept, clone, InodeId { tree, ..kept }] {
        assert_content(&fs, id);
    }
    assert!(fs.defragment(InodeId { tree, ..kept }, &broken).is_err(), "the snapshot is read-only");
    judge(&device, fs);
}

#[test]
fn all_is_compressed_and_decompressed_when_asked() {
    let device = device();
    let fs = open(&device);
    let id = scattered(&fs, b"file");
    for (name, wanted) in [("zstd:3", Compression::Zstd), ("lzo", Compression::Lzo), ("no", Compression::None)] {
        let compress = Some(name.parse::<Choice>().unwrap());
        assert!(fs.defragment(id, &Defrag { compress, ..Defrag::default() }).unwrap() > 0, "{name}");
        assert!(extents(&fs, id).iter().all(|extent| extent.compression == wanted), "{name}");
        assert_content(&fs, id);
        fs.sync().unwrap();
    }
    judge(&device, fs);
}

#[test]
fn small_writes_are_noted_and_their_files_defragmented() {
    let device = device();
    let volume = butterfs_volume::Volume::open(vec![device.clone()], butterfs_volume::OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { autodefrag: Autodefrag::SmallWrites, ..OpenOptions::default() };
    let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
    let id = scattered(&fs, b"file");
    let whole = made(&fs, top(b"whole"));
    fs.write(whole, 0, &[1; 9000]).unwrap();
    assert!(fs.autodefrag_once().unwrap() && !fs.autodefrag_once().unwrap());
    assert!(extents(&fs, id).len() <= 2);
    assert_content(&fs, id);
    judge(&device, fs);
}

/// What a small write leaves of an older extent is no newer than before, so it stays where it is; and the write alone is
/// in one piece already.
#[test]
fn what_a_small_write_cut_in_two_stays() {
    let device = device();
    let volume = butterfs_volume::Volume::open(vec![device.clone()], butterfs_volume::OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { autodefrag: Autodefrag::SmallWrites, ..OpenOptions::default() };
    let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
    let id = made(&fs, top(b"file"));
    fs.write(id, 0, &[1; 65536]).unwrap();
    fs.sync().unwrap();
    let old = extents(&fs, id)[0].generation;
    fs.write(id, 16384, &[2; 4096]).unwrap();
    fs.sync().unwrap();
    let before = extents(&fs, id);
    assert!(fs.autodefrag_once().unwrap());
    fs.sync().unwrap();
    assert_eq!(extents(&fs, id), before);
    let generations: Vec<u64> = before.iter().map(|extent| extent.generation).collect();
    assert!(generations[0] == old && generations[1] > old && generations[2] == old, "{generations:?}");
    judge(&device, fs);
}

#[test]
fn leaves_come_one_behind_the_other_and_stay_shared() {
    let device = device();
    let fs = open(&device);
    for number in 0..2000u32 {
        // In an order that splits leaves all over the tree.
        let name = format!("{:08x} with a name that takes some room in its leaf", number.wrapping_mul(0x9e37_79b1));
        made(&fs, top(name.as_bytes()));
        if number % 200 == 0 {
            fs.sync().unwrap();
        }
    }
    fs.snapshot(TreeId::FS, top(b"snapshot"), Access::ReadOnly).unwrap();
    fs.sync().unwrap();
    let used = fs.shared.gate.space().metadata.used;
    let moved = fs.defragment_tree(TreeId::FS).unwrap();
    fs.sync().unwrap();
    // The trees that know of extents may have split a little.
    assert!(fs.shared.gate.space().metadata.used <= used + (8 << 14), "something is not shared any more");
    let again = fs.defragment_tree(TreeId::FS).unwrap();
    assert!(moved > 16 && again < moved / 4, "{moved}, then {again}");
    judge(&device, fs);
}
