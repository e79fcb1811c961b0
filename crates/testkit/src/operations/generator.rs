//! Draws operations from a seed, and keeps the books of what exists.

use std::path::{Path, PathBuf};

use super::side::hash;
use super::{Features, Operation};
use crate::random::Random;

/// Draws one thread's operations from its seed and keeps what it knows to exist.
#[derive(Debug)]
pub struct Generator {
    random: Random,
    home: PathBuf,
    shared: PathBuf,
    tag: String,
    features: Features,
    files: Vec<PathBuf>,
    /// The first is the home, which stays.
    dirs: Vec<PathBuf>,
    attributes: Vec<(PathBuf, String)>,
    counter: u64,
}

impl Generator {
    /// A generator for the thread `tag`, which owns `home` and the names in `shared` that start with its tag.
    pub fn new(seed: u64, tag: &str, home: &str, shared: &str, features: Features) -> Self {
        Self {
            random: Random::new(seed ^ hash(tag.as_bytes())),
            home: home.into(),
            shared: shared.into(),
            tag: tag.into(),
            features,
            files: Vec::new(),
            dirs: vec![home.into()],
            attributes: Vec::new(),
            counter: 0,
        }
    }

    fn existing_file(&mut self) -> PathBuf {
        if self.random.percent(3) {
            return self.some_name();
        }
        self.random.pick(&self.files).cloned().unwrap_or_else(|| self.home.join("none"))
    }

    fn existing_any(&mut self) -> PathBuf {
        if self.random.percent(25) { self.existing_dir() } else { self.existing_file() }
    }

    fn existing_dir(&mut self) -> PathBuf {
        self.random.pick(&self.dirs).cloned().unwrap_or_else(|| self.home.clone())
    }

    /// A directory that may go: not the home.
    fn inner_dir(&mut self) -> PathBuf {
        self.random.pick(&self.dirs[1..]).cloned().unwrap_or_else(|| self.home.join("none"))
    }

    /// Something to be moved or replaced.
    fn movable(&mut self) -> PathBuf {
        if self.random.percent(25) { self.inner_dir() } else { self.existing_file() }
    }

    /// A name that may or may not exist.
    fn some_name(&mut self) -> PathBuf {
        let number = self.random.below(300);
        if self.random.percent(15) {
            return self.shared.join(format!("{}-{number}", self.tag));
        }
        self.existing_dir().join(format!("n{number}"))
    }

    fn new_name(&mut self) -> PathBuf {
        self.counter += 1;
        let counter = self.counter;
        match self.random.below(100) {
            0 => self.existing_dir().join(format!("{}{counter:09}", "long".repeat(61))),
            1 => self.existing_dir().join("x".repeat(256)),
            2..12 => self.shared.join(format!("{}-f{counter}", self.tag)),
            12..30 => self.some_name(),
            _ => self.existing_dir().join(format!("f{counter}")),
        }
    }

