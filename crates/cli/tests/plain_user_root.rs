//! The main job as a plain user, through fusermount3. (The test itself needs root, to become one.)

mod common;

use butterfs_testkit::command::run;
use butterfs_testkit::oracle;
use common::{kernel, setup};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

const USER: &str = "butterfs-test1";

/// In mounts of its own, where `/dev/fuse` is open to all, as a desktop has it.
const AS_USER: &str = r#"
set -eu
dir=$1 butterfs=$2 user=$3
mkdir "$dir/dev"
mount -t tmpfs none "$dir/dev"
mknod "$dir/dev/fuse" c 10 229
chmod 666 "$dir/dev/fuse"
mount --bind "$dir/dev/fuse" /dev/fuse
exec setpriv --reuid="$user" --regid="$user" --clear-groups sh -euc '
    cd "$1"
    "$2" mkfs -q --size 300M image
    "$2" mount image mnt
    trap "fusermount3 -u mnt 2>/dev/null || :" EXIT
    mkdir mnt/dir
    seq 100000 >mnt/dir/numbers
    ln -s numbers mnt/dir/link
    "$2" subvolume create mnt/sub
    cp mnt/dir/link mnt/sub/copy
    "$2" subvolume snapshot -r mnt/sub mnt/before
    rm mnt/sub/copy
    if chown 0 mnt/dir 2>/dev/null; then exit 3; fi
    "$2" subvolume create mnt/open
    chmod 555 mnt/open
    if "$2" subvolume create mnt/open/no 2>/dev/null; then exit 4; fi
    "$2" umount mnt
    "$2" check --check-data-csum image
' sh "$dir" "$butterfs"
"#;

#[test]
fn a_plain_user_makes_mounts_and_writes() {
    let Some(work) = setup("plain_user") else { return };
    if !common::subject().is_butterfs() {
        println!("the kernel lets no plain user mount an image");
        return;
    }
    let mnt = work.dir("mnt");
    let owner = run(Command::new("id").args(["-u", USER])).ok().stdout.trim().parse().expect("a number");
    std::fs::set_permissions(work.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    for dir in [work.path(), &mnt] {
        chown(dir, Some(owner), None).expect("chown");
    }
    // The program, where the user can reach it.
    let program = work.file("butterfs");
    std::fs::copy(env!("CARGO_BIN_EXE_butterfs"), &program).expect("copy");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", AS_USER, "sh"]).arg(work.path()).arg(&program).arg(USER);
    run(&mut command).ok();

    let image = work.file("image");
    oracle::assert_clean(&image);
    let mounted = kernel().mount(&image, &mnt, "noatime");
    let numbers = std::fs::read_to_string(mounted.join("before/copy")).expect("reads");
    assert_eq!(numbers.lines().count(), 100_000);
    assert_eq!(std::fs::read_to_string(mounted.join("dir/numbers")).expect("reads"), numbers);
    assert!(!mounted.join("sub/copy").exists());
    let meta = std::fs::metadata(mounted.path()).expect("stat");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), owner, "the top directory's owner");
    mounted.unmount();
}
