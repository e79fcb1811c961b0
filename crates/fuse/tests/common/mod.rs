//! A filesystem in memory, to mount for tests, with a guard that always unmounts.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use butterfs_fuse::mount::{Mount, MountEntry, MountKind, MountOptions, MountSource};
use butterfs_fuse::session::{Session, SessionError, SessionOptions, Transport};
use butterfs_fuse::stop::StopHandle;
use butterfs_fuse::*;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);

/// What was asked, for tests to look at.
#[derive(Default)]
pub struct Counters {
    pub syncfs: AtomicU64,
    pub fsync: AtomicU64,
    pub destroy: AtomicU64,
    pub getattr: AtomicU64,
}

#[derive(Clone, Default)]
struct Node {
    attr: Attr,
    data: Vec<u8>,
    names: BTreeMap<Vec<u8>, u64>,
    parent: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    lookups: u64,
}

#[derive(Default)]
struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
}

/// The filesystem.
pub struct MemoryFs {
    state: Mutex<State>,
    pub counters: Counters,
    pub notifier: Mutex<Option<Notifier>>,
    pub destroy_delay: Duration,
}

impl MemoryFs {
    pub fn new() -> Arc<Self> {
        Self::slow(Duration::ZERO)
    }

    /// One that takes its time to be destroyed.
    pub fn slow(destroy_delay: Duration) -> Arc<Self> {
        let mut state = State { next: 2, ..State::default() };
        let mut root = Node { parent: 1, ..Node::default() };
        let uid = rustix::process::geteuid().as_raw();
        root.attr = Attr { ino: 256, mode: 0o040_755, nlink: 1, uid, blksize: 4096, ..Attr::default() };
        state.nodes.insert(1, root);
        Arc::new(Self {
            state: Mutex::new(state),
            counters: Counters::default(),
            notifier: Mutex::new(None),
            destroy_delay,
        })
    }

    /// Changes a file behind the kernel's back.
    pub fn overwrite(&self, name: &[u8], data: &[u8]) -> NodeId {
        let mut state = self.state.lock().unwrap();
        let id = state.nodes[&1].names[name];
        let node = state.nodes.get_mut(&id).unwrap();
        node.data = data.to_vec();
        node.attr.size = data.len() as u64;
        NodeId(id)
    }

    /// Adds a name behind the kernel's back.
    pub fn add_behind(&self, name: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.make(NodeId(1), name, 0o100_644).unwrap();
    }

    /// How many inodes there are.
    pub fn node_count(&self) -> usize {
        self.state.lock().unwrap().nodes.len()
    }
}

impl State {
    fn node(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&id.0).ok_or(Errno::ESTALE)
    }

    fn entry(&mut self, id: u64) -> Result<Entry> {
        let node = self.node(NodeId(id))?;
        node.lookups += 1;
        Ok(Entry { node: Some(NodeId(id)), generation: 0, attr: node.attr, entry_ttl: HOUR, attr_ttl: HOUR })
    }

    fn make(&mut self, parent: NodeId, name: &[u8], mode: u32) -> Result<u64> {
        if self.node(parent)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        let uid = rustix::process::geteuid().as_raw();
        let attr = Attr { ino: id + 1000, mode, nlink: 1, uid, blksize: 4096, ..Attr::default() };
        self.nodes.insert(id, Node { attr, parent: parent.0, ..Node::default() });
        if !name.is_empty() {
            self.node(parent)?.names.insert(name.to_vec(), id);
        }
        Ok(id)
    }

    fn unname(&mut self, parent: NodeId, name: &[u8]) -> Result<()> {
        let id = self.node(parent)?.names.remove(name).ok_or(Errno::ENOENT)?;
        self.node(NodeId(id))?.attr.nlink -= 1;
        self.reap(id);
        Ok(())
    }

    fn reap(&mut self, id: u64) {
        if self.nodes.get(&id).is_some_and(|node| node.lookups == 0 && node.attr.nlink == 0) {
            self.nodes.remove(&id);
        }
    }

    fn list(&mut self, node: NodeId) -> Result<Vec<(Vec<u8>, u64)>> {
        let node_ref = self.node(node)?;
        let mut all = vec![(b".".to_vec(), node.0), (b"..".to_vec(), node_ref.parent)];
        all.extend(node_ref.names.iter().map(|(name, id)| (name.clone(), *id)));
        Ok(all)
    }
}

