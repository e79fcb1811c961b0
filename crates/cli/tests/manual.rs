//! The manual has a page for each command, with all that its `--help` has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use butterfs_testkit::workdir::WorkDir;

fn butterfs(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_butterfs")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The words of `--help`'s part with this title that begin its lines.
fn listed(help: &str, title: &str) -> BTreeSet<String> {
    let part = help.split_once(title).map_or("", |(_, rest)| rest);
    let lines = part.lines().skip(1).take_while(|line| line.is_empty() || line.starts_with(' '));
    let words = lines.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with("   "));
    words.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// What is printed of a page, its markup left out.
fn plain(page: &str) -> String {
    page.replace("\\-", "-").replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\&", "")
}

/// Compares the pages of a command, and of those below it, with their help; gives how many there are.
fn compare(work: &WorkDir, command: &[&str]) -> usize {
    let help = butterfs(&[command, &["--help"]].concat());
    let name = [&["butterfs"], command].concat().join("-");
    let page = plain(&fs::read_to_string(work.file("man").join(format!("{name}.8"))).unwrap());
    assert!(page.contains(".SH NAME\n") && page.contains(".SH SYNOPSIS\n"), "{name}: {page}");
    for option in listed(&help, "\nOptions:").iter().map(|option| option.trim_end_matches(',')) {
        assert!(page.contains(option), "{name} lacks {option}: {page}");
    }
    let below = listed(&help, "\nCommands:");
    let pages = below.iter().filter(|one| *one != "help");
    1 + pages.map(|one| compare(work, &[command, &[one.as_str()]].concat())).sum::<usize>()
}

#[test]
fn each_command_has_a_page() {
    let work = WorkDir::new("manual");
    butterfs(&["man", work.file("man").to_str().unwrap()]);
    let pages = compare(&work, &[]);
    assert_eq!(fs::read_dir(work.file("man")).unwrap().count(), pages);
    let mount = plain(&fs::read_to_string(work.file("man").join("butterfs-mount.8")).unwrap());
    assert!(mount.contains("\nsubvol=PATH\nshow this subvolume\n"), "{mount}");
    let ls = plain(&fs::read_to_string(work.file("man").join("butterfs-ls.8")).unwrap());
    assert!(ls.contains(".SH EXAMPLES\n.nf\n"), "{ls}");
}

#[test]
fn shells_complete_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let text = butterfs(&["completions", shell]);
        assert!(text.contains("subvolume") && text.contains("check-data-csum"), "{shell}");
    }
}
