//! docs/coverage.md names tests that exist, and tests of fstests that are expected to pass.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Adds the names of tests by the file's name; a `main.rs` or `mod.rs` is known by its directory's, too.
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
                found.entry(file.to_owned()).or_default().extend(tests(&text));
            }
        }
    }
}

/// Functions that are tests which always run, and what macros make such functions of.
fn tests(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut makers = BTreeSet::new();
    let (mut attributes, mut within) = (Attributes::default(), Within::Code);
    for line in text.lines() {
        let trimmed = line.trim_start();
        match &within {
            Within::Macro(_) | Within::Cases if line == "}" => within = Within::Code,
            Within::Cases => found.extend(names_of_cases(trimmed)),
            Within::Code if line.starts_with("macro_rules! ") => {
                within = Within::Macro(word_after(line, "macro_rules! "))
            }
            Within::Code if makers.iter().any(|maker| line == format!("{maker}! {{")) => within = Within::Cases,
            Within::Code | Within::Macro(_) => {
                if attributes.take(trimmed) {
                    continue;
                }
                let is_test = std::mem::take(&mut attributes).is_test_that_runs();
                match (&within, trimmed.strip_prefix("fn ").and_then(|rest| rest.split_once('('))) {
                    (Within::Macro(maker), Some(_)) if is_test => drop(makers.insert(maker.clone())),
                    (Within::Code, Some((name, _))) if is_test => drop(found.insert(name.to_owned())),
                    _ => {}
                }
            }
        }
    }
    found
}

/// Where a line is.
enum Within {
    Code,
    /// In the macro with this name.
    Macro(String),
    /// In the braces behind a macro that makes tests.
    Cases,
}

/// What stands in front of a function.
#[derive(Default)]
struct Attributes {
    test: bool,
    ignored: bool,
}

impl Attributes {
    /// Whether a line is one of them, or a comment between them.
    fn take(&mut self, line: &str) -> bool {
        self.test |= line == "#[test]";
        self.ignored |= line.starts_with("#[ignore");
        line.starts_with("#[") || line.starts_with("//")
    }

    fn is_test_that_runs(&self) -> bool {
        self.test && !self.ignored
    }
}

fn word_after(line: &str, before: &str) -> String {
    line[before.len()..].split(' ').next().unwrap_or_default().to_owned()
}

/// `a: ...` and `a, b: ...`.
fn names_of_cases(line: &str) -> impl Iterator<Item = String> {
    let is_name = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let names = line.split_once(':').map_or("", |(names, _)| names);
    names.split(", ").filter(move |word| is_name(word)).map(str::to_owned)
}

#[test]
fn only_tests_that_run_count() {
    let text = "
#[test]
fn one() {}
/// Text.
#[cfg(unix)]
#[test]
// More.
fn two() {}
#[test]
#[ignore = \"long\"]
fn ignored() {}
fn helper() {
    let case: u8 = 1;
}
macro_rules! cases {
    ($($name:ident: $seed:literal;)*) => {$(
        #[test]
        fn $name() {
            run($seed);
        }
    )*};
}
macro_rules! helpers {
    ($($name:ident: $seed:literal;)*) => {$(
        fn $name() {}
    )*};
}
cases! {
    three: 3;
    four, five: 4;
}
helpers! {
    no_test: 1;
}
    #[test]
    fn six() {}
";
    let expected = ["one", "two", "three", "four", "five", "six"].map(str::to_owned);
    assert_eq!(tests(text), BTreeSet::from(expected));
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
