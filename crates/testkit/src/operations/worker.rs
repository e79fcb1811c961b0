//! One thread of a run: it does each operation on both sides, and compares.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use super::{Generator, Operation, Side};

/// One thread of a run: its generator and its two sides. It lives over all rounds.
#[derive(Debug)]
pub struct Worker {
    generator: Generator,
    subject: Side,
    reference: Side,
    counts: BTreeMap<&'static str, (u64, u64)>,
    history: Vec<String>,
}

impl Worker {
    /// A worker whose home and shared directory exist on both sides.
    pub fn new(generator: Generator, subject: &Path, reference: &Path) -> Self {
        Self {
            generator,
            subject: Side::new(subject),
            reference: Side::new(reference),
            counts: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    /// Does `count` operations on both sides; an unequal outcome is told with what led to it.
    pub fn run(&mut self, count: usize) -> Result<(), String> {
        for _ in 0..count {
            let operation = self.generator.draw();
            let subject = self.subject.apply(&operation);
            let reference = self.reference.apply(&operation);
            let text = brief(&operation);
            if subject != reference {
                let recent = self.history.len().saturating_sub(15);
                return Err(format!(
                    "{text}\n  subject:   {subject:?}\n  reference: {reference:?}\nafter\n  {}",
                    self.history[recent..].join("\n  ")
                ));
            }
            let count = self.counts.entry(verb(&text)).or_default();
            match subject {
                Ok(_) => {
                    self.generator.succeeded(&operation);
                    count.0 += 1;
                }
                Err(_) => count.1 += 1,
            }
            self.history.push(format!("{text} -> {subject:?}"));
            if self.history.len() > 1000 {
                self.history.drain(..500);
            }
        }
        Ok(())
    }

    /// Closes what is held open.
    pub fn release(&mut self) {
        self.subject.held = None;
        self.reference.held = None;
    }

    /// For each kind of operation, how many succeeded and how many failed (alike on both sides).
    pub fn counts(&self) -> &BTreeMap<&'static str, (u64, u64)> {
        &self.counts
    }
}

fn brief(operation: &Operation) -> String {
    let mut text = format!("{operation:?}");
    if text.len() > 300 {
        let mut end = 300;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn verb(text: &str) -> &'static str {
    const VERBS: [&str; 34] = [
        "Create",
        "Write",
        "Append",
        "DirectWrite",
        "DirectRead",
        "MapWrite",
        "MapPrivate",
        "Read",
        "Truncate",
        "Allocate",
        "CopyRange",
        "Rename",
        "RenameExchange",
        "RenameNoReplace",
        "Link",
        "Symlink",
        "Mkdir",
        "Rmdir",
        "Unlink",
        "Special",
        "UnlinkOpen",
        "Hold",
        "HeldWrite",
        "HeldRead",
        "Release",
        "SetXattr",
        "RemoveXattr",
        "SetAcl",
        "Chmod",
        "Chown",
        "Utimens",
        "Fsync",
        "Stat",
        "List",
    ];
    let word = text.split([' ', '{']).next().unwrap_or_default();
    VERBS.iter().find(|verb| **verb == word).copied().unwrap_or("other")
}

/// Runs all workers at once, `count` operations each; panics with the first difference.
#[track_caller]
pub fn run_together(workers: &mut [Worker], count: usize) {
    let first = Mutex::new(None);
    std::thread::scope(|scope| {
        for worker in workers.iter_mut() {
            let first = &first;
            scope.spawn(move || {
                if let Err(difference) = worker.run(count) {
                    first.lock().expect("no panic while held").get_or_insert(difference);
                }
            });
        }
    });
    if let Some(difference) = first.into_inner().expect("no panic while held") {
        panic!("the subject and the reference part:\n{difference}");
    }
}