impl FrontEnd for MemoryFs {
    fn init(&self, _: Negotiated, notifier: Notifier) -> Result<()> {
        *self.notifier.lock().unwrap() = Some(notifier);
        Ok(())
    }

    fn destroy(&self) -> std::result::Result<(), String> {
        std::thread::sleep(self.destroy_delay);
        self.counters.destroy.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn lookup(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<Entry> {
        assert_ne!(name, b"panic!", "asked for");
        let mut state = self.state.lock().unwrap();
        match state.node(parent)?.names.get(name).copied() {
            Some(id) => state.entry(id),
            None => Ok(Entry::negative(HOUR)),
        }
    }

    fn forget(&self, node: NodeId, lookups: u64) {
        let mut state = self.state.lock().unwrap();
        if let Ok(found) = state.node(node) {
            found.lookups -= lookups;
        }
        state.reap(node.0);
    }

    fn getattr(&self, _: &Caller, node: NodeId, _: Option<FileHandle>) -> Result<AttrReply> {
        self.counters.getattr.fetch_add(1, Ordering::SeqCst);
        Ok(AttrReply { attr: self.state.lock().unwrap().node(node)?.attr, ttl: HOUR })
    }

    fn setattr(&self, _: &Caller, node: NodeId, change: &SetAttr) -> Result<AttrReply> {
        let mut state = self.state.lock().unwrap();
        let node = state.node(node)?;
        if let Some(size) = change.size {
            node.data.resize(size as usize, 0);
            node.attr.size = size;
        }
        if let Some(mode) = change.mode {
            node.attr.mode = mode;
        }
        if let Some(SetTime::At(time)) = change.mtime {
            node.attr.mtime = time;
        }
        Ok(AttrReply { attr: node.attr, ttl: HOUR })
    }

    fn readlink(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        Ok(self.state.lock().unwrap().node(node)?.data.clone())
    }

    fn symlink(&self, _: &Caller, parent: NodeId, name: &[u8], target: &[u8]) -> Result<Entry> {
        let mut state = self.state.lock().unwrap();
        let id = state.make(parent, name, 0o120_777)?;
        let node = state.node(NodeId(id))?;
        node.data = target.to_vec();
        node.attr.size = target.len() as u64;
        state.entry(id)
    }

    fn mknod(&self, _: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        let mut state = self.state.lock().unwrap();
        let id = state.make(parent, name, new.mode & !new.umask)?;
        state.node(NodeId(id))?.attr.rdev = new.rdev;
        state.entry(id)
    }

    fn mkdir(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        self.mknod(caller, parent, name, new)
    }

    fn unlink(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.state.lock().unwrap().unname(parent, name)
    }

    fn rmdir(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let id = *state.node(parent)?.names.get(name).ok_or(Errno::ENOENT)?;
        if !state.node(NodeId(id))?.names.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        state.unname(parent, name)
    }

    fn rename(&self, _: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), flags: RenameFlags) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        if flags.contains(RenameFlags::NOREPLACE) && state.node(to.0)?.names.contains_key(to.1) {
            return Err(Errno::EEXIST);
        }
        let id = state.node(from.0)?.names.remove(from.1).ok_or(Errno::ENOENT)?;
        let _ = state.unname(to.0, to.1);
        state.node(to.0)?.names.insert(to.1.to_vec(), id);
        Ok(())
    }

    fn link(&self, _: &Caller, node: NodeId, parent: NodeId, name: &[u8]) -> Result<Entry> {
        let mut state = self.state.lock().unwrap();
        state.node(parent)?.names.insert(name.to_vec(), node.0);
        state.node(node)?.attr.nlink += 1;
        state.entry(node.0)
    }

