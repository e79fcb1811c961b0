//! A seeded run of file operations, done alike in two directories: the subject and the reference.
//!
//! Each operation's outcome (a value or an errno) must be equal on both sides. Threads work in subtrees of their own
//! and on names of their own in one shared directory, so that each thread's outcomes follow from its seed alone.

mod direct;
mod generator;
mod memory;
mod side;
mod worker;

use std::path::PathBuf;

use rustix::io::Errno;

pub use direct::exercise_direct;
pub use generator::Generator;
pub use side::Side;
pub use worker::{Worker, run_together};

/// The result of one operation: something comparable, or an errno.
pub type Outcome = Result<u64, Errno>;

/// Which operations of unequal support may be generated.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// fallocate, with punching and zeroing.
    pub fallocate: bool,
    /// POSIX access lists.
    pub acl: bool,
}

/// One operation. Paths are relative to the side's root.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Operation {
    Create { path: PathBuf, mode: u32 },
    Write { path: PathBuf, offset: u64, seed: u64, length: usize },
    Append { path: PathBuf, seed: u64, length: usize },
    DirectWrite { path: PathBuf, offset: u64, seed: u64, length: usize },
    DirectRead { path: PathBuf, offset: u64, length: usize },
    MapWrite { path: PathBuf, offset: u64, seed: u64, length: usize },
    MapPrivate { path: PathBuf, seed: u64 },
    Read { path: PathBuf, offset: u64, length: usize },
    Truncate { path: PathBuf, length: u64 },
    Allocate { path: PathBuf, offset: u64, length: u64, how: u8 },
    CopyRange { from: PathBuf, offset: u64, to: PathBuf, target: u64, length: u64 },
    Rename { from: PathBuf, to: PathBuf },
    RenameExchange { from: PathBuf, to: PathBuf },
    RenameNoReplace { from: PathBuf, to: PathBuf },
    Link { from: PathBuf, to: PathBuf },
    Symlink { target: PathBuf, path: PathBuf },
    Mkdir { path: PathBuf },
    Rmdir { path: PathBuf },
    Unlink { path: PathBuf },
    Special { path: PathBuf, kind: u8 },
    UnlinkOpen { path: PathBuf, seed: u64, length: usize },
    Hold { path: PathBuf },
    HeldWrite { offset: u64, seed: u64, length: usize },
    HeldRead,
    Release,
    SetXattr { path: PathBuf, name: String, seed: u64, length: usize, how: u8 },
    RemoveXattr { path: PathBuf, name: String },
    SetAcl { path: PathBuf, permissions: u16 },
    Chmod { path: PathBuf, mode: u32 },
    Chown { path: PathBuf, uid: u32, gid: u32 },
    Utimens { path: PathBuf, seconds: i64, nanoseconds: i64 },
    Fsync { path: PathBuf },
    Stat { path: PathBuf },
    List { path: PathBuf },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On one and the same filesystem, two directories never part; each kind of operation succeeds at least once.
    #[test]
    fn two_plain_directories_stay_equal() {
        let base = std::env::temp_dir().join(format!("butterfs-operations-{}", std::process::id()));
        let sides = [base.join("a"), base.join("b")];
        let features = Features { fallocate: false, acl: false };
        for side in &sides {
            for dir in ["t0", "t1", "shared"] {
                std::fs::create_dir_all(side.join(dir)).unwrap();
            }
        }
        let mut workers: Vec<Worker> = ["t0", "t1"]
            .iter()
            .map(|tag| Worker::new(Generator::new(7, tag, tag, "shared", features), &sides[0], &sides[1]))
            .collect();
        run_together(&mut workers, 3000);
        let (a, b) = (crate::tree_compare::Tree::read(&sides[0]), crate::tree_compare::Tree::read(&sides[1]));
        a.assert_same(&b, crate::tree_compare::Times::Ignored, "after the run");
        for verb in ["Create", "Write", "MapWrite", "Rename", "Link", "Unlink", "Hold", "Truncate", "CopyRange"] {
            let succeeded: u64 =
                workers.iter().filter_map(|worker| worker.counts().get(verb)).map(|count| count.0).sum();
            assert!(succeeded > 0, "no {verb} succeeded");
        }
        std::fs::remove_dir_all(base).unwrap();
    }
}
