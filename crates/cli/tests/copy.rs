//! `cp` out of images and into them, without root.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/images.rs"]
mod images;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{NewKind, NewSubvolume};
use butterfs_engine::inode::InodeId;
use butterfs_format::{ChecksumType, ItemType, TreeBlock};
use butterfs_testkit::command::{Finished, run_program};
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree, hash_file};
use butterfs_testkit::workdir::WorkDir;
use images::{OURS, assert_clean, at, butterfs, create, file, make};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

const MIB: u64 = 1 << 20;

fn empty(work: &WorkDir) -> PathBuf {
    make(work, "image", 256 * MIB, |_| ())
}

fn cp(arguments: &[&str]) -> Finished {
    butterfs(&[&["cp"], arguments].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn set_times(path: &Path, seconds: i64) {
    let time = |tv_nsec| Timespec { tv_sec: seconds, tv_nsec };
    let times = Timestamps { last_access: time(111), last_modification: time(222_333_444) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// What a user may have, but for what only root can make.
fn populate(dir: &Path) {
    let mut random = Random::new(5);
    let noise = |random: &mut Random, length: usize| (0..length).map(|_| random.bits() as u8).collect::<Vec<u8>>();
    for (name, length, mode) in
        [("empty", 0, 0o644), ("small", 100, 0o4755), ("page", 4096, 0o600), ("big", 3_333_333, 0o440)]
    {
        std::fs::write(dir.join(name), noise(&mut random, length)).unwrap();
        chmod(&dir.join(name), mode);
        set_times(&dir.join(name), 1_000_000_000 + i64::from(mode));
    }
    let sparse = File::create(dir.join("sparse")).unwrap();
    for offset in [0, 7 * MIB, 40 * MIB + 8192] {
        sparse.write_all_at(&noise(&mut random, 5000), offset).unwrap();
    }
    sparse.set_len(64 * MIB).unwrap();
    File::create(dir.join("hole")).unwrap().set_len(3 * MIB).unwrap();
    rustix::fs::lsetxattr(dir.join("small"), "user.colour", b"blue\0green", XattrFlags::empty()).unwrap();
    let below = dir.join("below");
    std::fs::create_dir_all(below.join("deeper/deepest")).unwrap();
    std::fs::write(below.join("deeper/deepest/file"), "found").unwrap();
    std::fs::hard_link(dir.join("big"), below.join("big-too")).unwrap();
    std::fs::hard_link(dir.join("small"), below.join("deeper/small-too")).unwrap();
    symlink("../small", below.join("link")).unwrap();
    std::fs::hard_link(below.join("link"), dir.join("same-link")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    set_times(&dir.join("dangling"), 77);
    std::fs::write(dir.join("new\nline"), "1").unwrap();
    std::fs::write(dir.join(std::ffi::OsStr::from_bytes(b"not-\xffutf8")), "2").unwrap();
    std::fs::write(dir.join("n".repeat(255)), "3").unwrap();
    rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    rustix::fs::mknodat(CWD, dir.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    chmod(&below.join("deeper"), 0o2750);
    for (number, name) in ["below/deeper/deepest", "below/deeper", "below", ""].iter().enumerate() {
        set_times(&dir.join(name), -1000 - number as i64);
    }
}

/// A tree without what a copy does not keep: times of change.
fn tree(dir: &Path) -> Tree {
    let mut tree = Tree::read(dir);
    tree.entries.values_mut().for_each(|entry| entry.ctime = (0, 0));
    tree
}

#[test]
fn everything_comes_back_as_it_went_in() {
    let work = WorkDir::new("copy_round_trip");
    let (source, out) = (work.dir("source"), work.file("out"));
    populate(&source);
    let expected = tree(&source);
    let image = empty(&work);
    let copied = cp(&["-a", &format!("{}/.", source.display()), &at(&image, "/")]).ok();
    assert_eq!((copied.stdout.as_str(), copied.stderr.as_str()), ("", ""));
    assert_clean(&image);
    let before = hash_file(&image).unwrap();
    for round in ["first", "again over what is there"] {
        let copied = cp(&["-a", &at(&image, "/"), text(&out)]).ok();
        assert_eq!(copied.stderr, "", "{round}");
        tree(&out).assert_same(&expected, Times::Exact, round);
    }
    assert_eq!(hash_file(&image).unwrap(), before, "reading writes nothing");
    // Holes are kept on both ways.
    let stat = butterfs(&["stat", "--extents", &at(&image, "sparse"), &at(&image, "hole")]).ok().stdout;
    assert!(stat.matches(" hole\n").count() >= 4, "{stat}");
    let blocks = |name: &str| std::fs::metadata(out.join(name)).unwrap().blocks();
    assert!(blocks("sparse") <= 48 && blocks("hole") == 0, "{} {}", blocks("sparse"), blocks("hole"));
    // Into the image again, over what is there.
    cp(&["-a", &format!("{}/.", out.display()), &at(&image, "/")]).ok();
    assert_clean(&image);
    std::fs::rename(&out, work.file("old")).unwrap();
    cp(&["-a", &at(&image, ""), text(&out)]).ok();
    tree(&out).assert_same(&expected, Times::Exact, "after a second copy into the image");
}

#[test]
fn the_destination_is_what_cp_makes_of_it() {
    let work = WorkDir::new("copy_destinations");
    let image = make(&work, "image", 256 * MIB, |fs| {
        let dir = create(fs, fs.root(), b"dir", NewKind::Directory);
        file(fs, dir, b"one", b"1");
        file(fs, dir, b"two", b"2");
        create(fs, fs.root(), b"to-one", NewKind::Symlink(b"/dir/one"));
    });
    let out = work.dir("out");
    let place = |name: &str| text(&out).to_owned() + "/" + name;
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    cp(&[&at(&image, "dir/one"), text(&out)]).ok();
    cp(&[&at(&image, "dir/one"), &place("renamed")]).ok();
    cp(&[&at(&image, "dir/*"), &at(&image, "to-one"), text(&out)]).ok();
    assert_eq!(
        (read("one"), read("renamed"), read("two"), read("to-one")),
        ("1".into(), "1".into(), "2".into(), "1".into())
    );
    assert_eq!(std::fs::metadata(out.join("one")).unwrap().mode() & 0o7027, 0, "0640 by some umask");
    cp(&["-r", &at(&image, "dir"), text(&out)]).ok();
    cp(&["-r", &at(&image, "dir"), &place("new")]).ok();
    cp(&["-r", &at(&image, "dir"), &place("new")]).ok();
    cp(&["-r", &at(&image, "dir/."), &place("flat")]).ok();
    assert_eq!(
        (read("dir/one"), read("new/one"), read("new/dir/two"), read("flat/two")),
        ("1".into(), "1".into(), "2".into(), "2".into())
    );
    cp(&["-P", &at(&image, "to-one"), &place("as-link")]).ok();
    assert_eq!(std::fs::read_link(out.join("as-link")).unwrap(), Path::new("/dir/one"));
    cp(&["-rL", &at(&image, "/"), &place("followed")]).ok();
    assert!(out.join("followed/to-one").symlink_metadata().unwrap().is_file());

    std::fs::write(out.join("two"), "kept").unwrap();
    let kept = cp(&["-n", "-v", &at(&image, "dir/*"), text(&out)]).ok();
    assert_eq!((read("two").as_str(), kept.stdout.as_str()), ("kept", ""));
    let named = cp(&["-v", &at(&image, "dir/*"), text(&out)]).ok();
    // Several threads copy: each is named once it is whole.
    let mut lines: Vec<&str> = named.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!((read("two").as_str(), lines), ("2", vec!["dir/one", "dir/two"]));

    // Into the image.
    cp(&[&place("two"), &at(&image, "dir/one")]).ok();
    cp(&[&place("two"), &place("one"), &at(&image, "dir")]).ok();
    cp(&[&place("two"), &at(&image, "dir/three")]).ok();
    cp(&["-r", &place("new"), &at(&image, "/")]).ok();
    cp(&["-r", &place("new/."), &at(&image, "fresh")]).ok();
    let cat = |path: &str| butterfs(&["cat", &at(&image, path)]).ok().stdout;
    assert_eq!(
        (cat("dir/one"), cat("dir/three"), cat("new/dir/two"), cat("fresh/one")),
        ("1".into(), "2".into(), "2".into(), "1".into())
    );
    cp(&["-n", &place("two"), &at(&image, "dir/one")]).ok();
    assert_eq!(cat("dir/one"), "1");
    assert_clean(&image);
}

#[test]
fn wrong_usage_is_said_in_a_line() {
    let work = WorkDir::new("copy_usage");
    let image = make(&work, "image", 128 * MIB, |fs| {
        file(fs, fs.root(), b"f", b"1");
        file(fs, fs.root(), b"g", b"1");
        create(fs, fs.root(), b"d", NewKind::Directory);
    });
    let out = work.dir("out");
    let (image_name, out) = (text(&image), text(&out));
    for (arguments, status, word) in [
        (&[&*at(&image, "f")][..], 2, "required"),
        (&[image_name, out], 2, "with a colon"),
        (&["/nowhere.img:f", out], 2, "no such image"),
        (&[&at(&image, "f"), &at(&image, "h")], 2, "both sides"),
        (&[&at(&image, "f"), out, out], 2, "others are not"),
        (&[&at(&image, "f"), &at(&image, "g"), &format!("{out}/none")], 2, "several sources"),
        (&[&at(&image, "f"), image_name], 2, "image itself"),
        (&[&at(&image, "d"), out], 1, "use -r"),
        (&[&at(&image, "none"), out], 1, "no such file"),
        (&[&at(&image, "f"), &format!("{out}/no/where")], 1, "no such file"),
        (&["-fn", &at(&image, "f"), out], 2, "cannot be used with"),
        (&["--preserve=what", &at(&image, "f"), out], 2, "what"),
        (&["-r", &format!("{out}/none"), &at(&image, "/")], 1, "os error 2"),
        (&[image_name, &at(&image, "copy")], 1, "image itself"),
        (&[out, &at(&image, "/")], 1, "use -r"),
        (&["/etc/hostname", "/etc/hosts", &at(&image, "f")], 2, "several sources"),
    ] {
        let refused = cp(arguments);
        assert_eq!(refused.status.code(), Some(status), "{refused}");
        assert!(refused.stderr.contains(word) && refused.stderr.lines().count() == 1, "{word}: {refused}");
    }
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0);
    assert_clean(&image);
}

/// The image is not replaced by a file in it that has its name.
#[test]
fn the_image_survives_its_namesake() {
    let work = WorkDir::new("copy_namesake");
    let image = make(&work, "image", 128 * MIB, |fs| {
        file(fs, fs.root(), b"image", b"not me");
        file(fs, fs.root(), b"other", b"1");
    });
    let before = hash_file(&image).unwrap();
    let copied = cp(&["-a", &at(&image, "/"), text(work.path())]);
    assert_eq!(copied.status.code(), Some(1), "{copied}");
    assert!(copied.stderr.contains("is the image itself"), "{copied}");
    assert!(work.file("other").exists());
    assert_eq!(hash_file(&image).unwrap(), before);
    // Nor does it go into itself.
    let copied = cp(&["-r", &format!("{}/.", work.path().display()), &at(&image, "/")]);
    assert!(copied.status.code() == Some(1) && copied.stderr.contains("is the image itself"), "{copied}");
    assert_clean(&image);
}

#[test]
fn subvolumes_are_directories_and_borders() {
    let work = WorkDir::new("copy_subvolumes");
    let image = make(&work, "image", 256 * MIB, |fs| {
        let new = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };
        let tree = fs.create_subvolume(Place::new(fs.root(), b"sub"), &new).unwrap();
        file(fs, InodeId::top_of(tree), b"inside", b"1");
        file(fs, fs.root(), b"outside", b"2");
    });
    let out = work.dir("out");
    cp(&["-r", &at(&image, "/"), text(&out.join("all"))]).ok();
    cp(&["-rx", &at(&image, "/"), text(&out.join("one"))]).ok();
    cp(&["-r", "--subvol", "sub", &at(&image, "/"), text(&out.join("sub"))]).ok();
    assert!(out.join("all/sub/inside").exists() && out.join("sub/inside").exists());
    assert!(out.join("one/sub").is_dir() && !out.join("one/sub/inside").exists() && out.join("one/outside").exists());
    cp(&["--subvol", "sub", text(&out.join("all/outside")), &at(&image, "/new")]).ok();
    // Hard links do not cross; the file is copied there.
    std::fs::hard_link(out.join("all/outside"), out.join("all/sub/linked")).unwrap();
    cp(&["-a", &format!("{}/.", out.join("all").display()), &at(&image, "/")]).ok();
    assert_eq!(butterfs(&["ls", &at(&image, "sub")]).ok().stdout, "inside\nlinked\nnew\n");
    assert_clean(&image);
}

/// Changes names in directory indexes, in all copies of all leaves, and makes the checksums right.
fn rename_entries(image: &Path, renames: &[(&[u8], &[u8])]) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let mut changed = 0;
    for at in (0..file.metadata().unwrap().len()).step_by(16384) {
        let mut bytes = vec![0; 16384];
        if file.read_exact_at(&mut bytes, at).is_err() || bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let csum = ChecksumType::Crc32c.compute_block(&bytes);
        if csum[..4] != bytes[..4] {
            continue;
        }
        let mut block = TreeBlock::from_bytes(bytes);
        if !block.is_leaf() {
            continue;
        }
        for slot in 0..block.len() {
            if block.key(slot).item_type != ItemType::DIR_INDEX {
                continue;
            }
            let data = block.data_mut(slot);
            if let Some((old, new)) = renames.iter().find(|(old, _)| data.ends_with(old)) {
                let len = data.len();
                data[len - old.len()..].copy_from_slice(new);
                changed += 1;
            }
        }
        let csum = ChecksumType::Crc32c.compute_block(block.bytes());
        block.bytes_mut()[..4].copy_from_slice(&csum[..4]);
        file.write_all_at(block.bytes(), at).unwrap();
    }
    assert!(changed >= renames.len(), "{changed} names were changed");
}

/// Whatever names an image has: nothing is written outside of the destination.
#[test]
fn hostile_names_lead_nowhere() {
    let work = WorkDir::new("copy_hostile");
    let (outside, out) = (work.dir("outside"), work.dir("in/out"));
    for (number, renames) in [
        &[(&b"AA"[..], &b".."[..]), (b"BB", b".."), (b"CCC", b"ddd")][..],
        &[(b"AA", b"/x"), (b"CCC", b"a/b")],
        &[(b"BB", b"a\0")],
        &[(b"GG", b"..")],
    ]
    .into_iter()
    .enumerate()
    {
        let image = make(&work, &format!("image{number}"), 128 * MIB, |fs| {
            let root = fs.root();
            file(fs, root, b"before", b"good");
            file(fs, root, b"AA", b"bad");
            let dir = create(fs, root, b"BB", NewKind::Directory);
            file(fs, dir, b"escaped", b"bad");
            create(fs, root, b"ddd", NewKind::Symlink(outside.as_os_str().as_bytes()));
            let second = create(fs, root, b"CCC", NewKind::Directory);
            file(fs, second, b"escaped", b"bad");
            create(fs, root, b"GG", NewKind::Symlink(b"/etc/passwd"));
            file(fs, root, b"later", b"good");
        });
        rename_entries(&image, renames);
        for arguments in [&["-a"][..], &["-rf"], &["-rL"]] {
            let copied = cp(&[arguments, &[&at(&image, "/"), text(&out)]].concat());
            assert_eq!(copied.status.code(), Some(1), "{copied}");
            assert!(!copied.stderr.contains("panicked"), "{copied}");
            let names = |dir: &Path| {
                let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&outside), [""; 0], "{copied}");
            assert_eq!(names(&work.file("in")), ["out"], "{copied}");
            if number == 0 {
                assert!(out.join("later").exists() && out.join("before").exists(), "the rest is copied: {copied}");
            }
        }
        for command in ["ls", "tree", "stat"] {
            let shown = butterfs(&[command, text(&image)]);
            assert!(matches!(shown.status.code(), Some(0 | 1)), "{shown}");
        }
        std::fs::remove_dir_all(&out).unwrap();
        std::fs::create_dir(&out).unwrap();
    }
}

/// ENOSPC is said of the file; the rest is copied, and nothing is left of it.
#[test]
fn a_full_image_names_the_file() {
    let work = WorkDir::new("copy_full");
    let image = make(&work, "image", 128 * MIB, |_| ());
    let source = work.dir("source");
    let mut random = Random::new(3);
    let piece: Vec<u8> = (0..MIB).map(|_| random.bits() as u8).collect();
    let large = File::create(source.join("b-large")).unwrap();
    (0..200).for_each(|at| large.write_all_at(&piece, at * MIB).unwrap());
    std::fs::write(source.join("a-small"), &piece[..5000]).unwrap();
    std::fs::write(source.join("c-small"), &piece[..700_000]).unwrap();
    let copied = cp(&["-a", &format!("{}/.", source.display()), &at(&image, "/")]);
    assert_eq!(copied.status.code(), Some(1), "{copied}");
    assert!(copied.stderr.contains("b-large: no space left") && copied.stderr.lines().count() == 1, "{copied}");
    assert_eq!(butterfs(&["ls", text(&image)]).ok().stdout, "a-small\nc-small\n");
    assert_clean(&image);
}

/// Ctrl-C: what was copied is committed and whole, the image is clean, and the status says it.
#[test]
fn an_interrupted_copy_leaves_a_good_image() {
    let work = WorkDir::new("copy_interrupted");
    let image = empty(&work);
    let source = work.dir("source");
    let mut random = Random::new(9);
    let piece: Vec<u8> = (0..20_000).map(|_| random.bits() as u8).collect();
    let names: Vec<String> = (0..1500).map(|number| format!("{number:04}{}", "x".repeat(200))).collect();
    names.iter().for_each(|name| std::fs::write(source.join(name), &piece).unwrap());
    interrupt(&format!("{}/.", source.display()), &at(&image, "/"));
    assert_clean(&image);
    let listed = butterfs(&["ls", text(&image)]).ok().stdout;
    let count = listed.lines().count();
    assert!((1..names.len()).contains(&count), "{count} files");
    let out = work.file("out");
    cp(&["-a", &at(&image, "/"), text(&out)]).ok();
    assert_whole(&out, &piece);
    // The other way: what was begun is taken back, and directories are as they should be.
    cp(&["-a", &format!("{}/.", source.display()), &at(&image, "/")]).ok();
    let out = work.file("part");
    interrupt(&at(&image, "/"), text(&out));
    assert!(assert_whole(&out, &piece) < names.len());
    assert_eq!(std::fs::metadata(&out).unwrap().mode(), std::fs::metadata(&source).unwrap().mode());
}

/// Every file in a directory has this content; gives how many there are.
#[track_caller]
fn assert_whole(dir: &Path, content: &[u8]) -> usize {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.inspect(|file| assert!(std::fs::read(file).unwrap() == content, "{} is not whole", file.display())).count()
}

/// Copies and interrupts that: it waits for a reader of its words, and so cannot be done before the signal.
#[track_caller]
fn interrupt(source: &str, destination: &str) {
    let mut child = Command::new(OURS)
        .args(["cp", "-a", "-v", source, destination])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut words = String::new();
    said.read_line(&mut words).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    said.read_to_string(&mut words).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"), "{output:?}");
}

/// A process that dies in the middle leaves the last commit.
#[test]
fn a_killed_copy_leaves_a_good_image() {
    let work = WorkDir::new("copy_killed");
    let image = empty(&work);
    let source = work.dir("source");
    for number in 0..1500 {
        std::fs::write(source.join(format!("{number:04}{}", "x".repeat(200))), [7; 9000]).unwrap();
    }
    let mut child = Command::new(OURS)
        .args(["cp", "-a", "-v", text(&source), &at(&image, "/")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_clean(&image);
}

/// The README's commands do what it says.
#[test]
fn the_readme_is_true() {
    let work = WorkDir::new("copy_readme");
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let section = readme.split("### Images without a mount\n").nth(1).expect("the section is there");
    let script = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has commands");
    let bin = work.dir("bin");
    symlink(OURS, bin.join("butterfs")).unwrap();
    std::fs::create_dir_all(work.file("rootfs/etc")).unwrap();
    std::fs::write(work.file("rootfs/etc/fstab"), "# nothing\n").unwrap();
    let line = format!("cd {} && PATH={}:$PATH && set -ex\n{script}", work.path().display(), bin.display());
    let finished = run_program("sh", &["-c", &line]).ok();
    assert!(finished.stdout.contains("# nothing"), "{finished}");
    assert_clean(&work.file("disk.img"));
    assert!(work.file("everything/etc/fstab").exists());
}