    fn offset(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.random.below(8 << 20),
            1..4 => 4096 * self.random.below(64),
            4..10 => self.random.below(4096),
            _ => self.random.below(200 << 10),
        }
    }

    fn length(&mut self) -> usize {
        match self.random.below(20) {
            0 => self.random.between(1, 300 << 10) as usize,
            1..8 => self.random.between(1, 2048) as usize,
            _ => self.random.between(1, 20_000) as usize,
        }
    }

    /// The next operation.
    pub fn draw(&mut self) -> Operation {
        use Operation::*;
        let seed = self.random.bits();
        let crowded = self.files.len() > 700;
        match self.random.below(1000) {
            0..110 if !crowded => Create { path: self.new_name(), mode: 0o600 | (seed & 0o77) as u32 },
            0..250 => Write { path: self.existing_file(), offset: self.offset(), seed, length: self.length() },
            250..310 => Append { path: self.existing_file(), seed, length: self.length() },
            310..350 => DirectWrite {
                path: self.existing_file(),
                offset: 4096 * self.random.below(64),
                seed,
                length: 4096 * self.random.between(1, 16) as usize,
            },
            350..365 => DirectRead { path: self.existing_file(), offset: 4096 * self.random.below(16), length: 65536 },
            365..420 => MapWrite { path: self.existing_file(), offset: self.offset(), seed, length: self.length() },
            420..430 => MapPrivate { path: self.existing_file(), seed },
            430..480 => Read { path: self.existing_file(), offset: self.offset(), length: self.length() },
            480..540 => Truncate { path: self.existing_file(), length: self.offset() },
            540..560 if self.features.fallocate => Allocate {
                path: self.existing_file(),
                offset: self.offset(),
                length: self.length() as u64,
                how: (seed % 4) as u8,
            },
            560..580 => {
                let aligned = self.random.percent(70);
                let place = |offset: u64| if aligned { offset / 4096 * 4096 } else { offset };
                let length = self.random.below(200 << 10) + 1;
                CopyRange {
                    from: self.existing_file(),
                    offset: place(self.offset()),
                    to: self.existing_file(),
                    target: place(self.offset()),
                    length: if self.random.percent(50) { length.next_multiple_of(4096) } else { length },
                }
            }
            540..600 => Rename { from: self.movable(), to: self.rename_target() },
            600..605 => RenameExchange { from: self.movable(), to: self.movable() },
            605..610 => RenameNoReplace { from: self.movable(), to: self.some_name() },
            610..640 => Link { from: self.existing_file(), to: self.new_name() },
            640..660 => {
                let length = if self.random.percent(5) { 3500 } else { 1 + seed as usize % 60 };
                Symlink { target: "t".repeat(length).into(), path: self.new_name() }
            }
            660..690 => Mkdir { path: self.new_name() },
            690..705 => Rmdir { path: self.inner_dir() },
            705..780 => Unlink { path: self.existing_file() },
            780..785 => Special { path: self.new_name(), kind: (seed % 4) as u8 },
            785..800 => UnlinkOpen { path: self.existing_file(), seed, length: self.length() },
            800..808 => Hold { path: self.existing_file() },
            808..816 => HeldWrite { offset: self.offset(), seed, length: self.length() },
            816..824 => HeldRead,
            824..828 => Release,
            828..865 => SetXattr {
                path: self.existing_any(),
                name: self.xattr_name(),
                seed,
                length: if self.random.percent(4) { self.random.below(20_000) } else { self.random.below(400) }
                    as usize,
                how: (seed % 5) as u8,
            },
            865..880 => {
                let known = self.random.percent(80).then(|| self.attributes.pop()).flatten();
                let (path, name) = known.unwrap_or_else(|| (self.existing_any(), self.xattr_name()));
                RemoveXattr { path, name }
            }
            880..885 if self.features.acl => SetAcl { path: self.existing_any(), permissions: seed as u16 & 0o77 },
            880..910 => Chmod { path: self.existing_any(), mode: (seed & 0o7777) as u32 | 0o600 },
            910..930 => Chown { path: self.existing_any(), uid: seed as u32 % 5, gid: (seed >> 32) as u32 % 5 },
            930..955 => Utimens {
                path: self.existing_any(),
                seconds: (seed % 4_000_000_000) as i64 - 500_000_000,
                nanoseconds: (seed >> 20) as i64 % 1_000_000_000,
            },
            955..962 => Fsync { path: self.existing_any() },
            962..985 => Stat { path: self.existing_any() },
            _ => List { path: self.existing_dir() },
        }
    }

    fn rename_target(&mut self) -> PathBuf {
        match self.random.below(10) {
            0..3 => self.existing_file(),
            3 => self.inner_dir(),
            _ => self.new_name(),
        }
    }

    fn xattr_name(&mut self) -> String {
        let space = if self.random.percent(85) { "user" } else { "trusted" };
        match self.random.below(40) {
            0 => format!("{space}.{}", "n".repeat(240)),
            number => format!("{space}.name{}", number % 6),
        }
    }

    /// Keeps the books after an operation that succeeded.
    pub fn succeeded(&mut self, operation: &Operation) {
        use Operation::*;
        match operation {
            Create { path, .. } | Symlink { path, .. } | Special { path, .. } | Link { to: path, .. } => {
                self.files.push(path.clone());
            }
            Mkdir { path } => self.dirs.push(path.clone()),
            SetXattr { path, name, .. } => self.attributes.push((path.clone(), name.clone())),
            Rmdir { path } => self.dirs.retain(|dir| dir != path),
            Unlink { path } | UnlinkOpen { path, .. } => self.files.retain(|file| file != path),
            Rename { from, to } | RenameNoReplace { from, to } => self.renamed(from, to),
            RenameExchange { from, to } => {
                let middle = PathBuf::from("\0");
                for (from, to) in [(from, &middle), (to, from), (&middle, to)] {
                    self.move_below(from, to);
                }
            }
            _ => {}
        }
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        if from == to {
            return;
        }
        // Two names of one file: POSIX's rename then does nothing. A name too many here only costs an ENOENT.
        self.files.retain(|file| file != to);
        self.dirs.retain(|dir| dir != to);
        self.move_below(from, to);
    }

    fn move_below(&mut self, from: &Path, to: &Path) {
        for path in self.files.iter_mut().chain(self.dirs.iter_mut()) {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }
}
