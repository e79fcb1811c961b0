//! `mkfs --rootdir`, without root: all of a directory is in the new filesystem, or there is none.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/images.rs"]
mod images;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use butterfs_testkit::command::Finished;
use butterfs_testkit::random::Random;
use butterfs_testkit::tree_compare::{Times, Tree};
use butterfs_testkit::workdir::WorkDir;
use images::{assert_clean, at, butterfs};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn mkfs(arguments: &[&str]) -> Finished {
    butterfs(&[&["mkfs"], arguments].concat())
}

/// Some directories with files of all sizes, links, and names that only bytes can say.
fn source(work: &WorkDir) -> std::path::PathBuf {
    let dir = work.dir("source");
    let mut random = Random::new(9);
    for (number, length) in [0, 1, 2000, 4096, 5000, 140_000, 3_000_000].into_iter().enumerate() {
        let inner = dir.join(format!("dir{}/inner", number % 3));
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join(format!("file{number}")), random.bytes(length)).unwrap();
        std::fs::write(inner.join(format!("text{number}")), "all the same ".repeat(length / 13)).unwrap();
    }
    std::fs::File::create(dir.join("hole")).unwrap().set_len(8 << 20).unwrap();
    std::fs::hard_link(dir.join("dir0/inner/file3"), dir.join("dir1/again")).unwrap();
    symlink("../dir0", dir.join("dir1/link")).unwrap();
    rustix::fs::lsetxattr(dir.join("dir2"), "user.colour", b"green", rustix::fs::XattrFlags::empty()).unwrap();
    dir
}

/// Without times of change, which nobody can set.
fn tree(dir: &Path) -> Tree {
    let mut tree = Tree::read(dir);
    tree.entries.values_mut().for_each(|entry| entry.ctime = (0, 0));
    tree
}

fn copied_out(work: &WorkDir, image: &Path, name: &str) -> Tree {
    let out = work.file(name);
    butterfs(&["cp", "-a", &at(image, "/"), text(&out)]).ok();
    tree(&out)
}

