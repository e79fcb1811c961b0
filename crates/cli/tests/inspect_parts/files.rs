//! What the kernel's filesystems are filled with: files of every kind, and a few with what makes items unusual.

use butterfs_format::hash::name_hash;
use butterfs_testkit::command::run_program;
use butterfs_testkit::populate::{self, Plan};
use butterfs_testkit::report::scaled;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::common::{MIB, kernel};

pub fn write(path: &Path, bytes: usize) {
    let data: Vec<u8> = (0..bytes).map(|at| (at / 7 * 31 % 251) as u8).collect();
    std::fs::write(path, data).expect("write");
}

pub fn call(program: &str, arguments: &[&OsStr]) {
    run_program(program, arguments).ok();
}

/// Files of every kind, and a few with what makes items unusual.
pub fn everything(mnt: &Path) {
    populate::tree(&mnt.join(""), Plan { seed: 7, files: scaled(300), huge: 1, devices: true });
    odd_names(&mnt.join("odd"));
    many_links(&mnt.join("links"));
    colliding_names(&mnt.join("colliding"));
    attributes(&mnt.join("attributes"));
    extents(&mnt.join("extents"));
}

fn odd_names(dir: &Path) {
    std::fs::create_dir(dir).expect("mkdir");
    let names: [&[u8]; 6] =
        [b"a b", b"line\nfeed\ttab", b"back\\slash", "\u{e9}\u{1f98b}".as_bytes(), b"\xff\x01\x1b\x7f", &[b'x'; 255]];
    for name in names {
        write(&dir.join(OsStr::from_bytes(name)), 10);
    }
}

/// More names than INODE_REF items of one leaf can hold: INODE_EXTREF.
pub fn many_links(dir: &Path) {
    std::fs::create_dir(dir).expect("mkdir");
    let first = dir.join("first");
    write(&first, 5000);
    for number in 0..400 {
        std::fs::hard_link(&first, dir.join(format!("{number:0>200}"))).expect("link");
    }
}

/// Two names with one hash share a DIR_ITEM.
fn colliding_names(dir: &Path) {
    std::fs::create_dir(dir).expect("mkdir");
    let mut seen: HashMap<u64, String> = HashMap::new();
    let pair = (0..).find_map(|number: u64| {
        let name = format!("name{}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let other = seen.insert(name_hash(name.as_bytes()), name.clone())?;
        Some([name, other])
    });
    for name in pair.expect("hashes of 32 bits collide") {
        write(&dir.join(name), 1);
    }
}

fn attributes(dir: &Path) {
    std::fs::create_dir(dir).expect("mkdir");
    let file = dir.join("file");
    write(&file, 100);
    call(
        "setfattr",
        &["-n", "user.text", "-v", "a value\\"]
            .map(OsStr::new)
            .into_iter()
            .chain([file.as_os_str()])
            .collect::<Vec<_>>(),
    );
    let long = "v".repeat(1000);
    call(
        "setfattr",
        &["-n", "user.long", "-v", &long].map(OsStr::new).into_iter().chain([file.as_os_str()]).collect::<Vec<_>>(),
    );
    call("setfacl", &["-m", "u:1:rwx,g:2:r"].map(OsStr::new).into_iter().chain([file.as_os_str()]).collect::<Vec<_>>());
    for letters in ["+i", "+a", "+d", "+A", "+S", "+c", "+m"] {
        let path = dir.join(letters);
        write(&path, 10);
        call("chattr", &[OsStr::new(letters), path.as_os_str()]);
    }
    let path = dir.join("nocow");
    File::create(&path).expect("create");
    call("chattr", &[OsStr::new("+C"), path.as_os_str()]);
    write(&path, 100_000);
    // So that the work directory can be removed.
    for letters in ["+i", "+a"] {
        call("chattr", &[OsStr::new(&letters.replace('+', "-")), dir.join(letters).as_os_str()]);
    }
}

/// Inline, regular, preallocated, partly overwritten, shared, and holes.
pub fn extents(dir: &Path) {
    std::fs::create_dir(dir).expect("mkdir");
    write(&dir.join("inline"), 1000);
    write(&dir.join("regular"), 300_000);
    let prealloc = File::create(dir.join("prealloc")).expect("create");
    rustix::fs::fallocate(&prealloc, rustix::fs::FallocateFlags::KEEP_SIZE, 0, MIB).expect("fallocate");
    prealloc.write_all_at(&[1; 8192], 65536).expect("write");
    let holes = File::create(dir.join("holes")).expect("create");
    for number in 0..20 {
        holes.write_all_at(&[2; 4096], number * 3 * 65536).expect("write");
    }
    holes.sync_all().expect("sync");
    call("cp", &["--reflink=always".as_ref(), dir.join("regular").as_os_str(), dir.join("clone").as_os_str()]);
}

pub fn snapshots(mnt: &Path) {
    everything(mnt);
    let kernel = kernel();
    kernel.create_subvolume(&mnt.join("sub volume"));
    write(&mnt.join("sub volume/file"), 200_000);
    kernel.snapshot(&mnt.join("sub volume"), &mnt.join("snapshot"));
    kernel.snapshot_read_only(mnt, &mnt.join("whole"));
    write(&mnt.join("snapshot/other"), 3000);
    std::fs::remove_file(mnt.join("extents/regular")).expect("remove");
    let id = std::fs::metadata(mnt.join("sub volume")).expect("stat").ino();
    assert_eq!(id, 256);
    call("btrfs", &["subvolume".as_ref(), "set-default".as_ref(), mnt.join("sub volume").as_os_str()]);
    call("btrfs", &["filesystem".as_ref(), "sync".as_ref(), mnt.as_os_str()]);
}
