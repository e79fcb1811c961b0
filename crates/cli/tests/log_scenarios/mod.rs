//! What is done before a power cut: steps that file systems were found wrong in, each with its fsyncs.
//!
//! `before` is made durable by a sync; `after` ends with the cut. What is synced by [`fsync`] must be there afterwards as
//! it was at the cut, and what is told to be [`gone`] must not.

#![allow(missing_docs)]

pub mod clones;
pub mod first;
pub mod fstests;
pub mod near_misses;

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use butterfs_testkit::mounter::Mounter;
use rustix::fs::{FallocateFlags, XattrFlags};

use crate::common::{kernel, subject};

pub type Step = fn(&Path);

pub struct Scenario {
    pub name: &'static str,
    pub before: Step,
    pub after: Step,
}

pub fn write(path: &Path, offset: u64, byte: u8, len: usize) {
    let file = File::options().write(true).create(true).truncate(false).open(path).expect("open");
    file.write_all_at(&vec![byte; len], offset).expect("write");
}

thread_local! {
    /// What the scenario fsynced, in its last state.
    pub static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    /// Names that must not be there any more, because what was synced says so.
    pub static GONE: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
}

/// After the fsyncs so far this name must not be there.
pub fn gone(path: &Path) {
    GONE.with_borrow_mut(|gone| gone.push(path.to_owned()));
}

/// A sync of a file that is changed again afterwards.
pub fn fsync_for_now(path: &Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("fsync");
}

pub fn link(from: &Path, to: &Path) {
    fs::hard_link(from, to).expect("link");
}

pub fn unlink(path: &Path) {
    fs::remove_file(path).expect("unlink");
}

pub fn mkdir(path: &Path) {
    fs::create_dir(path).expect("mkdir");
}

pub fn fsync(path: &Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("fsync");
    SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
}

pub fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).expect("rename");
}

pub fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).expect("setxattr");
}

pub fn allocate(path: &Path, flags: FallocateFlags, offset: u64, len: u64) {
    let file = File::options().write(true).create(true).truncate(false).open(path).expect("open");
    rustix::fs::fallocate(&file, flags, offset, len).expect("fallocate");
}

pub fn truncate(path: &Path, len: u64) {
    File::options().write(true).open(path).and_then(|file| file.set_len(len)).expect("truncate");
}

pub fn nothing(_: &Path) {}

/// Who mounted it.
pub fn owner(root: &Path) -> Mounter {
    const FUSE: u32 = 0x6573_5546;
    let magic = rustix::fs::statfs(root).expect("statfs").f_type as u32;
    if magic == FUSE { subject() } else { kernel() }
}

/// Some files and directories that most scenarios work on.
pub fn usual(root: &Path) {
    for dir in ["a", "b", "a/deep"] {
        fs::create_dir(root.join(dir)).expect("mkdir");
    }
    write(&root.join("a/file"), 0, b'f', 100_000);
    write(&root.join("a/other"), 0, b'o', 9000);
    write(&root.join("b/small"), 0, b's', 100);
    fs::hard_link(root.join("a/file"), root.join("b/link")).expect("link");
    xattr(&root.join("a/file"), "user.kept", b"1");
    xattr(&root.join("a/file"), "user.gone", b"2");
}

/// A scenario.
pub const fn scenario(name: &'static str, before: Step, after: Step) -> Scenario {
    Scenario { name, before, after }
}
