//! Tools on images, without a mount: a filesystem made with content, beside `mkfs.btrfs` and `mkfs.erofs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Bench, Row, Scenario};
use crate::command::run;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "mkfs", options: "", run: mkfs }];

static MKFS: Row = Row { name: "mkfs --rootdir of the tree, beside mkfs.btrfs", unit: "files", goal: 300 };
static EROFS: Row = Row { name: "the same beside mkfs.erofs", unit: "files", goal: 100 };

/// The source tree, unpacked once beside its archive.
fn unpacked(archive: &Path) -> PathBuf {
    let dir = archive.with_extension("unpacked");
    if !dir.exists() {
        std::fs::create_dir(&dir).expect("a directory can be made");
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&dir)).ok();
    }
    dir
}

fn mkfs(bench: &mut Bench<'_>) {
    bench.unmount();
    let (dir, count) = (unpacked(bench.archive), bench.scale.tree as f64);
    let (image, program) = (bench.image().to_path_buf(), bench.program().map(Path::to_path_buf));
    let fresh = || {
        let _ = std::fs::remove_file(&image);
    };
    fresh();
    match program {
        Some(ours) => {
            for row in [&MKFS, &EROFS] {
                fresh();
                bench.measure(row, count, |_| {
                    run(Command::new(&ours).args(["mkfs", "-q", "-f", "--rootdir"]).arg(&dir).arg(&image)).ok();
                });
            }
        }
        None if bench.is_null() => {}
        None => {
            bench.measure(&MKFS, count, |_| {
                run(Command::new("mkfs.btrfs").args(["-q", "-f", "--rootdir"]).arg(&dir).arg(&image)).ok();
            });
            fresh();
            bench.measure(&EROFS, count, |_| {
                run(Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&dir)).ok();
            });
        }
    }
}
