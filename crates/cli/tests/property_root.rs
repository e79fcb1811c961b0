//! Properties: the same words and exit statuses as from `btrfs property`, and those of whole subvolumes.

mod common;

use butterfs_testkit::command::{Finished, run, run_program};
use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::oracle;
use common::{MIB, kernel, setup, subject};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Commands that both know, on `s` (a subvolume), `d`, `f`, `l` (a link to `f`), `p` (a pipe) and the mount point.
const SHARED: &[&[&str]] = &[
    &["list", "d"],
    &["list", "f"],
    &["list", "p"],
    &["list", "-t", "inode", "s"],
    &["list", "-t", "device", "s"],
    &["list", "-t", "filesystem", "."],
    &["list", "nothere"],
    &["list"],
    &["list", "-t", "bogus", "s"],
    &["get", "s"],
    &["get", "s", "ro"],
    &["get", "d", "ro"],
    &["get", "-t", "inode", "s", "ro"],
    &["get", "-t", "subvol", "d", "ro"],
    &["get", ".", "label"],
    &["get", "s", "label"],
    &["get", "f", "compression"],
    &["set", "f", "compression", "zstd"],
    &["get", "f", "compression"],
    &["get", "f"],
    &["set", "f", "compression", "gzip"],
    &["set", "f", "compression", "no"],
    &["get", "f", "compression"],
    &["set", "f", "compression", ""],
    &["get", "f", "compression"],
    &["set", "s", "compression", "lzo"],
    &["get", "s"],
    &["set", "s", "compression", ""],
    &["set", "f", "bogus", "x"],
    &["get", "f", "bogus"],
    &["set", "s", "ro", "true"],
    &["get", "s"],
    &["set", "s", "ro", "true"],
    &["set", "s", "ro", "maybe"],
    &["set", "s", "ro", "false"],
    &["get", "s", "ro"],
    &["set", "d", "ro", "true"],
    &["set", ".", "label", "hello world"],
    &["get", ".", "label"],
    &["get", "."],
    &["get", "-t", "device", ".", "label"],
    &["set", ".", "label", "long"],
    &["set", "-t", "filesystem", ".", "label", ""],
    &["get", ".", "label"],
    &["set", "p", "compression", "zstd"],
    &["set", "l", "compression", "lzo"],
    &["get", "f", "compression"],
    &["get", "/etc/passwd"],
    &["set", "s"],
    &["get", "a", "b", "c"],
];

fn property(mounter: &Mounter, dir: &Path, arguments: &[&str]) -> Finished {
    let long = "x".repeat(256);
    let arguments = arguments.iter().map(|word| if *word == "long" { long.as_str() } else { word });
    let mut command = match mounter {
        Mounter::Kernel => Command::new("btrfs"),
        Mounter::Butterfs { binary } => Command::new(binary),
    };
    run(command.arg("property").args(arguments).current_dir(dir))
}

/// An error without what each program puts in front; of a wrong command line just that it is one.
fn problem(finished: &Finished) -> String {
    let text = finished.stderr.trim();
    let text = text.strip_prefix("ERROR: ").or_else(|| text.split_once(": ").map(|(_, text)| text)).unwrap_or(text);
    let usage = ["arguments", "unexpected argument", "invalid object type", "invalid value 'bogus'"];
    if usage.iter().any(|word| text.contains(word)) { "usage".into() } else { text.into() }
}

fn fill(mounter: &Mounter, mnt: &Path) {
    mounter.create_subvolume(&mnt.join("s"));
    fs::create_dir(mnt.join("d")).expect("mkdir");
    fs::write(mnt.join("f"), b"x").expect("write");
    std::os::unix::fs::symlink("f", mnt.join("l")).expect("symlink");
    run_program("mkfifo", &[mnt.join("p")]).ok();
}

#[test]
fn words_and_statuses_are_those_of_btrfs_property() {
    let Some(work) = setup("property_words") else { return };
    let said = [("kernel", kernel()), ("subject", subject())].map(|(name, mounter)| {
        let (image, mnt) = (work.file(name), work.dir("mnt"));
        kernel().mkfs(&image, 256 * MIB, &[]);
        let mounted = mounter.mount(&image, &mnt, "");
        fill(&mounter, &mnt);
        let said: Vec<_> = SHARED
            .iter()
            .map(|arguments| {
                let finished = property(&mounter, &mnt, arguments);
                (arguments.join(" "), finished.status.code(), finished.stdout.clone(), problem(&finished))
            })
            .collect();
        mounted.unmount();
        oracle::assert_clean(&image);
        said
    });
    let differs: Vec<_> = said[0].iter().zip(&said[1]).filter(|(theirs, ours)| theirs != ours).collect();
    assert!(differs.is_empty(), "theirs and ours: {differs:#?}");
}

