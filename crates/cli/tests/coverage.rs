//! docs/coverage.md names tests that exist, and tests of fstests that are expected to pass.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Adds the names of functions, and what macros make functions of, by the file's name; a `main.rs` or `mod.rs` is known by
/// its directory's, too.
fn collect(dir: &Path, found: &mut BTreeMap<String, BTreeSet<String>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let above = path.parent().and_then(Path::file_name).unwrap().to_str().unwrap();
            for file in [Some(stem), ["main", "mod"].contains(&stem).then_some(above)].into_iter().flatten() {
                found.entry(file.to_owned()).or_default().extend(functions(&text));
            }
        }
    }
}

fn functions(text: &str) -> impl Iterator<Item = String> {
    let is_name = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text.lines().filter_map(move |line| {
        let line = line.trim_start();
        let name = line.strip_prefix("fn ").map_or_else(|| line.split_once(':'), |rest| rest.split_once('('))?.0;
        is_name(name).then(|| name.to_owned())
    })
}

/// The words in backticks of a page.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_is_named_exists() {
    let page = std::fs::read_to_string(repository().join("docs/coverage.md")).unwrap();
    let table = page.split_once("\n## ").unwrap().1;
    let mut known = BTreeMap::new();
    collect(&repository().join("crates"), &mut known);
    let named: Vec<(&str, &str)> = quoted(table).filter_map(|word| word.split_once("::")).collect();
    let missing: Vec<_> =
        named.iter().filter(|(file, test)| !known.get(*file).is_some_and(|tests| tests.contains(*test))).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
    assert!(named.len() > 150, "only {} tests are named", named.len());
}

#[test]
fn every_test_of_fstests_that_is_named_passes() {
    let read = |name: &str| std::fs::read_to_string(repository().join("docs").join(name)).unwrap();
    let lists = [read("fstests-expected.txt"), read("fstests-compat-expected.txt")].concat();
    let pass: BTreeSet<&str> = lists.lines().filter_map(|line| line.strip_suffix(" pass")).collect();
    let page = read("coverage.md");
    let table = page.split_once("\n## ").unwrap().1;
    let of_suite = |word: &&str| word.starts_with("generic/") || word.starts_with("btrfs/");
    let missing: Vec<_> = quoted(table).filter(of_suite).filter(|test| !pass.contains(test)).collect();
    assert!(missing.is_empty(), "not expected to pass: {missing:?}");
}
