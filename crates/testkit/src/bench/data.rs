//! Bytes of one large file: in order and at random, through the page cache and past it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Bench, Row, Scenario};
use crate::random::Random;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "sequential", options: "", run: sequential },
    Scenario { name: "random", options: "", run: random },
];

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// `O_DIRECT`.
const DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
/// How many random operations a row does.
const OPERATIONS: u64 = 32 << 10;
const IN_FLIGHT: u64 = 16;

static WRITE: Row = Row { name: "sequential write 1 MiB buffered, then fsync", unit: "MiB", goal: 150 };
static WRITE_DIRECT: Row = Row { name: "sequential write 1 MiB O_DIRECT", unit: "MiB", goal: 200 };
static READ_COLD: Row = Row { name: "sequential read 1 MiB, cold", unit: "MiB", goal: 90 };
static READ_WARM: Row = Row { name: "sequential read 1 MiB, warm", unit: "MiB", goal: 95 };
static RANDOM_READ_DIRECT: Row = Row { name: "random read 4 KiB O_DIRECT, 16 in flight", unit: "reads", goal: 150 };
static RANDOM_READ: Row = Row { name: "random read 4 KiB buffered, cold", unit: "reads", goal: 100 };
static RANDOM_WRITE: Row = Row { name: "random write 4 KiB buffered, then fsync", unit: "writes", goal: 300 };
static RANDOM_WRITE_DIRECT: Row = Row { name: "random write 4 KiB O_DIRECT", unit: "writes", goal: 200 };

/// Bytes on a page boundary, as direct I/O wants them; not compressible.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let mut numbers = Random::new(7);
        let bytes: Vec<u8> = (0..len / 8 + PAGE / 8).flat_map(|_| numbers.bits().to_le_bytes()).collect();
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start, len }
    }

    fn get(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    fn get_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).custom_flags(flags);
    options.open(path).expect("the file opens")
}

fn write_all(file: &File, len: u64) {
    let buffer = Aligned::new(MIB);
    for offset in (0..len).step_by(MIB) {
        file.write_all_at(buffer.get(), offset).expect("a write succeeds");
    }
}

/// Makes a file of so many bytes, and makes it durable.
pub(super) fn write_file(path: &Path, len: u64) {
    let file = open(path, 0);
    write_all(&file, len);
    file.sync_all().expect("fsync succeeds");
}

/// Reads a file to its end.
pub(super) fn read_all(path: &Path) {
    let (file, mut buffer) = (File::open(path).expect("the file opens"), Aligned::new(MIB));
    let mut offset = 0;
    loop {
        match file.read_at(buffer.get_mut(), offset).expect("a read succeeds") {
            0 => return,
            count => offset += count as u64,
        }
    }
}

fn sequential(bench: &mut Bench<'_>) {
    let len = bench.scale.large;
    let mib = (len >> 20) as f64;
    bench.measure(&WRITE, mib, |dir| {
        write_file(&dir.join("large"), len);
    });
    bench.cold();
    bench.measure(&READ_COLD, mib, |dir| read_all(&dir.join("large")));
    bench.measure(&READ_WARM, mib, |dir| read_all(&dir.join("large")));
    std::fs::remove_file(bench.path("large")).expect("the file can be removed");
    bench.cold();
    bench.measure(&WRITE_DIRECT, mib, |dir| write_all(&open(&dir.join("direct"), DIRECT), len));
}

/// Random pages of a file, each once at most, by some threads.
fn at_random(threads: u64, len: u64, work: impl Fn(u64, &mut [u8]) + Sync) {
    let (pages, next) = (len / PAGE as u64, AtomicU64::new(0));
    let total = OPERATIONS.min(pages);
    let run = || {
        let mut buffer = Aligned::new(PAGE);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= total {
                return;
            }
            // An odd factor goes through all pages of a power of two, and nearly all of others, once.
            let page = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % pages;
            work(page * PAGE as u64, buffer.get_mut());
        }
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        all.into_iter().for_each(|thread| thread.join().expect("a thread ends well"));
    });
}

fn random(bench: &mut Bench<'_>) {
    let len = bench.scale.large / 4;
    let count = OPERATIONS.min(len / PAGE as u64) as f64;
    write_file(&bench.path("file"), len);
    bench.cold();
    bench.measure(&RANDOM_READ_DIRECT, count, |dir| {
        let file = open(&dir.join("file"), DIRECT);
        at_random(IN_FLIGHT, len, |at, buffer| file.read_exact_at(buffer, at).expect("a read succeeds"));
    });
    bench.cold();
    bench.measure(&RANDOM_READ, count, |dir| {
        let file = open(&dir.join("file"), 0);
        at_random(1, len, |at, buffer| file.read_exact_at(buffer, at).expect("a read succeeds"));
    });
    bench.measure(&RANDOM_WRITE, count, |dir| {
        let file = open(&dir.join("file"), 0);
        at_random(1, len, |at, buffer| file.write_all_at(buffer, at).expect("a write succeeds"));
        file.sync_all().expect("fsync succeeds");
    });
    bench.cold();
    bench.measure(&RANDOM_WRITE_DIRECT, count, |dir| {
        let file = open(&dir.join("file"), DIRECT);
        at_random(1, len, |at, buffer| file.write_all_at(buffer, at).expect("a write succeeds"));
    });
}
