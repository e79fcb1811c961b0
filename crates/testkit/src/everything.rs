//! Reads all that a filesystem has: every name, attribute and byte, within bounds; for filesystems that may be
//! damaged in any way.

use std::collections::HashSet;

use butterfs_engine::Error;
use butterfs_engine::dir::Place;
use butterfs_engine::file::Seek;
use butterfs_engine::filesystem::{Filesystem, Flow};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;

/// Bytes that are read at once.
const PIECE: u64 = 256 << 10;
/// Problems that are kept; more are counted.
const MOST_PROBLEMS: usize = 1000;

/// Where to stop: a filesystem can claim to have more than there can be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects that are visited.
    pub objects: u64,
    /// Bytes of files that are asked for.
    pub bytes: u64,
}

/// What was there, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Everything {
    /// Objects that were visited.
    pub objects: u64,
    /// Bytes of files that were asked for, holes left out.
    pub bytes: u64,
    /// What could not be had, in words: the first of them.
    pub problems: Vec<String>,
    /// How many there were.
    pub problem_count: u64,
    /// Whether a limit ended the walk.
    pub cut: bool,
}

/// Visits every object of every subvolume, and reads every byte.
pub fn read(fs: &Filesystem, limits: Limits) -> Everything {
    let mut walk = Walk { fs, limits, found: Everything::default(), pending: Vec::new(), seen: HashSet::new() };
    walk.push(fs.root(), FileType::Directory);
    match fs.subvolumes() {
        Ok(all) => all.iter().for_each(|one| walk.push(InodeId::top_of(one.id), FileType::Directory)),
        Err(error) => walk.problem(format!("list of subvolumes: {error}")),
    }
    while let Some((id, file_type)) = walk.pending.pop() {
        if walk.found.objects == limits.objects {
            walk.found.cut = true;
            break;
        }
        walk.found.objects += 1;
        walk.visit(id, file_type);
    }
    walk.found
}

struct Walk<'a> {
    fs: &'a Filesystem,
    limits: Limits,
    found: Everything,
    pending: Vec<(InodeId, FileType)>,
    /// What was met, so that links and circles are followed once.
    seen: HashSet<InodeId>,
}

impl Walk<'_> {
    fn push(&mut self, id: InodeId, file_type: FileType) {
        if id.is_placeholder() || self.seen.insert(id) {
            self.pending.push((id, file_type));
        }
    }

    fn problem(&mut self, problem: String) {
        self.found.problem_count += 1;
        if self.found.problems.len() < MOST_PROBLEMS {
            self.found.problems.push(problem);
        }
    }

    /// The value; or the problem is noted.
    fn had<T>(&mut self, id: InodeId, what: &str, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(format!("inode {} of tree {}: {what}: {error}", id.ino, id.tree));
                None
            }
        }
    }

    fn visit(&mut self, id: InodeId, file_type: FileType) {
        let attributes = self.fs.attributes(id);
        let attributes = self.had(id, "attributes", attributes);
        let names = self.fs.xattrs(id);
        for name in self.had(id, "names of attributes", names).unwrap_or_default() {
            let value = self.fs.xattr(id, &name);
            self.had(id, "attribute", value);
        }
        // The entry's word is only a hint.
        match attributes.map_or(file_type, |found| found.file_type) {
            FileType::Directory => self.directory(id),
            FileType::Symlink => {
                let target = self.fs.read_link(id);
                self.had(id, "target", target);
            }
            FileType::Regular => self.file(id),
            _ => {}
        }
    }

    fn directory(&mut self, id: InodeId) {
        let room = self.limits.objects.saturating_sub(self.found.objects);
        let mut entries = Vec::new();
        let listed = self.fs.read_dir(id, 2, |entry| {
            entries.push((entry.id, entry.file_type, entry.name.clone()));
            Ok(if entries.len() as u64 >= room { Flow::Full } else { Flow::More })
        });
        self.had(id, "entries", listed);
        for (child, file_type, name) in entries {
            let looked_up = self.fs.lookup(Place::new(id, &name));
            self.had(id, "lookup", looked_up);
            self.push(child, file_type);
        }
        let parent = self.fs.parent(id);
        self.had(id, "parent", parent);
    }

    fn file(&mut self, id: InodeId) {
        let mut at = 0;
        loop {
            let data = self.fs.seek(id, at, Seek::Data);
            let Some(Some(start)) = self.had(id, "data", data) else { return };
            let hole = self.fs.seek(id, start, Seek::Hole);
            let Some(end) = self.had(id, "hole", hole) else { return };
            let end = end.unwrap_or(start).max(start.saturating_add(1));
            self.range(id, start, end);
            if self.found.cut {
                return;
            }
            at = end;
        }
    }

    fn range(&mut self, id: InodeId, start: u64, end: u64) {
        let mut bytes = vec![0; PIECE as usize];
        let mut at = start;
        while at < end {
            let len = (end - at).min(PIECE);
            if self.found.bytes.saturating_add(len) > self.limits.bytes {
                self.found.cut = true;
                return;
            }
            self.found.bytes += len;
            let read = self.fs.read(id, at, &mut bytes[..len as usize]);
            self.had(id, "bytes", read);
            at += len;
        }
    }
}
