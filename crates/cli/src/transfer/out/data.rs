//! The data of files, copied by a few threads.
//!
//! # Invariants
//! * Holes stay holes: only what the filesystem calls data is written.
//! * A file that cannot be copied whole is removed again.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use butterfs_engine::file::Seek;
use butterfs_engine::filesystem::Filesystem;
use butterfs_engine::inode::InodeId;

use crate::host::{Attributes, Directory, Lost, NewFile, Policy};
use crate::transfer::report::Report;
use crate::transfer::{Outcome, PIECE};

/// More threads than this wait for the devices.
const MOST_THREADS: usize = 4;
/// Files that wait to be copied; each is open.
const WAITING: usize = 64;

/// A file that was made and has no data yet.
pub struct Job {
    /// Whose data it gets.
    pub id: InodeId,
    /// How long that is.
    pub size: u64,
    /// The file.
    pub file: NewFile,
    /// What it gets in the end.
    pub attributes: Attributes,
    /// The path in the image.
    pub path: Vec<u8>,
    /// The directory that it is in, if that gets attributes.
    pub ending: Option<Arc<Ending>>,
}

/// A directory that gets its attributes when nothing in it changes any more: by who lets go of it last.
pub struct Ending {
    /// The directory.
    pub dir: Arc<Directory>,
    /// The path in the image.
    pub path: Vec<u8>,
    /// What it gets.
    pub attributes: Attributes,
}

impl Ending {
    /// One who changes things in the directory is done.
    pub fn reached(ending: Option<Arc<Self>>, policy: Policy, report: &Report) {
        let Some(last) = ending.and_then(Arc::into_inner) else { return };
        match last.dir.set_attributes(&last.attributes, policy) {
            Ok(lost) => report.lost(&last.path, &lost),
            Err(error) => report.failed(&last.path, &error.into()),
        }
    }
}

/// Threads that copy.
pub struct Pool;

impl Pool {
    /// Has threads do the jobs that `walk` gives out; returns when all are done.
    pub fn run(fs: &Filesystem, policy: Policy, report: &Report, walk: impl FnOnce(&SyncSender<Job>)) {
        let (sender, receiver) = sync_channel(WAITING);
        let receiver = Mutex::new(receiver);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| work(fs, &receiver, policy, report));
            }
            walk(&sender);
            drop(sender);
        });
    }
}

fn work(fs: &Filesystem, jobs: &Mutex<Receiver<Job>>, policy: Policy, report: &Report) {
    let mut piece = buffer();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        copy(fs, job, policy, report, &mut piece);
    }
}

/// Memory for one piece.
pub fn buffer() -> Vec<u8> {
    vec![0; PIECE]
}

/// Does a job; says whether the file is whole.
pub fn copy(fs: &Filesystem, job: Job, policy: Policy, report: &Report, piece: &mut [u8]) -> bool {
    let Job { id, size, mut file, attributes, path, ending } = job;
    report.begin(&path);
    let copied = copy_data(fs, (id, size), &mut file, report, piece);
    let finished: Outcome<Lost> = match copied {
        Ok(()) => file.finish(size, &attributes, policy).map_err(Into::into),
        Err(problem) => {
            drop(file);
            Err(problem)
        }
    };
    let whole = finished.is_ok();
    match finished {
        Ok(lost) => {
            report.lost(&path, &lost);
            report.copied(&path);
        }
        Err(problem) => report.failed(&path, &problem),
    }
    Ending::reached(ending, policy, report);
    whole
}

fn copy_data(
    fs: &Filesystem,
    (id, size): (InodeId, u64),
    file: &mut NewFile,
    report: &Report,
    piece: &mut [u8],
) -> Outcome<()> {
    let mut at = 0;
    while at < size {
        report.go_on()?;
        let start = fs.seek(id, at, Seek::Data)?.unwrap_or(size);
        report.advance(start - at);
        if start >= size {
            break;
        }
        // Data is never without length, whatever an item says.
        let end = fs.seek(id, start, Seek::Hole)?.unwrap_or(size).max(start + 1).min(size);
        at = start;
        while at < end {
            report.go_on()?;
            let wanted = (end - at).min(piece.len() as u64) as usize;
            let count = fs.read(id, at, &mut piece[..wanted])?;
            if count == 0 {
                return Ok(());
            }
            file.write_at(at, &piece[..count])?;
            at += count as u64;
            report.advance(count as u64);
        }
    }
    Ok(())
}
