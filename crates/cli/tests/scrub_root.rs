//! Scrub on mounts and on images: what was planted is found where it is, repaired where it can be, told with its file
//! where not; by our own command, and by the stock `btrfs` over our mount, as it is on the kernel's.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::random::Random;
use butterfs_testkit::workdir::WorkDir;
use common::ours::Ours;
use common::{MIB, compat_library, setup};
use regex::Regex;

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
const SECTOR: usize = 4096;

fn butterfs(line: &str, paths: &[PathBuf]) -> Finished {
    run(Command::new(BUTTERFS).args(line.split_whitespace()).args(paths))
}

fn images(work: &WorkDir, count: usize) -> Vec<PathBuf> {
    let image = |number: usize| {
        let path = work.file(&format!("disk{number}"));
        File::create(&path).and_then(|file| file.set_len(400 * MIB)).expect("an image");
        path
    };
    (1..=count).map(image).collect()
}

fn content() -> Vec<u8> {
    Random::new(7).bytes(6 << 20)
}

/// Where sectors of the content are: image, and offset in it.
fn places(images: &[PathBuf], sector: usize) -> Vec<(usize, u64)> {
    let wanted = &content()[sector * SECTOR..][..SECTOR];
    let mut found = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let bytes = fs::read(image).expect("the image reads");
        let same = bytes.chunks(SECTOR).enumerate().filter(|(_, bytes)| *bytes == wanted);
        found.extend(same.map(|(at, _)| (number, (at * SECTOR) as u64)));
    }
    found
}

fn damage(images: &[PathBuf], (image, at): (usize, u64)) {
    let file = File::options().read(true).write(true).open(&images[image]).expect("the image opens");
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, at + 99).expect("it reads");
    bytes.iter_mut().for_each(|byte| *byte ^= 0xa5);
    file.write_all_at(&bytes, at + 99).expect("it is written");
}

fn made(work: &WorkDir, count: usize, data: &str) -> Vec<PathBuf> {
    let images = images(work, count);
    let options = format!("mkfs -d {data} -m raid1");
    butterfs(&options, &images).ok();
    let mnt = work.file("mnt");
    let _ours = Ours::new(&images, &mnt, "noatime");
    fs::write(mnt.join("a file"), content()).expect("write");
    images
}

/// A mirror is repaired; the words are those of the stock program, which works over our mount, too.
#[test]
fn a_mount_is_scrubbed_and_repaired() {
    let Some(work) = setup("scrub_mount") else { return };
    let images = made(&work, 2, "raid1");
    let mnt = [work.file("mnt")];
    let hit = places(&images, 300);
    assert_eq!(hit.len(), 2, "{hit:?}");
    damage(&images, hit[1]);
    let ours = Ours::new(&images, &mnt[0], "noatime");
    let first = butterfs("scrub start -B", &mnt).ok();
    for line in ["scrub done for ", "Status:           finished", "Error summary:    csum=1", "  Corrected:      1"] {
        assert!(first.stdout.contains(line), "{first}");
    }
    let at = format!("physical {} ", hit[1].1);
    assert!(first.stderr.contains(&at) && first.stderr.contains("path a file"), "{first}");
    let again = butterfs("scrub start -B -d", &mnt).ok();
    assert_eq!(again.stdout.matches("Error summary:    no errors found").count(), 2, "{again}");
    let status = butterfs("scrub status -R", &mnt).ok();
    assert!(status.stdout.contains("Status:           finished\n"), "{status}");
    assert!(status.stdout.contains("\tdata_bytes_scrubbed: 12582912\n"), "{status}");
    for (line, code) in [("scrub cancel", 2), ("scrub resume -B", 2)] {
        let refused = butterfs(line, &mnt);
        assert_eq!(refused.status.code(), Some(code), "{refused}");
    }
    compat_library();
    let stock = run(Command::new(BUTTERFS).args(["compat", "--", "btrfs", "scrub", "start", "-B", "-R"]).arg(&mnt[0]));
    let stock = stock.ok();
    let numbers = |text: &str| {
        let line = Regex::new(r"(?m)^\t(data_bytes|tree_bytes|csum_errors|data_extents).*$").expect("it is right");
        line.find_iter(text).map(|found| found.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&stock.stdout).len(), numbers(&status.stdout).len());
    drop(ours);
    let check = butterfs("check --check-data-csum", &images);
    assert!(check.status.success(), "{check}");

    let kernel = KernelMount::new(&images, &mnt[0], "noatime");
    let theirs = run(Command::new("btrfs").args(["scrub", "start", "-B", "-R"]).arg(&mnt[0])).ok();
    drop(kernel);
    assert_eq!(numbers(&theirs.stdout), numbers(&stock.stdout), "{theirs}\n{stock}");
}

/// As in the kernel; and it says how else.
#[test]
fn a_scrub_of_a_mount_for_reading_only_looks() {
    let Some(work) = setup("scrub_ro") else { return };
    let images = made(&work, 2, "raid1");
    let mnt = [work.file("mnt")];
    let _ours = Ours::new(&images, &mnt[0], "ro");
    for line in ["scrub start -B", "scrub start"] {
        let refused = butterfs(line, &mnt);
        let says_how = ["is mounted read-only", "scrub start -r"].iter().all(|words| refused.stderr.contains(words));
        assert!(refused.status.code() == Some(1) && says_how, "{refused}");
    }
    let looked = butterfs("scrub start -B -r", &mnt).ok();
    assert!(looked.stdout.contains("no errors found"), "{looked}");
}

