//! Operations on what files hold, and what makes it durable.

use butterfs_engine::file::{CloneLen, SizeMode};
use butterfs_engine::filesystem::FileOffset;
use butterfs_engine::inode::InodeId;
use butterfs_engine::inode::xattr::{Xattr, XattrMode};

use super::{BALLAST, NEW_FILE, Run, XATTR};
use crate::crash::history::{Durable, Node};

impl Run {
    pub(super) fn write(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let old = self.version(number);
        let offset = match self.random.below(4) {
            0 => 0,
            1 => old.len(),
            2 => self.random.below(old.len() as u64 + 1) as usize,
            _ => self.random.below(60_000) as usize,
        };
        let len = match self.random.below(8) {
            0 | 1 => self.random.below(100) as usize,
            2 | 3 => self.random.below(5000) as usize,
            4 | 5 => 4096,
            6 => self.random.below(30_000) as usize,
            _ => self.random.below(120_000) as usize,
        };
        let bytes = self.content(number, offset, len);
        self.step(
            format!("write {path} {offset}+{len}"),
            Durable::Nothing,
            |run| run.filesystem.write(run.id(&path)?, offset as u64, &bytes),
            |run, written| {
                let len = written.unwrap_or(len);
                let mut new = old.to_vec();
                if len > 0 {
                    new.resize(old.len().max(offset + len), 0);
                    new[offset..offset + len].copy_from_slice(&bytes[..len]);
                }
                run.new_version(number, new);
            },
        );
    }

    pub(super) fn truncate(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let mut new = self.version(number).to_vec();
        let limit = if self.random.percent(70) { new.len() as u64 + 1 } else { 80_000 };
        let size = self.random.below(limit);
        new.resize(size as usize, 0);
        self.step(
            format!("truncate {path} to {size}"),
            Durable::Nothing,
            |run| run.filesystem.set_size(run.id(&path)?, size),
            |run, _| run.new_version(number, new),
        );
    }

    pub(super) fn punch(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let mut new = self.version(number).to_vec();
        let start = self.random.below(new.len() as u64 + 1);
        let end = start + 1 + self.random.below(20_000);
        let inside = start as usize..(end as usize).min(new.len());
        new[inside].fill(0);
        self.step(
            format!("punch {path} {start} to {end}"),
            Durable::Nothing,
            |run| run.filesystem.punch_hole(run.id(&path)?, start..end),
            |run, _| run.new_version(number, new),
        );
    }

    /// Some sectors of a file, or its end, into another file or another place. So few that it is one change: where
    /// there is no space nothing changes.
    pub(super) fn clone_range(&mut self) {
        const MOST: usize = 8;
        let (Some((from, source)), Some((to, dest))) = (self.any_file(), self.any_file()) else { return };
        let (bytes, mut new) = (self.version(source), self.version(dest).to_vec());
        let start = self.random.below(bytes.len() as u64 / 4096 + 1) as usize * 4096;
        let target = self.random.below(new.len().max(40_000) as u64 / 4096 + 1) as usize * 4096;
        let (rest, sectors) = (bytes.len() - start, (bytes.len() - start) / 4096);
        let to_end = target + rest >= new.len() && rest <= MOST * 4096 && self.random.percent(60);
        let len = if to_end { rest } else { self.random.below(sectors.min(MOST) as u64 + 1) as usize * 4096 };
        let end = |start: usize| start + len.next_multiple_of(4096);
        if len == 0 || (source == dest && start < end(target) && target < end(start)) {
            return;
        }
        new.resize(new.len().max(target + len), 0);
        new[target..target + len].copy_from_slice(&bytes[start..start + len]);
        let place = |id: InodeId, offset: usize| FileOffset { id, offset: offset as u64 };
        self.step(
            format!("clone {from} {start}+{len} to {to} {target}"),
            Durable::Nothing,
            |run| {
                let (source, dest) = (place(run.id(&from)?, start), place(run.id(&to)?, target));
                run.filesystem.clone_range(source, dest, CloneLen::Bytes(len as u64))
            },
            |run, _| run.new_version(dest, new),
        );
    }

