//! Who is measured: makes a filesystem on an image, mounts and unmounts it.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::command::{run, run_program};
use crate::daemon;
use crate::mounter::create_sparse;
use crate::unmount::{patiently, unmount};

/// Large enough that the kernel's reservations of space do not slow it down.
const IMAGE: u64 = 16 << 30;

/// A filesystem under test, or one to compare with.
pub enum Subject {
    /// Butterfs.
    Butterfs {
        /// The program.
        binary: PathBuf,
        /// Options besides those of the scenario.
        options: String,
        /// What it is called in the table.
        name: &'static str,
        /// Where the image and the mount are.
        place: Place,
    },
    /// A filesystem of the kernel over a loop device.
    Kernel {
        /// `btrfs`, `ext4` or `xfs`.
        kind: &'static str,
        /// Where the image and the mount are.
        place: Place,
    },
    /// Memory behind our transport, in a process of its own.
    Null {
        /// That process.
        server: Arc<Mutex<NullServer>>,
        /// Where the mount is.
        place: Place,
    },
}

/// Where the image and the mount of a subject are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The image file.
    pub image: PathBuf,
    /// The mount point.
    pub dir: PathBuf,
}

impl Place {
    /// A place below a directory.
    pub fn below(base: &Path, name: &str) -> Self {
        let dir = base.join(format!("{name}.mnt"));
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        Self { image: base.join(format!("{name}.img")), dir }
    }
}

/// The process that serves the ceiling; see [`super::null`].
pub struct NullServer {
    child: Child,
    say: ChildStdin,
    hear: BufReader<ChildStdout>,
}

impl NullServer {
    /// Starts this program as `null DIR TRANSPORT`.
    pub fn start(dir: &Path, transport: &str) -> Self {
        let program = std::env::current_exe().expect("the program knows where it is");
        let mut command = Command::new(program);
        command.arg("null").arg(dir).arg(transport).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let say = child.stdin.take().expect("standard input is a pipe");
        let hear = BufReader::new(child.stdout.take().expect("standard output is a pipe"));
        Self { child, say, hear }
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.say, "{word}").expect("the server listens");
        self.wait();
    }

    fn wait(&mut self) {
        let mut line = String::new();
        self.hear.read_line(&mut line).expect("the server answers");
        assert_eq!(line, "ok\n", "the server of the ceiling failed");
    }
}

impl Drop for NullServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Subject {
    /// What it is called in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Butterfs { name, .. } => name,
            Self::Kernel { kind, .. } => kind,
            Self::Null { .. } => "ceiling",
        }
    }

    /// Where its image and mount are.
    pub fn place(&self) -> &Place {
        match self {
            Self::Butterfs { place, .. } | Self::Kernel { place, .. } | Self::Null { place, .. } => place,
        }
    }

    /// Makes an empty filesystem. Both sides get what mkfs.btrfs makes.
    pub fn make(&self) {
        let image = &self.place().image;
        let (program, arguments): (_, &[&str]) = match self {
            Self::Null { server, .. } => return lock(server).tell("make"),
            Self::Butterfs { .. } | Self::Kernel { kind: "btrfs", .. } => ("mkfs.btrfs", &["-q", "-f"]),
            Self::Kernel { kind: "ext4", .. } => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,nodiscard"]),
            Self::Kernel { .. } => ("mkfs.xfs", &["-q", "-f", "-K"]),
        };
        create_sparse(image, IMAGE);
        run(Command::new(program).args(arguments).arg(image)).ok();
    }

    /// Removes the image.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.place().image);
    }

    /// Takes the image out of the page cache, if it is not in memory anyway.
    pub fn drop_cache(&self) {
        if let Ok(file) = std::fs::File::open(&self.place().image) {
            file.sync_all().expect("the image can be synced");
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// Mounts.
    pub fn mount(&self, options: &str) -> Mounted {
        let Place { image, dir } = self.place();
        let server = match self {
            Self::Butterfs { binary, options: more, .. } => {
                let all = [options, more, "noatime"].join(",");
                run(Command::new(binary).args(["mount", "-o", &all]).arg(image).arg(dir)).ok();
                daemon::find_below(image).first().copied()
            }
            Self::Kernel { kind, .. } => {
                let all = if *kind == "btrfs" { ["loop,noatime", options].join(",") } else { "loop,noatime".into() };
                run(Command::new("mount").args(["-t", kind, "-o", all.trim_end_matches(',')]).arg(image).arg(dir)).ok();
                None
            }
            Self::Null { server, .. } => {
                lock(server).tell("mount");
                Some(lock(server).child.id())
            }
        };
        let how = match self {
            Self::Butterfs { binary, .. } => How::Butterfs(binary.clone()),
            Self::Kernel { .. } => How::Kernel,
            Self::Null { server, .. } => How::Null(Arc::clone(server)),
        };
        Mounted { dir: dir.clone(), server, how, active: true }
    }
}

enum How {
    Butterfs(PathBuf),
    Kernel,
    Null(Arc<Mutex<NullServer>>),
}

/// A mounted subject.
pub struct Mounted {
    dir: PathBuf,
    server: Option<u32>,
    how: How,
    active: bool,
}

impl Mounted {
    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The daemon's process id.
    pub fn server(&self) -> Option<u32> {
        self.server
    }

    /// Unmounts, and waits until that is done.
    pub fn unmount(mut self) {
        self.active = false;
        match &self.how {
            How::Butterfs(binary) => patiently(|| run(Command::new(binary).arg("umount").arg(&self.dir))).ok(),
            How::Kernel | How::Null(_) => unmount(&self.dir).ok(),
        };
        if let How::Null(server) = &self.how {
            lock(server).wait();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.active {
            run_program("umount", &["-l".as_ref(), self.dir.as_os_str()]);
        }
    }
}

fn lock(server: &Mutex<NullServer>) -> std::sync::MutexGuard<'_, NullServer> {
    server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
