//! What the fsync tests of fstests do (`generic/NNN`), told by their descriptions. The name says which.

use std::fs;
use std::os::unix::fs::symlink;

use butterfs_testkit::command::run_program;
use rustix::fs::{CWD, FallocateFlags, RenameFlags};

use super::*;

/// Directories `x` and `y`, with `x/foo` and `x/bar`.
fn foo_and_bar(root: &Path) {
    mkdir(&root.join("x"));
    mkdir(&root.join("y"));
    write(&root.join("x/foo"), 0, b'f', 20_000);
    write(&root.join("x/bar"), 0, b'b', 20_000);
}

fn foo_with_links(root: &Path) {
    foo_and_bar(root);
    link(&root.join("x/foo"), &root.join("x/foo2"));
    link(&root.join("x/foo"), &root.join("y/foo3"));
}

pub const SCENARIOS: &[Scenario] = &[
    scenario("034_file_in_a_directory_that_was_synced_before", foo_and_bar, |root| {
        fsync_for_now(&root.join("x"));
        write(&root.join("x/new"), 0, b'n', 100);
        fsync(&root.join("x"));
        fsync(&root.join("x/new"));
    }),
    scenario("039_link_removed_then_file_synced", foo_with_links, |root| {
        unlink(&root.join("x/foo2"));
        fsync(&root.join("x/foo"));
        gone(&root.join("x/foo2"));
    }),
    scenario(
        "040_041_some_of_many_links_replaced",
        |root| {
            foo_and_bar(root);
            (0..300).for_each(|n| link(&root.join("x/foo"), &root.join(format!("x/link number {n}"))));
        },
        |root| {
            for n in (0..300).step_by(3) {
                unlink(&root.join(format!("x/link number {n}")));
                gone(&root.join(format!("x/link number {n}")));
            }
            (300..400).for_each(|n| link(&root.join("x/foo"), &root.join(format!("x/link number {n}"))));
            fsync(&root.join("x/foo"));
        },
    ),
    scenario("056_linked_between_write_and_sync", foo_and_bar, |root| {
        write(&root.join("x/foo"), 0, b'1', 4096);
        link(&root.join("x/foo"), &root.join("x/foo2"));
        fsync(&root.join("x/foo"));
    }),
    scenario("057_synced_appended_linked_synced", foo_and_bar, |root| {
        write(&root.join("x/new"), 0, b'1', 32_768);
        fsync_for_now(&root.join("x/new"));
        write(&root.join("x/new"), 32_768, b'2', 16_384);
        link(&root.join("x/new"), &root.join("x/new2"));
        fsync(&root.join("x/new"));
    }),
    scenario("059_part_of_a_sector_punched", foo_and_bar, |root| {
        let path = root.join("x/foo");
        allocate(&path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 8000, 100);
        fsync(&path);
        allocate(&path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100, 9000);
        fsync(&path);
    }),
    scenario("065_link_and_new_file_in_a_synced_directory", foo_and_bar, |root| {
        link(&root.join("x/foo"), &root.join("y/foo2"));
        write(&root.join("y/new"), 0, b'n', 10);
        fsync(&root.join("y"));
    }),
    scenario(
        "066_attribute_removed",
        |root| {
            foo_and_bar(root);
            (1..4).for_each(|n| xattr(&root.join("x/foo"), &format!("user.attr{n}"), b"value"));
        },
        |root| {
            rustix::fs::removexattr(root.join("x/foo"), "user.attr2").expect("removexattr");
            fsync(&root.join("x/foo"));
        },
    ),
    scenario("073_moved_away_and_name_used_again", foo_and_bar, |root| {
        rename(&root.join("x/foo"), &root.join("y/foo"));
        write(&root.join("x/foo"), 0, b'2', 50);
        fsync(&root.join("x"));
        fsync(&root.join("x/foo"));
    }),
    scenario("090_written_after_a_link_of_this_transaction", foo_and_bar, |root| {
        link(&root.join("x/bar"), &root.join("y/bar2"));
        write(&root.join("x/bar"), 20_000, b'9', 30_000);
        fsync(&root.join("x/bar"));
    }),
    scenario("101_truncated_linked_and_synced", foo_and_bar, |root| {
        truncate(&root.join("x/foo"), 125);
        link(&root.join("x/foo"), &root.join("y/foo2"));
        write(&root.join("x/foo"), 4000, b't', 100);
        fsync(&root.join("x/foo"));
    }),
    scenario("104_two_files_lose_links_one_is_synced", foo_with_links, |root| {
        link(&root.join("x/bar"), &root.join("x/bar2"));
        unlink(&root.join("x/foo2"));
        unlink(&root.join("x/bar"));
        fsync(&root.join("x/foo"));
        gone(&root.join("x/foo2"));
    }),
    scenario("106_link_gone_and_another_file_synced", foo_with_links, |root| {
        unlink(&root.join("y/foo3"));
        write(&root.join("x/bar"), 5, b'x', 5);
        fsync(&root.join("x/bar"));
    }),
    scenario("107_link_gone_and_its_name_is_a_new_file", foo_with_links, |root| {
        unlink(&root.join("x/foo2"));
        write(&root.join("x/foo2"), 0, b'n', 4000);
        fsync(&root.join("x/foo2"));
        fsync(&root.join("x/foo"));
    }),
    scenario("177_punched_twice_with_two_syncs", foo_and_bar, |root| {
        let (path, punch) = (root.join("x/foo"), FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE);
        allocate(&path, punch, 4096, 4096);
        fsync(&path);
        allocate(&path, punch, 6000, 9000);
        fsync(&path);
    }),
    scenario("321_moved_to_a_new_directory_that_is_synced", foo_and_bar, |root| {
        mkdir(&root.join("z"));
        rename(&root.join("x/foo"), &root.join("z/foo"));
        fsync(&root.join("z"));
        gone(&root.join("x/foo"));
    }),
    scenario("322_written_renamed_synced", foo_and_bar, |root| {
        write(&root.join("x/foo"), 8192, b'w', 8192);
        rename(&root.join("x/foo"), &root.join("x/baz"));
        fsync(&root.join("x/baz"));
        gone(&root.join("x/foo"));
    }),
    scenario("325_two_parts_written_one_sync", foo_and_bar, |root| {
        write(&root.join("x/foo"), 0, b'1', 4096);
        write(&root.join("x/foo"), 16_384, b'2', 4096);
        fsync(&root.join("x/foo"));
    }),
    scenario("335_directory_synced_after_a_file_left_it", foo_and_bar, |root| {
        rename(&root.join("x/foo"), &root.join("y/foo"));
        write(&root.join("x/new"), 0, b'n', 10);
        fsync(&root.join("x"));
        gone(&root.join("x/foo"));
    }),
    scenario(
        "336_moved_from_a_directory_that_a_link_left",
        |root| {
            foo_with_links(root);
            mkdir(&root.join("c"));
            write(&root.join("y/bar"), 0, b'y', 300);
        },
        |root| {
            unlink(&root.join("y/foo3"));
            rename(&root.join("y/bar"), &root.join("c/bar"));
            fsync(&root.join("x/foo"));
            gone(&root.join("y/foo3"));
        },
    ),
    scenario("341_directory_renamed_and_made_again", foo_and_bar, |root| {
        rename(&root.join("x"), &root.join("z"));
        mkdir(&root.join("x"));
        write(&root.join("x/baz"), 0, b'z', 100);
        fsync(&root.join("x"));
        fsync(&root.join("x/baz"));
    }),
    scenario("342_renamed_and_made_again", foo_and_bar, |root| {
        rename(&root.join("x/foo"), &root.join("x/foo.old"));
        write(&root.join("x/foo"), 0, b'2', 9000);
        fsync(&root.join("x/foo"));
    }),
    scenario("343_directory_moved_and_its_new_parent_synced", foo_and_bar, |root| {
        rename(&root.join("x"), &root.join("y/x"));
        write(&root.join("y/new"), 0, b'n', 10);
        fsync(&root.join("y"));
        fsync(&root.join("y/new"));
        gone(&root.join("x"));
    }),
    scenario("348_symbolic_link_has_its_target", foo_and_bar, |root| {
        symlink("some/where", root.join("y/link")).expect("symlink");
        fsync(&root.join("y"));
    }),
    scenario("376_renamed_back_and_forth", foo_and_bar, |root| {
        rename(&root.join("x/foo"), &root.join("x/foo2"));
        rename(&root.join("x/bar"), &root.join("x/foo"));
        fsync(&root.join("x/foo"));
        gone(&root.join("x/bar"));
    }),
    scenario("479_special_files_renamed_and_names_used_again", foo_and_bar, |root| {
        let fifo = root.join("x/fifo");
        run_program("mkfifo", &[fifo.as_os_str()]).ok();
        symlink("foo", root.join("x/soft")).expect("symlink");
        fsync(&root.join("x"));
        rename(&fifo, &root.join("x/fifo2"));
        rename(&root.join("x/soft"), &root.join("x/fifo"));
        write(&root.join("x/soft"), 0, b's', 10);
        fsync(&root.join("x/soft"));
    }),
    scenario("480_link_replaced_by_a_new_file", foo_with_links, |root| {
        unlink(&root.join("x/foo2"));
        write(&root.join("x/foo2"), 0, b'n', 0);
        fsync(&root.join("x/foo2"));
    }),
    scenario("481_names_rotate", foo_and_bar, |root| {
        rename(&root.join("x/bar"), &root.join("x/baz"));
        link(&root.join("x/foo"), &root.join("x/bar"));
        fsync(&root.join("x/baz"));
    }),
    scenario("498_link_in_a_nested_directory_above_is_synced", foo_and_bar, |root| {
        mkdir(&root.join("x/c"));
        link(&root.join("y").join("../x/foo"), &root.join("x/c/foo"));
        fsync(&root.join("x"));
    }),
    scenario("502_renamed_many_times_with_syncs", foo_and_bar, |root| {
        for n in 0..6 {
            let from = if n == 0 { "x/foo".into() } else { format!("{}/foo{n}", ["x", "y"][n % 2]) };
            let to = format!("{}/foo{}", ["y", "x"][n % 2], n + 1);
            rename(&root.join(&from), &root.join(&to));
            fsync(&root.join(&to));
            gone(&root.join(&from));
        }
    }),
    scenario("510_synced_then_moved_and_the_new_directory_synced", foo_and_bar, |root| {
        write(&root.join("x/new"), 0, b'n', 5000);
        fsync_for_now(&root.join("x/new"));
        rename(&root.join("x/new"), &root.join("y/new"));
        fsync(&root.join("y"));
        gone(&root.join("x/new"));
    }),
    scenario("512_cut_in_a_sector_and_grown", foo_and_bar, |root| {
        truncate(&root.join("x/foo"), 5001);
        fsync_for_now(&root.join("x/foo"));
        truncate(&root.join("x/foo"), 50_001);
        fsync(&root.join("x/foo"));
    }),
    scenario("520_link_then_the_old_name_goes", foo_and_bar, |root| {
        link(&root.join("x/foo"), &root.join("y/foo"));
        unlink(&root.join("x/foo"));
        fsync(&root.join("y/foo"));
        gone(&root.join("x/foo"));
    }),
    scenario("526_names_of_two_directories_change_places", foo_and_bar, |root| {
        let (x, y) = (root.join("x"), root.join("y"));
        rustix::fs::renameat_with(CWD, &x, CWD, &y, RenameFlags::EXCHANGE).expect("exchange");
        write(&root.join("x/new"), 0, b'n', 10);
        fsync(&root.join("x/new"));
    }),
    scenario("527_chain_of_names_with_a_new_file_at_its_end", foo_and_bar, |root| {
        write(&root.join("x/one"), 0, b'1', 10);
        fsync(&root.join("x/one"));
        rename(&root.join("x/foo"), &root.join("x/two"));
        rename(&root.join("x/bar"), &root.join("x/foo"));
        write(&root.join("x/bar"), 0, b'3', 10);
        fsync(&root.join("x/bar"));
    }),
    scenario("534_shortened_after_a_sync", foo_and_bar, |root| {
        write(&root.join("x/foo"), 20_000, b'4', 45_000);
        fsync_for_now(&root.join("x/foo"));
        truncate(&root.join("x/foo"), 3072);
        fsync(&root.join("x/foo"));
    }),
    scenario("552_preallocated_past_the_end_then_renamed", foo_and_bar, |root| {
        allocate(&root.join("x/foo"), FallocateFlags::KEEP_SIZE, 40_000, 100_000);
        fsync_for_now(&root.join("x/foo"));
        rename(&root.join("x/foo"), &root.join("y/foo"));
        fsync(&root.join("y"));
    }),
    scenario("557_moved_out_of_a_directory_that_moves", foo_and_bar, |root| {
        rename(&root.join("x/foo"), &root.join("foo"));
        rename(&root.join("x"), &root.join("y/x"));
        fsync(&root.join("foo"));
        gone(&root.join("x/foo"));
    }),
    scenario("640_new_directory_moved_below_another", foo_and_bar, |root| {
        fs::create_dir_all(root.join("n/m")).expect("mkdir");
        write(&root.join("n/m/file"), 0, b'm', 10);
        fsync_for_now(&root.join("n/m/file"));
        rename(&root.join("n"), &root.join("y/n"));
        fsync(&root.join("y"));
        fsync(&root.join("y/n/m/file"));
    }),
    scenario("677_preallocated_in_parts_and_written_between", foo_and_bar, |root| {
        let path = root.join("x/foo");
        for n in 0..8 {
            allocate(&path, FallocateFlags::KEEP_SIZE, 40_960 + n * 16_384, 8192);
        }
        write(&path, 57_344, b'p', 4096);
        fsync(&path);
    }),
    scenario("690_symbolic_link_renamed_and_its_name_used_again", foo_and_bar, |root| {
        symlink("one", root.join("x/soft")).expect("symlink");
        rename(&root.join("x/soft"), &root.join("x/soft2"));
        symlink("two", root.join("x/soft")).expect("symlink");
        fsync(&root.join("x"));
    }),
    scenario("695_written_over_preallocated_then_punched", foo_and_bar, |root| {
        let path = root.join("x/new");
        allocate(&path, FallocateFlags::KEEP_SIZE, 0, 200_000);
        write(&path, 0, b'1', 60_000);
        fsync_for_now(&path);
        allocate(&path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 20_000, 20_000);
        fsync(&path);
    }),
    scenario("745_771_removed_after_a_sync_of_its_own", foo_and_bar, |root| {
        write(&root.join("x/new"), 0, b'n', 5000);
        fsync_for_now(&root.join("x/new"));
        unlink(&root.join("x/new"));
        write(&root.join("y/other"), 0, b'o', 10);
        fsync(&root.join("x"));
        gone(&root.join("x/new"));
    }),
    scenario("764_hole_at_the_end_after_a_sync", foo_and_bar, |root| {
        write(&root.join("x/foo"), 40_000, b'h', 10_000);
        fsync_for_now(&root.join("x/foo"));
        allocate(&root.join("x/foo"), FallocateFlags::ZERO_RANGE, 41_000, 30_000);
        fsync(&root.join("x/foo"));
    }),
    scenario("779_directory_renamed_over_an_empty_one", foo_and_bar, |root| {
        rename(&root.join("x"), &root.join("y"));
        write(&root.join("y/new"), 0, b'n', 100);
        fsync(&root.join("y"));
        fsync(&root.join(""));
        gone(&root.join("x"));
    }),
    scenario("785_new_directory_removed_while_its_parent_is_synced", foo_and_bar, |root| {
        mkdir(&root.join("x/d"));
        write(&root.join("x/d/file"), 0, b'd', 10);
        fsync_for_now(&root.join("x/d/file"));
        unlink(&root.join("x/d/file"));
        fs::remove_dir(root.join("x/d")).expect("rmdir");
        fsync(&root.join("x"));
        gone(&root.join("x/d"));
    }),
];
