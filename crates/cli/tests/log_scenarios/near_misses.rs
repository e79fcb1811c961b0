//! What is near the limits of the log: writes that are synced by themselves, subvolumes, deep and wide changes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};

use super::*;

fn write_with(path: &Path, flags: OFlags, bytes: &[u8]) {
    let flags = flags | OFlags::WRONLY | OFlags::CREATE;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).expect("open"));
    file.write_all_at(bytes, 0).expect("write");
    SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
}

/// Directories `p/q/r` with a file in each, and a subvolume `v` with a file.
fn nested(root: &Path) {
    fs::create_dir_all(root.join("p/q/r")).expect("mkdir");
    ["p/one", "p/q/two", "p/q/r/three"].iter().for_each(|path| write(&root.join(path), 0, b'n', 3000));
    owner(root).create_subvolume(&root.join("v"));
    write(&root.join("v/file"), 0, b'v', 9000);
}

pub const SCENARIOS: &[Scenario] = &[
    scenario("o_sync_write", nested, |root| write_with(&root.join("p/one"), OFlags::SYNC, &[b'S'; 10_000])),
    scenario("o_dsync_write", nested, |root| write_with(&root.join("p/one"), OFlags::DSYNC, &[b'D'; 10_000])),
    scenario("o_sync_write_to_a_new_file", nested, |root| {
        write_with(&root.join("p/q/new"), OFlags::SYNC, &[b'N'; 10_000]);
    }),
    scenario("fdatasync", nested, |root| {
        write(&root.join("p/one"), 1000, b'd', 50_000);
        File::open(root.join("p/one")).and_then(|file| file.sync_data()).expect("fdatasync");
        SYNCED.with_borrow_mut(|synced| synced.push(root.join("p/one")));
    }),
    scenario("snapshot_then_synced", nested, |root| {
        owner(root).snapshot(&root.join("v"), &root.join("s"));
        write(&root.join("s/file"), 0, b's', 4096);
        write(&root.join("v/file"), 4096, b'w', 4096);
        fsync(&root.join("s/file"));
        fsync(&root.join("v/file"));
    }),
    scenario("synced_then_snapshot_then_synced", nested, |root| {
        write(&root.join("v/file"), 0, b'1', 4096);
        fsync_for_now(&root.join("v/file"));
        owner(root).snapshot(&root.join("v"), &root.join("s"));
        rename(&root.join("v/file"), &root.join("v/renamed"));
        fsync(&root.join("v/renamed"));
        gone(&root.join("v/file"));
    }),
    scenario("file_in_a_new_subvolume", nested, |root| {
        owner(root).create_subvolume(&root.join("p/w"));
        write(&root.join("p/w/new"), 0, b'w', 5000);
        fsync(&root.join("p/w/new"));
    }),
    scenario("directory_of_a_new_subvolume", nested, |root| {
        owner(root).create_subvolume(&root.join("p/w"));
        write(&root.join("p/new"), 0, b'w', 5000);
        fsync(&root.join("p"));
    }),
    scenario("subvolume_deleted_and_its_directory_synced", nested, |root| {
        owner(root).delete_subvolume(&root.join("v"));
        fsync(&root.join("p"));
        fsync(&root.join(""));
        gone(&root.join("v"));
    }),
    scenario("subvolume_renamed_and_both_directories_synced", nested, |root| {
        rename(&root.join("v"), &root.join("p/v"));
        fsync(&root.join("p"));
        fsync(&root.join(""));
        gone(&root.join("v"));
    }),
    scenario("directory_moved_below_one_that_was_below_it", nested, |root| {
        rename(&root.join("p/q"), &root.join("q"));
        rename(&root.join("p"), &root.join("q/r/p"));
        write(&root.join("q/r/p/new"), 0, b'n', 10);
        fsync(&root.join("q/r/p/new"));
        gone(&root.join("p"));
    }),
    scenario("tree_removed_but_for_what_was_moved_out", nested, |root| {
        rename(&root.join("p/q/r/three"), &root.join("three"));
        fs::remove_dir_all(root.join("p")).expect("remove");
        fsync(&root.join(""));
        gone(&root.join("p"));
    }),
    scenario("tree_moved_out_of_one_that_is_removed", nested, |root| {
        rename(&root.join("p/q"), &root.join("q"));
        fs::remove_dir_all(root.join("p")).expect("remove");
        write(&root.join("new"), 0, b'n', 10);
        fsync(&root.join(""));
        gone(&root.join("p"));
    }),
    scenario("new_directories_five_deep", nested, |root| {
        fs::create_dir_all(root.join("p/1/2/3/4/5")).expect("mkdir");
        write(&root.join("p/1/2/3/4/5/file"), 0, b'5', 500);
        fsync(&root.join("p/1/2/3/4/5/file"));
    }),
    scenario("links_in_new_directories", nested, |root| {
        fs::create_dir_all(root.join("n1/n2")).expect("mkdir");
        link(&root.join("p/one"), &root.join("n1/l1"));
        link(&root.join("p/one"), &root.join("n1/n2/l2"));
        fsync(&root.join("p/one"));
    }),
    scenario("file_moved_through_three_directories", nested, |root| {
        rename(&root.join("p/one"), &root.join("p/q/one"));
        fsync(&root.join("p/q"));
        rename(&root.join("p/q/one"), &root.join("p/q/r/one"));
        fsync(&root.join("p/q/r"));
        gone(&root.join("p/one"));
    }),
    scenario("whiteout", nested, |root| {
        let (from, to) = (root.join("p/one"), root.join("p/q/one"));
        rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::WHITEOUT).expect("whiteout");
        fsync(&root.join("p/q/one"));
    }),
    scenario("synced_without_a_name_then_linked", nested, |root| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        let file = File::from(rustix::fs::open(root.join("p"), flags, Mode::from_raw_mode(0o600)).expect("O_TMPFILE"));
        file.write_all_at(&[b't'; 9000], 0).expect("write");
        file.sync_all().expect("fsync");
        let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        rustix::fs::linkat(CWD, proc, CWD, root.join("p/q/tmp"), AtFlags::SYMLINK_FOLLOW).expect("linkat");
        fsync(&root.join("p/q"));
    }),
    scenario("hundreds_of_files_come_and_go", nested, |root| {
        (0..400).for_each(|n| write(&root.join(format!("p/file {n}")), 0, b'n', n % 7 * 100));
        fsync(&root.join("p"));
        for n in (0..400).filter(|n| n % 5 != 0) {
            unlink(&root.join(format!("p/file {n}")));
            gone(&root.join(format!("p/file {n}")));
        }
        fsync(&root.join("p"));
    }),
    scenario(
        "directory_of_old_files_emptied",
        |root| {
            mkdir(&root.join("full"));
            (0..400).for_each(|n| write(&root.join(format!("full/file {n}")), 0, b'n', 100));
        },
        |root| {
            for n in 0..400 {
                unlink(&root.join(format!("full/file {n}")));
                gone(&root.join(format!("full/file {n}")));
            }
            fsync(&root.join("full"));
        },
    ),
];
