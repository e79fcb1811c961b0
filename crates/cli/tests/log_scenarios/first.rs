//! One scenario for each thing that can happen to a file or name.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::time::Duration;

use butterfs_testkit::command::run_program;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};

use super::*;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "new_file",
        before: nothing,
        after: |root| {
            write(&root.join("new"), 0, b'n', 50_000);
            fsync(&root.join("new"));
        },
    },
    Scenario {
        name: "new_inline_file_and_one_not_synced",
        before: usual,
        after: |root| {
            write(&root.join("a/inline"), 0, b'i', 700);
            write(&root.join("a/lost"), 0, b'l', 700);
            fsync(&root.join("a/inline"));
        },
    },
    Scenario {
        name: "overwrite_in_the_middle",
        before: usual,
        after: |root| {
            write(&root.join("a/file"), 20_480, b'x', 8192);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "append_twice_with_two_syncs",
        before: usual,
        after: |root| {
            for round in 0..2 {
                write(&root.join("a/file"), 100_000 + round * 5000, b'p', 5000);
                fsync(&root.join("a/file"));
            }
        },
    },
    Scenario {
        name: "inline_file_grows",
        before: usual,
        after: |root| {
            write(&root.join("b/small"), 90, b'g', 20_000);
            fsync(&root.join("b/small"));
        },
    },
    Scenario {
        name: "truncated_down",
        before: usual,
        after: |root| {
            truncate(&root.join("a/file"), 12_345);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "truncated_then_extended",
        before: usual,
        after: |root| {
            truncate(&root.join("a/file"), 5000);
            truncate(&root.join("a/file"), 80_000);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "truncated_then_written_far_away",
        before: usual,
        after: |root| {
            truncate(&root.join("a/file"), 0);
            write(&root.join("a/file"), 1 << 20, b'w', 4096);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "hole_punched",
        before: usual,
        after: |root| {
            allocate(&root.join("a/file"), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8192, 40_000);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "preallocated_past_the_end",
        before: usual,
        after: |root| {
            allocate(&root.join("a/file"), FallocateFlags::KEEP_SIZE, 200_000, 1 << 20);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "written_into_preallocated_space",
        before: |root| allocate(&root.join("pre"), FallocateFlags::empty(), 0, 1 << 20),
        after: |root| {
            write(&root.join("pre"), 100_000, b'p', 30_000);
            fsync(&root.join("pre"));
        },
    },
    Scenario {
        name: "zeroed_range",
        before: usual,
        after: |root| {
            allocate(&root.join("a/file"), FallocateFlags::ZERO_RANGE, 4096, 50_000);
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "renamed_in_its_directory",
        before: usual,
        after: |root| {
            rename(&root.join("a/file"), &root.join("a/renamed"));
            fsync(&root.join("a/renamed"));
        },
    },
    Scenario {
        name: "renamed_to_another_directory",
        before: usual,
        after: |root| {
            rename(&root.join("a/file"), &root.join("b/moved"));
            fsync(&root.join("b/moved"));
        },
    },
    Scenario {
        name: "renamed_over_another",
        before: usual,
        after: |root| {
            rename(&root.join("a/file"), &root.join("a/other"));
            fsync(&root.join("a/other"));
        },
    },
    Scenario {
        name: "written_new_and_renamed_over",
        before: usual,
        after: |root| {
            write(&root.join("a/draft"), 0, b'd', 30_000);
            fsync(&root.join("a/draft"));
            rename(&root.join("a/draft"), &root.join("a/file"));
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "exchanged",
        before: usual,
        after: |root| {
            let (from, to) = (root.join("a/file"), root.join("b/small"));
            rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE).expect("exchange");
            fsync(&root.join("b/small"));
        },
    },
    Scenario {
        name: "unlinked_and_directory_synced",
        before: usual,
        after: |root| {
            fs::remove_file(root.join("a/other")).expect("unlink");
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "one_of_two_links_unlinked",
        before: usual,
        after: |root| {
            fs::remove_file(root.join("b/link")).expect("unlink");
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "unlinked_and_made_again",
        before: usual,
        after: |root| {
            fs::remove_file(root.join("a/other")).expect("unlink");
            write(&root.join("a/other"), 0, b'2', 3000);
            fsync(&root.join("a/other"));
        },
    },
    Scenario {
        name: "new_hard_link",
        before: usual,
        after: |root| {
            fs::hard_link(root.join("a/file"), root.join("b/second")).expect("link");
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "links_in_three_directories",
        before: usual,
        after: |root| {
            fs::hard_link(root.join("a/file"), root.join("a/deep/third")).expect("link");
            fs::hard_link(root.join("a/file"), root.join("fourth")).expect("link");
            fs::remove_file(root.join("b/link")).expect("unlink");
            fsync(&root.join("fourth"));
        },
    },
    Scenario {
        name: "hundreds_of_links",
        before: usual,
        after: |root| {
            for number in 0..600 {
                fs::hard_link(root.join("a/file"), root.join(format!("a/deep/link number {number}"))).expect("link");
            }
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "attributes_set_and_removed",
        before: usual,
        after: |root| {
            xattr(&root.join("a/file"), "user.new", &[7; 300]);
            rustix::fs::removexattr(root.join("a/file"), "user.gone").expect("removexattr");
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "attributes_of_a_directory",
        before: usual,
        after: |root| {
            xattr(&root.join("a"), "user.dir", b"yes");
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "mode_owner_and_times",
        before: usual,
        after: |root| {
            let path = root.join("a/file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o4711)).expect("chmod");
            std::os::unix::fs::chown(&path, Some(7), Some(8)).expect("chown");
            let file = File::open(&path).expect("open");
            file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(99)).expect("utimens");
            fsync(&path);
        },
    },
    Scenario {
        name: "new_directory_with_files",
        before: usual,
        after: |root| {
            fs::create_dir_all(root.join("a/n1/n2")).expect("mkdir");
            write(&root.join("a/n1/n2/x"), 0, b'x', 5000);
            write(&root.join("a/n1/y"), 0, b'y', 5000);
            fsync(&root.join("a/n1/n2/x"));
        },
    },
    Scenario {
        name: "directory_synced_with_new_files",
        before: usual,
        after: |root| {
            for number in 0..50 {
                write(&root.join(format!("a/new{number}")), 0, b'n', number * 300);
            }
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "directory_renamed_and_synced",
        before: usual,
        after: |root| {
            rename(&root.join("a/deep"), &root.join("b/deep"));
            write(&root.join("b/deep/in"), 0, b'i', 5000);
            fsync(&root.join("b/deep/in"));
            fsync(&root.join("b"));
        },
    },
    Scenario {
        name: "directory_emptied_and_removed",
        before: |root| {
            usual(root);
            write(&root.join("a/deep/x"), 0, b'x', 100);
        },
        after: |root| {
            fs::remove_file(root.join("a/deep/x")).expect("unlink");
            fs::remove_dir(root.join("a/deep")).expect("rmdir");
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "directory_removed_and_made_again",
        before: |root| {
            usual(root);
            write(&root.join("a/deep/x"), 0, b'x', 100);
        },
        after: |root| {
            fs::remove_dir_all(root.join("a/deep")).expect("remove");
            fs::create_dir(root.join("a/deep")).expect("mkdir");
            write(&root.join("a/deep/y"), 0, b'y', 100);
            fsync(&root.join("a/deep/y"));
        },
    },
    Scenario {
        name: "file_without_a_name_linked_in",
        before: usual,
        after: |root| {
            let flags = OFlags::TMPFILE | OFlags::RDWR;
            let file = rustix::fs::open(root.join("a"), flags, Mode::from_raw_mode(0o644)).expect("O_TMPFILE");
            let file = File::from(file);
            file.write_all_at(&[b't'; 9000], 0).expect("write");
            let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            rustix::fs::linkat(CWD, proc, CWD, root.join("a/from-tmp"), AtFlags::SYMLINK_FOLLOW).expect("linkat");
            file.sync_all().expect("fsync");
        },
    },
    Scenario {
        name: "symbolic_link_in_a_synced_directory",
        before: usual,
        after: |root| {
            symlink("over/there", root.join("a/symlink")).expect("symlink");
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "special_files_in_a_synced_directory",
        before: usual,
        after: |root| {
            for (name, kind) in [("fifo", "p"), ("null", "c")] {
                let device: &[&str] = if kind == "c" { &["1", "3"] } else { &[] };
                let path = root.join("a").join(name);
                let path = path.to_str().expect("UTF-8");
                run_program("mknod", &[&[path, kind], device].concat()).ok();
            }
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "two_files_swap_names",
        before: usual,
        after: |root| {
            rename(&root.join("a/file"), &root.join("a/tmp"));
            rename(&root.join("a/other"), &root.join("a/file"));
            rename(&root.join("a/tmp"), &root.join("a/other"));
            fsync(&root.join("a/file"));
        },
    },
    Scenario {
        name: "names_with_one_hash",
        before: usual,
        after: |root| {
            // Their CRC32C is the same, so they share a DIR_ITEM.
            for name in ["5c2f7d5a", "hash-aaaa"] {
                write(&root.join("a").join(name), 0, b'h', 50);
            }
            fs::remove_file(root.join("a/5c2f7d5a")).expect("unlink");
            fsync(&root.join("a"));
        },
    },
    Scenario {
        name: "in_a_subvolume",
        before: |root| {
            owner(root).create_subvolume(&root.join("sub"));
            usual(&root.join("sub"));
        },
        after: |root| {
            write(&root.join("sub/a/file"), 5000, b'v', 50_000);
            write(&root.join("sub/b/new"), 0, b'w', 5000);
            fsync(&root.join("sub/a/file"));
            fsync(&root.join("sub/b/new"));
        },
    },
    Scenario {
        name: "in_two_subvolumes",
        before: |root| {
            for name in ["one", "two"] {
                owner(root).create_subvolume(&root.join(name));
                usual(&root.join(name));
            }
        },
        after: |root| {
            for name in ["one", "two"] {
                rename(&root.join(name).join("a/file"), &root.join(name).join("b/moved"));
                fsync(&root.join(name).join("b/moved"));
            }
        },
    },
    Scenario {
        name: "in_a_file_that_a_snapshot_shares",
        before: |root| {
            usual(root);
            owner(root).snapshot(root, &root.join("snap"));
        },
        after: |root| {
            write(&root.join("a/file"), 4096, b'S', 8192);
            write(&root.join("snap/a/file"), 40_960, b'T', 8192);
            fsync(&root.join("a/file"));
            fsync(&root.join("snap/a/file"));
        },
    },
    Scenario {
        name: "cloned_extents",
        before: usual,
        after: |root| {
            let (from, to) = (root.join("a/file"), root.join("a/clone"));
            let how = if owner(root).is_butterfs() { "--reflink=auto" } else { "--reflink=always" };
            run_program("cp", &[how.as_ref(), from.as_os_str(), to.as_os_str()]).ok();
            fsync(&to);
        },
    },
    Scenario {
        name: "many_extents",
        before: nothing,
        after: |root| {
            for number in (0..2000).rev() {
                write(&root.join("holes"), number * 8192, number as u8, 4096);
            }
            fsync(&root.join("holes"));
        },
    },
    Scenario {
        name: "no_checksums",
        before: |root| {
            File::create(root.join("nocow")).expect("create");
            run_program("chattr", &["+C".as_ref(), root.join("nocow").as_os_str()]).ok();
        },
        after: |root| {
            write(&root.join("nocow"), 0, b'c', 100_000);
            fsync(&root.join("nocow"));
        },
    },
];
