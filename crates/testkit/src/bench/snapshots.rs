//! Snapshots: made, and deleted until their space is free.

use std::process::Command;

use super::{Bench, Row, Scenario, files};
use crate::command::run;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "snapshot", options: "", run: snapshots }];

static MAKE: Row = Row { name: "snapshot of a subvolume of files", unit: "snapshots", goal: 100 };
static DELETE: Row = Row { name: "deleting a subvolume of files until its space is free", unit: "files", goal: 200 };

/// How many snapshots are made in a row.
const SNAPSHOTS: usize = 10;

fn snapshots(bench: &mut Bench<'_>) {
    if bench.is_null() {
        return;
    }
    let count = bench.scale.files;
    let program = bench.program().map_or("btrfs".into(), |ours| ours.as_os_str().to_os_string());
    let subvolume = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("subvolume").args(words);
        command
    };
    let live = bench.path("live");
    run(subvolume(&["create"]).arg(&live)).ok();
    files::create(&live, count, 4096);
    bench.measure(&MAKE, SNAPSHOTS as f64, |dir| {
        for number in 0..SNAPSHOTS {
            run(subvolume(&["snapshot"]).arg(&live).arg(dir.join(format!("snapshot{number}")))).ok();
        }
    });
    for number in 0..SNAPSHOTS {
        run(subvolume(&["delete"]).arg(bench.path(&format!("snapshot{number}")))).ok();
    }
    run(subvolume(&["sync", "-s", "1"]).arg(bench.path(""))).ok();
    bench.cold();
    bench.measure(&DELETE, count as f64, |dir| {
        run(subvolume(&["delete", "-c"]).arg(dir.join("live"))).ok();
        while run(subvolume(&["list", "-d"]).arg(dir)).ok().stdout.contains("DELETED") {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        super::sync_filesystem(dir);
    });
}
