//! The same changes on a mount and on a plain directory beside it, and the comparison.

use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::common::MIB;
use super::content::{CHANGES, INLINE, punch};

/// Random changes stay below this offset, or thereabouts.
const LONGEST: u64 = 2 * MIB;

#[track_caller]
pub fn compare(dir: &Path, plain: &Path, what: &str) {
    files(dir).assert_same(&files(plain), Times::Ignored, what);
}

/// All but the directory itself, whose size is each filesystem's own.
pub fn files(dir: &Path) -> Tree {
    let mut tree = Tree::read(dir);
    tree.entries.remove(Path::new(""));
    tree
}

/// Past the page cache, in all sizes.
pub fn unaligned_reads(dir: &Path, plain: &Path) {
    let mut random = Random::new(22);
    let names = names(plain);
    for _ in 0..scaled(500) {
        let name = random.pick(&names).expect("there are files");
        let length = random.between(1, 300_000) as usize;
        let offset = random.below(std::fs::metadata(plain.join(name)).expect("stat").len() + 1);
        let read = |side: &Path| {
            let mut bytes = vec![0; length];
            let file = File::open(side.join(name)).expect("open");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
            let count = file.read_at(&mut bytes, offset).expect("read");
            bytes.truncate(count);
            bytes
        };
        assert!(read(dir) == read(plain), "{name} at {offset}, {length} bytes");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory lists");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

pub fn change_inlines(dir: &Path, plain: &Path) {
    for length in INLINE {
        for change in 0..CHANGES {
            let name = format!("inline-{length}-{change}");
            change_inline(&dir.join(&name), change);
            change_inline(&plain.join(&name), change);
        }
    }
}

fn change_inline(path: &Path, change: usize) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let length = file.metadata().expect("stat").len();
    let write = |bytes: &[u8], offset| file.write_all_at(bytes, offset).expect("write");
    let resize = |length| file.set_len(length).expect("truncate");
    let sync = || file.sync_all().expect("fsync");
    match change {
        0 => write(b"a few more", length),
        1 => write(&[b'm'; 20_000], length),
        2 => resize(length / 3),
        3 => resize(length + 5001),
        4 => write(b"in the middle", length / 2),
        // What was cut off stays away when the file grows again, whatever was written back when.
        5 => (0..3).for_each(|round| {
            resize(length / 2 - round);
            sync();
            resize(length);
        }),
        6 => {
            resize(length / 2 + 1);
            resize(length + 10_000);
            sync();
        }
        7 => punch(&file, length / 4, length / 2),
        8 => punch(&file, 0, length),
        _ => write(b"far away", 70_001),
    }
}

/// The same random changes on both sides.
pub fn change_randomly(dir: &Path, plain: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let names = names(plain);
    for number in 0..scaled(600) {
        let name = random.pick(&names).expect("there are files");
        let (action, offset) = (random.below(100), random.below(LONGEST));
        // Most of it near what is there.
        let length = std::fs::metadata(plain.join(name)).expect("stat").len();
        let offset = if random.percent(80) { offset % (length + 1) } else { offset };
        let size = *random.pick(&[1, 100, 4096, 5000, 40_000]).expect("lengths");
        let bytes = random.bytes(size);
        for side in [dir, plain] {
            let file = File::options().read(true).write(true).open(side.join(name)).expect("open");
            match action {
                0..40 => file.write_all_at(&bytes, offset).expect("write"),
                40..50 => file.write_all_at(&bytes, length).expect("append"),
                50..70 => file.set_len(offset).expect("truncate"),
                70..90 => punch(&file, offset, bytes.len() as u64 * 3),
                90..95 => file.sync_data().expect("fdatasync"),
                _ => {
                    file.set_len(offset / 2).expect("truncate");
                    file.set_len(length).expect("truncate");
                }
            }
        }
        if number % 50 == 49 {
            let (ours, theirs) = (std::fs::read(dir.join(name)), std::fs::read(plain.join(name)));
            assert!(ours.expect("reads") == theirs.expect("reads"), "{name} after change {number}: action {action}");
        }
    }
}
