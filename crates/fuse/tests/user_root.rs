//! Mounting without root, through fusermount3, in a process that runs as `nobody`. Needs root
//! to become `nobody`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use butterfs_fuse::mount::{Busy, Mount, MountError, MountFlags, MountKind, MountOptions, MountSource, unmount};
use butterfs_fuse::session::SessionOptions;
use common::{MemoryFs, Mounted, need_root};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::Ordering;

/// Gives `nobody` a /dev/fuse as usual systems have it, in a mount namespace of its own, and
/// runs the program in the given directory.
const SCRIPT: &str = r#"
directory=$1; shift
mknod -m 666 "$directory/fuse" c 10 229
mount --bind "$directory/fuse" /dev/fuse
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$directory/test" "$@"
"#;

/// Runs an ignored test of this binary as `nobody`.
fn as_nobody(test: &str) {
    need_root();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec", SCRIPT, "sh"])
        .arg(directory.path())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{text}");
}

#[test]
fn a_user_can_mount() {
    as_nobody("child_mounts");
}

#[test]
fn a_user_gets_clear_errors() {
    as_nobody("child_gets_errors");
}

#[test]
#[ignore = "run by a_user_can_mount"]
fn child_mounts() {
    let source = MountSource::Named("memory, with comma".into());
    let options = MountOptions::for_user();
    let mut m = Mounted::with(MemoryFs::new(), source, &options, SessionOptions::default());
    assert_eq!(m.kind, MountKind::Fuse);
    let entry = m.entry().unwrap();
    assert_eq!(entry.kind, "fuse.butterfs");
    assert_eq!(entry.source, "memory, with comma");
    fs::write(m.file("f"), b"mine").unwrap();
    assert_eq!(fs::read(m.file("f")).unwrap(), b"mine");
    let file = fs::File::open(m.file("f")).unwrap();
    assert!(matches!(unmount(&m.path, Busy::Refuse), Err(MountError::Busy { .. })));
    drop(file);
    unmount(&m.path, Busy::Refuse).unwrap();
    m.join().unwrap();
    assert_eq!(m.fs.counters.destroy.load(Ordering::SeqCst), 1);
}

#[test]
#[ignore = "run by a_user_gets_clear_errors"]
fn child_gets_errors() {
    let source = MountSource::Named("memory".into());
    let target = std::path::Path::new("/usr");
    let error = Mount::new(&source, target, &MountOptions::for_user()).unwrap_err();
    assert!(matches!(error, MountError::NotPermitted { .. }), "{error:?}");
    let error = unmount(target, Busy::Refuse).unwrap_err();
    assert!(matches!(error, MountError::NotMounted { .. }), "{error:?}");
    let mut options = MountOptions::for_user();
    options.flags |= MountFlags::ALLOW_OTHER;
    let own = tempfile::tempdir().unwrap();
    let error = Mount::new(&source, own.path(), &options).unwrap_err();
    assert!(matches!(error, MountError::AllowOther), "{error:?}");
}
