//! `ls`, `cat`, `tree` and `stat` on images that our own engine made.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/images.rs"]
mod images;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use butterfs_engine::dir::Place;
use butterfs_engine::file::SizeMode;
use butterfs_engine::filesystem::{NewKind, NewSubvolume};
use butterfs_engine::inode::xattr::{Xattr, XattrMode};
use butterfs_engine::subvolume::root::Access;
use butterfs_format::items::FileType;
use butterfs_testkit::tree_compare::hash_file;
use butterfs_testkit::workdir::WorkDir;
use images::{OURS, assert_clean, at, butterfs, create, file, make, open};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// An image with files of most kinds, a subvolume and a snapshot.
fn image(work: &WorkDir) -> PathBuf {
    make(work, "image", 256 * MIB, |fs| {
        let root = fs.root();
        let dir = create(fs, root, b"dir", NewKind::Directory);
        file(fs, dir, b"b.txt", b"bee\n");
        file(fs, dir, b"a.txt", b"ay\n");
        file(fs, dir, b".hidden", b"");
        let deep = create(fs, dir, b"deep", NewKind::Directory);
        file(fs, deep, b"c.txt", b"sea\n");
        let sparse = file(fs, root, b"sparse", b"head");
        fs.write(sparse, 3 * MIB, b"tail").unwrap();
        fs.preallocate(sparse, 4 * MIB..5 * MIB, SizeMode::Extend).unwrap();
        fs.set_xattr(sparse, Xattr { name: b"user.k", value: b"v\xff" }, XattrMode::Any).unwrap();
        create(fs, root, b"link", NewKind::Symlink(b"dir/../dir/deep"));
        create(fs, root, b"absolute", NewKind::Symlink(b"/dir/a.txt"));
        create(fs, root, b"escape", NewKind::Symlink(b"../../../../etc/passwd"));
        create(fs, root, b"loop", NewKind::Symlink(b"loop"));
        let null = NewKind::Special { file_type: FileType::CharDevice, rdev: 1 << 20 | 3 };
        create(fs, root, b"null", null);
        file(fs, root, b"new\nline\x1b[2J\xff", b"x");
        let sub = fs.create_subvolume(Place::new(root, b"sub"), &NewSubvolume { permissions: 0o755, uid: 0, gid: 0 });
        let sub = butterfs_engine::inode::InodeId::top_of(sub.unwrap());
        file(fs, sub, b"inside", b"in a subvolume\n");
        fs.sync().unwrap();
        fs.snapshot(sub.tree, Place::new(root, b"snap"), Access::ReadOnly).unwrap();
    })
}

#[track_caller]
fn says(arguments: &[&str], wanted: &str) {
    let found = butterfs(arguments).ok();
    assert_eq!((found.stdout.as_str(), found.stderr.as_str()), (wanted, ""), "{arguments:?}");
}

#[test]
fn ls_lists_by_name() {
    let work = WorkDir::new("look_ls");
    let image = image(&work);
    says(&["ls", &at(&image, "dir")], "a.txt\nb.txt\ndeep\n");
    says(&["ls", "-A", &at(&image, "/dir/")], ".hidden\na.txt\nb.txt\ndeep\n");
    says(&["ls", "-a", &at(&image, "dir/deep")], ".\n..\nc.txt\n");
    says(&["ls", "-d", &at(&image, "dir")], "dir\n");
    says(&["ls", "-i", &at(&image, "dir/deep")], "262 c.txt\n");
    says(&["ls", "-R", &at(&image, "dir")], "dir:\na.txt\nb.txt\ndeep\n\ndir/deep:\nc.txt\n");
    let two = [&*at(&image, "dir/a.txt"), &*at(&image, "sub")];
    says(&["ls", two[0], two[1]], "dir/a.txt\n\nsub:\ninside\n");
    says(&["ls", &at(&image, "link")], "c.txt\n");
    says(
        &["ls", "-l", &at(&image, "dir")],
        "total 1\n\
         -rw-r----- 1 1000 100  3 2023-11-14 22:13 a.txt\n\
         -rw-r----- 1 1000 100  4 2023-11-14 22:13 b.txt\n\
         drwxr-x--- 1 1000 100 10 2023-11-14 22:13 deep\n",
    );
    says(&["ls", "-ld", &at(&image, "link")], "lrwxrwxrwx 1 1000 100 15 2023-11-14 22:13 link -> dir/../dir/deep\n");
    says(&["ls", "-ld", &at(&image, "null")], "crw-r----- 1 1000 100 1, 3 2023-11-14 22:13 null\n");
    says(&["ls", "-ldh", &at(&image, "sparse")], "-rw-r----- 1 1000 100 5.0M 2023-11-14 22:13 sparse\n");
    says(&["ls", "--subvol", "sub", image.to_str().unwrap()], "inside\n");
    says(&["ls", "--subvol", "257", image.to_str().unwrap()], "inside\n");
    says(&["ls", "--subvol", "sub", &at(&image, "../../inside")], "../../inside\n");
}

