//! What is in a directory, by name.

use butterfs_engine::Result;
use butterfs_engine::dir::list::Listed;
use butterfs_engine::filesystem::{Filesystem, Flow};
use butterfs_engine::inode::InodeId;

/// The first position behind `.` and `..`.
const FIRST: u64 = 2;

/// All entries but `.` and `..`, in the order of the bytes of their names.
///
/// # Errors
/// As the engine's.
pub fn entries(fs: &Filesystem, dir: InodeId) -> Result<Vec<Listed>> {
    let mut found = Vec::new();
    fs.read_dir(dir, FIRST, |entry| {
        found.push(entry.clone());
        Ok(Flow::More)
    })?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}