    fn create(&self, _: &Caller, parent: NodeId, name: &[u8], new: &NewNode, _: OpenMode) -> Result<(Entry, Opened)> {
        let mut state = self.state.lock().unwrap();
        let id = state.make(parent, name, new.mode & !new.umask)?;
        Ok((state.entry(id)?, Opened::stateless()))
    }

    fn tmpfile(&self, _: &Caller, parent: NodeId, new: &NewNode, _: OpenMode) -> Result<(Entry, Opened)> {
        let mut state = self.state.lock().unwrap();
        let id = state.make(parent, b"", new.mode & !new.umask)?;
        state.node(NodeId(id))?.attr.nlink = 0;
        Ok((state.entry(id)?, Opened::stateless()))
    }

    fn read(&self, _: &Caller, at: FilePos, out: &mut ReadSink<'_>) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let data = &state.node(at.node)?.data;
        let start = data.len().min(at.offset as usize);
        let end = data.len().min(start + out.room());
        // In odd pieces, of each kind.
        let (first, rest) = data[start..end].split_at((end - start).min(1000));
        out.copy(first);
        let (second, rest) = rest.split_at(rest.len() / 2);
        out.owned(second.to_vec());
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        out.zeros(zeros);
        out.shared(Arc::from(rest), zeros..rest.len());
        Ok(())
    }

    fn write(&self, _: &Caller, at: FilePos, data: &[u8], _: WriteMode) -> Result<usize> {
        let mut state = self.state.lock().unwrap();
        let node = state.node(at.node)?;
        let (start, end) = (at.offset as usize, at.offset as usize + data.len());
        if node.data.len() < end {
            node.data.resize(end, 0);
        }
        node.data[start..end].copy_from_slice(data);
        node.attr.size = node.data.len() as u64;
        Ok(data.len())
    }