#[test]
fn wildcards_stand_for_names_in_the_image() {
    let work = WorkDir::new("look_wildcards");
    let image = image(&work);
    for (pattern, wanted) in [
        ("dir/*.txt", "dir/a.txt\ndir/b.txt\n"),
        ("/dir/?.txt", "/dir/a.txt\n/dir/b.txt\n"),
        ("*/*/c.txt", "dir/deep/c.txt\n"),
        ("[ds]*/[!b]*", "dir/a.txt\ndir/deep\nsnap/inside\nsub/inside\n"),
        ("dir/.h*", "dir/.hidden\n"),
        ("dir/a\\.txt", "dir/a.txt\n"),
        ("link/*", "link/c.txt\n"),
        ("d*/", "dir/\n"),
    ] {
        says(&["ls", "-d", &at(&image, pattern)], wanted);
    }
    let refused = butterfs(&["ls", "-d", &at(&image, "*.none")]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("*.none: no such file"), "{refused}");
}

#[test]
fn cat_prints_bytes() {
    let work = WorkDir::new("look_cat");
    let image = image(&work);
    says(&["cat", &at(&image, "dir/*.txt"), &at(&image, "absolute")], "ay\nbee\nay\n");
    says(&["cat", &at(&image, "snap/inside"), &at(&image, "sub/inside")], "in a subvolume\nin a subvolume\n");
    let sparse = butterfs(&["cat", &at(&image, "sparse")]).ok().stdout.into_bytes();
    assert_eq!(sparse.len() as u64, 5 * MIB);
    assert!(sparse.starts_with(b"head\0") && sparse[3 * MIB as usize..].starts_with(b"tail\0"));
    assert_eq!(sparse.iter().filter(|byte| **byte != 0).count(), 8);
    // The rest is printed.
    for (bad, word) in
        [("dir", "is a directory"), ("nothing", "no such file"), ("loop", "too many levels"), ("escape", "no such")]
    {
        let found = butterfs(&["cat", &at(&image, "dir/a.txt"), &at(&image, bad), &at(&image, "dir/b.txt")]);
        assert_eq!((found.status.code(), found.stdout.as_str()), (Some(1), "ay\nbee\n"), "{bad}");
        assert!(found.stderr.contains(word) && found.stderr.lines().count() == 1, "{found}");
    }
}

/// Nothing is said, and nothing fails, when the reader has seen enough.
#[test]
fn a_reader_may_go_away() {
    let work = WorkDir::new("look_pipe");
    let image = image(&work);
    for command in [&["cat"][..], &["ls", "-R"], &["tree"], &["stat"]] {
        let path = if command == ["cat"] { "sparse" } else { "" };
        let mut child = Command::new(OURS)
            .args(command)
            .arg(at(&image, path))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        if command == ["cat"] {
            stdout.read_exact(&mut [0; 10]).unwrap();
        }
        drop(stdout);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{command:?}: {output:?}");
    }
}

