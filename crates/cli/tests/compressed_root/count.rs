//! Compressed extents, counted.

use butterfs_testkit::oracle;
use std::path::Path;

/// How many extents of one compression there are in the top subvolume.
#[derive(Debug, Default)]
pub struct Compressed {
    pub inline: usize,
    pub from_start: usize,
    pub from_middle: usize,
}

impl Compressed {
    pub fn count(image: &Path, kind: &str) -> Self {
        let (mut counts, mut offset) = (Self::default(), "");
        let (dump, name) = (oracle::dump_tree(image, "5"), format!("({kind})"));
        for line in dump.lines() {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["inline", "extent", .., found] if *found == name => counts.inline += 1,
                ["extent", "data", "offset", at, ..] => offset = at,
                ["extent", "compression", .., found] if *found == name => {
                    *(if offset == "0" { &mut counts.from_start } else { &mut counts.from_middle }) += 1;
                }
                _ => {}
            }
        }
        counts
    }
}

/// Counts, and makes sure that the test proves something.
pub fn all_kinds(image: &Path, kind: &str) -> Compressed {
    let counts = Compressed::count(image, kind);
    println!("{kind}: {counts:?}");
    let least = counts.inline.min(counts.from_start).min(counts.from_middle);
    assert!(least > 20, "extents compressed with {kind}: {counts:?}");
    counts
}
