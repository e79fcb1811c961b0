//! The data of files of the host.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use butterfs_engine::inode::InodeId;
use rustix::fs::{SeekFrom, Stat, seek};
use rustix::io::Errno;

use super::super::report::Report;
use super::super::{Links, Outcome, Settings};
use super::Copier;
use super::walk::{Content, Found};

impl Copier<'_> {
    /// Copies the data of a file; its holes stay holes.
    pub(super) fn copy_data(&mut self, found: &Found, id: InodeId) -> Outcome<()> {
        match &found.content {
            Content::Bytes(bytes) => {
                self.write(id, 0, bytes)?;
                self.report.advance(bytes.len() as u64);
                Ok(())
            }
            Content::File(file) => self.copy_file(file, id, &found.stat),
            Content::Symlink(_) | Content::None => Ok(()),
        }
    }

    fn copy_file(&mut self, file: &File, id: InodeId, stat: &Stat) -> Outcome<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let (mut at, mut written) = (0, 0);
        while at < size {
            let (start, end) = next_data(file, at, size)?;
            self.report.advance(start.min(size) - at);
            at = start;
            while at < end {
                self.report.go_on()?;
                self.commit_now_and_then()?;
                let wanted = (end - at).min(self.piece.len() as u64) as usize;
                let count = file.read_at(&mut self.piece[..wanted], at)?;
                if count == 0 {
                    // It became shorter meanwhile.
                    return Ok(());
                }
                self.write(id, at, &self.piece[..count])?;
                at += count as u64;
                written = at;
                self.report.advance(count as u64);
            }
        }
        if written < size {
            self.fs.set_size(id, size)?;
        }
        Ok(())
    }

    fn write(&self, id: InodeId, at: u64, bytes: &[u8]) -> Outcome<()> {
        let mut done = 0;
        while done < bytes.len() {
            done += self.fs.write(id, at + done as u64, &bytes[done..])?;
        }
        Ok(())
    }
}

/// Where the next data begins and ends; at the file's end, if there is none.
fn next_data(file: &File, at: u64, size: u64) -> Outcome<(u64, u64)> {
    let start = match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => return Ok((size, size)),
        // It knows of no holes.
        Err(Errno::INVAL) => return Ok((at, size)),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(start)).unwrap_or(size);
    // Never nothing, whatever changes meanwhile.
    Ok((start, end.clamp((start + 1).min(size), size)))
}

/// The bytes of all files. What cannot be read has none: that is told when it is copied.
pub fn measure<'a>(paths: impl Iterator<Item = &'a Path>, settings: &Settings, report: &Report) -> u64 {
    let look = |path: &Path| match settings.links {
        Links::Copy => path.symlink_metadata(),
        Links::Follow => path.metadata(),
    };
    let mut waiting: Vec<PathBuf> = paths.map(Path::to_path_buf).collect();
    let mut sum = 0u64;
    while let Some(path) = waiting.pop() {
        if report.is_stopped() {
            break;
        }
        let Ok(meta) = look(&path) else { continue };
        if meta.is_file() {
            sum = sum.saturating_add(meta.len());
        } else if meta.is_dir() && settings.links == Links::Copy {
            waiting.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    sum
}
