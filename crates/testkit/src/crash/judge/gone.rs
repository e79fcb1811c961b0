//! What a sync promises of names that are no more: a synced directory has lost them, and a synced file too.
//!
//! Only names count whose directory is where it was: the move of a directory is promised by its own sync alone.

use std::collections::BTreeMap;

use super::{Commit, Found, FoundNames};
use crate::crash::history::{Durable, Node};

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Commit<'_> {
    /// Names that were gone when something was synced after the commit, and did not come back, are not there.
    pub(super) fn keeps_removals(&self, found: &FoundNames) -> Result<(), String> {
        let Some(done) = self.done else { return Ok(()) };
        for step in self.step + 1..=done {
            let at = &self.history.steps[step];
            let is_there = |(path, node): (&str, &Node)| match &at.durable {
                Durable::Directory(dir) => parent(path) == dir && found.contains_key(path),
                Durable::File(file) => *node == Node::File(*file) && self.still_leads_to(path, *file, found),
                _ => false,
            };
            if matches!(at.durable, Durable::Directory(_) | Durable::File(_))
                && let Some((path, _)) = self.gone_by(step).into_iter().find(|gone| is_there(*gone))
            {
                return Err(format!("{path} is still there, in spite of {}", at.what));
            }
        }
        Ok(())
    }

    /// What led somewhere since the commit, and to nothing from a step up to the cut; with where it led last.
    fn gone_by(&self, step: usize) -> BTreeMap<&str, &Node> {
        let first = if self.exact { self.step } else { self.step.saturating_sub(1) };
        let steps = &self.history.steps;
        let now = &steps[self.begun].names;
        let mut gone = BTreeMap::new();
        for before in &steps[first..step] {
            let stays = |path: &str| parent(path).is_empty() || before.names.get(parent(path)) == now.get(parent(path));
            gone.extend(
                before.names.iter().filter(|(path, _)| stays(path)).map(|(path, entry)| (path.as_str(), &entry.node)),
            );
        }
        gone.retain(|path, _| steps[step..=self.begun].iter().all(|after| !after.names.contains_key(*path)));
        gone
    }

    fn still_leads_to(&self, path: &str, file: usize, found: &FoundNames) -> bool {
        let id = |path: &str| match found.get(path) {
            Some(Found::File { id, .. }) => Some(*id),
            _ => None,
        };
        let names = self.history.steps[self.begun].names.iter();
        let mut now = names.filter(|(_, entry)| entry.node == Node::File(file)).map(|(path, _)| path);
        id(path).is_some_and(|old| now.any(|path| id(path) == Some(old)))
    }
}
