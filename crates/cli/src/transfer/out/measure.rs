//! How much there is to copy, for who looks at how far it got.

use butterfs_engine::filesystem::{Filesystem, Flow};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;

use super::super::report::Report;
use super::super::{Links, Settings};
use crate::image::path::{Last, resolve};
use crate::image::walk::Visited;

/// The bytes of all files, holes and further names included. What cannot be read has none: that is told when
/// it is copied.
pub fn bytes<'a>(fs: &Filesystem, paths: impl Iterator<Item = &'a [u8]>, settings: &Settings, report: &Report) -> u64 {
    let last = if settings.links == Links::Copy { Last::Keep } else { Last::Follow };
    let mut waiting: Vec<InodeId> = paths.filter_map(|path| resolve(fs, path, last).ok()).collect();
    let mut visited = Visited::default();
    let mut sum = 0u64;
    while let Some(id) = waiting.pop() {
        if report.is_stopped() {
            break;
        }
        let Ok(found) = fs.attributes(id) else { continue };
        match found.file_type {
            FileType::Regular => sum = sum.saturating_add(found.item.size.get()),
            FileType::Directory if visited.enter(id, 0).is_ok() => {
                // What could not be listed is missing in the sum.
                let _ = fs.read_dir(id, 2, |entry| {
                    if matches!(entry.file_type, FileType::Regular | FileType::Directory) {
                        waiting.push(entry.id);
                    }
                    Ok(Flow::More)
                });
            }
            _ => {}
        }
    }
    sum
}
