//! How the cost of an operation grows with the number of files, and with that of snapshots: in the library, on an image,
//! and how much memory a mount of the largest one takes.
//!
//! Costs are CPU microseconds of all threads for one operation, the least of some passes: what else the machine does
//! changes those little. At each size the same operations are done, in as many directories, and undone; files that are
//! looked up or rewritten are any of all.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_format::TreeId;
use butterfs_volume::{BlockDevice, FileDevice, OpenMode, Volume};

use super::measure::Stopwatch;
use super::plot::{Diagram, Line, svg};
use super::subject::Subject;
use super::sync_filesystem;
use crate::command::run_program;
use crate::random::Random;

/// How far it goes.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Numbers of files, ascending.
    pub files: Vec<usize>,
    /// Numbers of snapshots, ascending.
    pub snapshots: Vec<usize>,
    /// How many files there are when snapshots are made.
    pub snapshot_files: usize,
}

/// Files in a directory.
const IN_DIRECTORY: usize = 1000;
/// Bytes of a file that is only there.
const SMALL: &[u8] = &[5; 100];
/// Operations of a pass.
const PROBE: usize = 1000;
const PASSES: usize = 3;
/// Directories of a pass.
const SPREAD: usize = 10;
/// Snapshots and commits of a pass.
const FEW: usize = 10;
/// Files that are rewritten between two snapshots.
const REWRITTEN: usize = 10;
/// What is measured, in this order.
const OPERATIONS: [&str; 7] = ["create", "write 4 KiB", "writeback", "lookup", "unlink", "commit", "snapshot"];

/// Costs at one size.
#[derive(Clone, Debug)]
struct Costs {
    size: usize,
    /// Levels of the tree of files.
    depth: u8,
    micros: [f64; OPERATIONS.len()],
}

struct Library {
    fs: Filesystem,
    dirs: Vec<InodeId>,
    files: usize,
    numbers: Random,
}

fn cpu_micros() -> f64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    used.tv_sec as f64 * 1e6 + used.tv_nsec as f64 / 1e3
}

fn timed(count: usize, work: impl FnOnce()) -> f64 {
    let begin = cpu_micros();
    work();
    (cpu_micros() - begin) / count as f64
}

