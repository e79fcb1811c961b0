//! Where what was read goes.
//!
//! # Locking
//! Several threads use a sink at the same time. A directory is made before anything in it.

use std::io;

use butterfs_format::items::InodeItem;

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// What is known of an inode besides its content.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Its item, unless it is lost.
    pub item: Option<&'a InodeItem>,
    /// Its extended attributes.
    pub xattrs: &'a [Xattr],
}

/// What came of making something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It was made; what of its attributes could not be set, in words.
    New(Vec<String>),
    /// It was there already, and was left as it is.
    Existing,
    /// It is of a kind that is not wanted.
    Unwanted,
}

/// Takes directories and files. Paths are relative, of names without `.` and `..`.
pub trait Sink: Sync {
    /// Makes a directory, with those above it; one that is there is used.
    ///
    /// # Errors
    /// As the system's.
    fn directory(&self, path: &[u8]) -> io::Result<()>;

    /// Makes a file; `None` if it was there already and stays.
    ///
    /// # Errors
    /// As the system's.
    fn file<'s>(&'s self, path: &[u8]) -> io::Result<Option<Box<dyn NewFile + 's>>>;

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As the system's.
    fn symlink(&self, path: &[u8], target: &[u8], about: &About<'_>) -> io::Result<Made>;

    /// Makes a pipe, socket or device.
    ///
    /// # Errors
    /// As the system's.
    fn special(&self, path: &[u8], about: &About<'_>) -> io::Result<Made>;

    /// Gives a file that was made another name.
    ///
    /// # Errors
    /// As the system's.
    fn link(&self, path: &[u8], existing: &[u8]) -> io::Result<Made>;

    /// Sets a directory's attributes, when all in it was made; gives what could not be set, in words.
    ///
    /// # Errors
    /// As the system's.
    fn attributes(&self, path: &[u8], about: &About<'_>) -> io::Result<Vec<String>>;
}

/// A file that is being made. What is not written is a hole.
pub trait NewFile {
    /// Writes bytes.
    ///
    /// # Errors
    /// As the system's.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Gives the file its size and attributes; gives what could not be set, in words.
    ///
    /// # Errors
    /// As the system's.
    fn finish(self: Box<Self>, size: u64, about: &About<'_>) -> io::Result<Vec<String>>;

    /// Takes the file away again.
    fn discard(self: Box<Self>);
}
