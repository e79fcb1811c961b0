//! What a test could not do: said aloud and counted, never passed over.

use std::io::Write;

/// Says that this test does not run here, and why; the test then returns.
///
/// `scripts/test.sh` names a file in `BUTTERFS_SKIPS` and counts its lines; with `CI` set, a skip is a failure at once.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}");
    println!("{line}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("BUTTERFS_SKIPS")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
    assert!(std::env::var_os("CI").is_none_or(|value| value.is_empty()), "CI allows no skip: {line}");
}

/// True if this process may mount; otherwise the skip of `test` is reported.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "it mounts filesystems and needs root");
    }
    root
}

/// `number` scaled by `BUTTERFS_TEST_SCALE` (percent, 100 when unset), at least 1.
pub fn scaled(number: usize) -> usize {
    let percent = std::env::var("BUTTERFS_TEST_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    (number * percent / 100).max(1)
}
