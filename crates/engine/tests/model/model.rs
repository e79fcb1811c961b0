//! A filesystem as plain maps.

use std::collections::BTreeMap;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    File(usize),
    Directory(BTreeMap<Vec<u8>, Node>),
    Symlink(Vec<u8>),
}

/// A file's content, shared by its hard links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub links: usize,
}

/// One subvolume.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub root: BTreeMap<Vec<u8>, Node>,
    pub files: BTreeMap<usize, File>,
    pub next: usize,
}

impl Model {
    /// The directory at a path.
    pub fn dir(&mut self, path: &[Vec<u8>]) -> &mut BTreeMap<Vec<u8>, Node> {
        path.iter().fold(&mut self.root, |dir, name| match dir.get_mut(name) {
            Some(Node::Directory(inner)) => inner,
            other => panic!("no directory: {other:?}"),
        })
    }

    /// A name is gone.
    pub fn forget(&mut self, node: &Node) {
        if let Node::File(id) = node {
            let file = self.files.get_mut(id).unwrap();
            file.links -= 1;
            if file.links == 0 {
                self.files.remove(id);
            }
        }
    }

    /// All paths of directories.
    pub fn dirs(&self) -> Vec<Vec<Vec<u8>>> {
        let mut all = vec![vec![]];
        collect_dirs(&self.root, &mut vec![], &mut all);
        all
    }
}

fn collect_dirs(dir: &BTreeMap<Vec<u8>, Node>, path: &mut Vec<Vec<u8>>, all: &mut Vec<Vec<Vec<u8>>>) {
    for (name, node) in dir {
        if let Node::Directory(inner) = node {
            path.push(name.clone());
            all.push(path.clone());
            collect_dirs(inner, path, all);
            path.pop();
        }
    }
}
