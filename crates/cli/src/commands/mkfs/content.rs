//! `mkfs --rootdir`: a new filesystem begins with what is in a directory of the host.
//!
//! # Invariants
//! * If anything could not be copied, or the program is killed before the end, there is no filesystem: superblocks are
//!   written last, when all is durable on all devices.
//! * Directories that are to be subvolumes are made before anything is copied, so that the copy finds them.

mod estimate;
mod subvolume;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use butterfs_engine::dir::Place;
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::file::CompressRule;
use butterfs_engine::filesystem::{Access, Filesystem, NewInode, NewKind, NewSubvolume, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_engine::mkfs::MakeOptions;
use butterfs_format::TreeId;
use butterfs_format::compression::Choice;
use butterfs_volume::{BlockDevice, HeldBack, OpenMode, Volume};

use self::subvolume::NamedSubvolume;
use super::exit;
use crate::failure::{self, Failure, Result};
use crate::host::{Existing, Policy, Preserve};
use crate::image::path::components;
use crate::size;
use crate::transfer::interrupt::Interrupt;
use crate::transfer::report::{Report, Verbosity};
use crate::transfer::{Borders, Links, Recursion, Settings, into};

/// What a new filesystem begins with.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Content {
    /// A directory; what is in it, and its own attributes, go into the new filesystem. Without --size a file that is
    /// too small is extended, or created.
    #[arg(short = 'r', long, value_name = "DIR")]
    rootdir: Option<PathBuf>,
    /// With --rootdir: a directory in it becomes a subvolume; TYPE is rw, ro, default or default-ro, rw unless named.
    /// May be given more than once.
    #[arg(short = 'u', long = "subvol", value_name = "TYPE:SUBDIR", requires = "rootdir")]
    subvolumes: Vec<NamedSubvolume>,
    /// With --rootdir: compress files: no, zlib[:1-9], lzo, zstd[:-15-15].
    #[arg(long, value_name = "ALGO[:LEVEL]", requires = "rootdir")]
    compress: Option<Choice>,
    /// With --rootdir: end the filesystem, and the image file, behind what is allocated.
    #[arg(long, requires = "rootdir")]
    shrink: bool,
}

impl Content {
    /// Looks at what does not depend on the device; nothing was changed so far.
    pub(super) fn check(&self, devices: usize) -> Result<()> {
        let Some(dir) = &self.rootdir else { return Ok(()) };
        let meta = dir.metadata().map_err(|error| failure::io(exit::USAGE, dir, &error))?;
        if !meta.is_dir() {
            return Err(Failure::at(exit::USAGE, dir, "is no directory; --rootdir wants one"));
        }
        if self.shrink && devices > 1 {
            return Err(Failure::new(exit::USAGE, "--shrink works on one device only"));
        }
        subvolume::check(dir, &self.subvolumes)
    }

    /// Bytes that an image file needs for it; `None` if nothing is to be copied.
    pub(super) fn needs(&self, options: &MakeOptions) -> Option<u64> {
        self.rootdir.as_deref().map(|dir| estimate::image_size(dir, options))
    }

    /// The devices as they are to be written until all is copied.
    pub(super) fn stage(&self, devices: Vec<Arc<dyn BlockDevice>>, image: &Path) -> Result<Stage> {
        if self.rootdir.is_none() {
            return Ok(Stage { devices, held: Vec::new() });
        }
        let held = |device| HeldBack::new(device).map(Arc::new);
        let held = devices.into_iter().map(held).collect::<std::result::Result<Vec<_>, _>>();
        let held = held.map_err(|error| failure::io(exit::USAGE, image, &error))?;
        Ok(Stage { devices: held.iter().map(|device| Arc::clone(device) as Arc<dyn BlockDevice>).collect(), held })
    }

    /// Copies it. Gives the size of the filesystem if that changed.
    pub(super) fn copy(&self, stage: &Stage, images: &[PathBuf]) -> Result<Option<u64>> {
        let Some(dir) = &self.rootdir else { return Ok(None) };
        let size = self.fill(dir, &stage.devices, images)?;
        HeldBack::publish(&stage.held).map_err(|(device, error)| failure::io(exit::USAGE, &images[device], &error))?;
        Ok(size)
    }

