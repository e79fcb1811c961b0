//! The end of a mount: what takes long comes to rest, and nothing of that kind begins any more.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Filesystem, OpenOptions};
use butterfs_engine::mkfs::{MakeOptions, make};
use butterfs_format::DevId;
use butterfs_fuse::abi::IoctlFlags;
use butterfs_fuse::adapter::{AdapterOptions, EngineFrontEnd};
use butterfs_fuse::{Caller, Errno, FileHandle, FrontEnd, IoctlCall, IoctlReply, NodeId, Result};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};
use butterfs_wire as wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use zerocopy::{FromZeros, IntoBytes};

const SIZE: u64 = 512 << 20;
const DEVICE: DevId = DevId(1);
/// One runs already.
const EINPROGRESS: Errno = Errno::new(115);

/// A filesystem that is served, without a kernel.
fn served() -> (Arc<Filesystem>, EngineFrontEnd) {
    let device: Arc<dyn BlockDevice> = Arc::new(MemDevice::named("disk", SIZE));
    make(Arc::clone(&device), &MakeOptions::new(SIZE, &SystemEnvironment)).unwrap();
    let volume = Volume::open(vec![device], OpenMode::ReadWrite).unwrap();
    let fs = Arc::new(Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap());
    let front_end = EngineFrontEnd::new(Arc::clone(&fs), AdapterOptions::default());
    (fs, front_end)
}

fn ioctl(front_end: &EngineFrontEnd, command: u32, input: &[u8]) -> Result<IoctlReply> {
    let caller = Caller { uid: rustix::process::geteuid().as_raw(), gid: 0, pid: std::process::id() };
    let (node, handle, flags) = (NodeId::ROOT, FileHandle(0), IoctlFlags::empty());
    let call = IoctlCall {
        node,
        handle,
        command,
        raw_argument: 0,
        flags,
        input,
        output_capacity: wire::size_of_command(command),
    };
    front_end.ioctl(&caller, &call)
}

fn scrub(front_end: &EngineFrontEnd) -> Result<IoctlReply> {
    let mut args = wire::ScrubArgs::new_zeroed();
    (args.devid, args.end) = (DEVICE.0.to_ne_bytes(), u64::MAX.to_ne_bytes());
    ioctl(front_end, wire::SCRUB_START, args.as_bytes())
}

/// A balance of all data.
fn balance(front_end: &EngineFrontEnd, command: u32) -> Result<IoctlReply> {
    let mut args = wire::BalanceIoctl::new_zeroed();
    args.flags = 1.into();
    ioctl(front_end, command, args.as_bytes())
}

fn resize(front_end: &EngineFrontEnd, wish: &str) -> Result<IoctlReply> {
    let mut args = wire::VolArgs::new_zeroed();
    args.name[..wish.len()].copy_from_slice(wish.as_bytes());
    ioctl(front_end, wire::RESIZE, args.as_bytes())
}

/// What the answer to our own command says is wrong.
fn work(front_end: &EngineFrontEnd, words: &[&str]) -> String {
    let mut args = wire::RemountArgs::new_zeroed();
    let text = words.join("\0");
    args.text[..text.len()].copy_from_slice(text.as_bytes());
    let answer = ioctl(front_end, wire::WORK, args.as_bytes()).unwrap().output;
    String::from_utf8(answer.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

#[test]
fn nothing_that_takes_long_begins_at_the_end() {
    let (fs, front_end) = served();
    balance(&front_end, wire::BALANCE_V2).unwrap();
    resize(&front_end, "1:-16M").unwrap();
    front_end.rest();
    assert_eq!(scrub(&front_end), Err(Errno::EBUSY));
    for command in [wire::BALANCE_V2, wire::BALANCE_START] {
        assert_eq!(balance(&front_end, command), Err(Errno::EBUSY));
    }
    assert_eq!(resize(&front_end, "1:-16M"), Err(Errno::EBUSY));
    for words in [&["resize", "1:-16M"][..], &["remove", "2"], &["replace", "all", "1", "/nowhere"]] {
        assert!(work(&front_end, words).contains("unmounted"), "{words:?}: {}", work(&front_end, words));
    }
    assert!(fs.exclusive().current().is_none() && fs.balance_status().is_none());
    front_end.destroy().unwrap();
}

/// Somebody who goes on beginning scrubs, each of which would take years, does not keep a mount from its end.
#[test]
fn a_scrub_that_begins_while_the_mount_ends_is_cancelled_or_refused() {
    for _ in 0..20 {
        let (fs, front_end) = served();
        fs.set_scrub_limit(DEVICE, 1).unwrap();
        let enough = AtomicBool::new(false);
        let (begun, hear) = channel();
        let left = std::thread::scope(|scope| {
            let _begins = scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    match scrub(&front_end) {
                        Ok(_) => drop(begun.send(())),
                        Err(error) => assert!([EINPROGRESS, Errno::EBUSY].contains(&error), "{error:?}"),
                    }
                }
            });
            hear.recv_timeout(Duration::from_secs(20)).unwrap();
            front_end.rest();
            std::thread::sleep(Duration::from_millis(5));
            let left = fs.scrub_progress(DEVICE);
            enough.store(true, Ordering::Relaxed);
            left
        });
        assert!(left.is_none(), "a scrub runs");
        front_end.destroy().unwrap();
    }
}