    pub(super) fn preallocate(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let mut new = self.version(number).to_vec();
        let start = self.random.below(new.len() as u64 + 1);
        let end = start + 1 + self.random.below(30_000);
        let mode = if self.random.percent(50) { SizeMode::Keep } else { SizeMode::Extend };
        if mode == SizeMode::Extend {
            new.resize(new.len().max(end as usize), 0);
        }
        self.step(
            format!("preallocate {path} {start} to {end} {mode:?}"),
            Durable::Nothing,
            |run| run.filesystem.preallocate(run.id(&path)?, start..end, mode),
            |run, _| run.new_version(number, new),
        );
    }

    /// What is read now is what was written.
    pub(super) fn verify(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let want = self.version(number);
        let read = |run: &Self| {
            let mut bytes = vec![0; want.len() + 1];
            let len = run.filesystem.read(run.id(&path)?, 0, &mut bytes)?;
            bytes.truncate(len);
            Ok(bytes)
        };
        self.step(format!("read {path}"), Durable::Nothing, read, |_, bytes| {
            if let Some(bytes) = bytes {
                assert!(*bytes == *want, "{path}: read {} bytes that are not what was written", bytes.len());
            }
        });
    }

    /// Takes nearly all space with one file.
    pub(super) fn fill(&mut self) {
        self.new_ballast();
        let mut size = 0;
        let mut piece: u64 = 16 << 20;
        while piece >= 64 << 10 && self.failure.is_none() {
            let end = size + piece;
            let before = self.now();
            self.step(
                format!("preallocate {BALLAST} up to {end}"),
                Durable::Nothing,
                |run| run.filesystem.preallocate(run.id(BALLAST)?, size..end, SizeMode::Keep),
                |_, _| {},
            );
            if self.history.steps[before].what.ends_with("(no space)") { piece /= 2 } else { size = end }
        }
        self.sync();
    }

    pub(super) fn new_ballast(&mut self) {
        self.step(
            format!("create {BALLAST}"),
            Durable::Nothing,
            |run| run.at(BALLAST, |place| run.filesystem.create(place, &NEW_FILE)),
            |run, _| run.new_file(BALLAST, &[]),
        );
    }

    pub(super) fn fsync(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        self.step(
            format!("fsync {path}"),
            Durable::File(number),
            |run| run.filesystem.fsync(run.id(&path)?),
            |_, _| {},
        );
    }

    pub(super) fn fsync_dir(&mut self) {
        let dir = if self.random.percent(50) { self.any_of(|node| *node == Node::Directory) } else { None };
        let path = dir.unwrap_or_default();
        self.step(
            format!("fsync directory /{path}"),
            Durable::Directory(path.clone()),
            |run| run.filesystem.fsync(run.id(&path)?),
            |_, _| {},
        );
    }

    /// Sets the one attribute that is looked at, or removes it.
    pub(super) fn set_xattr(&mut self) {
        let Some((path, number)) = self.any_file() else { return };
        let had = !self.history.files[number].xattr.last().is_empty();
        let len = if had && self.random.percent(30) { 0 } else { 1 + self.random.below(600) as usize };
        let value = self.content(number, 0, len);
        if !had && value.is_empty() {
            return;
        }
        self.step(
            format!("xattr of {path}, {len} bytes"),
            Durable::Nothing,
            |run| match (run.id(&path)?, value.as_slice()) {
                (id, []) => run.filesystem.remove_xattr(id, XATTR),
                (id, value) => run.filesystem.set_xattr(id, Xattr { name: XATTR, value }, XattrMode::Any),
            },
            |run, _| {
                let now = run.now();
                run.history.files[number].xattr.push(now, &value);
            },
        );
    }

    pub(super) fn sync(&mut self) {
        self.step("sync".into(), Durable::Everything, |run| run.filesystem.sync(), |_, _| {});
    }
}
