//! A sink in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use butterfs_salvage::{About, Made, NewFile, Sink, Xattr};

/// What was made at a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub kind: char,
    /// Bytes of a file, the target of a link, or the first name of a hard link.
    pub bytes: Vec<u8>,
    pub mode: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<Xattr>,
}

#[derive(Default)]
pub struct MemorySink {
    pub nodes: Mutex<BTreeMap<Vec<u8>, Node>>,
}

struct File<'s> {
    sink: &'s MemorySink,
    path: Vec<u8>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Node {
    fn new(kind: char, bytes: &[u8], about: &About<'_>) -> Self {
        let mut xattrs = about.xattrs.to_vec();
        xattrs.sort();
        Self {
            kind,
            bytes: bytes.to_vec(),
            mode: about.item.map(|item| item.mode.get()),
            mtime: about.item.map(|item| (item.mtime.seconds(), item.mtime.nanoseconds())),
            xattrs,
        }
    }
}

impl MemorySink {
    pub fn get(&self, path: &str) -> Option<Node> {
        self.nodes.lock().unwrap().get(path.as_bytes()).cloned()
    }

    pub fn all(&self) -> BTreeMap<Vec<u8>, Node> {
        self.nodes.lock().unwrap().clone()
    }

    /// The paths at which they differ.
    pub fn differences(&self, other: &Self) -> Vec<Vec<u8>> {
        let (mine, others) = (self.all(), other.all());
        let mut paths: Vec<_> = mine.keys().chain(others.keys()).cloned().collect();
        paths.sort();
        paths.dedup();
        paths.retain(|path| mine.get(path) != others.get(path));
        paths
    }

    #[track_caller]
    pub fn assert_same(&self, truth: &Self) {
        let different = self.differences(truth);
        let texts: Vec<_> = different.iter().take(20).map(|path| path.escape_ascii().to_string()).collect();
        assert!(different.is_empty(), "{} paths differ, as {texts:?}", different.len());
    }

    fn put(&self, path: &[u8], node: Node) -> io::Result<Made> {
        match self.nodes.lock().unwrap().insert(path.to_vec(), node) {
            Some(old) if old.kind != 'd' => panic!("{} is made twice", path.escape_ascii()),
            _ => Ok(Made::New(Vec::new())),
        }
    }
}

impl Sink for MemorySink {
    fn directory(&self, path: &[u8]) -> io::Result<()> {
        let mut nodes = self.nodes.lock().unwrap();
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let new = Node { kind: 'd', ..Node::default() };
            let node = nodes.entry(path[..end].to_vec()).or_insert(new);
            assert_eq!(node.kind, 'd');
        }
        Ok(())
    }

    fn file<'s>(&'s self, path: &[u8]) -> io::Result<Option<Box<dyn NewFile + 's>>> {
        Ok(Some(Box::new(File { sink: self, path: path.to_vec(), bytes: Arc::default() })))
    }

    fn symlink(&self, path: &[u8], target: &[u8], about: &About<'_>) -> io::Result<Made> {
        self.put(path, Node::new('l', target, about))
    }

    fn special(&self, path: &[u8], about: &About<'_>) -> io::Result<Made> {
        self.put(path, Node::new('s', &[], about))
    }

    fn link(&self, path: &[u8], existing: &[u8]) -> io::Result<Made> {
        let node = self.nodes.lock().unwrap().get(existing).cloned();
        self.put(path, node.ok_or(io::ErrorKind::NotFound)?)
    }

    fn attributes(&self, path: &[u8], about: &About<'_>) -> io::Result<Vec<String>> {
        self.nodes.lock().unwrap().insert(path.to_vec(), Node::new('d', &[], about));
        Ok(Vec::new())
    }
}

impl NewFile for File<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.bytes.lock().unwrap();
        let end = offset as usize + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, size: u64, about: &About<'_>) -> io::Result<Vec<String>> {
        let mut all = self.bytes.lock().unwrap();
        all.resize(size as usize, 0);
        self.sink.put(&self.path, Node::new('f', &all, about)).map(|_| Vec::new())
    }

    fn discard(self: Box<Self>) {}
}
