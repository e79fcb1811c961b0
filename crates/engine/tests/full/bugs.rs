//! Named cases of space that ran out where nobody could be told any more, and of memory that had no bound.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_testkit::filter::{Filter, Filtered};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

const LEN: u64 = 112 << 20;
const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };

fn made(nodesize: u32) -> Arc<MemDevice> {
    let device = Arc::new(MemDevice::new(LEN));
    mkfs::make(device.clone(), &MakeOptions { nodesize, ..MakeOptions::new(LEN, &SystemEnvironment) }).unwrap();
    device
}

fn open(device: Arc<dyn BlockDevice>, options: OpenOptions) -> Filesystem {
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

fn judge(device: &Arc<MemDevice>) {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options { data_csums: true, devices: vec![device.clone()], ..Default::default() };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.worst().is_none(), "{report}");
}

fn create(fs: &Filesystem, name: &str) -> Result<InodeId, Error> {
    fs.create(Place::new(fs.root(), name.as_bytes()), &FILE)
}

/// One file takes all data space, so that no chunk can be made any more.
fn fill_data(fs: &Filesystem) -> InodeId {
    let id = create(fs, "data").unwrap();
    let _full = (0..).try_for_each(|part| fs.write(id, part << 16, &vec![3; 1 << 16]).map(|_| ()));
    fs.sync().unwrap();
    id
}

/// Attributes until there is no room for one more; the files that have them.
fn fill_metadata(fs: &Filesystem) -> usize {
    for number in 0.. {
        let Ok(id) = create(fs, &format!("filler{number}")) else { return number };
        let new = Xattr { name: b"user.filler", value: &[7; 3000] };
        if fs.set_xattr(id, new, XattrMode::Any).is_err() {
            return number;
        }
    }
    unreachable!("it is full before")
}

/// Small files take metadata, of which more must be promised than for data of their size.
#[test]
fn inline_files_are_promised_the_metadata_they_take() {
    for nodesize in [4096, 16384] {
        let device = made(nodesize);
        let fs = open(device.clone(), OpenOptions { dirty_limit: 1 << 30, ..OpenOptions::default() });
        let data = fill_data(&fs);
        let files: Vec<InodeId> = (0..6000).map(|number| create(&fs, &format!("f{number}")).unwrap()).collect();
        let fillers = fill_metadata(&fs);
        // Room for a part of them.
        for number in 0..fillers / 4 {
            fs.unlink(Place::new(fs.root(), format!("filler{number}").as_bytes())).unwrap();
        }
        fs.set_size(data, 0).unwrap();
        fs.sync().unwrap();
        let written: Vec<_> = files.iter().filter(|id| fs.write(**id, 0, &[1; 2000]).is_ok()).collect();
        assert!(written.len() > 100, "{} files were written", written.len());
        fs.sync().unwrap();
        for id in &written {
            let mut found = [0; 2000];
            fs.read(**id, 0, &mut found).unwrap();
            assert_eq!(found, [1; 2000]);
        }
        drop(fs);
        judge(&device);
    }
}

/// Where free space is in single sectors, each sector of a large write becomes an extent.
#[test]
fn a_run_that_is_split_has_the_metadata_for_it() {
    let device = made(4096);
    let fs = open(device.clone(), OpenOptions { max_inline: 0, dirty_limit: 1 << 30, ..OpenOptions::default() });
    let mut names = Vec::new();
    // Two files that grow in turns leave every second sector to one of them.
    let (kept, dropped) = (create(&fs, "kept").unwrap(), create(&fs, "dropped").unwrap());
    for sector in 0..4000_u64 {
        let (first, second) = (fs.write(kept, sector * 8192, &[1; 4096]), fs.write(dropped, sector * 8192, &[2; 4096]));
        if first.and(second).is_err() || fs.fsync(kept).and(fs.fsync(dropped)).is_err() {
            break;
        }
    }
    for number in 0.. {
        let name = format!("rest{number}");
        let Ok(id) = create(&fs, &name) else { break };
        let done = (0..64_u64).take_while(|part| fs.write(id, part << 18, &vec![3; 1 << 18]).is_ok()).count();
        names.push(name);
        if done < 64 {
            break;
        }
    }
    fill_metadata(&fs);
    fs.unlink(Place::new(fs.root(), b"dropped")).unwrap();
    fs.sync().unwrap();
    // One run over all the holes, in a file that is there already.
    let mut at = 1 << 40;
    while fs.write(kept, at, &[4; 4096]).is_ok() {
        at += 4096;
    }
    fs.sync().unwrap();
    assert!(at > 1 << 40, "nothing could be written");
    let mut found = vec![0; (at - (1 << 40)) as usize];
    fs.read(kept, 1 << 40, &mut found).unwrap();
    assert!(found.iter().all(|byte| *byte == 4));
    drop(fs);
    judge(&device);
}

