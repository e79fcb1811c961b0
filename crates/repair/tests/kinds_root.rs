//! Each kind of damage that the suite of btrfs-progs knows, seeded: `btrfs check` calls every repaired filesystem clean.
//!
//! Needs the tool btrfs; fails without.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod common;

use std::os::unix::fs::FileExt;

use butterfs_testkit::damage::SIZE;
use butterfs_testkit::oracle;
use butterfs_testkit::workdir::WorkDir;
use butterfs_volume::MemDevice;
use common::kinds::{KINDS, Outcome};
use common::repaired;
use common::small::small;

#[test]
fn the_other_checker_agrees() {
    let subject = small();
    let (work, folder) = (WorkDir::new("repair-kinds"), tempfile::tempdir().unwrap());
    let judge = |device: &MemDevice| {
        let path = work.file("image");
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(SIZE).unwrap();
        device.written().iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        let finished = oracle::check(&path);
        let complaints = oracle::complaints(&finished);
        (finished.status.success() && complaints.is_empty(), format!("{finished}"))
    };
    for kind in KINDS {
        let broken = (kind.seed)(&subject).device;
        if kind.outcome == Outcome::Clean {
            assert!(judge(&broken).0, "{}", kind.name);
            continue;
        }
        let (device, plan) = repaired(&broken, &folder).unwrap();
        let (is_clean, words) = judge(&device);
        assert!(is_clean, "{}: {words}\n{plan}", kind.name);
    }
}
