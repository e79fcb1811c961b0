//! A directory tree as a value: everything a user can see of it, and a readable difference of two.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, statat};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xxhash_rust::xxh64::Xxh64;

/// A point in time: seconds and nanoseconds.
pub type Time = (i64, u32);

/// One object of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `f`, `d`, `l`, `p`, `s`, `c`, `b`.
    pub kind: char,
    /// The permission bits, with set-id and sticky.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size, for directories too.
    pub size: u64,
    /// Link count.
    pub links: u64,
    /// The device number of a device node.
    pub device: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
    /// The target of a symbolic link.
    pub target: Option<PathBuf>,
    /// All extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A hash of the content of a regular file.
    pub hash: Option<u64>,
    /// The first path, in order, of the same file, when it has other links in this tree.
    pub same_as: Option<PathBuf>,
    /// The empty directory that stands in a snapshot where the source had a subvolume: its times mean nothing.
    pub placeholder: bool,
}

/// How the times of two trees must agree.
#[derive(Clone, Copy, Debug)]
pub enum Times {
    /// Not looked at.
    Ignored,
    /// mtime and ctime within this much of each other.
    Within(Duration),
    /// mtime and ctime equal to the nanosecond.
    Exact,
    /// atime, mtime and ctime equal to the nanosecond.
    ExactWithAccess,
}

/// All objects below a directory, by relative path. The root has the empty path.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The objects.
    pub entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    /// Reads everything below `root`, contents included. Panics on any error: a tree under test has no unreadable part.
    #[track_caller]
    pub fn read(root: &Path) -> Self {
        Self::read_without(root, &[])
    }

    /// As [`Tree::read`], without the times of the root itself, which who prepares a test changes.
    #[track_caller]
    pub fn content_of(root: &Path) -> Self {
        let mut tree = Self::read(root);
        tree.forget_times("");
        tree
    }

    /// As [`Tree::read`], without the objects at `skipped` (relative paths) and what is below them.
    #[track_caller]
    pub fn read_without(root: &Path, skipped: &[&str]) -> Self {
        let mut tree = Self::default();
        let mut groups: HashMap<(u64, u64), Vec<PathBuf>> = HashMap::new();
        let mut files = Vec::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
            let (entry, identity) = read_entry(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
            match entry.kind {
                'd' => {
                    let listing =
                        std::fs::read_dir(&full).unwrap_or_else(|error| panic!("{}: {error}", full.display()));
                    for child in listing {
                        let child = child.unwrap_or_else(|error| panic!("{}: {error}", full.display()));
                        let child = path.join(child.file_name());
                        if !skipped.iter().any(|skip| Path::new(skip) == child) {
                            pending.push(child);
                        }
                    }
                }
                'f' => files.push(path.clone()),
                _ => {}
            }
            if entry.kind != 'd' && entry.links > 1 {
                groups.entry(identity).or_default().push(path.clone());
            }
            let twice = tree.entries.insert(path.clone(), entry);
            assert!(twice.is_none(), "{} is listed twice", path.display());
        }
        for mut group in groups.into_values().filter(|group| group.len() > 1) {
            group.sort();
            for path in &group {
                tree.entries.get_mut(path).expect("just inserted").same_as = Some(group[0].clone());
            }
        }
        for (path, hash) in hash_files(root, &files) {
            tree.entries.get_mut(&path).expect("just inserted").hash = Some(hash);
        }
        tree
    }

    /// The differences between this tree and `other`, one a line; at most 50 are told.
    pub fn differences(&self, other: &Self, times: Times) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, entry) in &self.entries {
            match other.entries.get(path) {
                None => lines.push(format!("{}: only in the first ({})", path.display(), entry.kind)),
                Some(right) => compare(path, entry, right, times, &mut lines),
            }
        }
        for (path, entry) in other.entries.iter().filter(|(path, _)| !self.entries.contains_key(*path)) {
            lines.push(format!("{}: only in the second ({})", path.display(), entry.kind));
        }
        let more = lines.len().saturating_sub(50);
        if more > 0 {
            lines.truncate(50);
            lines.push(format!("... and {more} more"));
        }
        lines
    }

    /// Panics with the differences, if there are any.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, times: Times, what: &str) {
        let lines = self.differences(other, times);
        assert!(lines.is_empty(), "{what}: the trees differ\n{}", lines.join("\n"));
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is not even a root.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets the times of one path, which the test itself touches.
    pub fn forget_times(&mut self, path: &str) {
        if let Some(entry) = self.entries.get_mut(Path::new(path)) {
            (entry.atime, entry.mtime, entry.ctime) = ((0, 0), (0, 0), (0, 0));
        }
    }
}

