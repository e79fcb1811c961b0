//! `filesystem df|usage|show|label|du` and `device usage` say what the stock `btrfs` says on the kernel's mount of the
//! same filesystem: on the kernel's mount, on ours, and on what is not mounted.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::devices::{self, KernelMount};
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::workdir::WorkDir;
use common::ours::Ours;
use common::{MIB, kernel, setup, subject};
use regex::Regex;

const BINARY: &str = env!("CARGO_BIN_EXE_butterfs");

/// Runs `PROGRAM WORDS... ARGUMENTS...` in the work directory.
fn ask(work: &WorkDir, program: &str, words: &str, arguments: &[&Path]) -> Finished {
    run(Command::new(program).args(words.split_whitespace()).args(arguments).current_dir(work.path()))
}

/// What it said, without the names of devices, and columns that get wider with them.
fn said(work: &WorkDir, finished: &Finished) -> String {
    let images = regex::escape(&work.path().display().to_string());
    let device = Regex::new(&format!("/dev/loop[0-9]+|{images}/disk[0-9]+|disk[0-9]+")).expect("it is right");
    let gap = Regex::new("  +|--+").expect("it is right");
    let text = format!("{}\nrc {:?}", finished.stdout.trim_end(), finished.status.code());
    gap.replace_all(&device.replace_all(&text, "DEVICE"), "  ").into_owned()
}

const QUESTIONS: [&str; 16] = [
    "filesystem df",
    "filesystem df -b",
    "filesystem df -H",
    "filesystem df -k",
    "filesystem df -m --si",
    "filesystem df --iec -g",
    "filesystem usage",
    "filesystem usage -b",
    "filesystem usage -T",
    "filesystem usage -T -b",
    "filesystem usage --si -T",
    "filesystem usage -t",
    "device usage",
    "device usage --raw",
    "device usage -k",
    "device usage --mbytes --si",
];

fn populate(dir: &Path, seed: u64) {
    fs::create_dir(dir.join("sub")).expect("mkdir");
    for number in 0..60 {
        let bytes = Random::new(seed + number).bytes(1 << (number % 21));
        fs::write(dir.join(format!("sub/{number}")), bytes).expect("write");
    }
    run(Command::new("cp").args(["-r", "--reflink=always"]).arg(dir.join("sub")).arg(dir.join("clone"))).ok();
    fs::hard_link(dir.join("sub/40"), dir.join("link")).expect("link");
    run(Command::new("btrfs").args(["subvolume", "snapshot"]).arg(dir).arg(dir.join("snap"))).ok();
    fs::write(dir.join("sub/50"), Random::new(7).bytes(100_000)).expect("write");
}

fn compared(name: &str, sizes: &[u64], mkfs: &[&str]) {
    let Some(work) = setup(name) else { return };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), sizes, mkfs);
    let mounted = KernelMount::new(&images, &mnt, "noatime");
    populate(&mnt, 1);
    drop(mounted);
    let mounted = KernelMount::new(&images, &mnt, "ro,noatime");
    let mut expected = Vec::new();
    for question in QUESTIONS {
        let theirs = ask(&work, "btrfs", question, &[&mnt]);
        let ours = ask(&work, BINARY, question, &[&mnt]);
        assert_eq!(ours.stdout, theirs.stdout, "{name}: {question} on the kernel's mount, ours | theirs");
        expected.push(said(&work, &theirs));
    }
    let du = ask(&work, "btrfs", "filesystem du mnt mnt/sub", &[]).ok().stdout;
    assert_eq!(ask(&work, BINARY, "filesystem du mnt mnt/sub", &[]).ok().stdout, du, "{name}");
    let show = ask(&work, "btrfs", "filesystem show", &[&mnt]);
    assert_eq!(ask(&work, BINARY, "filesystem show", &[&mnt]).stdout, show.stdout, "{name}");
    let json = ask(&work, "btrfs", "--format json filesystem df", &[&mnt]).ok().stdout;
    let ours_json = ask(&work, BINARY, "--format json filesystem df", &[&mnt]).ok().stdout;
    drop(mounted);
    let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(parsed(&ours_json), parsed(&json), "{name}");

    let others: Vec<&Path> = images[1..].iter().map(PathBuf::as_path).collect();
    for (question, expected) in QUESTIONS.iter().zip(&expected) {
        let mut words = (*question).to_owned();
        others.iter().for_each(|other| words.push_str(&format!(" --device {}", other.display())));
        let image = ask(&work, BINARY, &words, &[&images[0]]);
        assert_eq!(said(&work, &image), *expected, "{name}: {question} on the image, ours | theirs");
        let alone = ask(&work, BINARY, question, &[&images[0]]);
        assert_eq!(said(&work, &alone), *expected, "{name}: {question} on one image of several, ours | theirs");
    }
    let by_image = ask(&work, BINARY, "filesystem show", &[images.last().expect("one")]).ok();
    assert_eq!(said(&work, &by_image), said(&work, &show), "{name}: show finds the others");
    let mounted = Ours::new(&images, &mnt, "ro,noatime");
    for (question, expected) in QUESTIONS.iter().zip(&expected) {
        let ours = ask(&work, BINARY, question, &[&mnt]);
        assert_eq!(said(&work, &ours), *expected, "{name}: {question} on our mount, ours | theirs");
    }
    assert_eq!(ask(&work, BINARY, "filesystem du mnt mnt/sub", &[]).ok().stdout, du, "{name}: du on our mount");
    let shown = ask(&work, BINARY, "filesystem show", &[&mnt]);
    assert_eq!(said(&work, &shown), said(&work, &show), "{name}");
    // The same, by a device of it.
    assert_eq!(ask(&work, BINARY, "filesystem show", &[images.last().expect("one")]).stdout, shown.stdout, "{name}");
    drop(mounted);
}

