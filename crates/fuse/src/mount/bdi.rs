//! What the kernel allows a mount's page cache, in `/sys/class/bdi`.

use std::io;
use std::path::PathBuf;

/// Settings of a mount's backing device. Only root may change them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BdiTuning {
    /// Lift the limit of 1% on dirty pages, without which the writeback cache is slower than
    /// none.
    pub full_writeback: bool,
    /// How far to read ahead, in KiB; the default is 128.
    pub read_ahead_kib: Option<u32>,
}

impl BdiTuning {
    /// Sets what is asked for.
    pub(super) fn apply(&self, (major, minor): (u32, u32)) -> io::Result<()> {
        let directory = directory(major, minor)?;
        if self.full_writeback {
            std::fs::write(directory.join("strict_limit"), "0")?;
            std::fs::write(directory.join("max_ratio"), "100")?;
        }
        if let Some(kib) = self.read_ahead_kib {
            std::fs::write(directory.join("read_ahead_kb"), kib.to_string())?;
        }
        Ok(())
    }
}

/// The directory of the mount's settings; on fuseblk, the plain name is the disk's own.
fn directory(major: u32, minor: u32) -> io::Result<PathBuf> {
    let names = [format!("{major}:{minor}-fuseblk"), format!("{major}:{minor}")];
    let paths = names.iter().map(|name| PathBuf::from("/sys/class/bdi").join(name));
    paths.into_iter().find(|path| path.exists()).ok_or_else(|| io::ErrorKind::NotFound.into())
}
