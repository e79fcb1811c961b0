//! A mount that this process serves by itself, gone with its value whatever happens.
//!
//! Threads of the same process may use it by system calls, but must not map its files into memory: a page fault there
//! could wait for a server that waits for the same address space. What maps files (SQLite) runs as a process of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use butterfs_engine::filesystem::Filesystem;
use butterfs_fuse::FrontEnd;
use butterfs_fuse::adapter::{AdapterOptions, EngineFrontEnd};
use butterfs_fuse::mount::{Mount, MountOptions, MountSource};
use butterfs_fuse::session::{Session, SessionError, SessionOptions};
use butterfs_fuse::stop::StopHandle;

/// A mount and the thread that serves it.
pub struct Served {
    path: PathBuf,
    stop: StopHandle,
    thread: Option<JoinHandle<Result<(), SessionError>>>,
}

impl Served {
    /// Mounts `filesystem` on the directory `path`. `stand_in` is a file as long as its device: with it the mount is a
    /// `fuseblk` one, where sync and umount reach the filesystem. It is never read or written.
    pub fn filesystem(filesystem: Arc<Filesystem>, path: &Path, stand_in: &Path, options: AdapterOptions) -> Self {
        let front_end = Arc::new(EngineFrontEnd::new(filesystem, options));
        Self::mount(front_end, &MountSource::Image(stand_in.into()), path)
    }

    /// Mounts any front end.
    pub fn mount(front_end: Arc<dyn FrontEnd>, source: &MountSource, path: &Path) -> Self {
        let mount = Mount::new(source, path, &MountOptions::for_root())
            .unwrap_or_else(|error| panic!("cannot mount on {}: {error}", path.display()));
        let session = Session::new(mount, front_end, SessionOptions { threads: 4, ..SessionOptions::default() });
        let stop = session.stop_handle();
        Self { path: path.into(), stop, thread: Some(std::thread::spawn(move || session.run())) }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts and waits; gives what the end of the session said.
    pub fn unmount(mut self) -> Result<(), SessionError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), SessionError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        if self.stop.stop().is_err() {
            // Whoever still uses it gets errors, and the session ends.
            let _aborted = self.stop.abort();
        }
        thread.join().unwrap_or(Err(SessionError::Panic))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}
