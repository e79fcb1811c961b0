//! The background daemon from start to SIGTERM. Without the test harness, whose threads forbid
//! the fork: this program calls itself as the program under test.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use butterfs_fuse::daemon::{Background, Outcome, start};
use butterfs_fuse::mount::{Busy, Mount, MountEntry, MountOptions, MountSource, Presence, unmount};
use butterfs_fuse::session::{Session, SessionOptions};
use butterfs_fuse::stop::SignalStop;
use butterfs_os::signal::TerminationSignals;
use common::{MemoryFs, need_root};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::num::NonZeroU8;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("program") => return program(&args[1], Path::new(&args[2])),
        Some("--list") => {
            println!("daemon: test");
            return ExitCode::SUCCESS;
        }
        _ => need_root(),
    }
    sigterm_unmounts_and_destroys();
    umount_can_wait_for_the_daemon();
    failures_reach_the_caller();
    println!("daemon_root: 3 tests passed");
    ExitCode::SUCCESS
}

/// The program under test: a daemon that mounts on `directory`/mnt.
fn program(how: &str, directory: &Path) -> ExitCode {
    let signals = TerminationSignals::block().unwrap();
    let ready = match start().unwrap() {
        Background::Daemon(ready) => ready,
        Background::Launcher(Outcome { code, message }) => {
            eprint!("{}", message.unwrap_or_default());
            return ExitCode::from(code);
        }
    };
    match how {
        "fails" => {
            ready.failed(NonZeroU8::new(7).unwrap(), "no such thing").unwrap();
            return ExitCode::FAILURE;
        }
        "dies" => std::process::abort(),
        _ => {}
    }
    let fs = MemoryFs::slow(Duration::from_millis(300));
    let source = MountSource::Named("daemon".into());
    let mount = Mount::new(&source, &directory.join("mnt"), &MountOptions::for_root()).unwrap();
    let device = mount.point().device_number().unwrap();
    let presence = Presence::announce(&directory.join("run"), device).unwrap();
    fs::write(directory.join("pid"), std::process::id().to_string()).unwrap();
    let session =
        Session::new(mount, fs, SessionOptions { transport: common::transport(), ..SessionOptions::default() });
    let stop = SignalStop::spawn(signals, session.stop_handle()).unwrap();
    session.run_then(|| ready.mounted(None).unwrap()).unwrap();
    drop(stop);
    fs::write(directory.join("ended"), "well").unwrap();
    drop(presence);
    ExitCode::SUCCESS
}

/// A directory for one test; a mount left in it is taken away.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("mnt")).unwrap();
        Self(place)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn run(&self, how: &str) -> Output {
        let program = std::env::current_exe().unwrap();
        Command::new(program).args(["program", how]).arg(self.0.path()).output().unwrap()
    }

    fn mounted(&self) -> Option<MountEntry> {
        MountEntry::at(&self.path("mnt")).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = unmount(&self.path("mnt"), Busy::Detach);
    }
}

fn sigterm_unmounts_and_destroys() {
    let place = Place::new();
    let output = place.run("mounts");
    assert!(output.status.success(), "{output:?}");
    fs::write(place.path("mnt/f"), b"served").unwrap();
    assert_eq!(fs::read(place.path("mnt/f")).unwrap(), b"served");
    let pid: i32 = fs::read_to_string(place.path("pid")).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let end = Instant::now() + LIMIT;
    while !place.path("ended").exists() {
        assert!(Instant::now() < end, "SIGTERM did not end the daemon");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(place.mounted(), None);
}

fn umount_can_wait_for_the_daemon() {
    let place = Place::new();
    assert!(place.run("mounts").status.success());
    let device = place.mounted().unwrap().device;
    let watches = Presence::find(&place.path("run"), device).unwrap();
    assert_eq!(watches.len(), 1);
    unmount(&place.path("mnt"), Busy::Refuse).unwrap();
    assert!(!place.path("ended").exists(), "the daemon takes its time");
    watches[0].wait(LIMIT).unwrap();
    assert_eq!(fs::read_to_string(place.path("ended")).unwrap(), "well");
}

fn failures_reach_the_caller() {
    let place = Place::new();
    let output = place.run("fails");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stderr, b"no such thing");
    let output = place.run("dies");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("by signal 6"), "{output:?}");
}