/// In the background, slowly: it is seen running, cancelled, and resumed to its end.
#[test]
fn a_scrub_in_the_background_is_cancelled_and_resumed() {
    let Some(work) = setup("scrub_background") else { return };
    let images = made(&work, 2, "single");
    let mnt = [work.file("mnt")];
    let _ours = Ours::new(&images, &mnt[0], "noatime");
    // A second device, that the data is not on, would end at once.
    butterfs("scrub start --limit 2M", &mnt).ok();
    let status = butterfs("scrub status", &mnt).ok();
    assert!(status.stdout.contains("Status:           running"), "{status}");
    assert!(!status.stdout.contains("100.00%") && status.stdout.contains("(some device limits set)"), "{status}");
    let stock = run(Command::new(BUTTERFS).args(["compat", "--", "btrfs", "scrub", "status"]).arg(&mnt[0])).ok();
    let total = |said: &str| said.lines().find(|line| line.starts_with("Total to scrub:")).map(str::to_owned);
    assert_eq!(total(&status.stdout), total(&stock.stdout), "ours | by the stock tool");
    let limits = butterfs("scrub limit", &mnt).ok();
    assert!(limits.stdout.contains(" 1  2.00MiB  "), "{limits}");
    let refused = butterfs("scrub start -B", &mnt);
    assert!(!refused.status.success() && refused.stderr.contains("already running"), "{refused}");
    butterfs("scrub cancel", &mnt).ok();
    let recorded = |wanted: &str| {
        for _ in 0..100 {
            let status = butterfs("scrub status", &mnt).ok();
            if status.stdout.contains(wanted) {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("it never was: {wanted}");
    };
    recorded("Status:           aborted");
    butterfs("scrub limit -a -l 0", &mnt).ok();
    let resumed = butterfs("scrub resume -B -R", &mnt).ok();
    assert!(
        resumed.stdout.contains("Scrub resumed:") && resumed.stdout.contains("data_bytes_scrubbed: 6291456\n"),
        "{resumed}"
    );
}

/// What has no other copy is told, with its file; an image need not be mounted.
#[test]
fn what_cannot_be_repaired_is_told() {
    let Some(work) = setup("scrub_image") else { return };
    let images = made(&work, 2, "raid0");
    let hit = places(&images, 900);
    damage(&images, hit[0]);
    for line in ["scrub start -B -r", "scrub start"] {
        let told = butterfs(line, &images);
        assert_eq!(told.status.code(), Some(3), "{told}");
        assert!(told.stdout.contains("  Uncorrectable:  1"), "{told}");
        let place = format!("device {} physical {} length 4096: data", hit[0].0 + 1, hit[0].1);
        assert!(told.stderr.contains(&place) && told.stderr.contains("offset 3686400 path a file"), "{told}");
    }
    let status = butterfs("scrub status -d", &images).ok();
    assert_eq!(status.stdout.matches(" history\n").count(), 2, "{status}");
}

/// Data and both parities of what the kernel wrote: each error is found on the device it is on.
#[test]
fn parity_is_verified() {
    let Some(work) = setup("scrub_parity") else { return };
    let line = Regex::new(r"device \d+ physical \d+ ").expect("it is right");
    for (data, count) in [("raid5", 3), ("raid6", 4)] {
        let images = images(&work, count);
        let loops: Vec<_> = images.iter().map(|image| devices::Loop::over(image)).collect();
        let mut mkfs = Command::new("mkfs.btrfs");
        mkfs.args(["-q", "-f", "-d", data, "-m", "raid1"]).args(loops.iter().map(devices::Loop::path));
        run(&mut mkfs).ok();
        drop(loops);
        let mnt = work.file("mnt");
        let kernel = KernelMount::new(&images, &mnt, "noatime");
        fs::write(mnt.join("a file"), content()).expect("write");
        drop(kernel);
        let clean = butterfs("scrub start -B -r", &images).ok();
        assert!(clean.stdout.contains("no errors found"), "{data}: {clean}");
        let hit = places(&images, 500)[0];
        damage(&images, hit);
        // The same row on all devices: chunks of one size lie side by side, but not on the first device.
        let found = butterfs("scrub start -B -r", &images);
        assert_eq!(found.stderr.matches(": data at").count(), 1, "{data}: {found}");
        damage(&images, hit);
        let mut wanted = BTreeSet::new();
        for (number, image) in images.iter().enumerate() {
            for at in parity_rows(image, hit.1) {
                damage(&images, (number, at));
                wanted.insert(format!("device {} physical {at} ", number + 1));
            }
        }
        assert!(!wanted.is_empty(), "{data}");
        let found = butterfs("scrub start -B -r", &images);
        let told: BTreeSet<String> = line.find_iter(&found.stderr).map(|found| found.as_str().to_owned()).collect();
        assert_eq!(told, wanted, "{data}: {found}");
        assert!(found.stderr.contains("parity does not fit") && !found.stderr.contains(": data at"), "{found}");
        images.iter().for_each(|image| fs::remove_file(image).expect("removed"));
    }
}

/// Some sectors near an offset that are in use and hold nothing of the file: parity.
fn parity_rows(image: &Path, near: u64) -> Vec<u64> {
    let file = File::open(image).expect("the image opens");
    let (content, mut found) = (content(), Vec::new());
    let known: std::collections::HashSet<&[u8]> = content.chunks(SECTOR).collect();
    let first = near.saturating_sub(2 << 20) / SECTOR as u64;
    for sector in first..first + 1024 {
        let mut bytes = [0; SECTOR];
        if file.read_exact_at(&mut bytes, sector * SECTOR as u64).is_err() {
            continue;
        }
        // Noise, as sums of noise are; trees have zeros.
        let zeros = bytes.iter().filter(|byte| **byte == 0).count();
        if !known.contains(&bytes[..]) && zeros < 64 && found.len() < 2 {
            found.push(sector * SECTOR as u64);
        }
    }
    found
}
