//! SIGTERM: everything that was written is durable, whatever happens next.

mod common;

use butterfs_testkit::mounter::{Mounted, is_mounted, wait_until};
use butterfs_testkit::workdir::WorkDir;
use butterfs_testkit::{daemon, oracle};
use common::{GIB, setup, subject};
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// The file keeps the detached mount alive, and with it the loop device.
fn drop_after_kill(mounted: Mounted, open: File) {
    mounted.daemon().into_iter().for_each(daemon::kill);
    drop(open);
    mounted.kill();
}

/// A filesystem that commits by itself only after the test, and its daemon.
fn quiet_mount(name: &str) -> Option<(WorkDir, Mounted, u32)> {
    let work = setup(name)?;
    if !subject().is_butterfs() {
        println!("the kernel has no daemon");
        return None;
    }
    subject().mkfs(&work.file("image"), GIB, &[]);
    let mounted = subject().mount(&work.file("image"), &work.dir("mnt"), "commit=600");
    let daemon = mounted.daemon().expect("a daemon");
    Some((work, mounted, daemon))
}

/// A user keeps the mount busy; the system says TERM, waits, and says KILL.
#[test]
fn sigterm_commits_while_the_mount_is_in_use() {
    let Some((work, mounted, daemon)) = quiet_mount("term_in_use") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    std::fs::write(mounted.join("closed"), vec![b'c'; 100_000]).expect("write");
    let mut open = File::create(mounted.join("open")).expect("create");
    open.write_all(&vec![b'o'; 100_000]).expect("write");
    daemon::send(daemon, Signal::TERM);
    wait_until("the mount point is free", || !is_mounted(&mnt));
    drop_after_kill(mounted, open);
    oracle::assert_clean(&image);
    let mounted = subject().mount(&image, &mnt, "");
    assert_eq!(std::fs::read(mounted.join("closed")).expect("reads"), vec![b'c'; 100_000]);
    assert_eq!(std::fs::read(mounted.join("open")).expect("reads"), vec![b'o'; 100_000]);
    mounted.unmount();
}

/// A second signal does not wait for users; what they wrote after the first is durable, too.
#[test]
fn a_second_sigterm_ends_the_daemon() {
    let Some((work, mounted, daemon)) = quiet_mount("term_twice") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let mut open = File::create(mounted.join("open")).expect("create");
    daemon::send(daemon, Signal::TERM);
    wait_until("the mount point is free", || !is_mounted(&mnt));
    open.write_all(&vec![b'l'; 100_000]).expect("write");
    rustix::fs::fsync(&open).expect("fsync");
    daemon::send(daemon, Signal::TERM);
    assert!(daemon::wait_gone(daemon, Duration::from_secs(10)), "the daemon waits for its users");
    drop_after_kill(mounted, open);
    oracle::assert_clean(&image);
    let mounted = subject().mount(&image, &mnt, "");
    assert_eq!(std::fs::read(mounted.join("open")).expect("reads"), vec![b'l'; 100_000]);
    mounted.unmount();
}