    fn fsync(&self, _: &Caller, _: NodeId, _: FileHandle, _: SyncScope) -> Result<()> {
        self.counters.fsync.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn fsyncdir(&self, _: &Caller, _: NodeId, _: FileHandle, _: SyncScope) -> Result<()> {
        Ok(())
    }

    fn syncfs(&self, _: &Caller, _: NodeId) -> Result<()> {
        self.counters.syncfs.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn copy_file_range(&self, _: &Caller, from: FilePos, to: FilePos, length: u64) -> Result<u64> {
        let mut state = self.state.lock().unwrap();
        let source = &state.node(from.node)?.data;
        let start = source.len().min(from.offset as usize);
        let part = source[start..source.len().min(start + length as usize)].to_vec();
        let target = state.node(to.node)?;
        let end = to.offset as usize + part.len();
        target.data.resize(target.data.len().max(end), 0);
        target.data[to.offset as usize..end].copy_from_slice(&part);
        target.attr.size = target.data.len() as u64;
        Ok(part.len() as u64)
    }

    fn lseek(&self, _: &Caller, at: FilePos, what: Seek) -> Result<u64> {
        let size = self.state.lock().unwrap().node(at.node)?.attr.size;
        match what {
            _ if at.offset >= size => Err(Errno::ENXIO),
            Seek::Data => Ok(at.offset),
            Seek::Hole => Ok(size),
        }
    }

    fn readdir(&self, _: &Caller, at: FilePos, out: &mut DirSink<'_>) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        for (index, (name, id)) in state.list(at.node)?.iter().enumerate().skip(at.offset as usize) {
            let attr = state.node(NodeId(*id))?.attr;
            let kind = FileKind::from_mode(attr.mode);
            if out.add(&DirEntry { ino: attr.ino, name, kind, next: index as u64 + 1 }) == Full::Yes {
                break;
            }
        }
        Ok(())
    }

    fn readdirplus(&self, _: &Caller, at: FilePos, out: &mut PlusSink<'_>) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        for (index, (name, id)) in state.list(at.node)?.iter().enumerate().skip(at.offset as usize) {
            let attr = state.node(NodeId(*id))?.attr;
            let kind = FileKind::from_mode(attr.mode);
            let entry = DirEntry { ino: attr.ino, name, kind, next: index as u64 + 1 };
            let lookup = || match index < 2 {
                true => Ok(None),
                false => state.entry(*id).map(Some),
            };
            if out.add(&entry, lookup)? == Full::Yes {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self, _: &Caller, _: NodeId) -> Result<Statfs> {
        let (blocks, free) = (1000, 500);
        Ok(Statfs { block_size: 4096, blocks, free, available: 400, name_len: 255, ..Statfs::default() })
    }

    fn setxattr(&self, _: &Caller, node: NodeId, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let xattrs = &mut state.node(node)?.xattrs;
        match (mode, xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EEXIST),
            (XattrMode::Replace, false) => return Err(Errno::ENODATA),
            _ => xattrs.insert(name.to_vec(), value.to_vec()),
        };
        Ok(())
    }

    fn getxattr(&self, _: &Caller, node: NodeId, name: &[u8]) -> Result<Vec<u8>> {
        self.state.lock().unwrap().node(node)?.xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }

    fn listxattr(&self, _: &Caller, node: NodeId) -> Result<Vec<u8>> {
        let mut state = self.state.lock().unwrap();
        let names = state.node(node)?.xattrs.keys();
        Ok(names.flat_map(|name| [name, &b"\0"[..]].concat()).collect())
    }

    fn removexattr(&self, _: &Caller, node: NodeId, name: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        state.node(node)?.xattrs.remove(name).map(drop).ok_or(Errno::ENODATA)
    }

    fn ioctl(&self, _: &Caller, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        match call.command {
            // FS_IOC_GETFLAGS: immutable. The kernel asks for 4 bytes whatever the number says.
            0x8008_6601 => {
                assert_eq!(call.output_capacity, 4);
                Ok(IoctlReply { result: 0, output: 0x10_u32.to_ne_bytes().to_vec() })
            }
            // FS_IOC_GETVERSION. Callers pass an int, whatever the number says: no more than 4 bytes.
            0x8008_7601 => Ok(IoctlReply { result: 0, output: 77_u32.to_ne_bytes().to_vec() }),
            _ => Err(Errno::ENOTTY),
        }
    }
}

/// A served mount of a [`MemoryFs`] that is gone with this value, whatever happens.
pub struct Mounted {
    pub fs: Arc<MemoryFs>,
    pub path: PathBuf,
    pub kind: MountKind,
    pub stop: StopHandle,
    pub device: Option<(u32, u32)>,
    thread: Option<JoinHandle<std::result::Result<(), SessionError>>>,
    _directory: tempfile::TempDir,
}

impl Mounted {
    pub fn new(source: MountSource, options: &MountOptions) -> Self {
        need_root();
        Self::with(MemoryFs::new(), source, options, SessionOptions::default())
    }

    pub fn plain() -> Self {
        Self::new(MountSource::Named("memory".into()), &MountOptions::for_root())
    }

    pub fn with(fs: Arc<MemoryFs>, source: MountSource, options: &MountOptions, session: SessionOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mount = Mount::new(&source, directory.path(), options).unwrap();
        let (kind, point) = (mount.kind(), mount.point());
        let session = Session::new(mount, fs.clone(), SessionOptions { transport: transport(), ..session });
        let stop = session.stop_handle();
        Self {
            fs,
            path: point.path().to_path_buf(),
            kind,
            stop,
            device: point.device_number(),
            thread: Some(std::thread::spawn(move || session.run())),
            _directory: directory,
        }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn entry(&self) -> Option<MountEntry> {
        MountEntry::at(&self.path).unwrap()
    }

    /// Waits for the end of the session.
    pub fn join(&mut self) -> std::result::Result<(), SessionError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How requests come: `BUTTERFS_TEST_TRANSPORT`, `uring` or `device`.
pub fn transport() -> Transport {
    match std::env::var(butterfs_testkit::mounter::TRANSPORT).as_deref() {
        Ok("uring") => Transport::Uring,
        Ok("device") => Transport::Device,
        _ => Transport::Best,
    }
}

pub fn need_root() {
    let root = rustix::process::geteuid().is_root();
    assert!(root, "this test needs root: run it with sudo, or leave out *_root binaries");
}

/// An image file of that size.
pub fn image(directory: &Path, size: u64) -> PathBuf {
    let path = directory.join("image");
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    path
}
