//! What callers may do through ioctls, which nobody checks before the daemon: as on the kernel's mount, by capabilities,
//! by owners, and by the mount that the caller sees.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::oracle;
use common::{GIB, setup, subject};

const BUTTERFS: &str = env!("CARGO_BIN_EXE_butterfs");
/// A user who owns nothing but what he is given.
const NOBODY: u32 = 65534;

/// Root without a capability, as in a container.
fn as_bare_root(line: &str) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs", BUTTERFS]);
    run(command.args(line.split(' ')))
}

fn as_nobody(line: &str) -> Finished {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", BUTTERFS]);
    run(command.args(line.split(' ')))
}

fn root(line: &str) -> Finished {
    run(Command::new(BUTTERFS).args(line.split(' ')))
}

#[track_caller]
fn refused(finished: &Finished, words: &[&str]) {
    let told = words.iter().any(|word| finished.stderr.contains(word));
    assert!(!finished.status.success() && told, "{finished}");
}

#[test]
fn root_without_capabilities_is_nobody_special() {
    let Some(work) = setup("rights_bare") else { return };
    if !subject().is_butterfs() {
        return println!("this is about our mount");
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    let sub = mounted.join("sub");
    subject().create_subvolume(&sub);
    fs::write(mounted.join("secret"), "of another user").expect("write");
    fs::set_permissions(mounted.join("secret"), fs::Permissions::from_mode(0o600)).expect("chmod");
    chown(mounted.join("secret"), Some(NOBODY), None).expect("chown");
    let not_permitted = ["ermitted", "ermission"];
    refused(&as_bare_root(&format!("subvolume list {}", mnt.display())), &not_permitted);
    let delete = format!("subvolume delete -i 256 {}", mnt.display());
    refused(&as_bare_root(&delete), &not_permitted);
    refused(&as_bare_root(&format!("subvolume set-default {}", sub.display())), &not_permitted);
    let label = format!("property set {} label stolen", mnt.display());
    refused(&as_bare_root(&label), &not_permitted);
    refused(&as_bare_root(&format!("fstrim {}", mnt.display())), &not_permitted);
    refused(
        &as_bare_root(&format!("reflink {} {}", mounted.join("secret").display(), mounted.join("copy").display())),
        &not_permitted,
    );
    // What belongs to root it may change all the same.
    let snapshot = mounted.join("snapshot");
    as_bare_root(&format!("subvolume snapshot {} {}", sub.display(), snapshot.display())).ok();
    root(&format!("subvolume list {}", mnt.display())).ok();
    root(&format!("property set {} label own", mnt.display())).ok();
    assert!(sub.exists() && snapshot.exists());
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// A directory that cannot be changed is named as the reason.
#[test]
fn no_subvolume_is_made_below_an_immutable_directory() {
    let Some(work) = setup("rights_immutable") else { return };
    if !subject().is_butterfs() {
        return println!("this is about our words");
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    let dir = mounted.join("dir");
    fs::create_dir(&dir).expect("mkdir");
    run(Command::new("chattr").arg("+i").arg(&dir)).ok();
    let finished = root(&format!("subvolume create {}", dir.join("sub").display()));
    refused(&finished, &["chattr -i"]);
    assert!(!finished.stderr.contains("default"), "{finished}");
    run(Command::new("chattr").arg("-i").arg(&dir)).ok();
    root(&format!("subvolume create {}", dir.join("sub").display())).ok();
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// A snapshot's source is named by who has it open: a path that lets nobody through hides it.
#[test]
fn a_user_makes_snapshots_of_what_he_reaches_and_owns() {
    let Some(work) = setup("rights_snapshot") else { return };
    if !subject().is_butterfs() {
        return println!("this is about our mount");
    }
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    let (vault, public) = (mounted.join("vault"), mounted.join("public"));
    for dir in [&vault, &public] {
        fs::create_dir(dir).expect("mkdir");
    }
    fs::set_permissions(&public, fs::Permissions::from_mode(0o777)).expect("chmod");
    for sub in [vault.join("s"), public.join("s"), public.join("roots")] {
        subject().create_subvolume(&sub);
    }
    for sub in [vault.join("s"), public.join("s")] {
        chown(&sub, Some(NOBODY), Some(NOBODY)).expect("chown");
    }
    let snapshot = |from: &Path, to: &str| {
        as_nobody(&format!("subvolume snapshot {} {}", from.display(), public.join(to).display()))
    };
    fs::set_permissions(&vault, fs::Permissions::from_mode(0o700)).expect("chmod");
    refused(&snapshot(&vault.join("s"), "stolen"), &["ermission", "ermitted"]);
    refused(&snapshot(&public.join("roots"), "stolen"), &["ermission", "ermitted"]);
    snapshot(&public.join("s"), "own").ok();
    assert!(public.join("own").exists() && !public.join("stolen").exists());
    // A copy of what its owner may not write, as cp makes it.
    let source = public.join("s/read-only");
    fs::write(&source, vec![7; 100_000]).expect("write");
    chown(&source, Some(NOBODY), Some(NOBODY)).expect("chown");
    fs::set_permissions(&source, fs::Permissions::from_mode(0o444)).expect("chmod");
    as_nobody(&format!("reflink {} {}", source.display(), public.join("s/copy").display())).ok();
    assert_eq!(fs::read(public.join("s/copy")).expect("it reads"), vec![7; 100_000]);
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// One daemon serves two mounts, and hears of no difference.
#[test]
fn a_read_only_mount_beside_another_changes_nothing() {
    let Some(work) = setup("rights_read_only") else { return };
    if !subject().is_butterfs() {
        return println!("this is about our mount");
    }
    let (image, mnt, second) = (work.file("image"), work.dir("mnt"), work.dir("second"));
    subject().mkfs(&image, GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    subject().create_subvolume(&mounted.join("sub"));
    root(&format!("mount -o ro {} {}", image.display(), second.display())).ok();
    let read_only = ["ead-only"];
    refused(&root(&format!("subvolume create {}", second.join("new").display())), &read_only);
    refused(&root(&format!("subvolume delete {}", second.join("sub").display())), &read_only);
    let snapshot = format!("subvolume snapshot {} {}", second.join("sub").display(), second.join("new").display());
    refused(&root(&snapshot), &read_only);
    let label = format!("property set {} label new", second.display());
    refused(&root(&label), &read_only);
    root(&format!("umount {}", second.display())).ok();
    assert!(mounted.join("sub").exists() && !mounted.join("new").exists());
    mounted.unmount();
    oracle::assert_clean(&image);
}
