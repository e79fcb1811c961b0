//! Files that the kernel compressed: read, changed, and handed back.

mod common;

use butterfs_testkit::command::run_program;
use butterfs_testkit::mounter::Mounted;
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use common::{MIB, kernel, setup, subject};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Lengths of files that are kept inline when compressed.
const INLINE: [usize; 6] = [100, 1000, 2049, 4000, 4095, 4096];
/// Each inline file exists once for each of [`change_inline`]'s changes.
const CHANGES: usize = 10;
/// Random changes stay below this offset, or thereabouts.
const LONGEST: u64 = 2 * MIB;

#[test]
fn zlib_files_are_read_and_changed() {
    there_and_back("zlib");
}

#[test]
fn lzo_files_are_read_and_changed() {
    there_and_back("lzo");
}

#[test]
fn zstd_files_are_read_and_changed() {
    there_and_back("zstd");
}

fn there_and_back(kind: &str) {
    let Some((work, image, mnt)) = kernel_made(kind, kind, "single") else { return };
    let (dir, plain) = (mnt.join("dir"), work.dir("plain"));
    let mounted = kernel().mount(&image, &mnt, &options(kind));
    std::fs::create_dir(&dir).expect("mkdir");
    fill(&dir);
    mounted.sync();
    shape(&mounted, &dir);
    let expected = Tree::read(&dir);
    run_program("cp", &["-aT".as_ref(), dir.as_os_str(), plain.as_os_str()]).ok();
    mounted.unmount();
    oracle::assert_clean(&image);
    let before = all_kinds(&image, kind);

    let mounted = subject().mount(&image, &mnt, "noatime");
    Tree::read(&dir).assert_same(&expected, Times::Exact, "what the kernel wrote");
    unaligned_reads(&dir, &plain);
    change_inlines(&dir, &plain);
    compare(&dir, &plain, "after changes of inline files");
    mounted.unmount();
    oracle::assert_clean(&image);
    // Each that was changed is stored anew.
    let inline = Compressed::count(&image, kind).inline;
    assert_eq!(inline, before.inline - INLINE.len() * CHANGES, "{kind}: compressed inline extents");

    let mounted = subject().mount(&image, &mnt, "noatime");
    compare(&dir, &plain, "changes of inline files, after mounting again");
    change_randomly(&dir, &plain, 1);
    compare(&dir, &plain, "after random changes");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = subject().mount(&image, &mnt, "noatime");
    compare(&dir, &plain, "after mounting again");
    change_randomly(&dir, &plain, 2);
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    compare(&dir, &plain, "by the kernel");
    mounted.unmount();
    drop(work);
}

fn options(kind: &str) -> String {
    format!("noatime,compress-force={kind}")
}

/// A work directory with an empty filesystem of the kernel's.
fn kernel_made(test: &str, kind: &str, data: &str) -> Option<(WorkDir, PathBuf, PathBuf)> {
    let work = setup(&format!("compressed_{test}_{kind}"))?;
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 512 * MIB, &["-n", "16384", "-d", data]);
    Some((work, image, mnt))
}

// ---- what the kernel makes -------------------------------------------------------------------------------------

fn text(random: &mut Random, length: usize) -> Vec<u8> {
    const WORDS: [&str; 7] = ["butter ", "fat, ", "churn", "\n", "cream; ", "milk ", "whey. "];
    let mut text = Vec::with_capacity(length + 8);
    while text.len() < length {
        text.extend_from_slice(random.pick(&WORDS).expect("there are words").as_bytes());
    }
    text.truncate(length);
    text
}

fn noise(random: &mut Random, length: usize) -> Vec<u8> {
    (0..length).map(|_| random.bits() as u8).collect()
}

/// Stretches of text, noise and zeros.
fn mixed(random: &mut Random, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let part = random.between(1, 100_000) as usize;
        bytes.extend(match random.below(3) {
            0 => text(random, part),
            1 => noise(random, part),
            _ => vec![0; part],
        });
    }
    bytes.truncate(length);
    bytes
}

fn fill(dir: &Path) {
    let mut random = Random::new(20);
    let write = |name: String, bytes: Vec<u8>| std::fs::write(dir.join(name), bytes).expect("write");
    for length in INLINE {
        (0..CHANGES).for_each(|change| write(format!("inline-{length}-{change}"), text(&mut random, length)));
    }
    for length in [4097, 10_000, 65_536, 131_071, 131_072, 131_073, 500_001, 2 * MIB as usize + 777] {
        write(format!("text-{length}"), text(&mut random, length));
        write(format!("mixed-{length}"), mixed(&mut random, length));
    }
    for length in [1000, 4096, 300_003] {
        write(format!("noise-{length}"), noise(&mut random, length));
    }
    for name in ["overwritten", "punched", "truncated", "sparse-later"] {
        write(name.into(), text(&mut random, MIB as usize + 4321));
    }
    let sparse = File::create(dir.join("sparse")).expect("create");
    for offset in [10, 300_000, 1_500_123] {
        sparse.write_all_at(&text(&mut random, 50_001), offset).expect("write");
    }
}

