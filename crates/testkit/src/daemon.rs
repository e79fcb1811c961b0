//! The mount daemons of Butterfs: found by the image they serve, ended by their process id.

use rustix::process::{Pid, Signal, kill_process};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The processes named `butterfs` that have an argument at or below `path`.
pub fn find_below(path: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&arguments).into_owned();
        if comm.starts_with("butterfs") && text.split('\0').any(|argument| Path::new(argument).starts_with(path)) {
            found.push(pid);
        }
    }
    found
}

/// Kills `pid` with SIGKILL and waits until it holds nothing any more.
pub fn kill(pid: u32) {
    send(pid, Signal::KILL);
    assert!(wait_gone(pid, Duration::from_secs(20)), "process {pid} does not die");
}

/// Sends `signal`; a process that is already gone is no error.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits until `pid` has let go of its files: gone, or a zombie without other threads.
pub fn wait_gone(pid: u32, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while is_alive(pid) {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map(Iterator::count).unwrap_or(0);
    !(matches!(state, Some('Z' | 'X')) && threads <= 1)
}

/// A program in the foreground, such as `butterfs mount -f` or a writer, killed when dropped.
#[derive(Debug)]
pub struct Foreground {
    child: Child,
}

impl Foreground {
    /// Starts `command`; what it prints goes to the file `log`.
    pub fn start(command: &mut Command, log: &PathBuf) -> Self {
        let out = std::fs::File::create(log).expect("a log file can be made");
        let err = out.try_clone().expect("a file can be opened twice");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True once it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; false if it takes longer than `limit`.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        while !self.has_ended() {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
