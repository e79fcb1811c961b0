//! `butterfs compat` without a mount: what it says when it cannot run a program.

use std::process::Command;

use butterfs_testkit::command::{Finished, run};

fn compat(library: &str, command: &[&str]) -> Finished {
    let mut all = Command::new(env!("CARGO_BIN_EXE_butterfs"));
    run(all.env("BUTTERFS_COMPAT_LIBRARY", library).args(["compat", "--"]).args(command))
}

#[test]
fn a_missing_library_is_told() {
    let finished = compat("/nowhere/libbutterfs_compat.so", &["true"]);
    assert_eq!(finished.status.code(), Some(2), "{finished}");
    assert!(finished.stderr.contains("BUTTERFS_COMPAT_LIBRARY must name"), "{finished}");
    assert_eq!(finished.stderr.lines().count(), 1, "{finished}");
}

#[test]
fn a_command_that_is_not_there_is_told_as_shells_do() {
    let finished = compat("/dev/null", &["no-such-command-at-all"]);
    assert_eq!(finished.status.code(), Some(127), "{finished}");
    assert!(finished.stderr.contains("no-such-command-at-all: no such command"), "{finished}");
    let finished = compat("/dev/null", &["/etc/passwd"]);
    assert_eq!(finished.status.code(), Some(126), "{finished}");
}
