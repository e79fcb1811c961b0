//! Opening: what can be chosen, and what is checked before anything is changed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};

use butterfs_format::items::FileType;
use butterfs_format::superblock::CompatRo;
use butterfs_format::{Corruption, DevId, Generation, ItemType, Key, TreeId};
use butterfs_volume::Volume;

use super::balance::Balancing;
use super::exclusive::ExclusiveState;
use super::replace::{self, Replacing};
use super::resyncs::Resyncs;
use super::scrubs::Scrubs;
use super::settings::{Reading, Rules};
use super::{AccessTimeRule, AccessTimes, Autodefrag, Filesystem, Rescue, features, old_root};
use crate::dir::{Place, link};
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::file::{CompressRule, Compressors, DataRule, DirtyBudget, FileData, WriteErrors};
use crate::inode::cache::InodeCache;
use crate::inode::{BadData, InodeId, LiveOptions, Options, Shared};
use crate::scrub::history;
pub use crate::subvolume::root::Access;
use crate::subvolume::{Subvolumes, root};
use crate::tx::{Gate, GateSettings, Need, SpaceRules, Transaction};

/// What to do about a log tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTree {
    /// Replay it; where nothing may be written, in memory.
    Replay,
    /// Read what the last full commit has; never for writing.
    Ignore,
}

/// How fsync makes an inode durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// By a log tree where that can be done, else by a commit.
    Log,
    /// By a commit (`notreelog`).
    Commit,
}

/// What to do with devices that missed commits, when something is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Returning {
    /// The filesystem does not open for writing.
    #[default]
    Refuse,
    /// They are written and not read, until [`Filesystem::resync`] has brought them up to date.
    CatchUp,
}

/// Which subvolume is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubvolumeChoice {
    /// The one that the filesystem names.
    Default,
    /// By number.
    Id(TreeId),
    /// By path from the top level.
    Path(Vec<u8>),
}

/// What the user chose.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// What may be done.
    pub access: Access,
    /// Which subvolume is shown.
    pub subvolume: SubvolumeChoice,
    /// What to do about a log tree.
    pub log_tree: LogTree,
    /// What may be left aside to read a damaged filesystem.
    pub rescue: Rescue,
    /// Which commit is shown, in place of the last one; for reading only.
    pub generation: Option<Generation>,
    /// How fsync makes an inode durable.
    pub fsync: Fsync,
    /// When reading changes access times.
    pub access_times: AccessTimes,
    /// Inline extents up to this many bytes.
    pub max_inline: u64,
    /// What is compressed.
    pub compress: CompressRule,
    /// How the data of new files is kept.
    pub new_data: DataRule,
    /// Bytes of tree blocks in memory.
    pub cache_bytes: usize,
    /// Inodes in memory, besides those that are dirty or that somebody works on.
    pub cached_inodes: usize,
    /// Dirty bytes before writers have to write back.
    pub dirty_limit: u64,
    /// How space is managed.
    pub space: SpaceRules,
    /// Whether files that small writes scatter are defragmented (`autodefrag`).
    pub autodefrag: Autodefrag,
    /// What to do with devices that missed commits, when something is to be written.
    pub returning: Returning,
}

/// Of so many parts of the memory for caches one is for inodes, the others for tree blocks.
const CACHE_PARTS: usize = 5;
/// What an inode in memory takes, about.
const INODE_BYTES: usize = 512;

impl OpenOptions {
    /// Shares so many bytes out to the caches.
    pub fn set_cache_size(&mut self, bytes: usize) {
        let inodes = bytes / CACHE_PARTS;
        self.cache_bytes = bytes - inodes;
        self.cached_inodes = inodes / INODE_BYTES;
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            access: Access::ReadWrite,
            subvolume: SubvolumeChoice::Default,
            log_tree: LogTree::Replay,
            rescue: Rescue::empty(),
            generation: None,
            fsync: Fsync::Log,
            access_times: AccessTimes::all(AccessTimeRule::Relative),
            max_inline: 2048,
            compress: CompressRule::Asked,
            new_data: DataRule::Usual,
            cache_bytes: 128 << 20,
            cached_inodes: 1 << 16,
            dirty_limit: 128 << 20,
            space: SpaceRules::default(),
            autodefrag: Autodefrag::Never,
            returning: Returning::default(),
        }
    }
}

