//! Small writes, each made durable.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Bench, Row, Scenario};
use crate::random::Random;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "sync", options: "", run }];

const PAGE: u64 = 4096;
/// Pages of the file that is written at random.
const PAGES: u64 = 32 << 10;
const THREADS: u64 = 8;

static ONE: Row = Row { name: "random write 4 KiB + fdatasync, 1 thread", unit: "writes", goal: 400 };
static EIGHT: Row = Row { name: "random write 4 KiB + fdatasync, 8 threads", unit: "writes", goal: 400 };
static APPEND: Row = Row { name: "append 4 KiB + fsync", unit: "writes", goal: 400 };

fn overwrite(file: &File, seed: u64, count: usize) {
    let mut numbers = Random::new(seed);
    for _ in 0..count {
        file.write_all_at(&[seed as u8; PAGE as usize], numbers.below(PAGES) * PAGE).expect("a write succeeds");
        file.sync_data().expect("fdatasync succeeds");
    }
}

fn run(bench: &mut Bench<'_>) {
    let count = bench.scale.syncs;
    let path = bench.path("file");
    std::fs::write(&path, vec![1; (PAGES * PAGE) as usize]).expect("the file can be written");
    bench.sync();
    let open = |path| File::options().write(true).open(path).expect("the file opens");
    bench.measure(&ONE, count as f64, |_| overwrite(&open(&path), 1, count));
    let each = count / THREADS as usize;
    bench.measure(&EIGHT, (each as u64 * THREADS) as f64, |_| {
        std::thread::scope(|scope| {
            for seed in 0..THREADS {
                let path = &path;
                scope.spawn(move || overwrite(&open(path), seed, each));
            }
        });
    });
    bench.measure(&APPEND, count as f64, |dir| {
        let file = File::create(dir.join("log")).expect("the file can be made");
        for number in 0..count as u64 {
            file.write_all_at(&[3; PAGE as usize], number * PAGE).expect("a write succeeds");
            file.sync_all().expect("fsync succeeds");
        }
    });
}
