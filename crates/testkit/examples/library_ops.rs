//! What names and small files cost in the library, on a device in memory: `library_ops FILES [PHASE...]`.
//!
//! Prints microseconds of CPU for each file and phase; to be run under a profiler too. Phases, in this order: create,
//! write, sync, lookup, rename, rename-sync, overwrite (of one large file at random, then fsync), unlink, unlink-sync,
//! latency (how long one waits while another thread commits all the time).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions, RenameOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_volume::{MemDevice, OpenMode, Volume};

const DIRECTORIES: usize = 50;
const SIZE: u64 = 2 << 30;

fn open() -> Filesystem {
    let device = Arc::new(MemDevice::new(SIZE));
    mkfs::make(device.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).expect("a filesystem can be made");
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("the volume opens");
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).expect("the filesystem opens")
}

fn cpu_micros() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e6 + used.tv_nsec as f64 / 1e3
}

struct Run {
    fs: Filesystem,
    dirs: Vec<InodeId>,
    files: Vec<InodeId>,
    count: usize,
}

impl Run {
    fn dir(&self, number: usize) -> InodeId {
        self.dirs[number % self.dirs.len()]
    }

    fn each(&self, work: impl Fn(usize, Place<'_>)) {
        for number in 0..self.count {
            work(number, Place::new(self.dir(number), format!("file-{number:06}").as_bytes()));
        }
    }

    fn make(&self, place: Place<'_>, kind: NewKind<'_>) -> InodeId {
        let new = NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
        self.fs.create(place, &new).expect("an inode can be made")
    }

    fn phase(&mut self, name: &str) {
        match name {
            "create" => {
                let root = self.fs.root();
                let dir = |n: usize| self.make(Place::new(root, format!("d{n}").as_bytes()), NewKind::Directory);
                self.dirs = (0..DIRECTORIES).map(dir).collect();
                let files = std::cell::RefCell::new(Vec::new());
                self.each(|_, place| files.borrow_mut().push(self.make(place, NewKind::File)));
                self.files = files.into_inner();
            }
            "write" => self.files.iter().for_each(|id| {
                self.fs.write(*id, 0, &[7; 4096]).expect("a write succeeds");
            }),
            "sync" | "rename-sync" | "unlink-sync" => self.fs.sync().expect("a commit succeeds"),
            "lookup" => self.each(|_, place| {
                self.fs.lookup(place).expect("it is there");
            }),
            "rename" => self.each(|number, from| {
                let new = format!("file-{number:06}.new");
                let to = Place::new(from.dir, new.as_bytes());
                self.fs.rename(from, to, RenameOptions::default()).expect("a file can be renamed");
            }),
            "overwrite" => {
                let id = self.make(Place::new(self.fs.root(), b"large"), NewKind::File);
                let block = vec![3; 1 << 20];
                for mib in 0..256 {
                    self.fs.write(id, mib << 20, &block).expect("a write succeeds");
                }
                self.fs.sync().expect("a commit succeeds");
                let begin = cpu_micros();
                for number in 0..self.count as u64 {
                    let page = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 65536;
                    self.fs.write(id, page * 4096, &[5; 4096]).expect("a write succeeds");
                }
                println!("    the writes {:8.2}", (cpu_micros() - begin) / self.count as f64);
                self.fs.fsync(id).expect("fsync succeeds");
                println!("    and fsync  {:8.2}", (cpu_micros() - begin) / self.count as f64);
            }
            "latency" => self.latency(),
            "unlink" => self.each(|number, place| {
                let new = format!("file-{number:06}.new");
                let renamed = self.fs.unlink(Place::new(place.dir, new.as_bytes()));
                renamed.or_else(|_| self.fs.unlink(place)).expect("a file can be removed");
            }),
            _ => panic!("{name}: no such phase"),
        }
    }

    /// Makes files while another thread commits all the time, and prints how long one had to wait.
    fn latency(&self) {
        let done = AtomicBool::new(false);
        let mut waits = std::thread::scope(|scope| {
            let commits = scope.spawn(|| {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    self.fs.sync().expect("a commit succeeds");
                    count += 1;
                }
                count
            });
            let mut waits = Vec::with_capacity(self.count);
            for number in 0..self.count {
                let begin = Instant::now();
                let name = format!("wait-{number:06}");
                let id = self.make(Place::new(self.fs.root(), name.as_bytes()), NewKind::File);
                self.fs.write(id, 0, &[7; 4096]).expect("a write succeeds");
                waits.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            done.store(true, Ordering::Relaxed);
            println!("    commits    {:8}", commits.join().expect("the thread ends well"));
            waits
        });
        waits.sort_by(f64::total_cmp);
        let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
        println!(
            "    waits, ms: half {:.3}, 99% {:.3}, 99.9% {:.3}, longest {:.3}",
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let count = words.first().and_then(|word| word.parse().ok()).unwrap_or(20_000);
    let all =
        ["create", "write", "sync", "lookup", "rename", "rename-sync", "overwrite", "unlink", "unlink-sync", "latency"];
    let wanted: Vec<&str> = if words.len() > 1 { words[1..].iter().map(String::as_str).collect() } else { all.into() };
    let mut run = Run { fs: open(), dirs: Vec::new(), files: Vec::new(), count };
    for phase in wanted {
        let begin = cpu_micros();
        run.phase(phase);
        println!("{phase:12} {:8.2}", (cpu_micros() - begin) / count as f64);
    }
}
