//! Serves a [`Filesystem`] through FUSE.
//!
//! * `nodes`: node ids; `attr`: what `stat` shows; `rights`, `acl`, `durable`: what the kernel does not see to.
//! * `names`, `create`, `change`, `data`, `share`, `list`, `xattr`: the operations, by theme.
//! * `ioctl`: ioctls of the mount; [`crate::control`] is their other side.
//! * `background`: the threads that commit and clean up.
//!
//! # Invariants
//! * The kernel's caches are told of what an ioctl changes; what else changes, the kernel asked for.
//! * An operation does not wait for the kernel.

mod acl;
mod attr;
mod background;
mod beginning;
mod change;
mod create;
mod data;
mod durable;
mod handles;
mod ioctl;
mod list;
mod names;
mod nodes;
mod remount;
mod rights;
mod share;
mod volume_work;
mod xattr;

use crate::abi::FopenFlags;
use crate::front_end::{FrontEnd, Result};
use crate::session::PosixAcl;
use crate::types::*;
use crate::{DirSink, Errno, Negotiated, Notifier, PlusSink, ReadSink};
use attr::Numbers;
use background::Background;
use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::file::ErrorCursor;
use butterfs_engine::filesystem::{Access, Attributes, Filesystem, Footprint};
use butterfs_engine::inode::{InodeId, lock};
use handles::Handles;
use nodes::Nodes;
use share::Offers;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use volume_work::{Begun, VolumeWork};

pub use attr::SubvolumeIno;
pub use background::OnError;
pub use handles::OpenFiles;
pub use remount::{Changeable, OnRemount, Remounted};

/// Who may delete subvolumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SubvolumeDeletion {
    /// Root, and who serves the mount.
    #[default]
    Privileged,
    /// The owners too (mount option `user_subvol_rm_allowed`).
    Owners,
}

/// What becomes of a balance that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InterruptedBalance {
    /// It goes on with the mount.
    #[default]
    GoesOn,
    /// It waits for somebody who wants it (mount option `skip_balance`).
    StaysPaused,
}

/// What the user chose.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// How long the kernel may use names and attributes without asking. It is told of all changes.
    pub ttl: Duration,
    /// Which inode number top directories of subvolumes show.
    pub subvolume_ino: SubvolumeIno,
    /// The image or device, for [`crate::control::status()`].
    pub device: String,
    /// The block device that stands for the only device of the beginning, if that is none itself: where commands of Btrfs
    /// look.
    pub block_device: Option<String>,
    /// Device number of the mount, as in `st_dev`: no device of the filesystem may lie there.
    pub device_number: Option<u64>,
    /// What can be chosen anew.
    pub changeable: Changeable,
    /// What reads the options of a remount.
    pub on_remount: OnRemount,
    /// Whether ACLs are in force (mount option `acl`). The session is to be told, too.
    pub acl: PosixAcl,
    /// What makes the kernel's side read-only after an error that ends all writing.
    pub on_error: OnError,
    /// Whether the kernel tells of opened files.
    pub open_files: OpenFiles,
    /// What becomes of a balance that was interrupted.
    pub interrupted_balance: InterruptedBalance,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(3600),
            subvolume_ino: SubvolumeIno::Unique,
            device: String::new(),
            block_device: None,
            device_number: None,
            changeable: Changeable::default(),
            on_remount: OnRemount::default(),
            acl: PosixAcl::Enforced,
            on_error: OnError::default(),
            open_files: OpenFiles::Anonymous,
            interrupted_balance: InterruptedBalance::GoesOn,
        }
    }
}

/// A filesystem behind a mount.
pub struct EngineFrontEnd {
    fs: Arc<Filesystem>,
    nodes: Arc<Nodes>,
    handles: Handles,
    offers: Offers,
    /// What callers of syncfs were told.
    synced: Mutex<ErrorCursor>,
    numbers: Numbers,
    options: AdapterOptions,
    /// The device that was the only one when this began, by the name it has itself and by that of what stands for it.
    stand_in: Option<(String, String)>,
    changeable: Mutex<Changeable>,
    notifier: Mutex<Notifier>,
    background: Background,
    work: VolumeWork,
}

/// Where an operation is, for the log.
#[derive(Clone, Copy)]
struct Site<'a> {
    operation: &'static str,
    id: InodeId,
    name: &'a [u8],
}

impl<'a> Site<'a> {
    fn new(operation: &'static str, id: InodeId) -> Self {
        Self { operation, id, name: b"" }
    }

    fn at(operation: &'static str, place: &Place<'a>) -> Self {
        Self { operation, id: place.dir, name: place.name }
    }