/// Makes bookends: extents of which other items use the middle, the front and the back.
fn shape(mounted: &Mounted, dir: &Path) {
    let mut random = Random::new(21);
    let open = |name: &str| File::options().write(true).open(dir.join(name)).expect("open");
    let clone = |from: &str, to: &str| {
        let (from, to) = (dir.join(from), dir.join(to));
        run_program("cp", &["--reflink=always".as_ref(), from.as_os_str(), to.as_os_str()]).ok();
    };
    clone("text-500001", "cloned");
    clone("inline-1000-0", "cloned-inline");
    clone("overwritten", "cloned-before");
    clone("mixed-500001", "cloned-and-punched");
    for round in 0..40 {
        let (offset, length) = (random.below(MIB), random.between(1, 9000) as usize);
        open("overwritten").write_all_at(&text(&mut random, length), offset).expect("write");
        if round % 8 == 0 {
            mounted.sync();
        }
    }
    clone("overwritten", "cloned-after");
    for name in ["punched", "cloned-and-punched", "sparse-later"] {
        for _ in 0..10 {
            let (offset, length) = (random.below(400_000), random.between(1, 60_000));
            punch(&open(name), offset, length);
        }
    }
    open("truncated").set_len(777_777).expect("truncate");
    open("cloned-before").set_len(100_001).expect("truncate");
    open("inline-2049-0").set_len(999).expect("truncate");
    mounted.sync();
}

fn punch(file: &File, offset: u64, length: u64) {
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).expect("punch");
}

/// How many extents of one compression there are in the top subvolume.
#[derive(Debug, Default)]
struct Compressed {
    inline: usize,
    from_start: usize,
    from_middle: usize,
}

impl Compressed {
    fn count(image: &Path, kind: &str) -> Self {
        let (mut counts, mut offset) = (Self::default(), "");
        let (dump, name) = (oracle::dump_tree(image, "5"), format!("({kind})"));
        for line in dump.lines() {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["inline", "extent", .., found] if *found == name => counts.inline += 1,
                ["extent", "data", "offset", at, ..] => offset = at,
                ["extent", "compression", .., found] if *found == name => {
                    *(if offset == "0" { &mut counts.from_start } else { &mut counts.from_middle }) += 1;
                }
                _ => {}
            }
        }
        counts
    }
}

/// Counts, and makes sure that the test proves something.
fn all_kinds(image: &Path, kind: &str) -> Compressed {
    let counts = Compressed::count(image, kind);
    println!("{kind}: {counts:?}");
    let least = counts.inline.min(counts.from_start).min(counts.from_middle);
    assert!(least > 20, "extents compressed with {kind}: {counts:?}");
    counts
}

// ---- what we do with it ----------------------------------------------------------------------------------------

#[track_caller]
fn compare(dir: &Path, plain: &Path, what: &str) {
    files(dir).assert_same(&files(plain), Times::Ignored, what);
}

/// All but the directory itself, whose size is each filesystem's own.
fn files(dir: &Path) -> Tree {
    let mut tree = Tree::read(dir);
    tree.entries.remove(Path::new(""));
    tree
}

