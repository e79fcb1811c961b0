//! What `device add` refuses: nothing is cleared on any of the devices that were named, and the filesystem stays as it was.

mod common;

use butterfs_testkit::command::run;
use butterfs_testkit::devices::{self, Loop};
use butterfs_testkit::mounter::create_sparse;
use butterfs_testkit::random::Random;
use common::ours::Ours;
use common::{MIB, compat_library, setup};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file with noise where a cleared device would have none.
fn noisy(work: &Path, name: &str, size: u64) -> PathBuf {
    use std::os::unix::fs::FileExt;
    let path = work.join(name);
    create_sparse(&path, size);
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
    // Beyond where a filesystem or a partition table would be looked for.
    for at in [2 * MIB, size / 2, size - MIB] {
        file.write_all_at(&Random::new(at).bytes(65536), at).expect("write");
    }
    path
}

/// A loop device that cannot be written.
struct ReadOnly(PathBuf);

impl ReadOnly {
    fn over(image: &Path) -> Self {
        let made = run(Command::new("losetup").args(["--find", "--show", "--read-only"]).arg(image)).ok();
        Self(made.stdout.trim().into())
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        run(Command::new("losetup").arg("-d").arg(&self.0));
    }
}

#[test]
fn what_is_refused_clears_nothing() {
    let Some(work) = setup("device-add") else { return };
    let mnt = work.dir("mnt");
    let filesystem = devices::mkfs(work.path(), &[300 * MIB], &[]);
    let good = noisy(work.path(), "good", 200 * MIB);
    let small = noisy(work.path(), "small", 4 * MIB);
    let protected = noisy(work.path(), "protected", 200 * MIB);
    let other = work.file("other");
    create_sparse(&other, 200 * MIB);
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&other)).ok();
    let read_only = ReadOnly::over(&protected);
    let bad: [(&Path, &str); 5] = [
        (&small, "a device needs at least"),
        (&read_only.0, "read-only"),
        (&other, "use the -f option"),
        (&filesystem[0], ""),
        (Path::new("/nowhere/at/all"), "No such file"),
    ];
    let files = [&good, &small, &protected, &other, &filesystem[0]];
    let content = || files.map(|file| std::fs::read(file).expect("reads"));
    for (target, on_a_mount) in [(&filesystem[0], false), (&mnt, true)] {
        let ours = on_a_mount.then(|| Ours::new(&filesystem, &mnt, "noatime"));
        let before = content();
        for (bad, words) in bad {
            for order in [[good.as_path(), bad], [bad, good.as_path()]] {
                let mut arguments: Vec<OsString> = vec!["device".into(), "add".into()];
                arguments.extend(order.map(Into::into));
                arguments.push(target.into());
                let refused = run(Command::new(env!("CARGO_BIN_EXE_butterfs")).args(&arguments));
                assert_eq!(refused.status.code(), Some(1), "{refused}");
                assert!(refused.stderr.to_lowercase().contains(&words.to_lowercase()), "want {words:?}: {refused}");
                let after = content();
                for (number, file) in files.iter().enumerate().take(4) {
                    assert!(after[number] == before[number], "{} was changed by {refused}", file.display());
                }
            }
        }
        drop(ours);
    }
    run(Command::new("btrfs").arg("check").arg(&filesystem[0])).ok();
}

/// Each write to such a device would wait for itself.
#[test]
fn what_lies_on_the_mount_is_refused() {
    let Some(work) = setup("device-add-own") else { return };
    compat_library();
    let mnt = work.dir("mnt");
    let filesystem = devices::mkfs(work.path(), &[400 * MIB], &[]);
    let ours = Ours::new(&filesystem, &mnt, "noatime");
    let file = noisy(&mnt, "file", 500 * MIB);
    let before = std::fs::read(&file).expect("reads");
    let device = Loop::over(&file);
    let second = Loop::over(device.path());
    let refuses = |arguments: &[&str], paths: &[&Path]| {
        let refused = run(Command::new(env!("CARGO_BIN_EXE_butterfs")).args(arguments).args(paths));
        assert_eq!(refused.status.code(), Some(1), "{refused}");
        refused.stderr
    };
    for bad in [file.as_path(), device.path(), second.path()] {
        for arguments in [&["device", "add"][..], &["device", "replace", "start", "1"]] {
            let told = refuses(arguments, &[bad, &mnt]);
            assert!(told.contains("lies on the mount itself"), "{told}");
            assert!(std::fs::read(&file).expect("reads") == before, "it was changed");
        }
    }
    // The daemon refuses it too, when others ask.
    refuses(&["compat", "--", "btrfs", "device", "add", "-K", "-f"], &[device.path(), &mnt]);
    refuses(&["compat", "--", "btrfs", "replace", "start", "-K", "-B", "-f", "1"], &[device.path(), &mnt]);
    drop((second, device, ours));
    devices::assert_clean(&filesystem);
}