impl Library {
    fn open(image: &Path) -> Self {
        let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open_read_write(image).expect("the image opens"));
        let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("the volume opens");
        let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment));
        let fs = fs.expect("the filesystem opens");
        Self { fs, dirs: Vec::new(), files: 0, numbers: Random::new(5) }
    }

    fn make(&self, dir: InodeId, name: &str, kind: NewKind<'_>) -> InodeId {
        let new = NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
        self.fs.create(Place::new(dir, name.as_bytes()), &new).expect("an inode can be made")
    }

    /// Goes on until there are so many files.
    fn grow(&mut self, files: usize) {
        while self.files < files {
            if self.files.is_multiple_of(IN_DIRECTORY) {
                self.dirs.push(self.make(self.fs.root(), &format!("d{}", self.dirs.len()), NewKind::Directory));
            }
            let dir = *self.dirs.last().expect("there is one");
            let id = self.make(dir, &name(self.files), NewKind::File);
            self.fs.write(id, 0, SMALL).expect("a write succeeds");
            self.files += 1;
            if self.files.is_multiple_of(20 * IN_DIRECTORY) {
                self.commit();
            }
        }
        self.commit();
    }

    fn commit(&self) {
        self.fs.sync().expect("a commit succeeds");
    }

    fn any_file(&mut self) -> (InodeId, String) {
        let number = self.numbers.below(self.files as u64) as usize;
        (self.dirs[number / IN_DIRECTORY], name(number))
    }

    /// The same number of directories at each size, far from each other: or what grew would be how many leaves change.
    fn probed_dirs(&self) -> Vec<InodeId> {
        let step = self.dirs.len().div_ceil(SPREAD);
        (0..PROBE).map(|number| self.dirs[number % SPREAD * step % self.dirs.len()]).collect()
    }

    fn costs(&mut self, size: usize) -> Costs {
        let passes: Vec<_> = (0..PASSES).map(|_| self.pass()).collect();
        let least = |operation: usize| passes.iter().map(|pass| pass[operation]).fold(f64::INFINITY, f64::min);
        let root = self.fs.shared().gate.view(|tx| tx.root_item(TreeId::FS)).expect("the tree is there");
        Costs { size, depth: root.level + 1, micros: std::array::from_fn(least) }
    }

    /// Each operation once, in the order of [`OPERATIONS`]; all is gone afterwards.
    fn pass(&mut self) -> [f64; OPERATIONS.len()] {
        let places: Vec<(InodeId, String)> =
            self.probed_dirs().into_iter().enumerate().map(|(number, dir)| (dir, format!("probe{number}"))).collect();
        let found: Vec<_> = (0..PROBE).map(|_| self.any_file()).collect();
        let mut made = Vec::with_capacity(PROBE);
        let create = timed(PROBE, || {
            made.extend(places.iter().map(|(dir, name)| self.make(*dir, name, NewKind::File)));
        });
        let write = timed(PROBE, || {
            made.iter().for_each(|id| {
                self.fs.write(*id, 0, &[7; 4096]).expect("a write succeeds");
            });
        });
        let back = timed(PROBE, || self.commit());
        let lookup = timed(PROBE, || {
            found.iter().for_each(|(dir, name)| {
                self.fs.lookup(Place::new(*dir, name.as_bytes())).expect("it is there");
            });
        });
        let unlink = timed(PROBE, || {
            places.iter().for_each(|(dir, name)| {
                self.fs.unlink(Place::new(*dir, name.as_bytes())).expect("it can be removed");
            });
        });
        self.commit();
        let commit = self.commits(&found);
        [create, write, back, lookup, unlink, commit, self.snapshots()]
    }

    /// Commits of one changed file each.
    fn commits(&self, found: &[(InodeId, String)]) -> f64 {
        timed(FEW, || {
            found[..FEW].iter().for_each(|(dir, name)| {
                self.rewrite(*dir, name, 1);
                self.commit();
            });
        })
    }

    fn rewrite(&self, dir: InodeId, name: &str, byte: u8) {
        let id = self.fs.lookup(Place::new(dir, name.as_bytes())).expect("it is there");
        self.fs.write(id, 0, &[byte; SMALL.len()]).expect("a write succeeds");
    }

    fn snapshots(&self) -> f64 {
        let place = |number: usize| format!("probe{number}");
        let cost = timed(FEW, || (0..FEW).for_each(|number| self.snapshot(&place(number))));
        for number in 0..FEW {
            self.fs.delete_subvolume(Place::new(self.fs.root(), place(number).as_bytes())).expect("it can be deleted");
        }
        while self.fs.clean_once(1000).expect("what is deleted can be removed") {}
        self.commit();
        cost
    }

    fn snapshot(&self, name: &str) {
        let place = Place::new(self.fs.root(), name.as_bytes());
        self.fs.snapshot(TreeId::FS, place, Access::ReadOnly).expect("a snapshot can be made");
    }

    /// Goes on until there are so many snapshots, between which files change.
    fn keep_snapshots(&mut self, from: usize, to: usize) {
        for number in from..to {
            for _ in 0..REWRITTEN {
                let (dir, name) = self.any_file();
                self.rewrite(dir, &name, number as u8);
            }
            self.snapshot(&format!("kept{number}"));
        }
    }
}

fn name(number: usize) -> String {
    format!("file-{number:07}")
}

/// Measures all sizes on new filesystems of the subject, which is Butterfs; gives the text in Markdown, and the plot.
pub fn run(subject: &Subject, sizes: &Sizes) -> (String, String) {
    let image = subject.place().image.clone();
    subject.make();
    let mut library = Library::open(&image);
    let by_snapshots = with_snapshots(&mut library, sizes);
    drop(library);
    subject.remove();
    subject.make();
    let mut library = Library::open(&image);
    let by_files = with_files(&mut library, sizes);
    drop(library);
    let memory = memory(subject, sizes);
    subject.remove();
    let text = format!("{}\n{}\n{memory}\n", table("files", &by_files), table("snapshots", &by_snapshots));
    let plot = svg(&[
        diagram("CPU for one operation, by files", "files", &by_files),
        diagram(&format!("by snapshots of {} files", sizes.snapshot_files), "snapshots", &by_snapshots),
    ]);
    (text, plot)
}

fn with_files(library: &mut Library, sizes: &Sizes) -> Vec<Costs> {
    let at = |files: &usize| {
        library.grow(*files);
        let costs = library.costs(*files);
        eprintln!("{costs:?}");
        costs
    };
    sizes.files.iter().map(at).collect()
}