impl Filesystem {
    /// Opens the filesystem of a volume.
    pub fn open(volume: Volume, options: OpenOptions, environment: Box<dyn Environment>) -> Result<Self> {
        features::check(&volume.superblock(), &options)?;
        if options.access == Access::ReadWrite {
            settle_old_devices(&volume, options.returning)?;
        }
        let settings = GateSettings {
            read_only: options.access == Access::ReadOnly,
            cache_bytes: options.cache_bytes,
            space: options.space,
        };
        let environment: Arc<dyn Environment> = environment.into();
        let (gate, sb) = old_root::open(&Arc::new(volume), &options, settings)?;
        let gate = gate.with_clock(Arc::clone(&environment));
        history::examine(&gate)?;
        if options.access == Access::ReadWrite {
            gate.volume().mark_catching_up()?;
        }
        if sb.log_root.get() != 0 {
            replay(&gate, &options)?;
        }
        if options.access == Access::ReadWrite {
            gate.view(|tx| check_trees(tx, gate.volume()))?;
            replace::settle(&gate)?;
            drop_space_cache(&gate, sb.compat_ro())?;
        }
        match gate.view(Transaction::load_device_stats) {
            Err(error) if options.access == Access::ReadOnly => tracing::warn!(%error, "device statistics are lost"),
            result => result?,
        }
        let root = InodeId::top_of(gate.view(|tx| choose(tx, &options.subvolume))?);
        let budget = Arc::new(DirtyBudget::default());
        let counted = Arc::clone(&budget);
        let new_data = Box::new(move || FileData::new(Arc::clone(&counted)));
        let chosen = Options {
            dirty_limit: options.dirty_limit,
            bad_data: if options.rescue.contains(Rescue::IGNORE_DATA_CSUMS) { BadData::Give } else { BadData::Refuse },
        };
        let filesystem = Self {
            shared: Shared {
                gate,
                environment,
                options: chosen,
                live: RwLock::new(LiveOptions {
                    max_inline: options.max_inline,
                    compress: options.compress,
                    new_data: options.new_data,
                }),
                features: sb.incompat(),
                errors: WriteErrors::default(),
                compressors: Compressors::default(),
                in_place: RwLock::default(),
            },
            inodes: InodeCache::new(options.cached_inodes, new_data),
            subvolumes: Subvolumes::default(),
            dirty: Mutex::new(BTreeMap::new()),
            budget,
            throttled: Mutex::new(()),
            reclaiming: Mutex::new(()),
            exclusive: ExclusiveState::default(),
            balancing: Balancing::default(),
            scattered: Mutex::default(),
            root,
            reading: Mutex::new(Reading::of(&options)),
            rules: RwLock::new(Rules {
                fsync: options.fsync,
                access_times: options.access_times,
                autodefrag: options.autodefrag,
            }),
            fsyncs: Mutex::default(),
            synced: Mutex::default(),
            scrubs: Scrubs::default(),
            resyncs: Resyncs::default(),
            replacing: Replacing::default(),
        };
        if options.access == Access::ReadWrite {
            filesystem.find_balance()?;
        }
        filesystem.find_replacement()?;
        match filesystem.inode(root) {
            Ok(_) => Ok(filesystem),
            Err(Error::NotFound) => {
                Err(Corruption::new(format!("subvolume {}", root.tree), "it has no top directory").into())
            }
            Err(error) => Err(error),
        }
    }
}

/// A device that missed a commit holds old bytes that nothing tells from new ones where data has no checksums.
fn settle_old_devices(volume: &Volume, returning: Returning) -> Result<()> {
    let behind: Vec<DevId> = volume.devices_behind().into_iter().map(|(id, _)| id.devid).collect();
    if behind.is_empty() || returning == Returning::Refuse {
        return refuse_old_devices(volume);
    }
    for devid in &behind {
        let name = volume.device_name(*devid).unwrap_or_default();
        tracing::warn!("{name} (device {devid}) missed commits; it is not read until it is brought up to date");
    }
    Ok(volume.begin_catching_up(&behind)?)
}

pub(super) fn refuse_old_devices(volume: &Volume) -> Result<()> {
    let newest = volume.superblock().generation();
    let Some((id, generation)) = volume.devices_behind().into_iter().next() else { return Ok(()) };
    let name = volume.device_name(id.devid).unwrap_or_default();
    Err(Error::Unsupported(format!(
        "writing with {name} (device {}) that missed commits: it is of generation {generation}, the others are of \
         {newest}; mount it with Butterfs or use `butterfs device resync` to bring it up to date, or mount \
         without it (degraded), or read-only",
        id.devid
    )))
}

