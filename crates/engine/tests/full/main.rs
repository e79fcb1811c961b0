//! Nearly full filesystems: threads make, write, overwrite, cut, snapshot and delete at 0 to 2% of free space.
//!
//! What must hold: no commit fails; what deletes never lacks space; only calls that ask for space are told that there
//! is none; what was written reads back; the checker finds nothing after each round; nobody waits for ever.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bugs;
mod shared;
mod stress;

use butterfs_engine::file::DataRule;
use butterfs_format::ChecksumType;
use butterfs_format::items::BlockGroupFlags;
use butterfs_testkit::report::scaled;
use stress::{Shape, Stress};

const DUP: BlockGroupFlags = BlockGroupFlags::DUP;
const SINGLE: BlockGroupFlags = BlockGroupFlags::empty();

fn stress(name: &str, shape: Shape) {
    let rounds = scaled(100).div_ceil(50) as u64;
    let mut stress = Stress::new(shape);
    for round in 0..rounds {
        stress.round(round, scaled(4000));
    }
    stress.empty();
    println!("{name}: {stress}");
}

#[test]
fn default_shape() {
    stress("16k, dup", Shape::default());
}

#[test]
fn small_nodes_single() {
    stress("4k, single", Shape { nodesize: 4096, metadata: SINGLE, csum: ChecksumType::Sha256, ..Shape::default() });
}

#[test]
fn large_nodes_dup() {
    stress("64k, dup", Shape { nodesize: 65536, csum: ChecksumType::Xxhash64, ..Shape::default() });
}

#[test]
fn long_checksums_and_explicit_holes() {
    let shape = Shape { nodesize: 4096, csum: ChecksumType::Blake2b, old_features: true, ..Shape::default() };
    stress("4k, dup, explicit holes", Shape { seed: 4, ..shape });
}

#[test]
fn one_thread() {
    stress("one thread", Shape { threads: 1, seed: 5, metadata: SINGLE, ..Shape::default() });
}

#[test]
fn large_inline_files() {
    stress("inline up to a sector", Shape { max_inline: 4095, seed: 6, ..Shape::default() });
}

#[test]
fn little_memory_for_dirty_data() {
    stress("1 MiB dirty", Shape { dirty_limit: 1 << 20, threads: 4, seed: 7, metadata: DUP, ..Shape::default() });
}

#[test]
fn mixed_block_groups() {
    for (metadata, seed) in [(SINGLE, 9), (DUP, 10)] {
        stress("mixed", Shape { mixed: true, metadata, seed, ..Shape::default() });
    }
}

#[test]
fn overwritten_in_place() {
    stress("in place", Shape { data: DataRule::InPlace, seed: 8, ..Shape::default() });
}
