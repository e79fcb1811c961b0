//! Operations on subvolumes and snapshots, and the cleaner.

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_engine::filesystem::{Access, NewSubvolume};

use super::Run;
use crate::crash::history::{Durable, Node};

impl Run {
    pub(super) fn make_subvolume(&mut self) {
        let path = self.fresh_name("v");
        let new = NewSubvolume { permissions: 0o755, uid: 1, gid: 2 };
        self.step(
            format!("create subvolume {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.create_subvolume(place, &new)),
            |run, _| run.set(&path, Node::Subvolume),
        );
    }

    pub(super) fn snapshot(&mut self) {
        if self.names.values().filter(|entry| matches!(entry.node, Node::Snapshot(_))).count() >= 3 {
            return;
        }
        let path = self.fresh_name("s");
        let access = if self.random.percent(50) { Access::ReadOnly } else { Access::ReadWrite };
        self.step(
            format!("snapshot {path}"),
            Durable::TopLevel,
            |run| {
                let source = run.filesystem.root().tree;
                run.at(&path, |place| run.filesystem.snapshot(source, place, access))
            },
            |run, _| {
                run.history.snapshots.push(run.now());
                let number = run.history.snapshots.len() - 1;
                run.set(&path, Node::Snapshot(number));
            },
        );
    }

    pub(super) fn delete_subvolume(&mut self) {
        let Some(path) = self.any_of(|node| matches!(node, Node::Snapshot(_) | Node::Subvolume)) else { return };
        self.step(
            format!("delete subvolume {path}"),
            Durable::Nothing,
            |run| run.at(&path, |place| run.filesystem.delete_subvolume(place)),
            |run, _| {
                let inside = format!("{path}/");
                let kept: BTreeMap<_, _> = std::mem::take(Arc::make_mut(&mut run.names))
                    .into_iter()
                    .filter(|(name, _)| *name != path && !name.starts_with(&inside))
                    .collect();
                run.names = Arc::new(kept);
            },
        );
    }

    pub(super) fn clean(&mut self) {
        let limit = 1 + self.random.below(40) as usize;
        self.step(
            format!("clean up to {limit} blocks"),
            Durable::Nothing,
            |run| run.filesystem.clean_once(limit),
            |_, _| {},
        );
    }
}
