//! What commands for devices and whole filesystems say when they refuse: the device that is meant, and what to do.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/images.rs"]
mod images;

use butterfs_format::items::{BalanceFlags, BalanceItem};
use butterfs_testkit::command::Finished;
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::workdir::WorkDir;
use images::{assert_clean, butterfs, make, open};

const MIB: u64 = 1 << 20;

#[track_caller]
fn refused(finished: &Finished, words: &[&str]) {
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is wanted: {finished}");
    }
}

#[test]
fn mkfs_names_the_device_that_is_wrong() {
    let work = WorkDir::new("words-mkfs");
    let [good, tiny, link] = ["good", "tiny", "link"].map(|name| work.file(name));
    create_sparse(&good, 400 * MIB);
    create_sparse(&tiny, MIB);
    std::os::unix::fs::symlink(&good, &link).unwrap();
    let [good, tiny, link] = [&good, &tiny, &link].map(|path| path.to_str().unwrap());
    for twice in [good, link] {
        let finished = butterfs(&["mkfs", "-f", good, twice]);
        refused(&finished, &[&format!("{twice}: is named twice"), "another one"]);
    }
    // That does not exist yet.
    let new = work.file("new");
    let new = new.to_str().unwrap();
    refused(&butterfs(&["mkfs", "--size", "400M", new, new]), &["new: is named twice"]);
    assert!(!std::path::Path::new(new).exists());
    for named in [[good, tiny], [tiny, good]] {
        let finished = butterfs(&["mkfs", "-f", named[0], named[1]]);
        refused(&finished, &[&format!("{tiny}: the device is too small: a filesystem needs at least 109 MiB")]);
    }
    assert!(std::fs::read(good).unwrap().iter().all(|byte| *byte == 0), "something was written");
}

/// One that a power cut or `kill -9` left.
#[test]
fn an_interrupted_balance_is_told_of() {
    let work = WorkDir::new("words-balance");
    let image = make(&work, "image", 400 * MIB, |_| {});
    let fs = open(&image);
    let flags = BalanceFlags::DATA | BalanceFlags::METADATA | BalanceFlags::SYSTEM;
    drop(fs.begin_balance(&BalanceItem { flags: flags.bits().into(), ..BalanceItem::default() }).unwrap());
    drop(fs);
    let path = image.to_str().unwrap();
    let words = ["was interrupted", "balance resume", "balance cancel"];
    refused(&butterfs(&["balance", "start", "--full-balance", path]), &words);
    let of_another = butterfs(&["filesystem", "resize", "max", path]);
    refused(&of_another, &["balance paused; balance resume goes on with it, balance cancel ends it"]);
    let resumed = butterfs(&["balance", "resume", path]).ok();
    assert!(resumed.stdout.starts_with("Done, had to relocate "), "{resumed}");
    butterfs(&["balance", "start", "-dusage=0", path]).ok();
    assert_clean(&image);
}

#[test]
fn resync_says_what_it_did_not_look_at() {
    let work = WorkDir::new("words-resync");
    let images = [0, 1].map(|number| work.file(&format!("disk{number}")));
    images.iter().for_each(|image| create_sparse(image, 400 * MIB));
    let [first, second] = [0, 1].map(|number: usize| images[number].to_str().unwrap());
    butterfs(&["mkfs", "-d", "raid1", "-m", "raid1", first, second]).ok();
    let all = butterfs(&["device", "resync", first]).ok();
    assert_eq!(all.stdout, "All devices are up to date\n");
    let elsewhere = work.dir("elsewhere").join("disk1");
    std::fs::rename(&images[1], &elsewhere).unwrap();
    let missing = butterfs(&["device", "resync", first]);
    refused(&missing, &["device 2", "missing", "was not looked at", "--device"]);
    assert_eq!(missing.stdout, "");
    butterfs(&["device", "resync", "--device", elsewhere.to_str().unwrap(), first]).ok();
    let directory = butterfs(&["device", "resync", work.path().to_str().unwrap()]);
    refused(&directory, &["is a directory", "a mount brings the devices up to date", "name an image or a device"]);
}