#[test]
fn tree_draws() {
    let work = WorkDir::new("look_tree");
    let image = image(&work);
    says(&["tree", &at(&image, "dir")], "dir\n├── a.txt\n├── b.txt\n└── deep\n    └── c.txt\n\n1 directory, 3 files\n");
    says(
        &["tree", "-a", "-L", "1", &at(&image, "dir")],
        "dir\n├── .hidden\n├── a.txt\n├── b.txt\n└── deep\n\n1 directory, 3 files\n",
    );
    says(&["tree", "-d", image.to_str().unwrap()], "/\n├── dir\n│   └── deep\n├── snap\n└── sub\n\n4 directories\n");
    let all = butterfs(&["tree", image.to_str().unwrap()]).ok().stdout;
    assert!(all.contains("├── absolute -> /dir/a.txt\n") && all.contains("└── sub\n    └── inside\n"), "{all}");
}

fn json(arguments: &[&str]) -> Value {
    let text = butterfs(&[&["--format", "json"], arguments].concat()).ok().stdout;
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(value["__header"]["version"], "1");
    value
}

#[test]
fn programs_get_json() {
    let work = WorkDir::new("look_json");
    let image = image(&work);
    let rows = json(&["ls", "-R", &at(&image, "")]);
    let rows = rows["ls"].as_array().unwrap();
    let row = |path: &str| rows.iter().find(|row| row["path"] == path).unwrap();
    assert_eq!(row("/dir/a.txt")["size"], 3);
    assert_eq!(row("/dir/a.txt")["name"], "a.txt");
    assert_eq!(row("/dir/a.txt")["mtime"]["nsec"], 5);
    assert_eq!(row("/link")["target"], "dir/../dir/deep");
    assert_eq!(row("/null")["device"]["major"], 1);
    assert_eq!((&row("/sub")["is_subvolume"], &row("/sub/inside")["subvolume"]), (&true.into(), &256.into()));
    assert!(rows.iter().any(|row| row["name_hex"] == "6e65770a6c696e651b5b324aff"));

    let tree = json(&["tree", &at(&image, "dir"), &at(&image, "sub")]);
    let top = &tree["tree"][0];
    assert_eq!((&top["name"], &top["contents"][2]["contents"][0]["name"]), (&"dir".into(), &"c.txt".into()));
    assert_eq!(tree["tree"][1]["contents"][0]["name"], "inside");
    assert_eq!((&tree["report"]["directories"], &tree["report"]["files"]), (&1.into(), &4.into()));

    let stat = json(&["stat", "--xattr", "--extents", &at(&image, "sparse")]);
    let stat = &stat["stat"][0];
    assert_eq!(stat["xattrs"][0]["name"], "user.k");
    assert_eq!(stat["xattrs"][0]["value_hex"], "76ff");
    let kinds: Vec<_> = stat["extents"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["regular", "hole", "regular", "hole", "prealloc"]);
    assert_eq!(stat["size"], 5 * MIB);
    let refused = butterfs(&["--format", "json", "cat", &at(&image, "sparse")]);
    assert!(!refused.status.success() && refused.stderr.contains("no JSON"), "{refused}");
}

