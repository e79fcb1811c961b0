//! How large an image must be for what is in a directory: on the safe side, since what is not used of a file is a hole.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use butterfs_engine::mkfs::MakeOptions;
use butterfs_format::items::BlockGroupFlags;
use butterfs_volume::Profile;

/// What a name and its inode take of trees at most, on average: inode, reference, two directory items, extent, backward
/// reference, in leaves that are half full.
const ITEMS: u64 = 1500;
/// Room for chunks that are used in part.
const CHUNKS: u64 = 1 << 30;
/// One byte of checksums, for so many of data.
const PER_CHECKSUM: u64 = 128;

/// The size for what is in a directory, in bytes. What cannot be read is told of when it is copied.
pub(super) fn image_size(dir: &Path, options: &MakeOptions) -> u64 {
    let sector = u64::from(options.sectorsize);
    let (mut data, mut trees) = (0u64, ITEMS);
    let mut waiting: Vec<PathBuf> = vec![dir.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            trees += ITEMS + 4 * entry.file_name().len() as u64;
            if meta.is_dir() {
                waiting.push(entry.path());
            } else if meta.is_file() {
                // What is short lies in the trees, or in a sector of its own.
                data += meta.len().min(meta.blocks() * 512).next_multiple_of(sector);
                trees += meta.len().min(sector);
            }
        }
    }
    trees += data / PER_CHECKSUM;
    let needed = data * copies(options.data_profile) + trees * copies(options.metadata_profile);
    (needed / 4 * 5 + CHUNKS).next_multiple_of(1 << 20)
}

fn copies(profile: BlockGroupFlags) -> u64 {
    Profile::of(profile).map_or(1, |profile| profile.copies as u64)
}
