//! mount(8), umount(8), fstab(5) and fsck(8) by their helpers' names, as the README has it.

mod common;

use butterfs_testkit::command::run;
use butterfs_testkit::oracle;
use common::{GIB, setup, subject};
use std::process::Command;

/// In mounts of its own, where `/sbin` has links to the program.
const WITH_HELPERS: &str = r#"
set -eux
dir=$1 butterfs=$2
mkdir "$dir/helpers"
for name in mount.butterfs mount.fuseblk.butterfs umount.fuseblk.butterfs fsck.butterfs; do
    ln -s "$butterfs" "$dir/helpers/$name"
done
mount -t overlay none -o "lowerdir=$dir/helpers:/usr/sbin" /usr/sbin

mount -t butterfs "$dir/image" "$dir/mnt" -o noatime,commit=7
findmnt -no OPTIONS "$dir/mnt" | grep -q noatime
echo by mount >"$dir/mnt/file"
umount "$dir/mnt"
if pgrep -f "$dir/image"; then exit 3; fi

echo "$dir/image $dir/mnt butterfs ro,nofail,x-systemd.automount 0 2" >"$dir/fstab"
fsck -T -a -t butterfs "$dir/image"
mount -T "$dir/fstab" -a
test "$(cat "$dir/mnt/file")" = "by mount"
if echo no >"$dir/mnt/other"; then exit 4; fi

# -i: without the helper. Then only the kernel's flag changes, and the daemon stands by what it was told.
mount -i -o remount,rw "$dir/mnt"
if echo no >"$dir/mnt/other"; then exit 5; fi
mount -o remount,rw,noatime "$dir/mnt"
echo yes >"$dir/mnt/other"
findmnt -no OPTIONS "$dir/mnt" | grep -q noatime
mount -o remount,ro "$dir/mnt"
if echo no >"$dir/mnt/more"; then exit 6; fi
test "$(cat "$dir/mnt/other")" = yes
umount "$dir/mnt"
"#;

#[test]
fn the_system_mounts_us_by_its_own_commands() {
    let Some(work) = setup("helpers") else { return };
    if !subject().is_butterfs() {
        println!("the kernel needs no helper");
        return;
    }
    subject().mkfs(&work.file("image"), GIB, &[]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_HELPERS, "sh"]).arg(work.path()).arg(env!("CARGO_BIN_EXE_butterfs"));
    run(&mut command).ok();
    oracle::assert_clean(&work.file("image"));
}
