//! Seeded random operations on the engine beside a model in memory; the checker judges the image
//! after each commit, and what is read back after a fresh open equals the model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
mod exercise;
mod model;
mod more;

use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_format::compression::{Choice, Method};
use exercise::{Exercise, Shape};

#[test]
fn default_filesystem() {
    for seed in 1..=4 {
        Exercise::new(seed, Shape::default()).run(1500);
    }
}

#[test]
fn small_nodes_split_often() {
    Exercise::new(11, Shape { nodesize: 4096, ..Shape::default() }).run(3000);
}

#[test]
fn large_nodes() {
    Exercise::new(12, Shape { nodesize: 65536, ..Shape::default() }).run(1500);
}

#[test]
fn every_checksum() {
    for csum_type in butterfs_format::ChecksumType::ALL {
        Exercise::new(13, Shape { csum_type, ..Shape::default() }).run(600);
    }
}

#[test]
fn without_each_feature() {
    for without in WITHOUT {
        Exercise::new(14, Shape { without, ..Shape::default() }).run(1200);
    }
}

const WITHOUT: [&str; 6] =
    ["block-group-tree", "free-space-tree", "no-holes", "skinny-metadata", "extref", "block groups of their own"];

#[test]
fn larger_sectors() {
    for (seed, sectorsize, nodesize) in [(31, 8192, 8192), (32, 16384, 65536), (33, 65536, 65536)] {
        Exercise::new(seed, Shape { sectorsize, nodesize, ..Shape::default() }).run(700);
    }
}

/// A shape, by a number.
fn shape(number: u64) -> Shape {
    let compress = match number % 4 {
        0 => CompressRule::Asked,
        1 => CompressRule::All(method("zstd:3")),
        2 => CompressRule::Force(method("lzo")),
        _ => CompressRule::All(method("zlib:1")),
    };
    let data = [DataRule::Usual, DataRule::Usual, DataRule::InPlace, DataRule::NoChecksums][number as usize / 4 % 4];
    let without = [&WITHOUT[..], &[""; 6]].concat()[number as usize % 12];
    let (sectorsize, nodesize) = [(4096, 16384), (4096, 4096), (4096, 65536), (16384, 16384)][number as usize / 3 % 4];
    Shape { sectorsize, nodesize, without, compress, data, ..Shape::default() }
}

fn method(text: &str) -> Method {
    let Ok(Choice::With(method)) = text.parse() else { panic!("{text}") };
    method
}

/// Steps of one filesystem in a long run.
const STEPS: usize = 5000;

/// So many steps as `BUTTERFS_MODEL_STEPS` says, on one filesystem of each shape after the other: `just model 1000000`.
#[test]
#[ignore = "long"]
fn long_run() {
    let number = |name: &str, usual: usize| {
        std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(usual)
    };
    let (steps, first) = (number("BUTTERFS_MODEL_STEPS", 100_000), number("BUTTERFS_MODEL_SEED", 1));
    for turn in 0..steps.div_ceil(STEPS) {
        let seed = (first + turn) as u64;
        println!("seed {seed}, {} of {steps} steps are done", turn * STEPS);
        Exercise::new(seed, shape(seed)).run(STEPS.min(steps - turn * STEPS));
    }
}

/// A sample of the long run.
#[test]
fn sampled() {
    for seed in 101..=106 {
        Exercise::new(seed, shape(seed)).run(700);
    }
}

#[test]
fn with_each_compression() {
    for (seed, method) in [(15, "zlib"), (16, "lzo"), (17, "zstd:1"), (18, "zstd:-5")] {
        let method = crate::method(method);
        for compress in [CompressRule::All(method), CompressRule::Force(method)] {
            Exercise::new(seed, Shape { compress, ..Shape::default() }).run(800);
        }
    }
}

#[test]
fn overwritten_in_place_and_without_checksums() {
    for (seed, data, nodesize) in
        [(19, DataRule::InPlace, 16384), (20, DataRule::InPlace, 4096), (21, DataRule::NoChecksums, 16384)]
    {
        Exercise::new(seed, Shape { data, nodesize, ..Shape::default() }).run(1500);
    }
}
