//! What `inspect-internal` answers about paths, inodes, chunks and sizes.

use butterfs_testkit::command::run_program;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::snapshots;
use crate::common::{GIB, kernel, setup};
use crate::{OURS, inspect};

/// Paths, inodes, chunks and sizes: the image by us, the mounted filesystem by btrfs-progs.
#[test]
fn what_progs_asks_the_kernel_we_find_in_the_image() {
    let Some(work) = setup("inspect_resolve") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 2 * GIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    snapshots(&mnt);
    mounted.unmount();
    let mounted = kernel().mount(&image, &mnt, "ro,noatime,subvolid=5");
    inodes_resolve(&image, &mnt);
    extents_resolve(&image, &mnt);
    for id in ["5", "256", "257", "258"] {
        let theirs = run_program(
            "btrfs",
            &["inspect-internal".as_ref(), "subvolid-resolve".as_ref(), OsStr::new(id), mnt.as_os_str()],
        )
        .ok();
        assert_eq!(inspect(OURS, &["subvolid-resolve", id], &[&image]).ok().stdout, theirs.stdout, "{id}");
    }
    // progs opens files for writing, which a read-only mount refuses.
    for path in ["", "odd", "sub volume", "snapshot", "whole/extents"] {
        let theirs = inspect("btrfs", &["rootid"], &[&mnt.join(path)]).ok().stdout;
        let target = PathBuf::from(format!("{}:{path}", image.display()));
        assert_eq!(inspect(OURS, &["rootid"], &[&target]).ok().stdout, theirs, "{path}");
    }
    assert_eq!(
        inspect(OURS, &["min-dev-size"], &[&image]).ok().stdout,
        inspect("btrfs", &["min-dev-size"], &[&mnt]).ok().stdout
    );
    for options in
        [&[][..], &["--raw"], &["--sort", "lstart"], &["--sort", "devid,pstart"], &["--sort", "length,lstart"]]
    {
        let arguments = [&["list-chunks"], options].concat();
        assert_eq!(
            inspect(OURS, &arguments, &[&image]).ok().stdout,
            inspect("btrfs", &arguments, &[&mnt]).ok().stdout,
            "{options:?}"
        );
    }
    mounted.unmount();
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn inodes_resolve(image: &Path, mnt: &Path) {
    let (last, links) = (
        std::fs::metadata(mnt.join("extents/clone")).expect("stat").ino(),
        std::fs::metadata(mnt.join("links/first")).expect("stat").ino(),
    );
    for ino in (257..last).step_by(29).chain([links]) {
        let ino = ino.to_string();
        let theirs = run_program(
            "btrfs",
            &["inspect-internal".as_ref(), "inode-resolve".as_ref(), OsStr::new(&ino), mnt.as_os_str()],
        );
        let ours = inspect(OURS, &["inode-resolve", &ino], &[image]);
        assert_eq!(ours.status.success(), theirs.status.success(), "{ours}");
        // The kernel gives no more than fit into 4 KiB; it puts the mount point before each path.
        let theirs: BTreeSet<_> =
            theirs.stdout.lines().map(|line| line.replacen(mnt.to_str().expect("UTF-8"), "", 1)).collect();
        let ours: BTreeSet<_> = ours.stdout.lines().map(str::to_owned).collect();
        assert!(theirs.is_subset(&ours), "{ino}: {theirs:?} | {ours:?}");
        assert!(theirs.len() == ours.len() || ours.len() > 10, "{ino}: {theirs:?} | {ours:?}");
    }
    let text = inspect(OURS, &["inode-resolve", &links.to_string()], &[image]).ok().stdout;
    assert_eq!(text.lines().count(), 401);
    let target = PathBuf::from(format!("{}:sub volume", image.display()));
    assert_eq!(inspect(OURS, &["inode-resolve", "257"], &[&target]).ok().stdout, "/sub volume/file\n");
    let target = PathBuf::from(format!("{}:whole", image.display()));
    let text = inspect(OURS, &["inode-resolve", &last.to_string()], &[&target]).ok().stdout;
    assert_eq!(text, "/whole/extents/clone\n");
}

fn extents_resolve(image: &Path, mnt: &Path) {
    let text = inspect(OURS, &["dump-tree", "-t", "2"], &[image]).ok().stdout;
    let data: Vec<(u64, u64)> = text
        .lines()
        .filter_map(|line| line.split_once("key (")?.1.split_once(')').map(|(key, _)| key))
        .filter_map(|key| {
            let mut words = key.split(' ');
            let start = words.next()?.parse().ok()?;
            (words.next()? == "EXTENT_ITEM").then_some(())?;
            Some((start, words.next()?.parse().ok()?))
        })
        .collect();
    assert!(data.len() > 20, "{} extents", data.len());
    for (start, length) in data.iter().step_by(3) {
        for (at, options) in [(*start, &["-P"][..]), (start + length - 4096, &["-P"]), (*start, &["-P", "-o"])] {
            let at = at.to_string();
            let arguments = [&["logical-resolve"], options, &[&at]].concat();
            let theirs = inspect("btrfs", &arguments, &[mnt]);
            let ours = inspect(OURS, &arguments, &[image]);
            assert_eq!(sorted(&ours.stdout), sorted(&theirs.stdout), "{at} {options:?}\n{ours}\n{theirs}");
        }
    }
    let shared = std::fs::metadata(mnt.join("extents/clone")).expect("stat").ino();
    let uses: Vec<_> = data
        .iter()
        .filter_map(|(start, _)| {
            let text = inspect(OURS, &["logical-resolve", &start.to_string()], &[image]).stdout;
            text.contains("/extents/clone\n").then_some(text)
        })
        .collect();
    assert!(uses.iter().any(|text| text.contains("/whole/extents/regular\n")), "inode {shared}: {uses:?}");
}
