//! The library without a mount, beside the kernel's btrfs on a mount doing the same.

use std::path::Path;
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, Flow, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_volume::{BlockDevice, FileDevice, OpenMode, Volume};

use super::{Bench, Row, Scenario, data, files};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "library", options: "", run }];

const PIECE: usize = 1 << 20;

static CREATE: Row = Row { name: "library: create files of 4 KiB and commit", unit: "files", goal: 400 };
static WALK: Row = Row { name: "library: walk and stat, cold", unit: "files", goal: 400 };
static READ: Row = Row { name: "library: read 1 MiB at a time, cold", unit: "MiB", goal: 120 };

fn open(image: &Path) -> Filesystem {
    let device: Arc<dyn BlockDevice> = Arc::new(FileDevice::open_read_write(image).expect("the image opens"));
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("the volume opens");
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).expect("the filesystem opens")
}

/// Makes so many empty files on an image.
pub(super) fn fill(image: &Path, count: usize) {
    create_all(&open(image), count, &[]);
}

fn create_all(fs: &Filesystem, count: usize, content: &[u8]) {
    let make = |dir: InodeId, name: &str, kind| {
        let new = NewInode { kind, permissions: 0o755, uid: 0, gid: 0 };
        fs.create(Place::new(dir, name.as_bytes()), &new).expect("an inode can be made")
    };
    let dirs: Vec<_> = (0..files::DIRECTORIES).map(|n| make(fs.root(), &format!("d{n}"), NewKind::Directory)).collect();
    for number in 0..count {
        let id = make(dirs[number % dirs.len()], &format!("file-{number:06}"), NewKind::File);
        fs.write(id, 0, content).expect("a write succeeds");
    }
    fs.sync().expect("the commit succeeds");
}

fn walk(fs: &Filesystem, dir: InodeId) -> usize {
    let mut found = Vec::new();
    let listed = fs.read_dir(dir, 2, |entry| {
        found.push(entry.id);
        Ok(Flow::More)
    });
    listed.expect("the directory can be read");
    let below = |id: InodeId| match fs.attributes(id).expect("the inode can be read").item.is_dir() {
        true => walk(fs, id),
        false => 1,
    };
    found.into_iter().map(below).sum()
}

fn read_all(fs: &Filesystem) {
    let id = fs.lookup(Place::new(fs.root(), b"large")).expect("the file is there");
    let (mut buffer, mut offset) = (vec![0; PIECE], 0);
    loop {
        match fs.read(id, offset, &mut buffer).expect("a read succeeds") {
            0 => return,
            count => offset += count as u64,
        }
    }
}

fn run(bench: &mut Bench<'_>) {
    let (count, large) = (bench.scale.files, bench.scale.large / 2);
    data::write_file(&bench.path("large"), large);
    let mib = (large >> 20) as f64;
    if !bench.is_butterfs() {
        bench.cold();
        bench.measure(&READ, mib, |dir| data::read_all(&dir.join("large")));
        bench.measure(&CREATE, count as f64, |dir| files::create(dir, count, 4096));
        bench.cold();
        bench.measure(&WALK, count as f64, |dir| assert_eq!(files::walk(dir), count + 1));
        return;
    }
    bench.unmount();
    let fs = open(bench.image());
    bench.measure(&READ, mib, |_| read_all(&fs));
    bench.measure(&CREATE, count as f64, |_| create_all(&fs, count, &[7; 4096]));
    drop(fs);
    let fs = open(bench.image());
    bench.measure(&WALK, count as f64, |_| assert_eq!(walk(&fs, fs.root()), count + 1));
    fs.sync().expect("the commit succeeds");
}
