//! A repair that is cut at any point leaves the filesystem untouched or undoable; and an undo file is not used where
//! it would do harm.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_format::TreeId;
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_repair::{Devices, Error, Options, Plan, Verdict, apply, plan, undo};
use butterfs_testkit::damage::{SIZE, Subject, findings};
use butterfs_testkit::fault::{Fault, FaultDevice, Lasting, Request, Rule, errno};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

/// A filesystem whose extent tree and free space tree are lost.
fn broken(subject: &Subject) -> MemDevice {
    let device = subject.device.snapshot();
    for tree in [TreeId::EXTENT, TreeId::FREE_SPACE] {
        let places = subject.places(subject.root_of(tree));
        places.iter().for_each(|at| device.write_at(*at, &[0; 16384]).unwrap());
    }
    device
}

struct Case {
    broken: MemDevice,
    plan: Plan,
    folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let broken = broken(&Subject::new());
        let plan = plan(&vec![Arc::new(broken.snapshot())], &Options::default()).unwrap();
        assert_eq!(plan.verdict, Verdict::Repaired, "{plan}");
        Self { broken, plan, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("undo")
    }

    /// Applies to a copy; gives it.
    fn applied(&self) -> Arc<MemDevice> {
        let device = Arc::new(self.broken.snapshot());
        apply(&self.plan, &devices(&device), &self.file(), [0; 16]).unwrap();
        device
    }
}

fn devices(device: &Arc<MemDevice>) -> Devices {
    vec![device.clone()]
}

fn same(a: &MemDevice, b: &MemDevice) -> bool {
    let zeros = |part: &(u64, Vec<u8>)| part.1.iter().any(|byte| *byte != 0);
    let parts = |device: &MemDevice| device.written().into_iter().filter(zeros).collect::<Vec<_>>();
    parts(a) == parts(b)
}

#[test]
fn a_repair_cut_at_any_write_or_flush_can_be_undone() {
    let case = Case::new();
    let before = findings(&case.broken, false);
    let mut cut = 0;
    for (request, fault) in [
        (Request::Write, Fault::Error(errno::EIO)),
        (Request::Write, Fault::Short(errno::EIO)),
        (Request::Flush, Fault::Error(errno::EIO)),
    ] {
        for at in 0.. {
            let device = Arc::new(case.broken.snapshot());
            let rule = Rule { request, at, fault, lasting: Lasting::Forever };
            let failing: Devices = vec![Arc::new(FaultDevice::new(device.clone(), Some(rule)))];
            match apply(&case.plan, &failing, &case.file(), [0; 16]) {
                Ok(()) => break,
                Err(Error::Interrupted { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            cut += 1;
            let mut superblock = [0; 4096];
            device.read_at(SUPERBLOCK_OFFSETS[0], &mut superblock).unwrap();
            let mut old = [0; 4096];
            case.broken.read_at(SUPERBLOCK_OFFSETS[0], &mut old).unwrap();
            if superblock == old {
                assert_eq!(findings(&device, false), before, "{request:?} {at}: what was reachable is as it was");
            }
            undo(&case.file(), &devices(&device)).unwrap();
            assert!(same(&device, &case.broken), "{request:?} {at}: undo gives back every byte");
            std::fs::remove_file(case.file()).unwrap();
        }
        std::fs::remove_file(case.file()).unwrap();
    }
    assert!(cut > 20, "only {cut} cuts");
}

#[test]
fn an_undo_that_was_cut_can_be_run_again() {
    let case = Case::new();
    let repaired = case.applied();
    for at in 0.. {
        let device = Arc::new(repaired.snapshot());
        let rule = Rule { request: Request::Write, at, fault: Fault::Short(errno::EIO), lasting: Lasting::Forever };
        let failing: Devices = vec![Arc::new(FaultDevice::new(device.clone(), Some(rule)))];
        if undo(&case.file(), &failing).is_ok() {
            break;
        }
        undo(&case.file(), &devices(&device)).unwrap();
        assert!(same(&device, &case.broken), "{at}");
    }
}

/// Old bytes over a filesystem that somebody wrote to since would destroy it.
#[test]
fn undo_does_not_overwrite_later_commits() {
    let case = Case::new();
    let device = case.applied();
    let volume = Volume::open(devices(&device), OpenMode::ReadWrite).unwrap();
    let fs = Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap();
    let new = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };
    fs.create(Place::new(fs.root(), b"later"), &new).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let later = device.snapshot();
    let error = undo(&case.file(), &devices(&device)).unwrap_err().to_string();
    assert!(error.contains("changed since"), "{error}");
    assert!(same(&device, &later), "nothing was written");
    assert_eq!(findings(&device, true).iter().filter(|f| f.severity > butterfs_check::Severity::Note).count(), 0);
}

fn refused(case: &Case, device: &Arc<MemDevice>, file: &Path, word: &str) {
    let before = device.snapshot();
    let error = undo(file, &devices(device)).unwrap_err().to_string();
    assert!(error.contains(word), "want {word}: {error}");
    assert!(same(device, &before) && device.len() == case.broken.len(), "nothing was written");
}

#[test]
fn a_damaged_or_foreign_undo_file_is_refused() {
    let case = Case::new();
    let device = case.applied();
    let good = std::fs::read(case.file()).unwrap();
    let other = case.folder.path().join("other");
    for at in [0, 9, 20, 60, 5000, 9000, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&other, bad).unwrap();
        refused(&case, &device, &other, "undo file");
    }
    for len in [0, 30, 5000, good.len() - 1] {
        std::fs::write(&other, &good[..len]).unwrap();
        refused(&case, &device, &other, "cut short");
    }
    std::fs::write(&other, [&good[..], b"more"].concat()).unwrap();
    refused(&case, &device, &other, "after its end");
    let foreign = Arc::new(MemDevice::new(SIZE));
    make(foreign.clone(), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    refused(&case, &foreign, &case.file(), "another filesystem");
}

#[test]
fn an_undo_file_is_never_overwritten() {
    let case = Case::new();
    std::fs::write(case.file(), b"of an earlier repair").unwrap();
    let device = Arc::new(case.broken.snapshot());
    let error = apply(&case.plan, &devices(&device), &case.file(), [0; 16]).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert!(same(&device, &case.broken), "nothing was written");
    assert_eq!(std::fs::read(case.file()).unwrap(), b"of an earlier repair");
}

/// What a plan says it leaves is what it leaves; and the devices are not touched by planning.
#[test]
fn planning_writes_nothing() {
    let case = Case::new();
    let device = Arc::new(case.broken.snapshot());
    let rule = Rule { request: Request::Write, at: 0, fault: Fault::Error(errno::EIO), lasting: Lasting::Forever };
    let failing: Devices = vec![Arc::new(FaultDevice::new(device.clone(), Some(rule)))];
    assert_eq!(plan(&failing, &Options::default()).unwrap().verdict, Verdict::Repaired);
    assert!(same(&device, &case.broken));
}
