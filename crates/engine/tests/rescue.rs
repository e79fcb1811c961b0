//! Older commits, and what is remembered of devices.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions, Rescue};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::superblock::SUPERBLOCK_OFFSETS;
use butterfs_format::{DevId, Generation, Logical, TreeId};
use butterfs_volume::{BlockDevice, DeviceStats, MemDevice, OpenMode, Volume};

const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };

fn place(name: &str) -> Place<'_> {
    Place::new(InodeId::top_of(TreeId::FS), name.as_bytes())
}

fn open(device: &Arc<MemDevice>, options: OpenOptions) -> Result<Filesystem, butterfs_engine::Error> {
    let mode = if options.access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
    let volume = Volume::open(vec![device.clone()], mode).unwrap();
    Filesystem::open(volume, options, Box::new(SystemEnvironment))
}

fn read_only() -> OpenOptions {
    OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() }
}

fn generation(device: &Arc<MemDevice>) -> Generation {
    Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap().superblock().generation()
}

/// A filesystem whose commits each add a file: `f0`, `f1`...; and the generation of each.
fn with_commits(count: usize) -> (Arc<MemDevice>, Vec<Generation>) {
    let device = Arc::new(MemDevice::new(1 << 30));
    mkfs::make(device.clone(), &MakeOptions::new(1 << 30, &SystemEnvironment)).unwrap();
    let fs = open(&device, OpenOptions::default()).unwrap();
    let generations = (0..count).map(|number| {
        let id = fs.create(place(&format!("f{number}")), &FILE).unwrap();
        fs.write(id, 0, &vec![number as u8; 10_000]).unwrap();
        fs.sync().unwrap();
        generation(&device)
    });
    let generations = generations.collect();
    (device, generations)
}

/// Commits that the superblock keeps no backup of are found by a search.
#[test]
fn any_commit_that_is_still_there_can_be_read() {
    let (device, generations) = with_commits(10);
    for (number, generation) in generations.iter().enumerate() {
        let options = OpenOptions { generation: Some(*generation), ..read_only() };
        let fs = open(&device, options.clone()).unwrap();
        for other in 0..10 {
            let found = fs.lookup(place(&format!("f{other}")));
            assert_eq!(found.is_ok(), other <= number, "f{other} at {generation}");
            if let Ok(id) = found {
                let mut bytes = vec![0; 10_000];
                assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), 10_000);
                assert_eq!(bytes, vec![other as u8; 10_000]);
            }
        }
        assert!(open(&device, OpenOptions { access: Access::ReadWrite, ..options }).is_err());
    }
}

/// Both copies of a tree block that is at this address.
fn wipe(device: &MemDevice, volume: &Volume, at: Logical) {
    let (start, chunk) = volume.chunk_containing(at).unwrap();
    for stripe in &chunk.stripes {
        device.write_at(stripe.offset.get() + at.0 - start.0, &[0; 16384]).unwrap();
    }
}

#[test]
fn a_backup_root_stands_in_for_a_lost_one() {
    let (device, _) = with_commits(3);
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    wipe(&device, &volume, volume.superblock().root());
    assert!(open(&device, read_only()).is_err());
    let fs = open(&device, OpenOptions { rescue: Rescue::USE_BACKUP_ROOT, ..read_only() }).unwrap();
    assert!(fs.lookup(place("f1")).is_ok() && fs.lookup(place("f2")).is_err());
    let Err(error) = open(&device, OpenOptions { rescue: Rescue::USE_BACKUP_ROOT, ..OpenOptions::default() }) else {
        panic!("opened for writing")
    };
    assert!(error.to_string().contains("reading only"), "{error}");
}

/// A bad copy is met, repaired and counted; the count is there at the next mount, and grows.
#[test]
fn what_devices_do_wrong_is_remembered() {
    let (device, _) = with_commits(1);
    let stats = |fs: &Filesystem| fs.shared().gate.volume().device_stats();
    for round in 1..3 {
        let fs = open(&device, OpenOptions::default()).unwrap();
        let volume = fs.shared().gate.volume();
        let before = stats(&fs);
        let root = fs.shared().gate.view(|tx| Ok(tx.root_item(TreeId::UUID)?.bytenr())).unwrap();
        let (start, chunk) = volume.chunk_containing(root).unwrap();
        assert!(chunk.stripes.len() == 2, "metadata is DUP");
        let physical = chunk.stripes[0].offset.get() + root.0 - start.0;
        device.write_at(physical + 200, &[0xee; 8]).unwrap();
        volume.read_block(&butterfs_format::validate::Expected::at(root)).unwrap();
        fs.sync().unwrap();
        let want = DeviceStats { corruption_errors: round, ..DeviceStats::default() };
        assert_eq!((before[0].1.corruption_errors, stats(&fs)), (round - 1, vec![(DevId(1), want)]));
        let clean = generation(&device);
        fs.sync().unwrap();
        assert_eq!(generation(&device), clean, "nothing is left to commit");
    }
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let report = butterfs_check::check(&volume, &butterfs_check::Options::default());
    assert!(report.worst() <= Some(butterfs_check::Severity::Note), "{report}");
    assert!(report.to_string().contains("2 corrupted blocks"), "{report}");
    assert!(Superblocks::of(&device).all_alike());
}

/// The generations of the superblock copies of a device.
struct Superblocks(Vec<u64>);

impl Superblocks {
    fn of(device: &MemDevice) -> Self {
        let read = |offset: &u64| {
            let mut bytes = vec![0; 4096];
            device.read_at(*offset, &mut bytes).unwrap();
            butterfs_format::Superblock::parse(&bytes, *offset).unwrap().generation.get()
        };
        Self(SUPERBLOCK_OFFSETS[..2].iter().map(read).collect())
    }

    fn all_alike(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0] == pair[1])
    }
}
