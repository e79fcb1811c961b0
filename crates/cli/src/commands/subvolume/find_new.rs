//! `butterfs subvolume find-new`.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;

use butterfs_format::items::{Compression, FileExtentKind};
use butterfs_fuse::control::{self, ChangedExtent};

use super::{failed, open};
use crate::failure::{self, Result};
use crate::{exit, output};

/// What `subvolume find-new` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The subvolume.
    subvolume: PathBuf,
    /// The transaction to begin with.
    last_gen: u64,
}

/// Lists what is as young; what is in memory is written first.
pub fn run(arguments: &Arguments) -> Result<()> {
    let path = arguments.subvolume.as_path();
    let failed = |error: std::io::Error| failed(path, &error);
    let top = open(path)?;
    control::subvolume_access(top.as_fd()).map_err(failed)?;
    control::sync(top.as_fd()).map_err(failed)?;
    let found = control::changed_extents(top.as_fd(), arguments.last_gen).map_err(failed)?;
    let id = control::subvolume_id(top.as_fd()).map_err(failed)?;
    let all = control::list_subvolumes(top.as_fd()).map_err(failed)?;
    let marker = super::find(&all, id).map_or(0, |found| found.generation);
    let mut names: HashMap<u64, String> = HashMap::new();
    let printed = output::stream(|out| {
        for extent in &found {
            let name = names.entry(extent.ino).or_insert_with(|| {
                let name = control::path_of_inode(top.as_fd(), extent.ino);
                // It may be gone by now.
                name.map_or_else(|_| "(no name)".into(), |name| name.display().to_string())
            });
            writeln!(out, "{}", line(extent, name))?;
        }
        writeln!(out, "transid marker was {marker}")
    });
    printed.map_err(|error| failure::destination(exit::USAGE, std::path::Path::new("standard output"), &error))
}

fn line(extent: &ChangedExtent, name: &str) -> String {
    let ChangedExtent { ino, offset, len, disk_start, disk_offset, generation, .. } = extent;
    let flags = flags(extent);
    format!(
        "inode {ino} file offset {offset} len {len} disk start {disk_start} offset {disk_offset} gen {generation} \
         flags {flags} {name}"
    )
}

fn flags(extent: &ChangedExtent) -> String {
    let mut words = Vec::new();
    if extent.compression != Compression::None {
        words.push("COMPRESS");
    }
    match extent.kind {
        FileExtentKind::Prealloc => words.push("PREALLOC"),
        FileExtentKind::Inline => words.push("INLINE"),
        FileExtentKind::Regular => {}
    }
    if words.is_empty() { "NONE".into() } else { words.join("|") }
}