#[test]
fn what_is_in_the_directory_is_in_the_filesystem() {
    let work = WorkDir::new("mkfs_rootdir");
    let (dir, image) = (source(&work), work.file("image"));
    let expected = tree(&dir);
    for (name, options) in [
        ("plain", &[][..]),
        ("compressed", &["--compress", "zstd:5", "--csum", "xxhash"]),
        ("mixed", &["-M", "-b", "128M"]),
        ("shrunk", &["--shrink"]),
        ("sized", &["-b", "300M", "-m", "single"]),
    ] {
        let made = mkfs(&[&["-f", "-r", text(&dir)], options, &[text(&image)]].concat()).ok();
        assert!(made.stdout.contains("Rootdir from:"), "{}", made.stdout);
        assert_clean(&image);
        copied_out(&work, &image, name).assert_same(&expected, Times::Exact, name);
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn compression_and_shrinking_make_it_smaller() {
    let work = WorkDir::new("mkfs_rootdir_small");
    let dir = source(&work);
    let size_of = |name: &str, options: &[&str]| {
        let image = work.file(name);
        mkfs(&[&["-q", "-r", text(&dir)], options, &[text(&image)]].concat()).ok();
        let meta = image.metadata().unwrap();
        (meta.len(), meta.blocks() * 512)
    };
    let (plain, packed) = (size_of("plain", &[]), size_of("packed", &["--compress", "zstd", "--shrink"]));
    assert!(packed.1 + (2 << 20) < plain.1, "3 MB of text: {packed:?} {plain:?}");
    assert!(packed.0 < plain.0 / 2, "{packed:?} {plain:?}");
}

#[test]
fn directories_become_subvolumes() {
    let work = WorkDir::new("mkfs_rootdir_subvolumes");
    let (dir, image) = (source(&work), work.file("image"));
    let subvolumes = ["-u", "ro:dir0/inner", "-u", "dir1", "-u", "default:dir2/inner"];
    mkfs(&[&["-q", "-r", text(&dir)], &subvolumes[..], &[text(&image)]].concat()).ok();
    assert_clean(&image);
    let listed = butterfs(&["inspect-internal", "dump-tree", "-t", "root", text(&image)]).ok().stdout;
    for name in ["name inner", "name dir1"] {
        assert!(listed.contains(name), "{name}: {listed}");
    }
    assert_eq!(listed.matches("RDONLY").count(), 1, "{listed}");
    // Names of one file in one subvolume stay that; `again` and `file3` are in different ones.
    let linked = work.dir("linked");
    std::fs::create_dir(linked.join("sub")).unwrap();
    std::fs::write(linked.join("a"), "twice in each").unwrap();
    ["z", "sub/b", "sub/c"].iter().for_each(|name| std::fs::hard_link(linked.join("a"), linked.join(name)).unwrap());
    let second = work.file("second");
    mkfs(&["-q", "-r", text(&linked), "-u", "sub", text(&second)]).ok();
    assert_clean(&second);
    let found = copied_out(&work, &second, "links");
    let links = |name: &str| found.entries[Path::new(name)].links;
    assert_eq!(["a", "z", "sub/b", "sub/c"].map(links), [2; 4]);
    // The default is what a copy begins at.
    let inner = copied_out(&work, &image, "default");
    inner.assert_same(&tree(&dir.join("dir2/inner")), Times::Exact, "the default subvolume");
}

#[test]
fn what_cannot_be_had_leaves_nothing_behind() {
    let work = WorkDir::new("mkfs_rootdir_refused");
    let (dir, image) = (source(&work), work.file("image"));
    let (d, i) = (text(&dir), text(&image));
    let file = dir.join("hole");
    for (arguments, word) in [
        (&["-r", "/does/not/exist", i][..], "no such"),
        (&["-r", text(&file), i], "is no directory"),
        (&["-u", "dir0", i], "--rootdir"),
        (&["--shrink", i], "--rootdir"),
        (&["-r", d, "-u", "dir9", i], "dir9"),
        (&["-r", d, "-u", "../source", i], "below --rootdir"),
        (&["-r", d, "-u", "hole", i], "is no directory"),
        (&["-r", d, "-u", "dir1/link", i], "is no directory"),
        (&["-r", d, "-u", "dir0", "-u", "ro:dir0/", i], "named twice"),
        (&["-r", d, "-u", "default:dir0", "-u", "default-ro:dir1", i], "only one"),
        (&["-r", d, "--compress", "zip", i], "zip"),
        (&["-r", d, "--shrink", "-b", "1G", i, text(&work.file("second"))], "one device"),
    ] {
        let finished = mkfs(arguments);
        assert!(!finished.status.success() && finished.stderr.contains(word), "{arguments:?}: {}", finished.stderr);
        assert!(!image.exists(), "{arguments:?} left the image");
    }
}

#[test]
fn a_filesystem_with_a_part_of_it_is_none() {
    let work = WorkDir::new("mkfs_rootdir_part");
    let dir = source(&work);
    std::fs::write(dir.join("large"), Random::new(3).bytes(150 << 20)).unwrap();
    let (new, old, inside) = (work.file("new"), work.file("old"), dir.join("image"));
    std::fs::File::create(&old).unwrap().set_len(130 << 20).unwrap();
    let full = mkfs(&["-r", text(&dir), "-b", "130M", text(&new)]);
    assert!(!full.status.success() && full.stderr.contains("there is no filesystem"), "{}", full.stderr);
    assert!(!new.exists());
    for (image, word) in [(&old, "no space left"), (&inside, "image itself")] {
        if *image == inside {
            std::fs::File::create(&inside).unwrap().set_len(600 << 20).unwrap();
        }
        let failed = mkfs(&["-r", text(&dir), "-b", &image.metadata().unwrap().len().to_string(), text(image)]);
        assert!(!failed.status.success() && failed.stderr.contains(word), "{}", failed.stderr);
        let opened = butterfs(&["ls", &at(image, "/")]);
        assert!(!opened.status.success(), "it must not be taken for a filesystem");
    }
}

/// Killed at any moment, it leaves no filesystem, or all of it.
#[test]
fn who_is_killed_leaves_no_part_of_it() {
    let work = WorkDir::new("mkfs_rootdir_killed");
    let (dir, image) = (source(&work), work.file("image"));
    std::fs::write(dir.join("large"), Random::new(3).bytes(60 << 20)).unwrap();
    let expected = tree(&dir);
    let (mut none, mut whole) = (0, 0);
    for round in 0..12_u64 {
        // What is there before must not be found either.
        mkfs(&["-q", "-f", "-b", "256M", text(&image)]).ok();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_butterfs"))
            .args(["mkfs", "-q", "-f", "-L", "new", "-r", text(&dir), "-b", "256M", text(&image)])
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 + 25 * round));
        // An error says that it has ended.
        let _ = child.kill();
        child.wait().unwrap();
        let label = butterfs(&["filesystem", "label", text(&image)]);
        match label.stdout.trim() {
            "new" => {
                whole += 1;
                assert_clean(&image);
                copied_out(&work, &image, &format!("out{round}")).assert_same(&expected, Times::Exact, "all of it");
            }
            // It had not begun to write.
            "" if label.status.success() => assert_clean(&image),
            _ => none += 1,
        }
    }
    println!("{none} times there was none, {whole} times all of it");
    assert!(none > 0, "never killed in the midst of it");
}