/// A large write over very many small extents drops them in steps that a commit can bear.
#[test]
fn overwriting_many_extents_on_a_full_filesystem() {
    let device = made(4096);
    let fs = open(device.clone(), OpenOptions { dirty_limit: 1 << 30, ..OpenOptions::default() });
    let id = create(&fs, "many").unwrap();
    for sector in 0..6000_u64 {
        fs.write(id, sector * 8192, &[1; 4096]).unwrap();
    }
    fs.sync().unwrap();
    fill_metadata(&fs);
    let mut at = 0;
    while at < 6000 * 8192 && fs.write(id, at, &vec![5; 1 << 16]).is_ok() {
        at += 1 << 16;
    }
    fs.sync().unwrap();
    assert!(at > 1 << 20, "only {at} bytes could be written over");
    fs.unlink(Place::new(fs.root(), b"many")).unwrap();
    fs.sync().unwrap();
    drop(fs);
    judge(&device);
}

/// Many files, each smaller than the budget: who writes the next one has older ones written back.
#[test]
fn a_writer_of_small_files_stays_within_the_budget() {
    let device = made(16384);
    let fs = open(device.clone(), OpenOptions { dirty_limit: 1 << 20, ..OpenOptions::default() });
    for number in 0..200 {
        let id = create(&fs, &format!("f{number}")).unwrap();
        fs.write(id, 0, &vec![1; 100_000]).unwrap();
        assert!(fs.dirty_bytes() <= 1 << 20, "{} bytes are dirty after {number} files", fs.dirty_bytes());
    }
    fs.sync().unwrap();
    assert_eq!(fs.dirty_bytes(), 0);
    drop(fs);
    judge(&device);
}

/// Changed tree blocks are memory too.
#[test]
fn a_writer_of_metadata_commits_before_memory_is_full() {
    let device = Arc::new(MemDevice::new(1 << 30));
    mkfs::make(device.clone(), &MakeOptions::new(1 << 30, &SystemEnvironment)).unwrap();
    let fs = open(device.clone(), OpenOptions { cache_bytes: 1 << 20, ..OpenOptions::default() });
    let generation = || fs.shared().gate.volume().superblock().generation.get();
    let before = generation();
    // More than 32 MiB of blocks change between two commits that somebody asks for.
    let ids: Vec<InodeId> = (0..10_000).map(|number| create(&fs, &format!("f{number}")).unwrap()).collect();
    for id in &ids {
        let new = Xattr { name: b"user.large", value: &[1; 4000] };
        fs.set_xattr(*id, new, XattrMode::Any).unwrap();
    }
    assert!(generation() > before, "nothing was committed");
    drop(fs);
}

/// Holds reads of file data back while it is closed.
struct Valve {
    closed: AtomicBool,
    waiting: Mutex<bool>,
    changed: Condvar,
}

impl Filter for Valve {
    fn read_at(&self, inner: &dyn BlockDevice, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        if buf.len() > 65536 {
            *self.waiting.lock().unwrap() = true;
            self.changed.notify_all();
            while self.closed.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        inner.read_at(offset, buf)
    }
}

/// Who reads a file while it is deleted gets its bytes: they are not given to others before he is done.
#[test]
fn a_reader_keeps_what_he_reads() {
    let inner = made(16384);
    let (closed, waiting, changed) = (AtomicBool::new(false), Mutex::new(false), Condvar::new());
    let valve = Arc::new(Filtered::over(inner.clone(), Valve { closed, waiting, changed }));
    let fs = open(valve.clone(), OpenOptions::default());
    let id = create(&fs, "a").unwrap();
    fs.write(id, 0, &vec![1; 1 << 20]).unwrap();
    fs.sync().unwrap();
    valve.closed.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut found = vec![0; 1 << 20];
            fs.read(id, 0, &mut found).map(|_| found)
        });
        let mut waiting = valve.waiting.lock().unwrap();
        while !*waiting {
            waiting = valve.changed.wait(waiting).unwrap();
        }
        let remover = scope.spawn(|| fs.unlink(Place::new(fs.root(), b"a")));
        std::thread::sleep(Duration::from_millis(50));
        // Whatever is free now is used by others.
        for number in 0..90 {
            fs.sync().unwrap();
            let Ok(other) = create(&fs, &format!("other{number}")) else { break };
            if fs.write(other, 0, &vec![2; 1 << 20]).is_err() {
                break;
            }
        }
        fs.sync().unwrap();
        valve.closed.store(false, Ordering::SeqCst);
        assert_eq!(reader.join().unwrap().unwrap(), vec![1; 1 << 20]);
        remover.join().unwrap().unwrap();
    });
    assert!(matches!(fs.read(id, 0, &mut [0; 10]), Err(Error::NotFound)));
    fs.sync().unwrap();
    drop(fs);
    judge(&inner);
}