    /// The error as the caller sees it. What is not the caller's doing is logged too.
    fn fail(self, error: &Error) -> Errno {
        if matches!(error, Error::Corruption(_) | Error::Volume(_)) {
            let name = String::from_utf8_lossy(self.name);
            let (tree, ino) = (self.id.tree.0, self.id.ino.0);
            tracing::warn!(operation = self.operation, tree, ino, %name, %error, "operation failed");
        }
        Errno::new(error.errno())
    }
}

impl EngineFrontEnd {
    /// Serves `fs`. Its threads start with the session.
    pub fn new(fs: Arc<Filesystem>, options: AdapterOptions) -> Self {
        let root = fs.root();
        let volume = fs.shared().gate.volume();
        let only = match volume.dev_items().as_slice() {
            [item] => volume.device_name(item.devid.get().into()),
            _ => None,
        };
        Self {
            stand_in: only.zip(options.block_device.clone()),
            nodes: Arc::new(Nodes::new(root)),
            handles: Handles::default(),
            offers: Offers::default(),
            synced: Mutex::default(),
            numbers: Numbers { mounted: root.tree, tops: options.subvolume_ino },
            changeable: Mutex::new(options.changeable.clone()),
            options,
            notifier: Mutex::new(Notifier::disconnected()),
            background: Background::default(),
            work: VolumeWork::default(),
            fs,
        }
    }

    /// The inode of a node, for an operation on it.
    fn id(&self, node: NodeId) -> Result<InodeId> {
        if self.fs.is_shut_down() {
            return Err(Errno::EIO);
        }
        self.nodes.get(node).ok_or(Errno::ESTALE)
    }

    fn place<'a>(&self, parent: NodeId, name: &'a [u8]) -> Result<Place<'a>> {
        Ok(Place::new(self.id(parent)?, name))
    }

    fn attributes(&self, site: Site<'_>) -> Result<Attributes> {
        self.fs.attributes(site.id).map_err(|error| site.fail(&error))
    }

    fn attr(&self, found: &Attributes) -> Attr {
        self.numbers.attr(found, self.fs.shared().gate.volume().geometry().sectorsize)
    }

    /// Writeback may change the space that a file takes, and nobody tells the kernel.
    fn attr_ttl(&self, found: &Attributes) -> Duration {
        match found.footprint {
            Footprint::Known => self.options.ttl,
            Footprint::Estimate => Duration::ZERO,
        }
    }

    fn attr_reply(&self, found: &Attributes) -> AttrReply {
        AttrReply { attr: self.attr(found), ttl: self.attr_ttl(found) }
    }

    /// Holds an inode for the kernel and gives its entry.
    fn entry(&self, site: Site<'_>, id: InodeId) -> Result<Entry> {
        let found = self.fs.hold(id).map_err(|error| site.fail(&error))?;
        Ok(self.held_entry(&found))
    }

    /// The entry of an inode that is held for it.
    fn held_entry(&self, found: &Attributes) -> Entry {
        Entry {
            node: Some(self.nodes.count(found.id)),
            generation: found.item.generation.get(),
            attr: self.attr(found),
            entry_ttl: self.options.ttl,
            attr_ttl: self.attr_ttl(found),
        }
    }

    /// After reading. What cannot be noted is not the reader's business.
    fn note_access(&self, id: InodeId) {
        if let Err(error) = self.fs.note_access(id) {
            Site::new("noting an access", id).fail(&error);
        }
    }

    fn release_holds(&self, id: InodeId, holds: u64) {
        if self.fs.is_shut_down() {
            return;
        }
        if let Err(error) = self.fs.release(id, holds) {
            Site::new("forget", id).fail(&error);
            if !matches!(error, Error::Corruption(_) | Error::Volume(_)) {
                tracing::warn!(tree = id.tree.0, ino = id.ino.0, %error, "removing an unused inode failed");
            }
        }
    }

    /// The open file that a node becomes.
    fn opened(&self, node: Option<NodeId>) -> Result<Opened> {
        let Some(node) = node else { return Ok(Opened::stateless()) };
        let id = self.id(node)?;
        let cursor = self.fs.error_cursor(id).map_err(|error| Site::new("open", id).fail(&error))?;
        Ok(Opened { handle: self.handles.open(id, cursor), ..Opened::stateless() })
    }

    /// Goes on with a balance that was interrupted, unless the user does not want that.
    fn resume_balance(&self) {
        if self.fs.balance_status().is_none() {
            return;
        }
        if self.options.interrupted_balance == InterruptedBalance::StaysPaused {
            tracing::info!("a balance was interrupted; it stays paused (skip_balance)");
            return;
        }
        match self.do_resume_balance() {
            Ok(_) => tracing::info!("going on with a balance that was interrupted"),
            Err(error) => tracing::warn!(%error, "a balance was interrupted, and cannot go on"),
        }
    }

    fn do_resume_balance(&self) -> butterfs_engine::Result<u64> {
        let permit = self.work.permit()?;
        self.work.spawn(&self.fs, self.work.begin_balance(&self.fs, None)?, permit)
    }

    /// Goes on with the replacement of a device that was interrupted, if its target is there.
    fn resume_replacement(&self) {
        match self.do_resume_replacement() {
            Ok(_) => tracing::info!("going on with the replacement of a device that was interrupted"),
            Err(Error::NotRunning) => {}
            Err(error) => tracing::warn!(%error, "the replacement of a device was interrupted, and cannot go on"),
        }
    }

    fn do_resume_replacement(&self) -> butterfs_engine::Result<u64> {
        let permit = self.work.permit()?;
        self.work.spawn(&self.fs, Begun::Replacement(self.fs.begin_resumed_replacement()?), permit)
    }

    /// Starts what goes on by itself where changes are allowed.
    fn begin_work(&self) -> std::io::Result<()> {
        let (nodes, notifier) = (Arc::clone(&self.nodes), self.notifier());
        let forget = Box::new(move |dir: InodeId, name: &[u8]| {
            if let Some(node) = nodes.find(dir) {
                notifier.inval_entry(node, name);
            }
        });
        self.background.start(&self.fs, &self.options.on_error, forget)?;
        self.resume_replacement();
        self.resume_balance();
        Ok(())
    }

    fn notifier(&self) -> Notifier {
        lock(&self.notifier).clone()
    }
}

