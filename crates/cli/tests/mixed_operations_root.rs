//! Requirements 2 and 3: a mixed run beside the kernel, judged by `btrfs check` and by the kernel, on each shape of
//! filesystem.

mod common;

use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::operations::{Features, Generator, Worker, run_together};
use butterfs_testkit::oracle;
use butterfs_testkit::random::Random;
use butterfs_testkit::report::scaled;
use butterfs_testkit::tree_compare::{Times, Tree};
use common::{GIB, kernel, setup, subject};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const THREADS: usize = 4;
const NEAR: Times = Times::Within(Duration::from_secs(30));

/// The full run on a filesystem of the kernel's own making.
#[test]
fn fifty_thousand_operations_on_a_kernel_image() {
    mixed_run("kernel_image", &kernel(), &[], scaled(52_000), 11);
}

/// The full run on a filesystem that we made.
#[test]
fn fifty_thousand_operations_on_our_image() {
    mixed_run("our_image", &subject(), &[], scaled(52_000), 12);
}

macro_rules! shapes {
    ($($name:ident: $seed:literal, $arguments:expr;)*) => {$(
        #[test]
        fn $name() {
            mixed_run(concat!(stringify!($name), "_ours"), &subject(), &$arguments, scaled(50_000), $seed);
            mixed_run(concat!(stringify!($name), "_kernels"), &kernel(), &$arguments, scaled(5000), $seed + 100);
        }
    )*};
}

shapes! {
    checksum_crc32c: 21, ["--csum", "crc32c"];
    checksum_xxhash: 22, ["--csum", "xxhash"];
    checksum_sha256: 23, ["--csum", "sha256"];
    checksum_blake2: 24, ["--csum", "blake2"];
    nodes_of_4_kib: 25, ["-n", "4096"];
    nodes_of_64_kib: 26, ["-n", "65536"];
    with_block_group_tree: 27, ["-O", "block-group-tree"];
    without_block_group_tree: 28, ["-O", "^block-group-tree"];
    without_no_holes: 29, ["-O", "^no-holes"];
}

macro_rules! old_layouts {
    ($($name:ident: $seed:literal, $arguments:expr;)*) => {$(
        #[test]
        fn $name() {
            mixed_run(concat!(stringify!($name), "_ours"), &subject(), &$arguments, scaled(10_000), $seed);
            mixed_run(concat!(stringify!($name), "_kernels"), &kernel(), &$arguments, scaled(10_000), $seed + 100);
        }
    )*};
}

old_layouts! {
    mixed_block_groups: 31, ["-M"];
    without_skinny_metadata: 32, ["-O", "^skinny-metadata"];
    without_extref: 33, ["-O", "^extref"];
    without_free_space_tree: 34, ["-O", "^free-space-tree,^block-group-tree"];
    as_of_the_first_years: 35, ["-n", "4096", "-O", "^free-space-tree,^no-holes,^skinny-metadata,^extref,^block-group-tree"];
}

/// One whole round trip: run, compare, check, kernel changes, check, our mount again.
fn mixed_run(name: &str, maker: &Mounter, mkfs: &[&str], operations: usize, seed: u64) {
    let Some(work) = setup(name) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    let (reference_image, reference_dir) = (work.file("reference"), work.dir("reference-mnt"));
    maker.mkfs(&image, 3 * GIB, mkfs);
    kernel().mkfs(&reference_image, 3 * GIB, mkfs);
    let reference = kernel().mount(&reference_image, &reference_dir, "noatime");
    let mounted = subject().mount(&image, &mnt, "noatime");

    run(&mnt, &reference_dir, operations, seed);

    let expected = Tree::content_of(&reference_dir);
    let found = Tree::content_of(&mnt);
    found.assert_same(&expected, NEAR, "our mount | the reference");
    let leaked: Vec<_> = found.entries.keys().filter(|path| path.as_os_str().as_bytes().contains(&0)).collect();
    assert!(leaked.is_empty(), "names with NUL: {leaked:?}");
    mounted.unmount();
    reference.unmount();
    oracle::assert_clean(&image);
    oracle::assert_superblocks(&image);

    let mounted = kernel().mount(&image, &mnt, "noatime");
    Tree::content_of(&mnt).assert_same(&found, Times::Exact, "the kernel's mount | our mount before");
    delete_a_third(&mnt, seed);
    let expected = Tree::content_of(&mnt);
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = subject().mount(&image, &mnt, "noatime");
    Tree::content_of(&mnt).assert_same(&expected, Times::Exact, "our second mount | the kernel's");
    std::fs::write(mounted.join("after"), vec![7; 100_000]).expect("our second mount writes");
    mounted.unmount();
    oracle::assert_clean(&image);
}

