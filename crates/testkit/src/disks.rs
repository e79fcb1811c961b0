//! Filesystems over several devices in memory.

use std::sync::Arc;

use butterfs_check::{Options, Severity};
use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, OpenOptions};
use butterfs_engine::mkfs::{MakeOptions, NewDevice, make_on};
use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, Volume};

use crate::random::Random;

/// What [`write_noise`] makes.
pub const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 0, gid: 0 };

/// Devices in memory, of which some may stay away when they are opened.
pub struct Disks(pub Vec<Arc<MemDevice>>);

impl Disks {
    /// New ones of these sizes.
    pub fn new(sizes: impl Iterator<Item = u64>) -> Self {
        Self(
            sizes.enumerate().map(|(number, size)| Arc::new(MemDevice::named(format!("disk{number}"), size))).collect(),
        )
    }

    /// Opens those that are not missing, to be written.
    ///
    /// # Errors
    /// As a volume and a filesystem do.
    pub fn open(&self, missing: &[usize]) -> Result<Filesystem, Error> {
        self.open_with(missing, OpenOptions::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Disks::open`].
    pub fn open_with(&self, missing: &[usize], options: OpenOptions) -> Result<Filesystem, Error> {
        let mode = if options.access == Access::ReadOnly { OpenMode::ReadOnly } else { OpenMode::ReadWrite };
        let how = butterfs_volume::OpenOptions { missing: Missing::Accept, ..butterfs_volume::OpenOptions::new(mode) };
        let there = as_devices(&self.0).into_iter().enumerate().filter(|(index, _)| !missing.contains(index));
        let volume = Volume::open_with(there.map(|(_, device)| device).collect(), &how)?;
        Filesystem::open(volume, options, Box::new(SystemEnvironment))
    }

    /// Copies of all, as they are at this one moment.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self(MemDevice::snapshots(&self.0).into_iter().map(Arc::new).collect())
    }

    /// [`judge`], of all.
    #[track_caller]
    pub fn judge(&self) {
        judge(&as_devices(&self.0));
    }
}

/// The devices as a volume takes them.
pub fn as_devices(disks: &[Arc<MemDevice>]) -> Vec<Arc<dyn BlockDevice>> {
    disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn BlockDevice>).collect()
}

/// Makes a filesystem on all of them, with these profiles.
pub fn make(disks: &[Arc<MemDevice>], data: BlockGroupFlags, metadata: BlockGroupFlags) {
    let mut options = MakeOptions::new(0, &SystemEnvironment);
    options.devices = disks.iter().map(|disk| NewDevice::new(disk.len(), &SystemEnvironment)).collect();
    (options.data_profile, options.metadata_profile) = (data, metadata);
    make_on(&as_devices(disks), &options).expect("a filesystem is made");
}

/// Our check finds nothing wrong with the filesystem on these devices, its data included.
#[track_caller]
pub fn judge(devices: &[Arc<dyn BlockDevice>]) {
    let volume = Volume::open(devices.to_vec(), OpenMode::ReadOnly).expect("the volume opens");
    let options = Options { data_csums: true, devices: devices.to_vec(), ..Options::default() };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.findings.iter().all(|finding| finding.severity == Severity::Note), "{report}");
}

/// Bytes that [`write_noise`] writes at once.
const NOISE: usize = 1 << 20;

/// Writes a MiB that belongs to a seed into a file of the top directory, which is made if it is not there.
#[track_caller]
pub fn write_noise(fs: &Filesystem, name: &str, offset: u64, seed: u64) {
    let place = Place::new(fs.root(), name.as_bytes());
    let id = fs.lookup(place).or_else(|_| fs.create(place, &FILE)).expect("the file is there");
    fs.write(id, offset, &Random::new(seed).bytes(NOISE)).expect("a write succeeds");
}

/// What [`write_noise`] wrote is there.
#[track_caller]
pub fn assert_noise(fs: &Filesystem, name: &str, offset: u64, seed: u64) {
    let id = fs.lookup(Place::new(fs.root(), name.as_bytes())).expect("the file is there");
    let mut bytes = vec![0; NOISE];
    let read = fs.read(id, offset, &mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(read == bytes.len() && bytes == Random::new(seed).bytes(NOISE), "{name} differs at {offset}");
}
