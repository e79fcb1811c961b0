//! A mount of a filesystem of many files.

use super::{Bench, Row, Scenario, library};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "mount", options: "", run: mount }];

static MOUNT: Row = Row { name: "mount of an image of a million files, and a stat", unit: "mounts", goal: 100 };

/// How many files there are for each that others have.
const TIMES: usize = 20;
/// How many mounts are measured together.
const MOUNTS: usize = 5;

fn mount(bench: &mut Bench<'_>) {
    if bench.is_null() {
        return;
    }
    bench.unmount();
    library::fill(bench.image(), bench.scale.files * TIMES);
    bench.measure_remounts(&MOUNT, MOUNTS, |dir| {
        rustix::fs::lstat(dir.join("d7/file-000007")).expect("the file is there");
    });
}
