//! Images that our own engine makes, without root, and the commands that look into them.

#![allow(dead_code, reason = "each test uses some of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::Environment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::items::Timespec;
use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::workdir::WorkDir;
use butterfs_volume::{FileDevice, OpenMode, Volume};

pub const OURS: &str = env!("CARGO_BIN_EXE_butterfs");

/// A clock that stands, and UUIDs that count: the same image each time.
pub struct Fixed(AtomicU8);

impl Environment for Fixed {
    fn now(&self) -> Timespec {
        Timespec::new(1_700_000_000, 5)
    }

    fn new_uuid(&self) -> [u8; 16] {
        [self.0.fetch_add(1, Ordering::Relaxed); 16]
    }
}

/// A new image of so many bytes, filled by `fill`.
pub fn make(work: &WorkDir, name: &str, size: u64, fill: impl FnOnce(&Filesystem)) -> PathBuf {
    let path = work.file(name);
    create_sparse(&path, size);
    let device = Arc::new(FileDevice::open_read_write(&path).expect("the image opens"));
    mkfs::make(device.clone(), &MakeOptions::new(size, &Fixed(AtomicU8::new(1)))).expect("mkfs");
    let fs = mount(device);
    fill(&fs);
    fs.sync().expect("sync");
    drop(fs);
    drop(free(&path));
    path
}

/// Opens an image for writing.
pub fn open(path: &Path) -> Filesystem {
    mount(Arc::new(free(path)))
}

fn mount(device: Arc<FileDevice>) -> Filesystem {
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("the volume opens");
    Filesystem::open(volume, OpenOptions::default(), Box::new(Fixed(AtomicU8::new(100)))).expect("it opens")
}

/// The image once nobody holds it: a program that another test has just started shares its lock for a moment.
fn free(path: &Path) -> FileDevice {
    for _ in 0..500 {
        if let Ok(device) = FileDevice::open_read_write(path) {
            return device;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} stays locked", path.display());
}

/// What is made has these rights and owners.
pub fn inode(kind: NewKind<'_>) -> NewInode<'_> {
    let permissions = if kind == NewKind::Directory { 0o750 } else { 0o640 };
    NewInode { kind, permissions, uid: 1000, gid: 100 }
}

/// Makes something.
pub fn create(fs: &Filesystem, dir: InodeId, name: &[u8], kind: NewKind<'_>) -> InodeId {
    fs.create(Place::new(dir, name), &inode(kind)).expect("create")
}

/// Makes a file with this content.
pub fn file(fs: &Filesystem, dir: InodeId, name: &[u8], content: &[u8]) -> InodeId {
    let id = create(fs, dir, name, NewKind::File);
    assert_eq!(fs.write(id, 0, content).expect("write"), content.len());
    id
}

/// `IMAGE:PATH`.
pub fn at(image: &Path, path: &str) -> String {
    format!("{}:{path}", image.display())
}

/// Runs `butterfs`. Where tests are threads of one process, a program that one of them has just started shares
/// the locks of the others for a moment: then it is run again.
pub fn butterfs(arguments: &[&str]) -> Finished {
    let mut attempts = 200;
    loop {
        let finished = run(Command::new(OURS).args(arguments).env("TZ", "UTC0"));
        attempts -= 1;
        if attempts == 0 || !finished.stderr.contains("is in use by another program") {
            return finished;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Panics unless our own checker finds nothing.
#[track_caller]
pub fn assert_clean(image: &Path) {
    butterfs(&["check", "--check-data-csum", &image.display().to_string()]).ok();
}
