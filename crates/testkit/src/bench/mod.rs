//! Benchmarks: the same work on Butterfs, on the kernel's btrfs and on others, in one run.
//!
//! A [`Scenario`] prepares a filesystem and takes several rows on it; [`subject`] makes, mounts and unmounts; the rounds
//! go through all subjects in turn, so that what else the machine does meets all of them. [`null`] is a filesystem that
//! does nothing but answer: what a row can be at best through FUSE.
//!
//! # Invariants
//! * A cold row begins right after a mount, and with nothing of the image in the page cache if it lies on a disk.
//! * Nothing is dropped or synced but the filesystem that is measured.

pub mod data;
pub mod files;
pub mod growth;
pub mod latency;
pub mod library;
pub mod measure;
pub mod mounting;
pub mod null;
pub mod offline;
pub mod plot;
pub mod profile;
pub mod repository;
pub mod snapshots;
pub mod source;
pub mod subject;
pub mod sync;
pub mod table;
pub mod tree;

use std::path::{Path, PathBuf};

use measure::{Sample, Stopwatch};
use profile::Recorder;
use subject::{Mounted, Subject};
use table::Results;

/// One line of the table.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// What is done.
    pub name: &'static str,
    /// What one unit is of which more in a second is better.
    pub unit: &'static str,
    /// The wanted ratio to the kernel's btrfs, in hundredths.
    pub goal: u32,
}

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Bytes of the large file.
    pub large: u64,
    /// How many small files.
    pub files: usize,
    /// How many files the source tree has.
    pub tree: usize,
    /// Operations of the rows that sync each time.
    pub syncs: usize,
}

impl Scale {
    /// A part of the full size, in percent.
    pub fn percent(percent: u64) -> Self {
        let of = |full: u64| (full * percent / 100).max(1);
        Self { large: of(2048) << 20, files: of(50_000) as usize, tree: of(47_000) as usize, syncs: of(5_000) as usize }
    }
}

/// Work that gives rows.
pub struct Scenario {
    /// What it is chosen by.
    pub name: &'static str,
    /// Mount options that Butterfs and the kernel's btrfs get.
    pub options: &'static str,
    /// The work.
    pub run: fn(&mut Bench<'_>),
}

/// All scenarios.
pub const SCENARIOS: &[&[Scenario]] = &[
    data::SCENARIOS,
    sync::SCENARIOS,
    files::SCENARIOS,
    latency::SCENARIOS,
    tree::SCENARIOS,
    repository::SCENARIOS,
    snapshots::SCENARIOS,
    mounting::SCENARIOS,
    library::SCENARIOS,
    offline::SCENARIOS,
];

/// One subject in one round of a scenario.
pub struct Bench<'a> {
    subject: &'a Subject,
    options: &'static str,
    /// How large everything is.
    pub scale: Scale,
    /// Where the source tree's archive lies.
    pub archive: &'a Path,
    mounted: Option<Mounted>,
    results: &'a mut Results,
}

impl<'a> Bench<'a> {
    /// Makes a filesystem and runs a scenario on it.
    pub fn run(subject: &'a Subject, scenario: &Scenario, scale: Scale, archive: &'a Path, results: &'a mut Results) {
        subject.make();
        let mounted = Some(subject.mount(scenario.options));
        let mut bench = Self { subject, options: scenario.options, scale, archive, mounted, results };
        (scenario.run)(&mut bench);
        bench.mounted.take().into_iter().for_each(Mounted::unmount);
        subject.remove();
    }

    fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("it is mounted but for the moment of a remount")
    }

    /// A path on the filesystem.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted().dir().join(name)
    }

    /// Whether this is the ceiling, which has no subvolumes and shares no extents.
    pub fn is_null(&self) -> bool {
        matches!(self.subject, Subject::Null { .. })
    }

    /// Our program, if this is Butterfs.
    pub fn program(&self) -> Option<&'a Path> {
        match self.subject {
            Subject::Butterfs { binary, .. } => Some(binary),
            _ => None,
        }
    }

    /// Whether this is Butterfs.
    pub fn is_butterfs(&self) -> bool {
        self.program().is_some()
    }

    /// The image, for those who use it without a mount.
    pub fn image(&self) -> &'a Path {
        &self.subject.place().image
    }

    /// Unmounts: what is measured from now on works on the image.
    pub fn unmount(&mut self) {
        self.mounted.take().into_iter().for_each(Mounted::unmount);
        self.subject.drop_cache();
    }

    /// Makes everything durable and forgets all caches.
    pub fn cold(&mut self) {
        self.unmount();
        self.mounted = Some(self.subject.mount(self.options));
    }

    /// Makes everything durable.
    pub fn sync(&self) {
        sync_filesystem(self.mounted().dir());
    }

    /// Measures work that does so many units of the row.
    pub fn measure(&mut self, row: &'static Row, units: f64, work: impl FnOnce(&Path)) {
        let recorder = self.record();
        let watch = Stopwatch::start(self.mounted.as_ref().and_then(Mounted::server));
        work(self.mounted.as_ref().map_or(self.image(), Mounted::dir));
        let sample = watch.stop(units);
        self.note(row, sample);
        self.note_profile(row, recorder);
    }

    /// Measures one thing that takes as long as the work says.
    pub fn measure_slowest(&mut self, row: &'static Row, work: impl FnOnce(&Path) -> f64) {
        let recorder = self.record();
        let watch = Stopwatch::start(self.mounted().server());
        let seconds = work(self.mounted().dir());
        let sample = Sample { seconds, ..watch.stop(1.0) };
        self.note(row, sample);
        self.note_profile(row, recorder);
    }

    /// Measures so many mounts, each with some work right behind it; unmounts are not measured.
    pub fn measure_remounts(&mut self, row: &'static Row, mounts: usize, work: impl Fn(&Path)) {
        let mut sum: Option<Sample> = None;
        for _ in 0..mounts {
            self.unmount();
            let watch = Stopwatch::start(None);
            let mounted = self.mounted.insert(self.subject.mount(self.options));
            work(mounted.dir());
            let sample = watch.stop(1.0);
            sum = Some(sum.map_or(sample, |sum| sum.and(&sample)));
        }
        sum.into_iter().for_each(|sum| self.note(row, sum));
    }

    /// Begins to sample our daemon, if that is asked for.
    fn record(&self) -> Option<Recorder> {
        let server = self.mounted.as_ref().and_then(Mounted::server).filter(|_| self.is_butterfs());
        Some(self.results.profiles.as_ref()?.record(server?))
    }

    fn note_profile(&mut self, row: &'static Row, recorder: Option<Recorder>) {
        if let Some((profiles, recorder)) = self.results.profiles.as_mut().zip(recorder) {
            profiles.add(row, recorder);
        }
    }

    fn note(&mut self, row: &'static Row, sample: Sample) {
        eprintln!("{:>10}  {}: {:.0} {}/s", self.subject.name(), row.name, sample.rate(), row.unit);
        self.results.add(row, self.subject.name(), sample);
    }
}

/// `syncfs` on a directory.
pub fn sync_filesystem(dir: &Path) {
    let dir = std::fs::File::open(dir).expect("the directory opens");
    rustix::fs::syncfs(&dir).expect("syncfs succeeds");
}
