//! Imports inside the engine run one way, as ARCHITECTURE.md draws them.

use std::path::{Path, PathBuf};

/// From the bottom up: a module may use those before it and beside it.
const LAYERS: [&[&str]; 9] = [
    &["error", "environment", "id", "cores"],
    &["tree"],
    &["space"],
    &["tx"],
    &["inode", "dir", "file"],
    &["subvolume"],
    &["log", "replay", "relocate", "scrub"],
    &["filesystem"],
    &["mkfs"],
];

fn rank(module: &str) -> usize {
    let place = LAYERS.iter().position(|layer| layer.contains(&module));
    place.unwrap_or_else(|| panic!("{module} has no place among the layers"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the sources are there") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The modules that a file names by `crate::`, tests at its end left out.
fn used(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
}

#[test]
fn imports_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = 0;
    let is_code = |file: &&PathBuf| !file.ends_with("lib.rs") && !file.to_string_lossy().ends_with("tests.rs");
    for file in files.iter().filter(is_code) {
        let own = file.strip_prefix(&root).expect("below src").with_extension("");
        let own = own.iter().next().and_then(|part| part.to_str()).expect("a module");
        let text = std::fs::read_to_string(file).expect("a source reads");
        for other in used(&text).filter(|name| name.starts_with(char::is_lowercase)) {
            seen += 1;
            assert!(rank(other) <= rank(own), "{}: {own} uses {other}, which lies above it", file.display());
        }
    }
    assert!(seen > 100, "only {seen} imports were seen");
}