impl FrontEnd for EngineFrontEnd {
    fn init(&self, _: Negotiated, notifier: Notifier) -> Result<()> {
        *lock(&self.notifier) = notifier;
        if self.fs.access() == Access::ReadWrite {
            self.background.set_commit_interval(lock(&self.changeable).commit_interval);
            self.begin_work()?;
        }
        Ok(())
    }

    fn rest(&self) {
        self.work.rest_for_good(&self.fs);
        self.fs.cancel_scrubs();
    }

    fn destroy(&self) -> std::result::Result<(), String> {
        // Who serves without a connection need not have asked for it before.
        self.rest();
        self.background.stop();
        if self.fs.is_shut_down() {
            self.fs.shared().gate.volume().close();
            return Ok(());
        }
        for (id, holds) in self.nodes.drain() {
            self.release_holds(id, holds);
        }
        let last =
            self.fs.sync_quietly().map_err(|error| format!("the last commit failed, recent changes are lost: {error}"));
        // Who waits for the end of umount(2), as the kernel does for us, may open the devices when it returns.
        self.fs.shared().gate.volume().close();
        match self.background.failure() {
            Some(earlier) => Err(format!("an earlier commit failed, changes are lost: {earlier}")),
            None => last,
        }
    }

    fn lookup(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<Entry> {
        match name {
            // From a file handle: the kernel may have forgotten the node.
            b"." | b".." => self.lookup_dots(self.nodes.recall(parent).ok_or(Errno::ESTALE)?, name),
            _ => self.do_lookup(&self.place(parent, name)?),
        }
    }

    fn forget(&self, node: NodeId, lookups: u64) {
        if let Some((id, holds)) = self.nodes.forget(node, lookups) {
            self.handles.forget(id);
            self.release_holds(id, holds);
            if self.fs.is_deleted(id.tree) {
                self.background.note_left();
            }
        }
    }

    fn getattr(&self, _: &Caller, node: NodeId, _: Option<FileHandle>) -> Result<AttrReply> {
        Ok(self.attr_reply(&self.attributes(Site::new("getattr", self.id(node)?))?))
    }

    fn statx(&self, _: &Caller, node: NodeId, _: Option<FileHandle>) -> Result<Statx> {
        let found = self.attributes(Site::new("statx", self.id(node)?))?;
        Ok(self.numbers.statx(&found, self.attr(&found)))
    }

    fn setattr(&self, _: &Caller, node: NodeId, change: &SetAttr) -> Result<AttrReply> {
        self.do_setattr(node, change)
    }

    fn readlink(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        let id = self.id(node)?;
        let target = self.fs.read_link(id).map_err(|error| Site::new("readlink", id).fail(&error))?;
        self.note_access(id);
        Ok(target)
    }

    fn symlink(&self, caller: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        self.make_symlink(caller, &self.place(parent, name)?, target)
    }

    fn mknod(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        self.make(caller, &self.place(parent, name)?, new)
    }

    fn mkdir(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        self.make(caller, &self.place(parent, name)?, new)
    }

    fn unlink(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.do_unlink(&self.place(parent, name)?)
    }

    fn rmdir(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.do_rmdir(&self.place(parent, name)?)
    }

    fn rename(&self, caller: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), flags: RenameFlags) -> Result<()> {
        self.do_rename(caller, &self.place(from.0, from.1)?, &self.place(to.0, to.1)?, flags)
    }