/// Past the page cache, in all sizes.
fn unaligned_reads(dir: &Path, plain: &Path) {
    let mut random = Random::new(22);
    let names = names(plain);
    for _ in 0..scaled(500) {
        let name = random.pick(&names).expect("there are files");
        let length = random.between(1, 300_000) as usize;
        let offset = random.below(std::fs::metadata(plain.join(name)).expect("stat").len() + 1);
        let read = |side: &Path| {
            let mut bytes = vec![0; length];
            let file = File::open(side.join(name)).expect("open");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("fadvise");
            let count = file.read_at(&mut bytes, offset).expect("read");
            bytes.truncate(count);
            bytes
        };
        assert!(read(dir) == read(plain), "{name} at {offset}, {length} bytes");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory lists");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn change_inlines(dir: &Path, plain: &Path) {
    for length in INLINE {
        for change in 0..CHANGES {
            let name = format!("inline-{length}-{change}");
            change_inline(&dir.join(&name), change);
            change_inline(&plain.join(&name), change);
        }
    }
}

fn change_inline(path: &Path, change: usize) {
    let file = File::options().read(true).write(true).open(path).expect("open");
    let length = file.metadata().expect("stat").len();
    let write = |bytes: &[u8], offset| file.write_all_at(bytes, offset).expect("write");
    let resize = |length| file.set_len(length).expect("truncate");
    let sync = || file.sync_all().expect("fsync");
    match change {
        0 => write(b"a few more", length),
        1 => write(&[b'm'; 20_000], length),
        2 => resize(length / 3),
        3 => resize(length + 5001),
        4 => write(b"in the middle", length / 2),
        // What was cut off stays away when the file grows again, whatever was written back when.
        5 => (0..3).for_each(|round| {
            resize(length / 2 - round);
            sync();
            resize(length);
        }),
        6 => {
            resize(length / 2 + 1);
            resize(length + 10_000);
            sync();
        }
        7 => punch(&file, length / 4, length / 2),
        8 => punch(&file, 0, length),
        _ => write(b"far away", 70_001),
    }
}

/// The same random changes on both sides.
fn change_randomly(dir: &Path, plain: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let names = names(plain);
    for number in 0..scaled(600) {
        let name = random.pick(&names).expect("there are files");
        let (action, offset) = (random.below(100), random.below(LONGEST));
        // Most of it near what is there.
        let length = std::fs::metadata(plain.join(name)).expect("stat").len();
        let offset = if random.percent(80) { offset % (length + 1) } else { offset };
        let size = *random.pick(&[1, 100, 4096, 5000, 40_000]).expect("lengths");
        let bytes = random.bytes(size);
        for side in [dir, plain] {
            let file = File::options().read(true).write(true).open(side.join(name)).expect("open");
            match action {
                0..40 => file.write_all_at(&bytes, offset).expect("write"),
                40..50 => file.write_all_at(&bytes, length).expect("append"),
                50..70 => file.set_len(offset).expect("truncate"),
                70..90 => punch(&file, offset, bytes.len() as u64 * 3),
                90..95 => file.sync_data().expect("fdatasync"),
                _ => {
                    file.set_len(offset / 2).expect("truncate");
                    file.set_len(length).expect("truncate");
                }
            }
        }
        if number % 50 == 49 {
            let (ours, theirs) = (std::fs::read(dir.join(name)), std::fs::read(plain.join(name)));
            assert!(ours.expect("reads") == theirs.expect("reads"), "{name} after change {number}: action {action}");
        }
    }
}

// ---- damage ----------------------------------------------------------------------------------------------------

/// A damaged compressed extent is an I/O error, never other bytes; its neighbours are fine.
#[test]
fn damage_in_a_compressed_extent_is_told() {
    for kind in ["zlib", "lzo", "zstd"] {
        let Some((work, image, mnt)) = kernel_made("damage", kind, "single") else { return };
        let good = one_file(&image, &mnt, kind);
        damage(&image, 0);
        let mounted = subject().mount(&image, &mnt, "noatime");
        let file = File::open(mounted.join("file")).expect("open");
        let mut bytes = vec![0; 131_072];
        let error = file.read_exact_at(&mut bytes[..4096], 131_072 + 5000).expect_err("a damaged extent");
        assert_eq!(rustix::io::Errno::from_io_error(&error), Some(rustix::io::Errno::IO), "{kind}");
        for extent in [0, 2, 3] {
            let start = extent * 131_072;
            file.read_exact_at(&mut bytes, start as u64).expect("a good extent");
            assert!(bytes == good[start..start + 131_072], "{kind}, extent {extent}");
        }
        drop(file);
        mounted.unmount();
        drop(work);
    }
}

/// Of two copies, the good one is read.
#[test]
fn damage_in_one_copy_is_read_around() {
    for (kind, copy) in [("zlib", 0), ("lzo", 1), ("zstd", 0)] {
        let Some((work, image, mnt)) = kernel_made("copies", kind, "dup") else { return };
        let good = one_file(&image, &mnt, kind);
        damage(&image, copy);
        let mounted = subject().mount(&image, &mnt, "noatime");
        assert!(std::fs::read(mounted.join("file")).expect("reads") == good, "{kind}");
        mounted.unmount();
        drop(work);
    }
}

/// A file of four compressed extents; gives its content.
fn one_file(image: &Path, mnt: &Path, kind: &str) -> Vec<u8> {
    let bytes = text(&mut Random::new(23), 4 * 131_072);
    let mounted = kernel().mount(image, mnt, &options(kind));
    std::fs::write(mounted.join("file"), &bytes).expect("write");
    mounted.unmount();
    bytes
}

/// Overwrites some bytes in a copy of the second extent.
fn damage(image: &Path, copy: usize) {
    let dump = oracle::dump_tree(image, "5");
    let mut lines = dump.lines().skip_while(|line| !line.contains("EXTENT_DATA 131072)"));
    let place = lines.find_map(|line| line.split("extent data disk byte ").nth(1)).expect("a second extent");
    let logical: u64 = place.split(' ').next().and_then(|number| number.parse().ok()).expect("an address");
    let chunks = oracle::chunks(image);
    let chunk = chunks.iter().find(|chunk| (chunk.logical..chunk.logical + chunk.length).contains(&logical));
    let chunk = chunk.expect("the extent is in a chunk");
    oracle::wipe(image, chunk.physical[copy] + (logical - chunk.logical) + 1000, 16);
}
