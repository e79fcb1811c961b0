//! Fills a directory with a seeded tree of every kind of object that a user may have.

use crate::random::Random;
use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What [`tree`] is to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The seed; equal plans make equal trees (but for ctime).
    pub seed: u64,
    /// The number of regular files, roughly.
    pub files: usize,
    /// The number of sparse files over 1 GiB.
    pub huge: usize,
    /// True to make device nodes, which need root.
    pub devices: bool,
}

/// Makes the tree and returns the number of objects made.
#[track_caller]
pub fn tree(root: &Path, plan: Plan) -> usize {
    let mut random = Random::new(plan.seed);
    let mut made = 0;
    let mut dirs = vec![root.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..plan.files {
        if number % 25 == 0 {
            let parent = random.pick(&dirs[dirs.len().saturating_sub(40)..]).expect("never empty").clone();
            let path = parent.join(format!("{}{number}", word(&mut random)));
            std::fs::create_dir(&path).expect("mkdir");
            dirs.push(path);
            made += 1;
        }
        let dir = random.pick(&dirs).expect("never empty").clone();
        let path = dir.join(file_name(&mut random, number));
        make_file(&path, &mut random);
        decorate(&path, &mut random);
        made += 1;
        match random.below(20) {
            0 => {
                let target = if random.percent(50) { "../nowhere".into() } else { path.clone() };
                std::os::unix::fs::symlink(target, dir.join(format!("symlink{number}"))).expect("symlink");
                made += 1;
            }
            1 => {
                let other = random.pick(&files).unwrap_or(&path).clone();
                std::fs::hard_link(other, dir.join(format!("link{number}"))).expect("link");
                made += 1;
            }
            _ => {}
        }
        files.push(path);
    }
    made += specials(root, plan.devices);
    made += deep(root, &mut random);
    for number in 0..plan.huge {
        huge_file(&root.join(format!("huge{number}")), (1 << 30) + (number as u64 + 1) * 12_345_678, &mut random);
        made += 1;
    }
    // Last, so that what was made inside does not change them.
    for dir in dirs.iter().skip(1).rev() {
        set_times(dir, &mut random);
    }
    made
}

fn word(random: &mut Random) -> &'static str {
    const WORDS: [&str; 12] =
        ["src", "lib", "test", "doc", "include", "module", "driver", "a", "über", "with space", "x.d", "build"];
    random.pick(&WORDS).expect("not empty")
}

fn file_name(random: &mut Random, number: usize) -> String {
    match random.below(200) {
        0 => {
            let tail = number.to_string();
            format!("{}{tail}", "n".repeat(255 - tail.len()))
        }
        1 => format!("line\nbreak{number}"),
        2 => format!("-{number}"),
        _ => format!("{}{number}.c", word(random)),
    }
}

fn make_file(path: &Path, random: &mut Random) {
    let file = std::fs::File::create_new(path).expect("create");
    let write = |offset: u64, data: &[u8]| file.write_all_at(data, offset).expect("write");
    match random.below(100) {
        0..8 => {}
        8..50 => {
            let length = random.between(1, 2100) as usize;
            write(0, &random.bytes(length));
        }
        50..90 => {
            let length = random.between(2000, 20_000) as usize;
            write(0, &random.bytes(length));
        }
        90..97 => {
            for _ in 0..random.between(1, 4) {
                let offset = random.below(1 << 20);
                let length = random.between(1, 9000) as usize;
                write(offset, &random.bytes(length));
            }
            if random.percent(50) {
                file.set_len(random.below(2 << 20)).expect("truncate");
            }
        }
        _ => {
            let length = random.between(50_000, 300_000) as usize;
            write(0, &random.bytes(length));
            let offset = random.below(length as u64);
            write(offset, &random.bytes(10_000));
        }
    }
}

fn decorate(path: &Path, random: &mut Random) {
    if random.percent(8) {
        for number in 0..random.between(1, 3) {
            let limit = if random.percent(10) { 3000 } else { 60 };
            let length = random.below(limit) as usize;
            let name = format!("user.name{number}");
            rustix::fs::lsetxattr(path, name, &random.bytes(length), XattrFlags::empty()).expect("setxattr");
        }
    }
    if random.percent(20) {
        let mode = [0o600, 0o755, 0o4755, 0o2711, 0o000, 0o1777][random.below(6) as usize];
        if rustix::process::geteuid().is_root() && random.percent(50) {
            let (uid, gid) = (random.below(70_000) as u32, random.below(70_000) as u32);
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).expect("chown");
        }
        rustix::fs::chmod(path, Mode::from_raw_mode(mode)).expect("chmod");
    }
    if random.percent(50) {
        set_times(path, random);
    }
}

fn set_times(path: &Path, random: &mut Random) {
    let mut time = || Timespec {
        tv_sec: random.below(4_000_000_000) as i64 - 500_000_000,
        tv_nsec: random.below(1_000_000_000) as i64,
    };
    let times = Timestamps { last_access: time(), last_modification: time() };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).expect("utimens");
}

fn specials(root: &Path, devices: bool) -> usize {
    let dir = root.join("special");
    std::fs::create_dir(&dir).expect("mkdir");
    let mut made = 1;
    let mut node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o640), device).expect("mknod");
        made += 1;
    };
    node("fifo", FileType::Fifo, 0);
    node("socket", FileType::Socket, 0);
    if devices {
        node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        node("block", FileType::BlockDevice, rustix::fs::makedev(300, 70_000));
    }
    std::os::unix::fs::symlink("t".repeat(3000), dir.join("long-symlink")).expect("symlink");
    std::fs::File::create_new(dir.join("x".repeat(255))).expect("create");
    let many = dir.join("many-links");
    std::fs::write(&many, b"many").expect("write");
    for number in 0..700 {
        std::fs::hard_link(&many, dir.join(format!("many-links-with-a-rather-long-name-{number}"))).expect("link");
    }
    made + 703
}

fn deep(root: &Path, random: &mut Random) -> usize {
    let mut path = root.join("deep");
    for level in 0..40 {
        std::fs::create_dir(&path).expect("mkdir");
        std::fs::write(path.join("here"), random.bytes(level * 10)).expect("write");
        path.push(format!("level-{level}"));
    }
    80
}

/// A file of `length` bytes with data here and there.
pub fn huge_file(path: &Path, length: u64, random: &mut Random) {
    let file = std::fs::File::create_new(path).expect("create");
    for part in 0..16 {
        let offset = (length / 16) * part + random.below(1 << 20);
        file.write_all_at(&random.bytes(20_000), offset).expect("write");
    }
    file.set_len(length).expect("truncate");
}
