//! The ceiling: a filesystem that keeps everything in memory and does no more than answer, behind our transport.
//!
//! [`serve`] is the whole life of its process: it makes, mounts and serves as standard input says.
//!
//! # Locking
//! One mutex over names and attributes, held for moments; the bytes of a file have a lock of their own, below it.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use butterfs_fuse::mount::{Busy, Mount, MountOptions, MountSource, unmount};
use butterfs_fuse::session::{Session, SessionOptions};
use butterfs_fuse::*;

const TTL: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Node {
    attr: Attr,
    data: Arc<RwLock<Vec<u8>>>,
    /// Where each name stands in `order`.
    names: HashMap<Vec<u8>, u64>,
    order: BTreeMap<u64, (Vec<u8>, u64)>,
    lookups: u64,
}

/// An entry: position, name, inode and its attributes.
type Listed = (u64, Vec<u8>, u64, Attr);

struct State {
    nodes: HashMap<u64, Node>,
    next: u64,
}

/// The filesystem.
pub struct NullFs(Mutex<State>);

impl Default for NullFs {
    fn default() -> Self {
        let attr = Attr { ino: 1, mode: 0o040_755, nlink: 1, blksize: 4096, ..Attr::default() };
        let root = Node { attr, ..Node::default() };
        Self(Mutex::new(State { nodes: HashMap::from([(1, root)]), next: 2 }))
    }
}

impl NullFs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self, node: NodeId) -> Result<Arc<RwLock<Vec<u8>>>> {
        Ok(Arc::clone(&self.state().node(node)?.data))
    }
}

impl State {
    fn node(&mut self, id: NodeId) -> Result<&mut Node> {
        self.nodes.get_mut(&id.0).ok_or(Errno::ESTALE)
    }

    fn find(&mut self, parent: NodeId, name: &[u8]) -> Result<u64> {
        let node = self.node(parent)?;
        let index = node.names.get(name).ok_or(Errno::ENOENT)?;
        Ok(node.order[index].1)
    }

    fn entry(&mut self, id: u64) -> Result<Entry> {
        let node = self.node(NodeId(id))?;
        node.lookups += 1;
        Ok(Entry { node: Some(NodeId(id)), generation: 0, attr: node.attr, entry_ttl: TTL, attr_ttl: TTL })
    }

    fn name(&mut self, parent: NodeId, name: &[u8], id: u64) -> Result<()> {
        let index = self.next;
        self.next += 1;
        let node = self.node(parent)?;
        node.names.insert(name.to_vec(), index);
        node.order.insert(index, (name.to_vec(), id));
        Ok(())
    }

    fn make(&mut self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<u64> {
        if self.node(parent)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let id = self.next;
        self.next += 1;
        let mode = new.mode & !new.umask;
        let attr = Attr { ino: id, mode, nlink: 1, uid: caller.uid, gid: caller.gid, blksize: 4096, ..Attr::default() };
        self.nodes.insert(id, Node { attr, ..Node::default() });
        self.name(parent, name, id)?;
        Ok(id)
    }

    fn unname(&mut self, parent: NodeId, name: &[u8]) -> Result<u64> {
        let node = self.node(parent)?;
        let index = node.names.remove(name).ok_or(Errno::ENOENT)?;
        Ok(node.order.remove(&index).ok_or(Errno::EIO)?.1)
    }

    fn remove(&mut self, parent: NodeId, name: &[u8]) -> Result<()> {
        let id = self.unname(parent, name)?;
        self.node(NodeId(id))?.attr.nlink = 0;
        self.reap(id);
        Ok(())
    }

    fn reap(&mut self, id: u64) {
        if self.nodes.get(&id).is_some_and(|node| node.lookups == 0 && node.attr.nlink == 0) {
            self.nodes.remove(&id);
        }
    }

    /// Entries from a position on.
    fn list(&mut self, dir: NodeId, from: u64) -> Result<Vec<Listed>> {
        const BATCH: usize = 512;
        let some: Vec<_> = self.node(dir)?.order.range(from..).take(BATCH).map(|(at, e)| (*at, e.clone())).collect();
        some.into_iter().map(|(at, (name, id))| Ok((at, name, id, self.node(NodeId(id))?.attr))).collect()
    }
}

impl FrontEnd for NullFs {
    fn destroy(&self) -> std::result::Result<(), String> {
        self.state().nodes.values_mut().for_each(|node| node.lookups = 0);
        Ok(())
    }