#[test]
fn stat_tells_everything() {
    let work = WorkDir::new("look_stat");
    let image = image(&work);
    let text = butterfs(&["stat", "--xattr", "--extents", &at(&image, "/sparse")]).ok().stdout;
    for line in [
        "  File: /sparse\n",
        "  Type: file\n",
        "  Size: 5242880  Blocks: 2064 of 512 bytes",
        " Inode: 263  Subvolume: 5  Links: 1\n",
        "Access: 0640 (-rw-r-----)  Owner: 1000  Group: 100\n",
        "Modify: 2023-11-14 22:13:20.000000005\n",
        " Birth: 2023-11-14 22:13:20.000000005\n",
        " Flags: prealloc\n",
        " Xattr: user.k=\"v\\xff\"\n",
        "Extent: 4194304..5242880 prealloc, at ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let text = butterfs(&["stat", &at(&image, "absolute"), &at(&image, "snap")]).ok().stdout;
    assert!(text.contains("  File: absolute -> /dir/a.txt\n  Type: symlink\n"), "{text}");
    assert!(text.contains("Type: directory (top of a subvolume)") && text.contains("Subvolume: 257 (snap)"), "{text}");
    let text = butterfs(&["stat", "-L", &at(&image, "absolute")]).ok().stdout;
    assert!(text.contains("Type: file\n"), "{text}");
}

#[test]
fn looking_changes_not_a_byte() {
    let work = WorkDir::new("look_bytes");
    let image = image(&work);
    let before = hash_file(&image).unwrap();
    let out = work.dir("out");
    for command in [&["ls", "-laR"][..], &["tree"], &["stat", "--xattr", "--extents"], &["cat"]] {
        let path = if command == ["cat"] { "dir/a.txt" } else { "" };
        butterfs(&[command, &[&at(&image, path)]].concat()).ok();
    }
    let copied = butterfs(&["cp", "-r", &at(&image, "/dir"), &at(&image, "/sub"), out.to_str().unwrap()]).ok();
    assert_eq!(copied.stderr, "");
    assert!(out.join("dir/deep/c.txt").exists() && out.join("sub/inside").exists());
    assert_eq!(hash_file(&image).unwrap(), before);
    assert_clean(&image);
}

#[test]
fn what_cannot_be_is_refused_in_a_line() {
    let work = WorkDir::new("look_refused");
    let image = image(&work);
    let empty = work.file("empty");
    std::fs::write(&empty, [0; 4096]).unwrap();
    let (name, empty) = (image.to_str().unwrap(), empty.to_str().unwrap());
    for (arguments, status, word) in [
        (&["ls"][..], 2, "required"),
        (&["ls", "--nonsense", name], 2, "--nonsense"),
        (&["ls", "/nowhere:/x"], 1, "no such file"),
        (&["ls", empty], 1, "no Btrfs filesystem"),
        (&["ls", name, empty], 2, "one image at a time"),
        (&["ls", "--subvol", "none", name], 1, "no such subvolume"),
        (&["ls", "--subvol", "dir", name], 1, "not a subvolume"),
        (&["tree", "-L", "0", name], 2, "0"),
        (&["stat", &at(&image, "dir/none")], 1, "no such file"),
        (&["cat", name], 1, "is a directory"),
    ] {
        let refused = butterfs(arguments);
        assert_eq!(refused.status.code(), Some(status), "{refused}");
        assert!(refused.stderr.contains(word) && refused.stderr.lines().count() == 1, "{refused}");
    }
}

/// What was fsynced before a crash is shown, and stays in the log.
#[test]
fn a_log_is_replayed_in_memory() {
    let work = WorkDir::new("look_log");
    let image = image(&work);
    let fs = open(&image);
    let id = fs.lookup(Place::new(fs.root(), b"sparse")).unwrap();
    fs.write(id, 0, b"HEAD").unwrap();
    fs.fsync(id).unwrap();
    assert_eq!(fs.fsyncs().logged, 1);
    // As a crash does, this forgets what is in memory.
    drop(fs);
    let before = hash_file(&image).unwrap();
    assert!(butterfs(&["cat", &at(&image, "sparse")]).ok().stdout.starts_with("HEAD"));
    assert_eq!(hash_file(&image).unwrap(), before);
}

/// Of an image with a colon in its name, and another whose name is the first part, the longest is meant.
#[test]
fn an_image_may_have_colons() {
    let work = WorkDir::new("look_colons");
    let image = image(&work);
    let long: PathBuf = work.file("image:dir");
    make(&work, "image:dir", 128 * MIB, |fs| {
        file(fs, fs.root(), b"a.txt", b"other\n");
    });
    says(&["cat", &at(&long, "a.txt")], "other\n");
    says(&["cat", &at(&image, "/dir/a.txt")], "ay\n");
    says(&["ls", long.to_str().unwrap()], "a.txt\n");
    assert!(Path::new(&image).exists());
}