#[test]
fn one_device() {
    compared("sp-one", &[400 * MIB + 12_288], &["-L", "a label", "-d", "single", "-m", "dup"]);
}

#[test]
fn mixed_groups() {
    compared("sp-mixed", &[300 * MIB + 4096], &["-M"]);
}

#[test]
fn raid1_of_uneven_devices() {
    compared("sp-raid1", &[300 * MIB, 417 * MIB + 8192, 533 * MIB], &["-d", "raid1", "-m", "raid1c3"]);
}

#[test]
fn raid0_and_raid10() {
    compared("sp-raid10", &[301 * MIB; 4], &["-d", "raid0", "-m", "raid10"]);
}

#[test]
fn raid5_and_raid6() {
    compared("sp-raid56", &[333 * MIB; 4], &["-d", "raid5", "-m", "raid6"]);
}

#[test]
fn single_and_raid0_on_odd_sizes() {
    compared("sp-raid0", &[257 * MIB + 4096, 300 * MIB + 20_480, 511 * MIB + 8192], &["-d", "raid0", "-m", "single"]);
}

#[test]
fn raid1c4_and_raid10_of_five() {
    let sizes = [301 * MIB, 333 * MIB + 4096, 350 * MIB, 400 * MIB + 12_288, 299 * MIB];
    compared("sp-raid1c4", &sizes, &["-d", "raid10", "-m", "raid1c4"]);
}

#[test]
fn raid5_of_uneven_devices() {
    compared("sp-raid5", &[300 * MIB, 417 * MIB + 8192, 533 * MIB], &["-d", "raid5", "-m", "raid1"]);
}

#[test]
fn raid6_of_uneven_devices() {
    let sizes = [300 * MIB, 417 * MIB + 8192, 533 * MIB, 351 * MIB + 4096, 420 * MIB];
    compared("sp-raid6", &sizes, &["-d", "raid6", "-m", "raid1c3"]);
}

#[test]
fn mixed_groups_on_two_devices() {
    compared("sp-mixed-raid1", &[300 * MIB + 4096, 340 * MIB], &["-M", "-d", "raid1", "-m", "raid1"]);
}

/// A conversion that was not finished is told by the commands by which the stock program tells it, in its words.
#[test]
fn several_profiles_are_warned_of() {
    let Some(work) = setup("sp-several") else { return };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &[500 * MIB; 2], &["-d", "single", "-m", "raid1"]);
    let new: Vec<PathBuf> = (0..4).map(|number| work.file(&format!("new{number}"))).collect();
    new.iter().for_each(|image| butterfs_testkit::mounter::create_sparse(image, 300 * MIB));
    let mounted = KernelMount::new(&images, &mnt, "noatime");
    fs::write(mnt.join("noise"), Random::new(3).bytes(200 << 20)).expect("write");
    mounted.btrfs(&["filesystem", "sync"]);
    mounted.btrfs(&["balance", "start", "-dconvert=raid0,limit=1"]);
    let filters = ["filesystem df", "device usage", "balance cancel", "balance pause", "device remove 9"];
    let warned = |finished: &Finished| -> Vec<String> {
        finished.stderr.lines().filter(|line| line.starts_with("WARNING")).map(str::to_owned).collect()
    };
    let expected: Vec<_> = filters.iter().map(|words| warned(&ask(&work, "btrfs", words, &[&mnt]))).collect();
    assert!(expected.iter().all(|lines| lines.len() == 2), "{expected:?}");
    for (words, expected) in filters.iter().zip(&expected).take(2) {
        assert_eq!(warned(&ask(&work, BINARY, words, &[&mnt])), *expected, "{words} on the kernel's mount");
    }
    let none = warned(&ask(&work, BINARY, "filesystem usage", &[&mnt]));
    assert!(none.is_empty() && warned(&ask(&work, "btrfs", "filesystem usage", &[&mnt])).is_empty());
    drop(mounted);
    for (words, expected) in filters.iter().zip(&expected) {
        assert_eq!(warned(&ask(&work, BINARY, words, &[&images[0]])), *expected, "{words} on the image");
    }
    let mounted = Ours::new(&images, &mnt, "noatime");
    for (words, expected) in filters.iter().zip(&expected) {
        assert_eq!(warned(&ask(&work, BINARY, words, &[&mnt])), *expected, "{words} on our mount");
    }
    assert_eq!(warned(&ask(&work, BINARY, "device add", &[&new[0], &mnt]).ok()), expected[0]);
    drop(mounted);
}