    fn fill(&self, dir: &Path, devices: &[Arc<dyn BlockDevice>], images: &[PathBuf]) -> Result<Option<u64>> {
        let image = images.first().map_or(Path::new(""), PathBuf::as_path);
        let interrupt = Interrupt::listen().map_err(|error| failure::io(exit::SYSTEM, image, &error))?;
        let failed = |error: butterfs_engine::Error| failure::engine(exit::USAGE, image, &too_small(error));
        let volume = Volume::open(devices.to_vec(), OpenMode::ReadWrite)
            .map_err(|error| failure::volume(exit::USAGE, image, &error))?;
        let compress = match self.compress {
            Some(Choice::With(method)) => CompressRule::All(method),
            Some(Choice::Never) | None => CompressRule::Asked,
        };
        let options = OpenOptions { compress, ..OpenOptions::default() };
        let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).map_err(failed)?;
        let trees = self.make_subvolumes(&fs).map_err(failed)?;
        let report = Report::new("mkfs", Verbosity::Quiet, interrupt.flag());
        let sources = [(dir.to_path_buf(), into::Destination::Into(fs.root()))];
        into::copy(&fs, images, &sources, &EVERYTHING, &report).map_err(failed)?;
        let complete = report.finish();
        if report.is_stopped() {
            return Err(Failure::at(exit::INTERRUPTED, image, "interrupted; there is no filesystem"));
        }
        if !complete {
            return Err(Failure::at(
                exit::USAGE,
                image,
                "not everything could be copied; there is no filesystem (where there was no space, make it larger, or leave --size out)",
            ));
        }
        self.finish(&fs, &trees).map_err(failed)
    }

    /// Subvolumes, and the directories that lead to them; gives the number of each.
    fn make_subvolumes(&self, fs: &Filesystem) -> butterfs_engine::Result<Vec<(TreeId, &NamedSubvolume)>> {
        let mut made = Vec::new();
        for named in subvolume::outer_first(&self.subvolumes) {
            let names: Vec<&[u8]> = components(named.path.as_os_str().as_bytes()).collect();
            let Some((last, above)) = names.split_last() else { continue };
            let dir = above.iter().try_fold(fs.root(), |dir, name| enter_or_make(fs, Place::new(dir, name)))?;
            let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
            made.push((fs.create_subvolume(Place::new(dir, last), &new)?, named));
        }
        Ok(made)
    }

    fn finish(&self, fs: &Filesystem, trees: &[(TreeId, &NamedSubvolume)]) -> butterfs_engine::Result<Option<u64>> {
        for (tree, named) in trees {
            if named.kind.is_default() {
                fs.set_default_subvolume(*tree)?;
            }
            if named.kind.is_read_only() {
                fs.set_subvolume_access(*tree, Access::ReadOnly)?;
            }
        }
        fs.sync()?;
        if self.shrink { fs.cut_unallocated().map(Some) } else { Ok(None) }
    }

    /// What the summary says of it.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let Some(dir) = &self.rootdir else { return Vec::new() };
        let shown = |path: &OsStr| path.to_string_lossy().into_owned();
        let mut rows = vec![("Rootdir from:", shown(dir.as_os_str()))];
        if let Some(choice) = self.compress {
            rows.push(("Compress:", choice.to_string()));
        }
        rows.extend(self.subvolumes.iter().map(|one| ("Subvolume:", format!("{} {}", one.kind, one.path.display()))));
        rows
    }

    /// What the summary says of the size.
    pub(super) fn size(&self, total: u64) -> String {
        if self.shrink { format!("{} (shrunk)", size::display(total)) } else { size::display(total) }
    }
}

/// Devices that are being filled; until all is copied they have no superblocks.
pub(super) struct Stage {
    /// What is read and written.
    pub(super) devices: Vec<Arc<dyn BlockDevice>>,
    held: Vec<Arc<HeldBack>>,
}

/// As it is, with all attributes.
const EVERYTHING: Settings = Settings {
    recursion: Recursion::Descend,
    policy: Policy { preserve: Preserve::all(), umask: 0 },
    existing: Existing::Replace,
    links: Links::Copy,
    borders: Borders::Cross,
};

fn enter_or_make(fs: &Filesystem, place: Place<'_>) -> butterfs_engine::Result<InodeId> {
    match fs.lookup(place) {
        Err(butterfs_engine::Error::NotFound) => {
            fs.create(place, &NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 0, gid: 0 })
        }
        found => found,
    }
}

fn too_small(error: butterfs_engine::Error) -> butterfs_engine::Error {
    match error {
        butterfs_engine::Error::NoSpace => {
            butterfs_engine::Error::Invalid("too small for what is in --rootdir; make it larger, or leave --size out")
        }
        other => other,
    }
}