    fn lookup(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<Entry> {
        let mut state = self.state();
        match state.find(parent, name) {
            Ok(id) => state.entry(id),
            Err(Errno::ENOENT) => Ok(Entry::negative(TTL)),
            Err(errno) => Err(errno),
        }
    }

    fn forget(&self, node: NodeId, lookups: u64) {
        let mut state = self.state();
        if let Ok(found) = state.node(node) {
            found.lookups = found.lookups.saturating_sub(lookups);
        }
        state.reap(node.0);
    }

    fn getattr(&self, _: &Caller, node: NodeId, _: Option<FileHandle>) -> Result<AttrReply> {
        Ok(AttrReply { attr: self.state().node(node)?.attr, ttl: TTL })
    }

    fn setattr(&self, _: &Caller, node: NodeId, change: &SetAttr) -> Result<AttrReply> {
        let mut state = self.state();
        let found = state.node(node)?;
        if let Some(size) = change.size {
            found.attr.size = size;
            found.data.write().unwrap_or_else(PoisonError::into_inner).resize(size as usize, 0);
        }
        if let Some(mode) = change.mode {
            found.attr.mode = mode;
        }
        if let Some(SetTime::At(time)) = change.mtime {
            found.attr.mtime = time;
        }
        Ok(AttrReply { attr: found.attr, ttl: TTL })
    }

    fn mknod(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        let mut state = self.state();
        let id = state.make(caller, parent, name, new)?;
        state.entry(id)
    }

    fn mkdir(&self, caller: &Caller, parent: NodeId, name: &[u8], new: &NewNode) -> Result<Entry> {
        self.mknod(caller, parent, name, new)
    }

    fn unlink(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        self.state().remove(parent, name)
    }

    fn rmdir(&self, _: &Caller, parent: NodeId, name: &[u8]) -> Result<()> {
        let mut state = self.state();
        let id = state.find(parent, name)?;
        if state.node(NodeId(id))?.names.is_empty() { state.remove(parent, name) } else { Err(Errno::ENOTEMPTY) }
    }

    fn rename(&self, _: &Caller, from: (NodeId, &[u8]), to: (NodeId, &[u8]), _: RenameFlags) -> Result<()> {
        let mut state = self.state();
        let id = state.unname(from.0, from.1)?;
        let _ = state.remove(to.0, to.1);
        state.name(to.0, to.1, id)
    }

    fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &[u8],
        new: &NewNode,
        _: OpenMode,
    ) -> Result<(Entry, Opened)> {
        Ok((self.mknod(caller, parent, name, new)?, Opened::stateless()))
    }

    fn read(&self, _: &Caller, at: FilePos, out: &mut ReadSink<'_>) -> Result<()> {
        let data = self.data(at.node)?;
        let bytes = data.read().unwrap_or_else(PoisonError::into_inner);
        out.copy(bytes.get(at.offset as usize..).unwrap_or_default());
        Ok(())
    }

    fn write(&self, _: &Caller, at: FilePos, data: &[u8], _: WriteMode) -> Result<usize> {
        let end = at.offset as usize + data.len();
        let bytes = {
            let mut state = self.state();
            let node = state.node(at.node)?;
            node.attr.size = node.attr.size.max(end as u64);
            Arc::clone(&node.data)
        };
        let mut bytes = bytes.write().unwrap_or_else(PoisonError::into_inner);
        let len = bytes.len().max(end);
        bytes.resize(len, 0);
        bytes[end - data.len()..end].copy_from_slice(data);
        Ok(data.len())
    }

    fn fsync(&self, _: &Caller, _: NodeId, _: FileHandle, _: SyncScope) -> Result<()> {
        Ok(())
    }

    fn fsyncdir(&self, _: &Caller, _: NodeId, _: FileHandle, _: SyncScope) -> Result<()> {
        Ok(())
    }

    fn syncfs(&self, _: &Caller, _: NodeId) -> Result<()> {
        Ok(())
    }

    fn readdir(&self, _: &Caller, at: FilePos, out: &mut DirSink<'_>) -> Result<()> {
        for (position, name, _, attr) in self.state().list(at.node, at.offset)? {
            let kind = FileKind::from_mode(attr.mode);
            if out.add(&DirEntry { ino: attr.ino, name: &name, kind, next: position + 1 }) == Full::Yes {
                break;
            }
        }
        Ok(())
    }

    fn readdirplus(&self, _: &Caller, at: FilePos, out: &mut PlusSink<'_>) -> Result<()> {
        let mut state = self.state();
        for (position, name, id, attr) in state.list(at.node, at.offset)? {
            let kind = FileKind::from_mode(attr.mode);
            let entry = DirEntry { ino: attr.ino, name: &name, kind, next: position + 1 };
            if out.add(&entry, || state.entry(id).map(Some))? == Full::Yes {
                break;
            }
        }
        Ok(())
    }

    fn statfs(&self, _: &Caller, _: NodeId) -> Result<Statfs> {
        let (blocks, free) = (4 << 20, 4 << 20);
        Ok(Statfs { block_size: 4096, blocks, free, available: free, name_len: 255, ..Statfs::default() })
    }

    fn getxattr(&self, _: &Caller, _: NodeId, _: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::ENODATA)
    }

    fn setxattr(&self, _: &Caller, _: NodeId, _: &[u8], _: &[u8], _: XattrMode) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn listxattr(&self, _: &Caller, _: NodeId) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

/// Serves until standard input ends. For `make` it forgets all files; for `mount` it mounts, says `ok`, and says it
/// once more when somebody has unmounted.
pub fn serve(dir: &Path, options: &SessionOptions) {
    let mut filesystem = Arc::new(NullFs::default());
    let say = || {
        println!("ok");
        let _ = std::io::stdout().flush();
    };
    for word in words(dir) {
        if word == "make" {
            filesystem = Arc::new(NullFs::default());
            say();
            continue;
        }
        let source = MountSource::Named("butterfs-ceiling".into());
        let mount = Mount::new(&source, dir, &MountOptions::for_root()).expect("it can be mounted");
        let session = Session::new(mount, Arc::clone(&filesystem) as Arc<dyn FrontEnd>, options.clone());
        session.run_then(say).expect("the session ends well");
        say();
    }
}

/// What standard input says. When it ends, however, the process does, and leaves no mount.
fn words(dir: &Path) -> impl Iterator<Item = String> {
    let (say, hear) = channel();
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        std::io::stdin().lock().lines().map_while(std::result::Result::ok).for_each(|word| drop(say.send(word)));
        let _ = unmount(&dir, Busy::Detach);
        std::process::exit(0);
    });
    hear.into_iter()
}