/// The filters of a balance are printed as the stock program prints them.
#[test]
fn filters_are_printed_as_the_stock_program_does() {
    let Some(work) = setup("sp-filters") else { return };
    let mnt = work.dir("mnt");
    let images = devices::mkfs(work.path(), &[500 * MIB; 2], &["-d", "single", "-m", "raid1"]);
    let all = "balance start -v -dusage=7,devid=1,drange=0..1000,vrange=5..9999999999,limit=2..3,stripes=..4,\
               profiles=single|raid1 -musage=3,limit=9,convert=raid1,soft";
    let dumped = |finished: &Finished| -> Vec<String> {
        let is_one = |line: &&str| line.starts_with("  ") || line.starts_with("Dumping");
        finished.stdout.lines().filter(is_one).map(str::to_owned).collect()
    };
    let mounted = KernelMount::new(&images, &mnt, "noatime");
    let expected = dumped(&ask(&work, "btrfs", all, &[&mnt]).ok());
    drop(mounted);
    assert_eq!(expected.len(), 4, "{expected:?}");
    assert_eq!(dumped(&ask(&work, BINARY, all, &[&images[0]]).ok()), expected);
}

#[test]
fn labels_and_what_is_shown_without_a_mount() {
    let Some(work) = setup("sp-label") else { return };
    let (image, mnt) = (work.file("disk0"), work.dir("mnt"));
    kernel().mkfs(&image, 200 * MIB, &["-L", "first"]);
    let label = |path: &Path| ask(&work, BINARY, "filesystem label", &[path]).ok().stdout;
    assert_eq!(label(&image), "first\n");
    ask(&work, BINARY, "filesystem label", &[&image, Path::new("second one")]).ok();
    assert_eq!((label(&image), oracle::superblock(&image)["label"].as_str()), ("second one\n".into(), "second one"));
    oracle::assert_clean(&image);
    let expected = ask(&work, "btrfs", "filesystem show", &[&image]).ok().stdout;
    let uuid = expected.split("uuid: ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("a UUID");
    assert_eq!(ask(&work, BINARY, "filesystem show", &[&image]).ok().stdout, expected);
    assert_eq!(ask(&work, BINARY, "filesystem show --raw", &[&image]).ok().stdout, {
        ask(&work, "btrfs", "filesystem show --raw", &[&image]).ok().stdout
    });
    let mounted = subject().mount(&image, &mnt, "noatime");
    let by_mount = ask(&work, BINARY, "filesystem show", &[&mnt]).ok().stdout;
    assert!(by_mount.contains("second one") && by_mount.contains(uuid), "{by_mount}");
    for search in [uuid, &uuid[..13], "second one"] {
        let shown = ask(&work, BINARY, "filesystem show --mounted", &[Path::new(search)]).ok().stdout;
        assert_eq!(shown, by_mount, "{search}");
    }
    // A mounted image is asked, and changed, where it is mounted.
    ask(&work, BINARY, "filesystem label", &[&image, Path::new("third")]).ok();
    assert_eq!((label(&mnt), label(&image)), ("third\n".into(), "third\n".into()));
    mounted.unmount();
    let mounted = kernel().mount(&image, &mnt, "noatime");
    assert_eq!(label(&mnt), "third\n");
    ask(&work, BINARY, "filesystem label", &[&mnt, Path::new("")]).ok();
    mounted.unmount();
    assert_eq!(oracle::superblock(&image)["label"], "");
    refusals(&work, &image);
}

/// Each says what is wrong, and changes nothing.
fn refusals(work: &WorkDir, image: &Path) {
    let long = "x".repeat(256);
    let before = fs::read(image).expect("read");
    for (words, arguments, problem) in [
        ("filesystem label", [image, Path::new(&long)].as_slice(), "too long (max 255)"),
        ("filesystem label", &[image, Path::new("a\nb")], "newline"),
        ("filesystem label", &[work.path()], "not a btrfs filesystem"),
        ("filesystem df", &[work.path()], "not a btrfs filesystem"),
        ("filesystem usage", &[Path::new("/dev/null")], "/dev/null"),
        ("filesystem du", &[work.path()], "not a btrfs filesystem"),
        ("filesystem du", &[image], "holds a filesystem that is not mounted"),
        ("filesystem du", &[Path::new("nowhere")], "cannot check space of 'nowhere'"),
        ("filesystem show", &[Path::new("no such label")], "not a valid btrfs filesystem: no such label"),
        ("device usage", &[Path::new("nowhere")], "nowhere"),
    ] {
        let finished = ask(work, BINARY, words, arguments);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        assert!(finished.stderr.contains(problem) && finished.stderr.lines().count() == 1, "{finished}");
    }
    assert!(fs::read(image).expect("read") == before, "nothing was changed");
}