fn run(mnt: &Path, reference: &Path, operations: usize, seed: u64) {
    for (mounter, root) in [(&subject(), mnt), (&kernel(), reference)] {
        for thread in 0..THREADS - 1 {
            std::fs::create_dir(root.join(format!("t{thread}"))).expect("mkdir");
        }
        mounter.create_subvolume(&root.join(format!("t{}", THREADS - 1)));
        std::fs::create_dir(root.join("shared")).expect("mkdir");
    }
    let features = Features { fallocate: probe_fallocate(mnt), acl: true };
    let mut workers: Vec<Worker> = (0..THREADS)
        .map(|thread| {
            let tag = format!("t{thread}");
            Worker::new(Generator::new(seed, &tag, &tag, "shared", features), mnt, reference)
        })
        .collect();
    let mut random = Random::new(seed);
    let mut snapshots: Vec<PathBuf> = Vec::new();
    let rounds = 20;
    for round in 0..rounds {
        churn_while(mnt, round, || run_together(&mut workers, operations / rounds / THREADS + 1));
        between_rounds(mnt, reference, round, &mut random, &mut snapshots);
    }
    workers.iter_mut().for_each(Worker::release);
    report(&workers);
}

/// Runs `work` while snapshots of the whole come and go beside it, on the subject alone.
fn churn_while(mnt: &Path, round: usize, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let path = mnt.join("churn");
            while round % 4 == 1 && !done.load(Ordering::Relaxed) {
                subject().snapshot(mnt, &path);
                rustix::fs::syncfs(std::fs::File::open(mnt).expect("opens")).expect("syncfs");
                std::thread::sleep(Duration::from_millis(30));
                subject().delete_subvolume(&path);
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        churn.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn between_rounds(mnt: &Path, reference: &Path, round: usize, random: &mut Random, snapshots: &mut Vec<PathBuf>) {
    let both = [(subject(), mnt), (kernel(), reference)];
    match random.below(4) {
        0 => both.iter().for_each(|(_, root)| {
            rustix::fs::syncfs(std::fs::File::open(root).expect("opens")).expect("syncfs");
        }),
        1 | 2 => {
            let name = PathBuf::from(format!("snapshot{round}"));
            let source = if random.percent(70) { "" } else { "t3" };
            let read_only = random.percent(50);
            for (mounter, root) in &both {
                match read_only {
                    true => mounter.snapshot_read_only(&root.join(source), &root.join(&name)),
                    false => mounter.snapshot(&root.join(source), &root.join(&name)),
                }
            }
            if !read_only {
                for (_, root) in &both {
                    std::fs::write(root.join(&name).join("written-in-snapshot"), vec![1; 50_000]).expect("write");
                }
            }
            snapshots.push(name);
        }
        _ if snapshots.len() > 2 => {
            let name = snapshots.remove(random.below(snapshots.len() as u64) as usize);
            both.iter().for_each(|(mounter, root)| mounter.delete_subvolume(&root.join(&name)));
        }
        _ => {}
    }
}

/// Whether the subject can fallocate; if not, the run goes without, and says so.
fn probe_fallocate(mnt: &Path) -> bool {
    let path = mnt.join("probe");
    let file = std::fs::File::create(&path).expect("create");
    let works = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, 4096).is_ok();
    std::fs::remove_file(path).expect("unlink");
    if !works {
        println!("the subject has no fallocate: not generated");
    }
    works
}

fn report(workers: &[Worker]) {
    let mut totals = std::collections::BTreeMap::new();
    for (verb, count) in workers.iter().flat_map(|worker| worker.counts()) {
        let total: &mut (u64, u64) = totals.entry(verb).or_default();
        total.0 += count.0;
        total.1 += count.1;
    }
    let sum: u64 = totals.values().map(|(succeeded, failed)| succeeded + failed).sum();
    println!("{sum} operations (succeeded, failed alike): {totals:?}");
}

/// Unlinks every third object that is no directory, outside read-only snapshots, and one snapshot.
fn delete_a_third(mnt: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let tree = Tree::read(mnt);
    for (path, _) in tree.entries.iter().filter(|(_, entry)| entry.kind != 'd') {
        if random.below(3) == 0 {
            match rustix::fs::unlink(mnt.join(path)) {
                Ok(()) | Err(rustix::io::Errno::ROFS) => {}
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
    }
    let snapshot = tree.entries.keys().find(|path| path.as_os_str().as_bytes().starts_with(b"snapshot"));
    if let Some(path) = snapshot {
        kernel().delete_subvolume(&mnt.join(path));
    }
}
