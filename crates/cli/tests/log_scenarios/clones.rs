//! Clones that are fsynced: extents that several places of files share, whose checksums the log must have once.
//!
//! The clones are made by `copy_file_range`, which shares on the kernel's mount and on ours.

use rustix::fs::FallocateFlags;

use super::*;

/// Shares `len` bytes.
fn share(from: (&Path, u64), to: (&Path, u64), len: u64) {
    let source = File::open(from.0).expect("open");
    let dest = File::options().write(true).create(true).truncate(false).open(to.0).expect("open");
    let mut done = 0;
    while done < len {
        let (mut offset, mut target) = (from.1 + done, to.1 + done);
        let rest = (len - done) as usize;
        let copied = rustix::fs::copy_file_range(&source, Some(&mut offset), &dest, Some(&mut target), rest);
        match copied.expect("copy_file_range") {
            0 => return,
            copied => done += copied as u64,
        }
    }
}

fn source_and_dest(root: &Path) {
    varied(&root.join("source"), 0, 300_000);
    varied(&root.join("dest"), 0, 100_000);
}

/// Bytes that differ from sector to sector.
fn varied(path: &Path, offset: u64, len: u64) {
    for at in (offset..offset + len).step_by(4096) {
        write(path, at, (at / 4096 % 251) as u8 + 1, (offset + len - at).min(4096) as usize);
    }
}

pub const SCENARIOS: &[Scenario] = &[
    scenario("clone_of_committed_data", source_and_dest, |root| {
        share((&root.join("source"), 16_384), (&root.join("dest"), 8192), 65_536);
        share((&root.join("source"), 200_704), (&root.join("dest"), 163_840), 99_296);
        fsync(&root.join("dest"));
    }),
    scenario("clone_of_data_that_nobody_synced", source_and_dest, |root| {
        varied(&root.join("new"), 0, 400_000);
        share((&root.join("new"), 65_536), (&root.join("dest"), 0), 131_072);
        fsync(&root.join("dest"));
    }),
    scenario("clones_of_overlapping_parts", source_and_dest, |root| {
        varied(&root.join("source"), 0, 524_288);
        share((&root.join("source"), 131_072), (&root.join("dest"), 0), 65_536);
        fsync_for_now(&root.join("dest"));
        share((&root.join("source"), 163_840), (&root.join("dest"), 262_144), 131_072);
        share((&root.join("source"), 102_400), (&root.join("dest"), 65_536), 98_304);
        fsync(&root.join("dest"));
        fsync(&root.join("source"));
    }),
    scenario("source_synced_before_its_clones", source_and_dest, |root| {
        varied(&root.join("source"), 0, 200_000);
        fsync(&root.join("source"));
        share((&root.join("source"), 4096), (&root.join("dest"), 200_704), 40_960);
        share((&root.join("source"), 8192), (&root.join("dest"), 0), 40_960);
        fsync(&root.join("dest"));
    }),
    scenario("clones_within_one_file", source_and_dest, |root| {
        let path = root.join("source");
        varied(&path, 65_536, 131_072);
        for copy in 0..20 {
            share((&path, copy * 4096), (&path, 524_288 + copy * 12_288), 8192);
        }
        fsync_for_now(&path);
        write(&path, 540_000, b'x', 10_000);
        share((&path, 0), (&path, 204_800), 16_384);
        fsync(&path);
    }),
    scenario("clones_of_holes_and_preallocated_space", source_and_dest, |root| {
        let path = root.join("hollow");
        write(&path, 0, b'h', 16_384);
        allocate(&path, FallocateFlags::empty(), 65_536, 65_536);
        truncate(&path, 262_144);
        share((&path, 0), (&root.join("dest"), 0), 262_144);
        fsync(&root.join("dest"));
    }),
    scenario(
        "clones_of_inline_files",
        |root| {
            source_and_dest(root);
            write(&root.join("small"), 0, b's', 900);
            write(&root.join("other"), 0, b'o', 500);
        },
        |root| {
            share((&root.join("small"), 0), (&root.join("copy"), 0), 900);
            share((&root.join("small"), 0), (&root.join("other"), 8192), 900);
            share((&root.join("small"), 0), (&root.join("dest"), 131_072), 900);
            ["copy", "other", "dest"].iter().for_each(|name| fsync(&root.join(name)));
        },
    ),
    scenario("clone_over_what_was_cut", source_and_dest, |root| {
        truncate(&root.join("dest"), 10_000);
        share((&root.join("source"), 0), (&root.join("dest"), 65_536), 8192);
        fsync(&root.join("dest"));
    }),
    scenario(
        "clone_into_another_subvolume",
        |root| {
            source_and_dest(root);
            owner(root).create_subvolume(&root.join("other"));
            varied(&root.join("other/dest"), 0, 50_000);
        },
        |root| {
            varied(&root.join("source"), 100_000, 100_000);
            share((&root.join("source"), 65_536), (&root.join("other/dest"), 4096), 131_072);
            fsync(&root.join("other/dest"));
            fsync(&root.join("source"));
        },
    ),
];
