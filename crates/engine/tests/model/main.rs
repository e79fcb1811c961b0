//! Seeded random operations on the engine beside a model in memory; the checker judges the image
//! after each commit, and what is read back after a fresh open equals the model.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
mod exercise;
mod model;

use butterfs_engine::file::{CompressRule, DataRule};
use butterfs_format::compression::Choice;
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
    for without in ["block-group-tree", "free-space-tree", "no-holes", "skinny-metadata", "extref"] {
        Exercise::new(14, Shape { without, ..Shape::default() }).run(1200);
    }
}

#[test]
fn with_each_compression() {
    for (seed, method) in [(15, "zlib"), (16, "lzo"), (17, "zstd:1"), (18, "zstd:-5")] {
        let Ok(Choice::With(method)) = method.parse() else { panic!("{method}") };
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
