//! A script that has the same to say on the kernel's mount and on ours.

#![allow(dead_code, missing_docs)]

use butterfs_testkit::command::run;
use butterfs_testkit::mounter::Mounter;
use butterfs_testkit::oracle;
use std::fs;
use std::process::Command;

use super::{MIB, kernel, setup, subject};

/// Runs a command and says whether it worked, or else the system's word for why not.
const TRY: &str = r#"
set -u
words='Operation not permitted|Permission denied|Operation not supported|Invalid argument|File exists'
words="$words|No such file or directory|No space left on device|Argument list too long|Numerical result out of range"
words="$words|Too many links|No data available|No such attribute"
try() {
    if "$@" >/dev/null 2>../err; then echo "done: $*"; return; fi
    word=$(grep -oE "$words" ../err | tail -1)
    echo "refused: $*: ${word:-$(cat ../err)}"
}
letters() { lsattr -d "$1" 2>&1 | cut -d' ' -f1; }
sys() { perl -e '
    my ($call, @args) = @ARGV; $! = 0;
    my $ok = $call eq "rename" ? syscall(316, -100, $args[0], -100, $args[1], $args[2] + 0) == 0 : 0;
    print $ok ? "done" : "refused: $!", "\n"' "$@"; }
"#;

/// Who judges the filesystem in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    Progs,
    /// `btrfs check` takes minutes for an inode with many names.
    Ours,
}

/// Makes a filesystem, runs the script on the kernel's mount and on ours, and compares what they said.
pub fn same_on_both(test: &str, mkfs: &[&str], script: &str) {
    same_by(Judge::Progs, test, mkfs, "", script);
}

/// The same with these options of the mounts.
pub fn same_with(test: &str, options: &str, script: &str) {
    same_by(Judge::Progs, test, &[], options, script);
}

pub fn same_by(judge: Judge, test: &str, mkfs: &[&str], more: &str, script: &str) {
    let Some(work) = setup(test) else { return };
    let said = [("kernel", kernel()), ("subject", subject())].map(|(name, mounter)| {
        let (image, mnt) = (work.file(name), work.dir("mnt"));
        kernel().mkfs(&image, 512 * MIB, mkfs);
        let mounted = mounter.mount(&image, &mnt, &options(&mounter, more));
        let dir = mnt.join("work");
        fs::create_dir(&dir).expect("mkdir");
        let finished =
            run(Command::new("bash").arg("-c").arg(format!("{TRY}{script}")).current_dir(&dir).env("LC_ALL", "C")).ok();
        mounted.unmount();
        match judge {
            Judge::Progs => oracle::assert_clean(&image),
            Judge::Ours => drop(subject().command(&["check".as_ref(), image.as_os_str()]).ok()),
        }
        finished.stdout
    });
    let differs = said[0].lines().zip(said[1].lines()).filter(|(theirs, ours)| theirs != ours);
    let first: Vec<_> = differs.take(12).map(|(theirs, ours)| format!("kernel  {theirs}\nsubject {ours}")).collect();
    assert!(first.is_empty(), "{}", first.join("\n"));
    assert_eq!(said[0], said[1]);
    assert!(said[0].lines().count() > 3, "the script said little: {}", said[0]);
}

fn options(mounter: &Mounter, more: &str) -> String {
    let usual = if mounter.is_butterfs() { "suid,dev,allow_other" } else { "" };
    [usual, more].iter().filter(|list| !list.is_empty()).copied().collect::<Vec<_>>().join(",")
}