fn compare(path: &Path, left: &Entry, right: &Entry, times: Times, lines: &mut Vec<String>) {
    let mut differ = |what: &str, equal: bool, left: &dyn std::fmt::Debug, right: &dyn std::fmt::Debug| {
        if !equal {
            lines.push(format!("{}: {what} {left:?} | {right:?}", path.display()));
        }
    };
    differ("type", left.kind == right.kind, &left.kind, &right.kind);
    if left.placeholder || right.placeholder {
        return;
    }
    differ("mode", left.mode == right.mode, &format!("{:o}", left.mode), &format!("{:o}", right.mode));
    differ("owner", left.owner == right.owner, &left.owner, &right.owner);
    differ("size", left.size == right.size, &left.size, &right.size);
    differ("link count", left.links == right.links, &left.links, &right.links);
    differ("device number", left.device == right.device, &left.device, &right.device);
    differ("target", left.target == right.target, &left.target, &right.target);
    differ("content", left.hash == right.hash, &left.hash, &right.hash);
    differ("hard-link group", left.same_as == right.same_as, &left.same_as, &right.same_as);
    for name in left.xattrs.keys().chain(right.xattrs.keys().filter(|name| !left.xattrs.contains_key(*name))) {
        let (a, b) = (left.xattrs.get(name), right.xattrs.get(name));
        let short = |value: Option<&Vec<u8>>| {
            value.map(|v| format!("{} bytes {:x?}", v.len(), &v[..v.len().min(24)])).unwrap_or_else(|| "none".into())
        };
        differ(&format!("xattr {}", String::from_utf8_lossy(name)), a == b, &short(a), &short(b));
    }
    differ("mtime", agree(left.mtime, right.mtime, times), &left.mtime, &right.mtime);
    differ("ctime", agree(left.ctime, right.ctime, times), &left.ctime, &right.ctime);
    if matches!(times, Times::ExactWithAccess) {
        differ("atime", left.atime == right.atime, &left.atime, &right.atime);
    }
}

fn agree(left: Time, right: Time, times: Times) -> bool {
    let nanoseconds = |time: Time| i128::from(time.0) * 1_000_000_000 + i128::from(time.1);
    match times {
        Times::Ignored => true,
        Times::Exact | Times::ExactWithAccess => left == right,
        Times::Within(limit) => (nanoseconds(left) - nanoseconds(right)).unsigned_abs() <= limit.as_nanos(),
    }
}

fn read_entry(path: &Path) -> rustix::io::Result<(Entry, (u64, u64))> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let kind = match file_type {
        FileType::RegularFile => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => '?',
    };
    let target = match kind {
        'l' => Some(
            std::fs::read_link(path)
                .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))?,
        ),
        _ => None,
    };
    let entry = Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        owner: (stat.st_uid, stat.st_gid),
        size: stat.st_size as u64,
        links: stat.st_nlink as u64,
        device: if matches!(kind, 'c' | 'b') { stat.st_rdev } else { 0 },
        atime: (stat.st_atime, stat.st_atime_nsec as u32),
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
        target,
        xattrs: read_xattrs(path)?,
        hash: None,
        same_as: None,
        placeholder: kind == 'd' && stat.st_ino == 2,
    };
    Ok((entry, (stat.st_dev, stat.st_ino)))
}

/// All extended attributes of `path`, not following a symbolic link.
pub fn read_xattrs(path: &Path) -> rustix::io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut xattrs = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0_u8; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(length);
        xattrs.insert(name.to_vec(), value);
    }
    Ok(xattrs)
}

fn hash_files(root: &Path, files: &[PathBuf]) -> Vec<(PathBuf, u64)> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        let mut hashes = Vec::new();
        while let Some(path) = files.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let hash = hash_file(&root.join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            hashes.push((path.clone(), hash));
        }
        hashes
    };
    std::thread::scope(|scope| {
        let second = scope.spawn(work);
        let mut all = work();
        all.extend(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        all
    })
}

/// A hash of a file's content, by reading all of it, holes included; its last access is not changed.
pub fn hash_file(path: &Path) -> std::io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME;
    hash_content(&mut std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// The hash that [`hash_file`] gives for this content.
///
/// A stretch of zeros is only counted, which makes the hash of a sparse file cheap but no less telling.
pub fn hash_content(reader: &mut impl Read) -> std::io::Result<u64> {
    static ZEROS: [u8; 256 << 10] = [0; 256 << 10];
    let mut hasher = Xxh64::new(0);
    let mut buffer = vec![0_u8; ZEROS.len()];
    let mut offset = 0_u64;
    loop {
        let length = read_full(reader, &mut buffer)?;
        if buffer[..length] != ZEROS[..length] {
            hasher.write_u64(offset);
            hasher.write(&buffer[..length]);
        }
        offset += length as u64;
        if length < buffer.len() {
            hasher.write_u64(offset);
            return Ok(hasher.finish());
        }
    }
}

fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match reader.read(&mut buffer[done..])? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// A path's last component as text, for messages.
pub fn name_of(path: &Path) -> String {
    path.file_name().map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("butterfs-compare-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn equal_trees_do_not_differ_and_a_changed_byte_is_told() {
        let (a, b) = (scratch("a"), scratch("b"));
        for dir in [&a, &b] {
            std::fs::write(dir.join("file"), b"one").unwrap();
            std::fs::hard_link(dir.join("file"), dir.join("link")).unwrap();
            std::os::unix::fs::symlink("file", dir.join("symlink")).unwrap();
        }
        let left = Tree::read(&a);
        assert_eq!(left.differences(&Tree::read(&b), Times::Within(Duration::from_secs(60))), Vec::<String>::new());
        assert_eq!(left.entries[Path::new("link")].same_as.as_deref(), Some(Path::new("file")));

        std::fs::remove_file(b.join("link")).unwrap();
        std::fs::write(b.join("link"), b"onf").unwrap();
        let lines = left.differences(&Tree::read(&b), Times::Ignored);
        for expected in ["link: content", "file: hard-link group", "file: link count 2 | 1"] {
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected} in {lines:?}");
        }
        for dir in [a, b] {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}