/// The disk lies, and it is the log that does. (A device that fails does not lie.)
pub(super) fn in_log(error: Error) -> Error {
    match error {
        Error::Corruption(Corruption { place, problem }) => {
            Corruption::new(format!("log tree, {place}"), problem).into()
        }
        Error::Volume(error @ butterfs_volume::Error::NoCopy { .. }) => {
            Corruption::new("log tree", error.to_string()).into()
        }
        other => other,
    }
}

fn replay(gate: &Gate, options: &OpenOptions) -> Result<()> {
    let log_tree = if options.rescue.contains(Rescue::NO_LOG_REPLAY) { LogTree::Ignore } else { options.log_tree };
    match (log_tree, options.access) {
        (LogTree::Ignore, Access::ReadOnly) => return Ok(()),
        (LogTree::Ignore, Access::ReadWrite) => {
            return Err(Error::Invalid("a log tree can be ignored only where nothing is written"));
        }
        (LogTree::Replay, _) => {}
    }
    if options.access == Access::ReadWrite {
        // What must not be written must not be replayed either.
        gate.view(|tx| check_trees(tx, gate.volume()))?;
    }
    let replayed = gate.replay(|tx| replace::replay_log(tx, gate.volume())).map_err(in_log)?;
    let (items, subvolumes) = (replayed.items, replayed.subvolumes);
    let place = if options.access == Access::ReadOnly { " in memory" } else { "" };
    tracing::info!("replayed the log{place}: {items} items in {subvolumes} subvolumes");
    Ok(())
}

/// What only the trees say of whether the filesystem can be written.
pub(super) fn check_trees(tx: &Transaction, volume: &Volume) -> Result<()> {
    if quotas_are_on(tx)? {
        return Err(Error::Unsupported("writing with quotas enabled (disable them first)".into()));
    }
    replace::require_target(tx, volume)
}

/// What a v1 space cache says will not be true any more. It goes in steps, each of which may be the last that becomes
/// durable.
pub(super) fn drop_space_cache(gate: &Gate, compat_ro: CompatRo) -> Result<()> {
    if compat_ro.contains(CompatRo::FREE_SPACE_TREE) || !gate.view(Transaction::has_space_cache)? {
        return Ok(());
    }
    while gate.change(Need::Deletion, Transaction::drop_space_cache)? {}
    tracing::info!("the v1 space cache is dropped: it is not written; the kernel makes it anew");
    Ok(())
}

fn quotas_are_on(tx: &Transaction) -> Result<bool> {
    const ON: u8 = 1;
    if tx.get(TreeId::ROOT, &Key::new(TreeId::QUOTA.0, ItemType::ROOT_ITEM, 0))?.is_none() {
        return Ok(false);
    }
    let status = tx.get(TreeId::QUOTA, &Key::new(0, ItemType::QGROUP_STATUS, 0))?;
    // Version, generation, flags: the flags' lowest byte is the 17th.
    Ok(status.is_some_and(|data| data.get(16).is_some_and(|flags| flags & ON != 0)))
}

fn choose(tx: &Transaction, choice: &SubvolumeChoice) -> Result<TreeId> {
    let tree = match choice {
        SubvolumeChoice::Default => root::default_subvolume(tx)?,
        SubvolumeChoice::Id(tree) => *tree,
        SubvolumeChoice::Path(path) => return by_path(tx, path),
    };
    super::require_subvolume(tree)?;
    if tx.root_item(tree)?.refs.get() == 0 { Err(Error::NotFound) } else { Ok(tree) }
}

fn by_path(tx: &Transaction, path: &[u8]) -> Result<TreeId> {
    let mut at = InodeId::top_of(TreeId::FS);
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let place = Place::new(at, name);
        place.check()?;
        let found = crate::dir::entry::find(tx, &place)?.ok_or(Error::NotFound)?;
        if found.file_type != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        at = link::enter(tx, &place, found.target)?;
        if at.is_placeholder() {
            return Err(Error::NotFound);
        }
    }
    if at.ino != butterfs_format::Ino::ROOT_DIR {
        return Err(Error::Invalid("the path is not that of a subvolume"));
    }
    Ok(at.tree)
}
