//! Operations on names: files, directories, links that come, go and move.

use butterfs_engine::filesystem::{NewInode, NewKind, RenameOptions};

use super::{NEW_FILE, Run};
use crate::crash::history::{Durable, Node};

impl Run {
    pub(super) fn create(&mut self) {
        let Some(path) = self.free_path() else { return };
        self.step(
            format!("create {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create(place, &NEW_FILE)),
            |run, _| run.new_file(&path, &[]),
        );
    }

    pub(super) fn make_dir(&mut self) {
        let path = self.fresh_name("d");
        let new = NewInode { kind: NewKind::Directory, permissions: 0o755, ..NEW_FILE };
        self.step(
            format!("mkdir {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create(place, &new)),
            |run, _| run.set(&path, Node::Directory),
        );
    }

    pub(super) fn remove_dir(&mut self) {
        let Some(path) = self.any_of(|node| *node == Node::Directory) else { return };
        let inside = format!("{path}/");
        if self.names.range(inside.clone()..).next().is_some_and(|(path, _)| path.starts_with(&inside)) {
            return;
        }
        self.step(
            format!("rmdir {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.rmdir(place)),
            |run, _| run.remove(&path),
        );
    }

    pub(super) fn symlink(&mut self) {
        let Some(path) = self.free_path() else { return };
        let target = vec![b't'; 1 + self.random.below(200) as usize];
        let new = NewInode { kind: NewKind::Symlink(&target), ..NEW_FILE };
        self.step(
            format!("symlink {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create(place, &new)),
            |run, _| run.set(&path, Node::Symlink(target.clone())),
        );
    }

    pub(super) fn unlink(&mut self) {
        let Some((path, _)) = self.any_file() else { return };
        self.step(
            format!("unlink {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.unlink(place)),
            |run, _| run.remove(&path),
        );
    }

    pub(super) fn unlink_held(&mut self) {
        let Some((path, _)) = self.any_file().filter(|(path, _)| !self.is_nested(path)) else { return };
        let hold = |run: &Self| {
            let id = run.id(&path)?;
            run.filesystem.hold(id)?;
            run.at(&path, |place| run.filesystem.unlink(place))?;
            Ok(id)
        };
        self.step(format!("unlink {path}, which is open"), Durable::Nothing, hold, |run, id| {
            run.held.extend(id);
            run.remove(&path);
        });
    }

    pub(super) fn release(&mut self) {
        let Some(id) = self.held.pop() else { return };
        self.step("close".into(), Durable::Nothing, |run| run.filesystem.release(id, 1), |_, _| {});
    }

    pub(super) fn rename(&mut self) {
        if self.random.percent(20) {
            return self.rename_dir();
        }
        let Some((from, number)) = self.any_file() else { return };
        let to = if self.random.percent(40) { self.any_file().map(|(path, _)| path) } else { self.free_path() };
        let Some(to) = to.filter(|to| !self.is_nested(&from) && !self.is_nested(to)) else { return };
        // Two names of one inode: POSIX wants nothing to happen.
        if self.names.get(&to).is_some_and(|entry| entry.node == Node::File(number)) {
            return;
        }
        self.step(
            format!("rename {from} to {to}"),
            Durable::Nothing,
            |run| run.at(&from, |from| run.at(&to, |to| run.filesystem.rename(from, to, RenameOptions::default()))),
            |run, _| {
                run.remove(&from);
                run.set(&to, Node::File(number));
            },
        );
    }

    pub(super) fn rename_dir(&mut self) {
        let Some(from) = self.any_of(|node| *node == Node::Directory) else { return };
        let to = self.fresh_name("d");
        self.step(
            format!("rename {from} to {to}"),
            Durable::Nothing,
            |run| run.at(&from, |from| run.at(&to, |to| run.filesystem.rename(from, to, RenameOptions::default()))),
            |run, _| {
                let inside = format!("{from}/");
                let moved: Vec<(String, Node)> = run
                    .names
                    .iter()
                    .filter(|(path, _)| **path == from || path.starts_with(&inside))
                    .map(|(path, entry)| (path.clone(), entry.node.clone()))
                    .collect();
                for (path, node) in moved {
                    run.remove(&path);
                    run.set(&format!("{to}{}", &path[from.len()..]), node);
                }
            },
        );
    }

    pub(super) fn exchange(&mut self) {
        let (Some((a, first)), Some((b, second))) = (self.any_file(), self.any_file()) else { return };
        if first == second || self.is_nested(&a) || self.is_nested(&b) {
            return;
        }
        self.step(
            format!("exchange {a} and {b}"),
            Durable::Nothing,
            |run| run.at(&a, |a| run.at(&b, |b| run.filesystem.exchange(a, b))),
            |run, _| {
                run.set(&a, Node::File(second));
                run.set(&b, Node::File(first));
            },
        );
    }

    pub(super) fn link(&mut self) {
        let (Some((from, number)), Some(to)) = (self.any_file(), self.free_path()) else { return };
        if self.is_nested(&from) || self.is_nested(&to) {
            return;
        }
        self.step(
            format!("link {from} as {to}"),
            Durable::Nothing,
            |run| {
                let id = run.id(&from)?;
                run.at(&to, |to| run.filesystem.link(id, to))
            },
            |run, _| run.set(&to, Node::File(number)),
        );
    }

    /// A file that gets its name when its content is there.
    pub(super) fn unnamed(&mut self) {
        let Some(path) = self.free_path().filter(|path| !self.is_nested(path)) else { return };
        let len = self.random.below(20_000) as usize;
        let bytes = self.content(self.history.files.len(), 0, len);
        self.step(
            format!("tmpfile of {len} bytes, linked as {path}"),
            Durable::Nothing,
            |run| {
                let id = run.filesystem.create_unnamed(run.filesystem.root(), &NEW_FILE)?;
                let filled = run.filesystem.write(id, 0, &bytes);
                let linked = filled.and_then(|_| run.at(&path, |place| run.filesystem.link(id, place)));
                run.filesystem.release(id, 1)?;
                linked
            },
            |run, _| {
                run.new_file(&path, &[]);
                let number = run.history.files.len() - 1;
                run.new_version(number, bytes.clone());
            },
        );
    }
}