/// A received subvolume becomes writable only by force, and is no received one afterwards.
#[test]
fn a_received_subvolume_is_kept_from_changes() {
    let Some(work) = setup("property_received") else { return };
    let (image, mnt, stream) = (work.file("image"), work.dir("mnt"), work.file("stream"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "");
    fs::create_dir(mnt.join("r")).expect("mkdir");
    kernel().create_subvolume(&mnt.join("s"));
    fs::write(mnt.join("s/file"), b"x").expect("write");
    kernel().snapshot_read_only(&mnt.join("s"), &mnt.join("s1"));
    let btrfs = |arguments: &[&str]| run(Command::new("btrfs").args(arguments).current_dir(&mnt)).ok();
    let stream = stream.to_str().expect("UTF-8");
    btrfs(&["send", "-q", "-f", stream, "s1"]);
    btrfs(&["receive", "-q", "-f", stream, "r"]);
    mounted.unmount();

    let mounted = subject().mount(&image, &mnt, "");
    let refused = property(&subject(), &mnt, &["set", "r/s1", "ro", "false"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("cannot flip ro->rw with received_uuid set"), "{refused}");
    assert_eq!(property(&subject(), &mnt, &["get", "r/s1", "ro"]).ok().stdout, "ro=true\n");
    property(&subject(), &mnt, &["set", "-f", "r/s1", "ro", "false"]).ok();
    fs::write(mnt.join("r/s1/file"), b"y").expect("write");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "");
    let shown = btrfs(&["subvolume", "show", "r/s1"]).stdout;
    let field = |name: &str| {
        let line = shown.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or_default().trim().to_owned()
    };
    assert_eq!((field("Received UUID"), field("Flags")), ("-".into(), "-".into()), "{shown}");
    mounted.unmount();
}

fn letters(file: &Path) -> String {
    let listed = run_program("lsattr", &["-d".as_ref(), file.as_os_str()]).ok().stdout;
    listed.split_whitespace().next().unwrap_or_default().replace('-', "")
}

/// What holds for a whole subvolume holds in directories that were there before, and the kernel follows it as far as
/// it can: from the top directory, and from directories that we made since.
#[test]
fn a_subvolume_has_properties_for_all_its_new_files() {
    let Some(work) = setup("property_subvolume") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    fill(&subject(), &mnt);
    fs::create_dir(mnt.join("s/old")).expect("mkdir");
    let property = |arguments: &[&str]| property(&subject(), &mnt, arguments);
    assert_eq!(property(&["get", "s", "nodatacow"]).ok().stdout, "nodatacow=false\n");
    property(&["set", "s", "nodatacow", "true"]).ok();
    assert_eq!(property(&["get", "s"]).ok().stdout, "ro=false\nnodatacow=true\nnodatasum=true\n");
    let text = problem(&property(&["set", "-t", "subvol", "s", "compression", "zstd"]));
    assert!(text.contains("is not compressed"), "{text}");
    for path in ["s/old/file", "s/file"] {
        fs::write(mnt.join(path), b"x").expect("write");
    }
    fs::create_dir(mnt.join("s/old/new")).expect("mkdir");
    property(&["set", "s", "nodatacow", "false"]).ok();
    property(&["set", "-t", "subvol", "s", "compression", "zstd:5"]).ok();
    assert_eq!(property(&["get", "-t", "subvol", "s", "compression"]).ok().stdout, "compression=zstd:5\n");
    fs::write(mnt.join("s/old/packed"), b"x").expect("write");
    let listed = property(&["list", "-t", "subvol", "s"]).ok().stdout;
    assert_eq!(listed.lines().count(), 4, "{listed}");
    let refused = property(&["set", "d", "nodatacow", "true"]);
    assert_eq!(
        (refused.status.code(), problem(&refused)),
        (
            Some(1),
            "object is not compatible with property: nodatacow; it is of whole subvolumes: name a top directory; for a \
             directory alone use chattr +C"
                .into()
        )
    );
    let text = problem(&property(&["set", "s", "nodatacow", "maybe"]));
    assert_eq!(text, "invalid value for property: maybe; write true or false");
    for wrong in ["zstd:99", "zlib:10", "gzip"] {
        let refused = property(&["set", "-t", "subvol", "s", "compression", wrong]);
        let text = problem(&refused);
        assert!(!refused.status.success(), "{refused}");
        assert!(text.contains(&format!("'{wrong}'")) && text.contains("zstd:-15 to zstd:15"), "{text}");
    }
    assert_eq!(property(&["get", "-t", "subvol", "s", "compression"]).ok().stdout, "compression=zstd:5\n");
    // Who may write to the top directory, but does not own it, does not decide.
    run_program("chmod", &["777".as_ref(), mnt.as_os_str(), mnt.join("s").as_os_str()]).ok();
    let words =
        ["--reuid", "1000", "--clear-groups", "setfattr", "-n", "user.butterfs.new_files", "-v", "nodatacow", "s"];
    let other = run(Command::new("setpriv").args(words).current_dir(&mnt));
    assert!(other.stderr.contains("not permitted"), "{other}");
    mounted.unmount();
    oracle::assert_clean(&image);

    let mounted = kernel().mount(&image, &mnt, "");
    for path in ["s/kernel", "s/old/kernel", "s/old/new/kernel"] {
        fs::write(mnt.join(path), b"x").expect("write");
    }
    let found: Vec<_> =
        ["s", "s/old", "s/file", "s/old/file", "s/old/packed", "s/kernel", "s/old/kernel", "s/old/new/kernel"]
            .map(|path| (path, letters(&mnt.join(path))))
            .into();
    let expected = [
        ("s", "c"),
        ("s/old", ""),
        ("s/file", "C"),
        ("s/old/file", "C"),
        ("s/old/packed", "c"),
        ("s/kernel", "c"),
        ("s/old/kernel", ""),
        ("s/old/new/kernel", "C"),
    ];
    assert_eq!(found, expected.map(|(path, letters)| (path, letters.to_owned())));
    mounted.unmount();
    oracle::assert_clean(&image);
    let mounted = subject().mount(&image, &mnt, "");
    fs::write(mnt.join("s/old/again"), b"x").expect("write");
    assert_eq!(letters(&mnt.join("s/old/again")), "c");
    mounted.unmount();
}

/// What `property` changes in an image is what the kernel then finds, and the reverse.
#[test]
fn properties_of_what_is_in_an_image() {
    let Some(work) = setup("property_image") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 200 * MIB, &["-L", "first"]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    kernel().create_subvolume(&mnt.join("s"));
    fs::create_dir(mnt.join("d")).expect("mkdir");
    fs::write(mnt.join("s/f"), "bytes").expect("write");
    mounted.unmount();
    let path = |inner: &str| format!("{}{inner}", image.display());
    let ours = |words: &[&str]| subject().command(&[&["property"], words].concat());
    let get = |inner: &str, name: &str| ours(&["get", &path(inner), name]).ok().stdout;
    assert_eq!((get("", "label"), get(":/s", "ro")), ("label=first\n".into(), "ro=false\n".into()));
    ours(&["set", &path(""), "label", "second"]).ok();
    ours(&["set", "-t", "filesystem", &path(":/"), "label", "third"]).ok();
    ours(&["set", &path(":/s/f"), "compression", "lzo"]).ok();
    ours(&["set", &path(":d"), "compression", "zstd:5"]).ok();
    ours(&["set", &path(":/s"), "nodatacow", "true"]).ok();
    ours(&["set", &path(":/s"), "ro", "true"]).ok();
    let listed = ours(&["list", &path(":/s")]).ok().stdout;
    assert!(listed.starts_with("ro ") && listed.contains("\nlabel ") && listed.contains("\ncompression "), "{listed}");
    assert_eq!(get(":/s", "nodatacow"), "nodatacow=true\n");
    for (words, problem) in [
        (["get", &path(":/d"), "ro"].as_slice(), "not compatible with property: ro"),
        (&["get", &path(":/nowhere")], "no such"),
        (&["set", &path(":/s/f"), "compression", "zstd"], "Read-only file system"),
        (&["set", &path(":/d"), "compression", "gzip"], "Invalid argument"),
        (&["get", "/dev/null", "label"], "not a btrfs object"),
    ] {
        let finished = ours(words);
        assert_eq!(finished.status.code(), Some(1), "{finished}");
        assert!(finished.stderr.to_lowercase().contains(&problem.to_lowercase()), "{finished}");
    }
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    let theirs = |inner: &str, name: &str| {
        run(Command::new("btrfs").args(["property", "get"]).arg(mnt.join(inner)).arg(name)).ok().stdout
    };
    assert_eq!((theirs("", "label"), theirs("s", "ro")), ("label=third\n".into(), "ro=true\n".into()));
    let compressions = (theirs("s/f", "compression"), theirs("d", "compression"));
    assert_eq!(compressions, ("compression=lzo\n".into(), "compression=zstd:5\n".into()));
    // As btrfs-progs, these take directories.
    for words in [["subvolume", "list"], ["subvolume", "get-default"]] {
        for mounter in [&kernel(), &subject()] {
            let finished = mounter.command(&[words[0].as_ref(), words[1].as_ref(), mnt.join("s/f").as_os_str()]);
            assert_eq!(finished.status.code(), Some(1), "{finished}");
            assert!(finished.stderr.contains("not a directory"), "{finished}");
        }
    }
    mounted.unmount();
    ours(&["set", &path(":/s"), "ro", "false"]).ok();
    ours(&["set", &path(":/s/f"), "compression", ""]).ok();
    assert_eq!((get(":/s", "ro"), get(":/s/f", "compression")), ("ro=false\n".into(), String::new()));
    oracle::assert_clean(&image);
}