fn with_snapshots(library: &mut Library, sizes: &Sizes) -> Vec<Costs> {
    library.grow(sizes.snapshot_files);
    let mut kept = 0;
    let at = |snapshots: &usize| {
        library.keep_snapshots(kept, *snapshots);
        kept = *snapshots;
        let costs = library.costs(*snapshots);
        eprintln!("{costs:?}");
        costs
    };
    sizes.snapshots.iter().map(at).collect()
}

/// Mounts the largest filesystem, looks at everything, and makes and reads some files; tells of the daemon's memory.
fn memory(subject: &Subject, sizes: &Sizes) -> String {
    let mounted = subject.mount("");
    let watch = Stopwatch::start(mounted.server());
    let looks = ["-size".as_ref(), "+1M".as_ref(), "-newermt".as_ref(), "2000-01-01".as_ref()];
    let words: Vec<_> = std::iter::once(mounted.dir().as_os_str()).chain(looks).collect();
    run_program("find", &words).ok();
    let new = mounted.dir().join("new");
    std::fs::create_dir(&new).expect("a directory can be made");
    super::files::create(&new, sizes.snapshot_files, 4096);
    sync_filesystem(mounted.dir());
    let sample = watch.stop(1.0);
    mounted.unmount();
    let (files, more) = (sizes.files.last().copied().unwrap_or_default(), sizes.snapshot_files);
    format!(
        "A mount of {files} files, all looked at, and {more} files of 4 KiB made: the daemon had {:.0} MiB at most.",
        sample.memory
    )
}

fn table(what: &str, all: &[Costs]) -> String {
    let mut out =
        format!("| {what} | levels | {} |\n|{}\n", OPERATIONS.join(" | "), "--:|".repeat(OPERATIONS.len() + 2));
    for costs in all {
        let micros: Vec<String> = costs.micros.iter().map(|micros| format!("{micros:.1}")).collect();
        writeln!(out, "| {} | {} | {} |", costs.size, costs.depth, micros.join(" | ")).expect("a string grows");
    }
    out
}

fn diagram(title: &str, what: &str, all: &[Costs]) -> Diagram {
    let line = |(operation, name): (usize, &&str)| Line {
        name: (*name).to_owned(),
        points: all.iter().map(|costs| (costs.size as f64, costs.micros[operation])).collect(),
    };
    let lines = OPERATIONS.iter().enumerate().map(line).collect();
    Diagram { title: title.to_owned(), x: what.to_owned(), y: "microseconds".to_owned(), lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_rows_and_points() {
        let costs = |size| Costs { size, depth: 2, micros: [1.0; OPERATIONS.len()] };
        let all = [costs(10), costs(100)];
        let text = table("files", &all);
        let widths: Vec<usize> = text.lines().map(|line| line.matches('|').count()).collect();
        assert_eq!(widths, [10; 4], "{text}");
        let diagram = diagram("t", "files", &all);
        assert_eq!((diagram.lines.len(), diagram.lines[0].points.len()), (OPERATIONS.len(), 2));
    }

    /// The whole way in the library, small.
    #[test]
    fn operations_can_be_repeated_at_each_size() {
        let dir = std::env::temp_dir().join(format!("growth-{}", std::process::id()));
        let file = std::fs::File::create(&dir).expect("a file can be made");
        file.set_len(256 << 20).expect("it can be sparse");
        let device = Arc::new(FileDevice::open_read_write(&dir).expect("the image opens"));
        let options = butterfs_engine::mkfs::MakeOptions::new(256 << 20, &SystemEnvironment);
        butterfs_engine::mkfs::make(device, &options).expect("a filesystem can be made");
        let mut library = Library::open(&dir);
        let sizes = Sizes { files: vec![20, 1100], snapshots: vec![1, 3], snapshot_files: 0 };
        let by_files = with_files(&mut library, &sizes);
        let by_snapshots = with_snapshots(&mut library, &sizes);
        drop(library);
        std::fs::remove_file(&dir).expect("the image can be removed");
        for costs in by_files.iter().chain(&by_snapshots) {
            assert!(costs.depth >= 1 && costs.micros.iter().all(|micros| *micros > 0.0), "{costs:?}");
        }
    }
}
