//! Files that compress, that do not, and that do in part; and their shapes.

use butterfs_testkit::command::run_program;
use butterfs_testkit::mounter::Mounted;
use butterfs_testkit::random::Random;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::common::MIB;

/// Lengths of files that are kept inline when compressed.
pub const INLINE: [usize; 6] = [100, 1000, 2049, 4000, 4095, 4096];
/// Each inline file exists once for each of [`change_inline`](super::changes)'s changes.
pub const CHANGES: usize = 10;

pub fn text(random: &mut Random, length: usize) -> Vec<u8> {
    const WORDS: [&str; 7] = ["butter ", "fat, ", "churn", "\n", "cream; ", "milk ", "whey. "];
    let mut text = Vec::with_capacity(length + 8);
    while text.len() < length {
        text.extend_from_slice(random.pick(&WORDS).expect("there are words").as_bytes());
    }
    text.truncate(length);
    text
}

pub fn noise(random: &mut Random, length: usize) -> Vec<u8> {
    (0..length).map(|_| random.bits() as u8).collect()
}

/// Stretches of text, noise and zeros.
pub fn mixed(random: &mut Random, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let part = random.between(1, 100_000) as usize;
        bytes.extend(match random.below(3) {
            0 => text(random, part),
            1 => noise(random, part),
            _ => vec![0; part],
        });
    }
    bytes.truncate(length);
    bytes
}

pub fn fill(dir: &Path) {
    let mut random = Random::new(20);
    let write = |name: String, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).expect("write");
    for length in INLINE {
        (0..CHANGES).for_each(|change| write(format!("inline-{length}-{change}"), text(&mut random, length)));
    }
    for length in [4097, 10_000, 65_536, 131_071, 131_072, 131_073, 500_001, 2 * MIB as usize + 777] {
        write(format!("text-{length}"), text(&mut random, length));
        write(format!("mixed-{length}"), mixed(&mut random, length));
    }
    for length in [1000, 4096, 300_003] {
        write(format!("noise-{length}"), noise(&mut random, length));
    }
    for name in ["overwritten", "punched", "truncated", "sparse-later"] {
        write(name.into(), text(&mut random, MIB as usize + 4321));
    }
    let sparse = File::create(dir.join("sparse")).expect("create");
    for offset in [10, 300_000, 1_500_123] {
        sparse.write_all_at(&text(&mut random, 50_001), offset).expect("write");
    }
}

/// Makes bookends: extents of which other items use the middle, the front and the back.
pub fn shape(mounted: &Mounted, dir: &Path) {
    let mut random = Random::new(21);
    let open = |name: &str| File::options().write(true).open(dir.join(name)).expect("open");
    let clone = |from: &str, to: &str| {
        let (from, to) = (dir.join(from), dir.join(to));
        run_program("cp", &["--reflink=auto".as_ref(), from.as_os_str(), to.as_os_str()]).ok();
    };
    clone("text-500001", "cloned");
    clone("inline-1000-0", "cloned-inline");
    clone("overwritten", "cloned-before");
    clone("mixed-500001", "cloned-and-punched");
    for round in 0..40 {
        let (offset, length) = (random.below(MIB), random.between(1, 9000) as usize);
        open("overwritten").write_all_at(&text(&mut random, length), offset).expect("write");
        if round % 8 == 0 {
            mounted.sync();
        }
    }
    clone("overwritten", "cloned-after");
    for name in ["punched", "cloned-and-punched", "sparse-later"] {
        for _ in 0..10 {
            let (offset, length) = (random.below(400_000), random.between(1, 60_000));
            punch(&open(name), offset, length);
        }
    }
    open("truncated").set_len(777_777).expect("truncate");
    open("cloned-before").set_len(100_001).expect("truncate");
    open("inline-2049-0").set_len(999).expect("truncate");
    mounted.sync();
}

pub fn punch(file: &File, offset: u64, length: u64) {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).expect("punch");
}
