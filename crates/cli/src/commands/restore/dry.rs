//! A restore that makes nothing: it names what it would make.

use std::io;

use butterfs_salvage::{About, Made, NewFile, Sink, shown};

use crate::commands::Format;
use crate::output;

/// Names everything, for people; reads everything in any case.
pub struct DryRun {
    format: Format,
}

impl DryRun {
    /// In this format.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    fn name(&self, path: &[u8]) {
        if self.format == Format::Text {
            output::line(shown(path));
        }
    }
}

/// A file that is not made.
struct Nothing;

impl NewFile for Nothing {
    fn write(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>, _: u64, _: &About<'_>) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn discard(self: Box<Self>) {}
}

impl Sink for DryRun {
    fn directory(&self, path: &[u8]) -> io::Result<()> {
        if !path.is_empty() {
            self.name(path);
        }
        Ok(())
    }

    fn file<'s>(&'s self, path: &[u8]) -> io::Result<Option<Box<dyn NewFile + 's>>> {
        self.name(path);
        Ok(Some(Box::new(Nothing)))
    }

    fn symlink(&self, path: &[u8], _: &[u8], _: &About<'_>) -> io::Result<Made> {
        self.name(path);
        Ok(Made::New(Vec::new()))
    }

    fn special(&self, path: &[u8], _: &About<'_>) -> io::Result<Made> {
        self.name(path);
        Ok(Made::New(Vec::new()))
    }

    fn link(&self, path: &[u8], _: &[u8]) -> io::Result<Made> {
        self.name(path);
        Ok(Made::New(Vec::new()))
    }

    fn attributes(&self, _: &[u8], _: &About<'_>) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}