    fn link(&self, _: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Entry> {
        self.do_link(self.id(node)?, &self.place(parent, name)?)
    }

    fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        new: &NewNode,
        _: OpenMode,
    ) -> Result<(Entry, Opened)> {
        let place = self.place(parent, name)?;
        if place.dir.is_placeholder() {
            // As in the kernel, whose stub knows how to make no file.
            return Err(Errno::EACCES);
        }
        let made = self.make(caller, &place, new)?;
        let opened = self.opened(made.node)?;
        Ok((made, opened))
    }

    fn tmpfile(&self, caller: &Caller, parent: NodeId, new: &NewNode, _: OpenMode) -> Result<(Entry, Opened)> {
        let made = self.make_unnamed(caller, self.id(parent)?, new)?;
        let opened = self.opened(made.node)?;
        Ok((made, opened))
    }

    fn open(&self, _: &Caller, node: NodeId, mode: OpenMode) -> Result<Opened> {
        if self.options.open_files == OpenFiles::Anonymous {
            return Err(Errno::ENOSYS);
        }
        self.require_openable(self.id(node)?, mode)?;
        let mut opened = self.opened(Some(node))?;
        opened.flags.set(FopenFlags::KEEP_CACHE, self.options.open_files == OpenFiles::Named);
        Ok(opened)
    }

    fn release(&self, node: NodeId, handle: FileHandle) -> Result<()> {
        self.handles.close(self.id(node)?, handle);
        Ok(())
    }

    fn read(&self, caller: &Caller, at: FilePos, out: &mut ReadSink<'_>) -> Result<()> {
        self.do_read(caller, self.id(at.node)?, at.offset, out)
    }

    fn write(&self, caller: &Caller, at: FilePos, data: &[u8], mode: WriteMode) -> Result<usize> {
        self.do_write(caller, &at, data, mode)
    }

    fn fsync(&self, caller: &Caller, node: NodeId, handle: FileHandle, _: SyncScope) -> Result<()> {
        self.do_fsync(caller, self.id(node)?, handle)
    }

    fn fsyncdir(&self, caller: &Caller, node: NodeId, handle: FileHandle, _: SyncScope) -> Result<()> {
        self.do_fsync(caller, self.id(node)?, handle)
    }

    fn syncfs(&self, _: &Caller, node: NodeId) -> Result<()> {
        let id = self.id(node)?;
        let mut cursor = *lock(&self.synced);
        let result = self.fs.sync_told(&mut cursor);
        *lock(&self.synced) = cursor;
        result.map_err(|error| Site::new("syncfs", id).fail(&error))
    }

    fn fallocate(&self, caller: &Caller, node: NodeId, _: FileHandle, range: Fallocate) -> Result<()> {
        self.do_fallocate(caller, node, range)
    }

    fn copy_file_range(&self, caller: &Caller, from: FilePos, to: FilePos, length: u64) -> Result<u64> {
        let copied = self.do_copy(caller, &from, &to, length)?;
        self.settle_inode(self.id(to.node)?)?;
        Ok(copied)
    }

    fn lseek(&self, _: &Caller, at: FilePos, what: Seek) -> Result<u64> {
        self.do_lseek(self.id(at.node)?, at.offset, what)
    }

    fn readdir(&self, _: &Caller, at: FilePos, out: &mut DirSink<'_>) -> Result<()> {
        self.do_readdir(at.node, at.offset, out)
    }

    fn readdirplus(&self, _: &Caller, at: FilePos, out: &mut PlusSink<'_>) -> Result<()> {
        self.do_readdirplus(at.node, at.offset, out)
    }

    fn statfs(&self, _: &Caller, _: NodeId) -> Result<Statfs> {
        Ok(self.do_statfs())
    }

    fn setxattr(&self, caller: &Caller, node: NodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        self.do_setxattr(caller, node, name, value, mode)?;
        self.settle_inode(self.id(node)?)
    }

    fn getxattr(&self, _: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.do_getxattr(self.id(node)?, name)
    }

    fn listxattr(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        self.do_listxattr(self.id(node)?)
    }

    fn removexattr(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<()> {
        let id = self.id(node)?;
        self.do_removexattr(caller, id, name)?;
        self.settle_inode(id)
    }

    fn ioctl(&self, caller: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        self.do_ioctl(caller, call)
    }
}
