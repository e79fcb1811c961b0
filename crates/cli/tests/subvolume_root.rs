//! `butterfs subvolume` beside `btrfs subvolume`: the same commands on our mount and on the kernel's say the same and
//! do the same.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use butterfs_testkit::command::{Finished, run, run_program};
use butterfs_testkit::mounter::{Mounted, Mounter, wait_until};
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use butterfs_testkit::{daemon, oracle};
use common::{MIB, kernel, setup, subject};
use rustix::fs::{OFlags, openat};

const OURS: &str = env!("CARGO_BIN_EXE_butterfs");

/// What can differ between two equal filesystems: UUIDs, times, transactions, and where it is mounted.
fn mask(text: &str, mnt: &Path) -> String {
    let uuid = regex::Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").expect("a pattern");
    let time = regex::Regex::new(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d( [+-]\d{4})?").expect("a pattern");
    let text = uuid.replace_all(text, "UUID");
    let text = time.replace_all(&text, "TIME");
    let generation = regex::Regex::new(r"\b(c?gen|[Gg]eneration:|Gen at creation:)(\s+)\d+").expect("a pattern");
    let text = generation.replace_all(&text, "$1${2}N");
    // In tables the column behind the number, and the next one if it is another.
    let cells = if text.contains("\tcgen\t") { r"(?m)^(\d+)\t\d+\t\d+\t" } else { r"(?m)^(\d+)\t\d+\t" };
    let table = regex::Regex::new(cells).expect("a pattern");
    table.replace_all(&text, "$1\tN\t").replace(mnt.to_str().expect("UTF-8"), "MNT")
}

fn in_mount(mounter: &Mounter, mnt: &Path, words: &[&str]) -> Finished {
    let program = if mounter.is_butterfs() { OURS } else { "btrfs" };
    run(Command::new(program).arg("subvolume").args(words).current_dir(mnt))
}

/// Runs commands one after the other; gives what each said, masked, and its exit status.
fn say(mounter: &Mounter, mnt: &Path, commands: &[&[&str]]) -> Vec<String> {
    let one = |words: &&[&str]| {
        let finished = in_mount(mounter, mnt, words);
        // btrfs prints the creation time once more where a subvolume was never sent.
        // What is still to be waited for depends on who cleans when.
        let waits = **words == ["sync", "."];
        let lines = finished.stdout.lines().filter(|line| !waits && !line.starts_with("\tSend time:"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        format!("{} -> {:?}\n{}", words.join(" "), finished.status.code(), mask(&text, mnt))
    };
    commands.iter().map(one).collect()
}

/// The same on the kernel's mount and on ours: what was said, and what there is then.
fn beside(name: &str, commands: &[&[&str]]) {
    let Some(work) = setup(name) else { return };
    let both = [(kernel(), "kernel"), (subject(), "ours")].map(|(mounter, name)| {
        let (image, mnt) = (work.file(&format!("{name}.image")), work.dir(name));
        kernel().mkfs(&image, 256 * MIB, &[]);
        // The kernel's cleaner waits for a commit.
        let mounted = mounter.mount(&image, &mnt, "commit=1");
        fs::create_dir(mnt.join("dir")).expect("mkdir");
        fs::write(mnt.join("file"), "a file").expect("write");
        let said = say(&mounter, &mnt, commands);
        mounted.unmount();
        oracle::assert_clean(&image);
        (image, said)
    });
    let [(theirs, said), (ours, we_said)] = both;
    for (theirs, ours) in said.iter().zip(&we_said) {
        assert_eq!(ours, theirs, "left: butterfs subvolume; right: btrfs subvolume");
    }
    same_content(&work, &theirs, &ours);
}

fn same_content(work: &WorkDir, theirs: &Path, ours: &Path) {
    let read = |image: &Path| {
        let mounted = kernel().mount(image, &work.dir("judge"), "ro");
        let tree = Tree::read(mounted.path());
        mounted.unmount();
        tree
    };
    read(ours).assert_same(&read(theirs), Times::Ignored, "ours | the kernel's");
}

#[test]
fn making_says_what_btrfs_says() {
    beside(
        "subvolume_make",
        &[
            &["create", "a"],
            &["create", "a"],
            &["create", "a/b", "x/y"],
            &["create", "-p", "p/q/r"],
            &["create", "c", "d", "a", "e"],
            &["create", "."],
            &["create", "file/x"],
            &["snapshot", "a", "snap"],
            &["snapshot", "-r", "a", "snapr"],
            &["snapshot", "a", "dir"],
            &["snapshot", "dir", "s2"],
            &["snapshot", "a", "snap"],
            &["snapshot", "a", "file"],
            &["snapshot", "nope", "z"],
            &["snapshot", "-r", "a", "nope/z"],
            &["snapshot", ".", "top"],
            &["snapshot", "a", "snapr/no"],
            &["create", "snapr/no"],
            &["show", "a"],
            &["show", "."],
            &["show", "a/b"],
            &["show", "file"],
            &["show", "dir"],
            &["show", "snapr"],
            &["show", "-r", "263", "."],
            &["show", "-r", "999", "."],
            &["show", "-u", "00000000-0000-0000-0000-000000000001", "."],
        ],
    );
}

#[test]
fn lists_are_those_of_btrfs() {
    beside(
        "subvolume_list",
        &[
            &["create", "b", "a", "a/inner", "dir/c"],
            &["snapshot", "a", "snap"],
            &["snapshot", "-r", "b", "a/inner/snapr"],
            &["list", "."],
            &["list", "dir"],
            &["list", "a"],
            &["list", "a/inner"],
            &["list", "-t", "."],
            &["list", "-pcguqR", "."],
            &["list", "-pcguqRt", "."],
            &["list", "-o", "a"],
            &["list", "-o", "dir"],
            &["list", "-a", "a"],
            &["list", "-a", "."],
            &["list", "-s", "."],
            &["list", "-sc", "."],
            &["list", "-st", "."],
            &["list", "-r", "."],
            &["list", "-d", "."],
            &["list", "-G", "+1", "."],
            &["list", "-G", "1", "."],
            &["list", "-C", "-1", "."],
            &["list", "--sort=-rootid", "."],
            &["list", "--sort=path,-gen", "."],
            &["list", "--sort=bad", "."],
            &["list", "nope"],
            &["list", "/"],
        ],
    );
}

#[test]
fn deleting_says_what_btrfs_says() {
    beside(
        "subvolume_delete",
        &[
            &["create", "a", "a/b", "a/b/c", "a/d", "e", "f", "g", "h", "i", "dir/j"],
            &["snapshot", "a", "snap"],
            &["get-default", "."],
            &["set-default", "260", "."],
            &["get-default", "."],
            &["delete", "e"],
            &["set-default", "f"],
            &["get-default", "dir"],
            &["set-default", "999", "."],
            &["set-default", "file"],
            &["set-default", "dir"],
            &["set-default", "0", "."],
            &["get-default", "."],
            &["delete", "nope"],
            &["delete", "file"],
            &["delete", "dir"],
            &["delete", "e", "nope", "f"],
            &["delete", "-c", "g"],
            &["delete", "-C", "h", "i"],
            &["delete", "-i", "265", "."],
            &["delete", "snap/b"],
            &["delete", "-R", "a"],
            &["list", "."],
            &["sync", ".", "999"],
            &["sync", ".", "5"],
            &["sync", "-s", "0", "."],
            &["sync", "."],
            &["list", "-d", "."],
        ],
    );
}

/// A subvolume that holds others is refused by both.
#[test]
fn one_that_holds_others_stays() {
    let Some(work) = setup("subvolume_holds") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    in_mount(&subject(), &mnt, &["create", "a", "a/b"]).ok();
    let refused = in_mount(&subject(), &mnt, &["delete", "a"]);
    assert!(refused.status.code() == Some(1) && refused.stderr.contains("-R"), "{refused}");
    assert!(fs::remove_dir(mnt.join("a")).is_err());
    fs::remove_dir(mnt.join("a/b")).expect("rmdir of an empty subvolume");
    fs::remove_dir(mnt.join("a")).expect("rmdir of an empty subvolume");
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// Subvolumes move as directories do, across subvolumes too; files do not.
#[test]
fn subvolumes_move_and_snapshots_have_stubs() {
    let Some(work) = setup("subvolume_move") else { return };
    let results = [(kernel(), "kernel"), (subject(), "ours")].map(|(mounter, name)| {
        let (image, mnt) = (work.file(&format!("{name}.image")), work.dir(name));
        kernel().mkfs(&image, 256 * MIB, &[]);
        let mounted = mounter.mount(&image, &mnt, "");
        in_mount(&mounter, &mnt, &["create", "a", "a/b", "c"]).ok();
        fs::write(mnt.join("a/b/file"), "moved").expect("write");
        fs::create_dir(mnt.join("c/d")).expect("mkdir");
        in_mount(&mounter, &mnt, &["snapshot", "a", "snap"]).ok();
        in_mount(&mounter, &mnt, &["snapshot", "-r", "a", "frozen"]).ok();
        let mut seen = vec![format!("{:?}", errno(fs::rename(mnt.join("a/b"), mnt.join("c/d/b2"))))];
        for (from, to) in [
            ("c/d/b2/file", "a/file"),
            ("snap/b", "snap/elsewhere"),
            ("c", "c/d/inside"),
            ("frozen/b", "b3"),
            ("c/d/b2", "frozen/no"),
            ("c/d", "a/d"),
            ("a", "c/d/b2"),
        ] {
            seen.push(format!("{from} {to} {:?}", errno(fs::rename(mnt.join(from), mnt.join(to)))));
        }
        for path in ["snap/b/new", "frozen/new", "frozen/b/new"] {
            seen.push(format!("{path} {:?}", errno(fs::write(mnt.join(path), "x"))));
        }
        seen.push(format!("rmdir snap/b {:?}", errno(fs::remove_dir(mnt.join("snap/b")))));
        seen.push(format!("rmdir frozen/b {:?}", errno(fs::remove_dir(mnt.join("frozen/b")))));
        seen.push(mask(&in_mount(&mounter, &mnt, &["list", "-p", "."]).ok().stdout, &mnt));
        assert_eq!(fs::read_to_string(mnt.join("c/d/b2/file")).expect("read"), "moved");
        mounted.unmount();
        oracle::assert_clean(&image);
        (image, seen)
    });
    let [(theirs, kernel_saw), (ours, we_saw)] = results;
    assert_eq!(we_saw, kernel_saw);
    same_content(&work, &theirs, &ours);
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// The changes since a transaction, on one filesystem that both look at.
#[test]
fn changes_are_found_as_btrfs_finds_them() {
    let Some(work) = setup("subvolume_find_new") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "compress=zstd");
    in_mount(&kernel(), &mnt, &["create", "sub"]).ok();
    let sub = mnt.join("sub");
    for number in 0..2000 {
        fs::write(sub.join(format!("small {number}")), vec![b'x'; 100]).expect("write");
    }
    mounted.sync();
    let shown = in_mount(&kernel(), &mnt, &["show", "sub"]).ok().stdout;
    let line = shown.lines().find(|line| line.contains("Generation:")).expect("a generation");
    let last: u64 = line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("a number");
    let since = (last + 1).to_string();
    fs::create_dir(sub.join("dir")).expect("mkdir");
    fs::write(sub.join("dir/text"), "text ".repeat(60_000)).expect("write");
    fs::write(sub.join("small 7"), "again").expect("write");
    run_program("fallocate", &["-l".as_ref(), "1M".as_ref(), sub.join("dir/pre").as_os_str()]).ok();
    let find = |mounter: &Mounter, since: &str| in_mount(mounter, &mnt, &["find-new", "sub", since]).ok().stdout;
    let all = ["0", &since, "99999"].map(|since| (since, find(&kernel(), since)));
    mounted.unmount();
    let mounted = subject().mount(&image, &mnt, "ro");
    for (since, theirs) in &all {
        assert_eq!(&find(&subject(), since), theirs, "since {since}");
    }
    assert!(all[1].1.contains("COMPRESS dir/text") && all[1].1.contains("PREALLOC dir/pre"), "{}", all[1].1);
    assert!(!all[1].1.contains("small 8"), "{}", all[1].1);
    mounted.unmount();
}

fn delete_by_user(mounted: &Mounted, path: &str) -> bool {
    let place = mounted.path().join(path);
    let script =
        format!("exec setpriv --reuid 1000 --regid 1000 --clear-groups {OURS} subvolume delete {}", place.display());
    run(Command::new("sh").args(["-c", &script])).status.success()
}

#[test]
fn owners_delete_only_where_that_is_allowed() {
    let Some(work) = setup("subvolume_owner") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    if !subject().is_butterfs() {
        return;
    }
    subject().mkfs(&image, 256 * MIB, &[]);
    for (options, allowed) in [("", false), ("user_subvol_rm_allowed", true)] {
        let mounted = subject().mount(&image, &mnt, options);
        fs::create_dir_all(mnt.join("home")).expect("mkdir");
        for path in ["home", "home/mine"] {
            if path != "home" && !mnt.join(path).exists() {
                subject().create_subvolume(&mnt.join(path));
            }
            std::os::unix::fs::chown(mnt.join(path), Some(1000), Some(1000)).expect("chown");
        }
        assert_eq!(delete_by_user(&mounted, "home/mine"), allowed, "{options}");
        assert_eq!(mnt.join("home/mine").exists(), !allowed, "{options}");
        mounted.unmount();
    }
    oracle::assert_clean(&image);
}

/// Deleting goes on where it stood when the daemon was killed.
#[test]
fn the_cleaner_goes_on_after_a_kill() {
    let Some(work) = setup("subvolume_cleaner") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 512 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "max_inline=2048");
    in_mount(&kernel(), &mnt, &["create", "big"]).ok();
    for number in 0..20_000 {
        fs::write(mnt.join(format!("big/{number}")), vec![b'x'; 1500]).expect("write");
    }
    mounted.unmount();
    let mounted = subject().mount(&image, &mnt, "commit=1");
    // As long as a file is in use the subvolume stays.
    let used = fs::File::open(mnt.join("big/1")).expect("open");
    in_mount(&subject(), &mnt, &["delete", "-c", "big"]).ok();
    let waiting = in_mount(&subject(), &mnt, &["list", "-d", "."]).ok().stdout;
    assert!(waiting.starts_with("ID 256 gen ") && waiting.ends_with("top level 0 path DELETED\n"), "{waiting}");
    let status = run(Command::new(OURS).arg("status").arg(&mnt)).ok().stdout;
    assert!(status.contains("cleaning up"), "{status}");
    drop(used);
    // Anywhere between the first step and the last.
    std::thread::sleep(Duration::from_millis(50));
    mounted.kill();
    oracle::assert_clean(&image);
    let mounted = subject().mount(&image, &mnt, "");
    let said = in_mount(&subject(), &mnt, &["sync", "."]).ok().stdout;
    assert!(said.is_empty() || said.ends_with("Subvolume id 256 is gone (1/1)\n"), "{said}");
    wait_until("it is gone", || in_mount(&subject(), &mnt, &["list", "-d", "."]).ok().stdout.is_empty());
    mounted.unmount();
    assert!(!oracle::dump_tree(&image, "root").contains("(256 ROOT_ITEM"));
    oracle::assert_clean(&image);
    assert!(daemon::find_below(&mnt).is_empty());
}

/// Where deleting subvolume 256 stands in an image; `None` when it is gone.
fn drop_progress(image: &Path) -> Option<String> {
    let dump = oracle::dump_tree(image, "root");
    let (_, item) = dump.split_once("(256 ROOT_ITEM")?;
    let progress = item.lines().find_map(|line| line.trim().strip_prefix("drop_progress "));
    progress.map(str::to_owned)
}

/// Deletes `big` of a copy of `whole`, and ends the mount by `end` when some of it is gone.
fn half_deleted(work: &WorkDir, whole: &Path, name: &str, end: fn(Mounted)) -> std::path::PathBuf {
    let (image, mnt) = (work.file(name), work.dir("mnt"));
    for milliseconds in [100, 50, 200, 25, 400, 10, 800, 150] {
        run_program("cp", &["--sparse=always".as_ref(), whole.as_os_str(), image.as_os_str()]).ok();
        let mounted = subject().mount(&image, &mnt, "commit=300");
        let used = fs::File::open(mnt.join("big/1")).expect("open");
        in_mount(&subject(), &mnt, &["delete", "-c", "big"]).ok();
        drop(used);
        std::thread::sleep(Duration::from_millis(milliseconds));
        mounted.sync();
        end(mounted);
        oracle::assert_clean(&image);
        if drop_progress(&image).is_some_and(|progress| !progress.starts_with("key (0 ")) {
            return image;
        }
    }
    panic!("{name}: it was never half-way");
}

/// A kill, and a clean unmount, in the middle of deleting: both leave how far it came, and either side goes on from there.
#[test]
fn either_side_goes_on_with_a_subvolume_that_is_half_gone() {
    let Some(work) = setup("subvolume_half") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (whole, mnt) = (work.file("whole"), work.dir("mnt"));
    kernel().mkfs(&whole, 512 * MIB, &[]);
    let mounted = kernel().mount(&whole, &mnt, "max_inline=2048");
    in_mount(&kernel(), &mnt, &["create", "big"]).ok();
    for number in 0..15_000 {
        fs::write(mnt.join(format!("big/{number}")), vec![b'x'; 1500]).expect("write");
    }
    fs::write(mnt.join("stays"), "bytes").expect("write");
    mounted.unmount();
    for (name, end) in [("killed", Mounted::kill as fn(Mounted)), ("unmounted", Mounted::unmount)] {
        let half = half_deleted(&work, &whole, name, end);
        let ours = work.file("ours");
        run_program("cp", &["--sparse=always".as_ref(), half.as_os_str(), ours.as_os_str()]).ok();
        for (mounter, image) in [(subject(), &ours), (kernel(), &half)] {
            let mounted = mounter.mount(image, &mnt, "commit=1");
            wait_until("it is gone", || in_mount(&mounter, &mnt, &["list", "-d", "."]).ok().stdout.is_empty());
            assert_eq!(fs::read_to_string(mnt.join("stays")).expect("read"), "bytes");
            mounted.unmount();
            oracle::assert_clean(image);
            assert_eq!(drop_progress(image), None, "{name}");
        }
    }
}

/// What find and rm see: no directory twice, and the same numbers after another mount.
/// The kernel forgets its inodes a moment after a deletion; the cleaner must not sleep over that.
#[test]
fn what_was_in_use_a_moment_ago_is_removed_soon() {
    let Some(work) = setup("subvolume_cleaned_soon") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    for round in 0..3 {
        let live = mnt.join("live");
        subject().create_subvolume(&live);
        (0..200).for_each(|n| fs::write(live.join(n.to_string()), "in use").expect("write"));
        let open = fs::File::open(live.join("7")).expect("open");
        subject().delete_subvolume(&live);
        drop(open);
        let begun = std::time::Instant::now();
        while in_mount(&subject(), &mnt, &["list", "-d", "."]).ok().stdout.contains("DELETED") {
            assert!(begun.elapsed() < Duration::from_secs(4), "round {round}: it is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// Names that were looked for in vain in what is deleted, by who has it open, do not keep it; and one that is in use for
/// long does not keep those that were deleted after it.
#[test]
fn what_was_looked_for_in_vain_keeps_nothing() {
    let Some(work) = setup("subvolume_in_vain") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    let make = |name: &str| {
        let live = mnt.join(name);
        subject().create_subvolume(&live);
        (0..50).for_each(|n| fs::write(live.join(n.to_string()), "in use").expect("write"));
        fs::create_dir(live.join("dir")).expect("mkdir");
        live
    };
    let open = |path: &Path| fs::File::open(path).expect("open");
    let left = || in_mount(&subject(), &mnt, &["list", "-d", "."]).ok().stdout.matches("DELETED").count();
    let wait_for = |count: usize, what: &str| {
        let begun = std::time::Instant::now();
        while left() != count {
            assert!(begun.elapsed() < Duration::from_secs(4), "{what}: {} are left", left());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let long = make("long");
    let in_use = open(&long.join("7"));
    subject().delete_subvolume(&long);
    for inner in ["", "dir"] {
        let live = make("live");
        let dir = open(&live.join(inner));
        subject().delete_subvolume(&live);
        for flags in [OFlags::RDONLY, OFlags::CREATE | OFlags::WRONLY] {
            let found = openat(&dir, "absent", flags, rustix::fs::Mode::from(0o644));
            assert_eq!(found.expect_err("it is deleted"), rustix::io::Errno::NOENT);
        }
        drop(dir);
        wait_for(1, inner);
    }
    // By now the cleaner looks seldom by itself.
    std::thread::sleep(Duration::from_secs(3));
    drop(in_use);
    wait_for(0, "the first");
    mounted.unmount();
    oracle::assert_clean(&image);
}

#[test]
fn inode_numbers_are_unique_and_stay() {
    let Some(work) = setup("subvolume_numbers") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    in_mount(&subject(), &mnt, &["create", "a", "a/b", "c"]).ok();
    for dir in ["a", "a/b", "c"] {
        fs::write(mnt.join(dir).join("file"), dir).expect("write");
    }
    in_mount(&subject(), &mnt, &["snapshot", "a", "snap"]).ok();
    in_mount(&subject(), &mnt, &["snapshot", "a", "c/snap"]).ok();
    let list = || {
        let found = run_program("find", &[mnt.as_os_str(), "-printf".as_ref(), "%i %P\n".as_ref()]);
        assert!(found.stderr.is_empty(), "{found}");
        found.ok().stdout
    };
    let before = list();
    let mut numbers: Vec<&str> = before.lines().filter_map(|line| line.split(' ').next()).collect();
    numbers.sort_unstable();
    let all = numbers.len();
    numbers.dedup();
    assert_eq!(numbers.len(), all, "{before}");
    mounted.unmount();
    let mounted = subject().mount(&image, &mnt, "");
    assert_eq!(list(), before);
    run_program("rm", &["-r".as_ref(), mnt.join("a").as_os_str(), mnt.join("c").as_os_str()]).ok();
    assert_eq!(fs::read_dir(&mnt).expect("list").count(), 1);
    mounted.unmount();
    oracle::assert_clean(&image);
}

#[test]
fn lists_are_json_too() {
    let Some(work) = setup("subvolume_json") else { return };
    if !subject().is_butterfs() {
        return;
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    in_mount(&subject(), &mnt, &["create", "a"]).ok();
    in_mount(&subject(), &mnt, &["snapshot", "-r", "a", "s"]).ok();
    let json = |words: &[&str]| -> serde_json::Value {
        let program = Command::new(OURS).args(["--format", "json", "subvolume"]).args(words).current_dir(&mnt).output();
        serde_json::from_slice(&program.expect("it runs").stdout).expect("JSON")
    };
    assert_eq!(json(&["list", "-p", "."])["subvolume-list"][1]["path"], "s");
    assert_eq!(json(&["show", "s"])["s"]["flags"][0], "readonly");
    assert_eq!(json(&["show", "a"])["a"]["snapshots"][0], "s");
    assert_eq!(json(&["get-default", "."])["id"], 5);
    mounted.unmount();
}
