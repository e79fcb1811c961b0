//! What `check` cannot judge: one line that says why, exit status 8 (usage: 16), and not a byte written.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::mounter::{Mounter, create_sparse};
use butterfs_testkit::oracle;
use common::{MIB, kernel, setup};
use std::path::Path;
use std::process::Command;

const NOT_CHECKED: i32 = 8;
const USAGE: i32 = 16;
const INCOMPAT_FLAGS: usize = 0xbc;
const RAID_STRIPE_TREE: u64 = 1 << 14;

fn check(arguments: &[&str], image: &Path) -> Finished {
    run(Command::new(env!("CARGO_BIN_EXE_butterfs")).arg("check").args(arguments).arg(image))
}

#[track_caller]
fn assert_refused(finished: &Finished, status: i32, words: &[&str]) {
    let text = finished.stderr.to_lowercase();
    assert_eq!(finished.status.code(), Some(status), "{finished}");
    assert!(finished.stdout.is_empty(), "nothing on standard output is wanted: {finished}");
    assert!(words.iter().any(|word| text.contains(word)), "one of {words:?} is wanted: {finished}");
}

#[test]
fn a_mounted_image_is_not_checked() {
    let Some(work) = setup("check_mounted") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    let mounted = kernel().mount(&image, &mnt, "");
    assert_refused(&check(&[], &image), NOT_CHECKED, &["mounted"]);
    // As btrfs check, if that is insisted on.
    let forced = check(&["--force"], &image);
    assert!(forced.status.code() == Some(0) && forced.stderr.contains("mounted"), "{forced}");
    mounted.unmount();
    let ours = Mounter::subject(env!("CARGO_BIN_EXE_butterfs"));
    let mounted = ours.mount(&image, &mnt, "");
    assert_refused(&check(&["--format", "json"], &image), NOT_CHECKED, &["mounted", "in use"]);
    mounted.unmount();
    assert_eq!(check(&[], &image).ok().status.code(), Some(0));
}

#[test]
fn another_format_is_not_checked() {
    let Some(work) = setup("check_format") else { return };
    let text = work.file("text");
    std::fs::write(&text, "hello".repeat(100_000)).expect("write");
    let before = oracle::file_hash(&text);
    assert_refused(&check(&[], &text), NOT_CHECKED, &["btrfs", "superblock"]);
    assert_eq!(oracle::file_hash(&text), before);
    let empty = work.file("empty");
    create_sparse(&empty, 0);
    assert_refused(&check(&[], &empty), NOT_CHECKED, &["btrfs", "small", "short", "superblock"]);
    assert_refused(&check(&[], work.path()), NOT_CHECKED, &["directory", "neither"]);
    assert_refused(&check(&[], &work.file("nowhere")), NOT_CHECKED, &["no such file"]);
}

/// A feature that cannot be judged is named, and not called damage.
#[test]
fn a_feature_that_cannot_be_judged_is_named() {
    let Some(work) = setup("check_feature") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, 256 * MIB, &[]);
    oracle::set_superblock_bits(&image, INCOMPAT_FLAGS, RAID_STRIPE_TREE);
    assert_refused(&check(&[], &image), NOT_CHECKED, &["raid-stripe-tree"]);
}

/// What mkfs makes with emulated zones can be judged and read, not written.
#[test]
fn a_filesystem_with_zones_is_judged_and_read() {
    let Some(work) = setup("check_zones") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, 4096 * MIB, &["-O", "zoned"]);
    assert_eq!(check(&["--check-data-csum"], &image).ok().status.code(), Some(0));
    let ours = |arguments: &[&str]| run(Command::new(env!("CARGO_BIN_EXE_butterfs")).args(arguments).arg(&image));
    ours(&["ls", "-la"]).ok();
    let text = work.file("text");
    std::fs::write(&text, "text").expect("write");
    let mut copy = Command::new(env!("CARGO_BIN_EXE_butterfs"));
    copy.arg("cp").arg(&text).arg(format!("{}:/text", image.display()));
    let copied = run(&mut copy);
    assert!(!copied.status.success() && copied.stderr.contains("ZONED (reading only)"), "{copied}");
    oracle::assert_clean(&image);
}

#[test]
fn an_image_of_somebody_else_is_not_checked() {
    let Some(work) = setup("check_permission") else { return };
    let (image, program) = (work.file("image"), work.file("butterfs"));
    kernel().mkfs(&image, 256 * MIB, &[]);
    std::fs::copy(env!("CARGO_BIN_EXE_butterfs"), &program).expect("copy");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&image, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    std::fs::set_permissions(work.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("check").arg(&image);
    assert_refused(&run(&mut command), NOT_CHECKED, &["permission"]);
}

#[test]
fn wrong_usage_is_told() {
    let Some(work) = setup("check_usage") else { return };
    let image = work.file("image");
    kernel().mkfs(&image, 256 * MIB, &[]);
    for wrong in [&["--memory", "much"][..], &["--threads", "0"], &["--nonsense"]] {
        assert_refused(&check(wrong, &image), USAGE, &["invalid", "unexpected", "number"]);
    }
    check(&["--memory", "8M", "--threads", "1"], &image).ok();
}
