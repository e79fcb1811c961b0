//! A source tree: unpacked, read, copied, removed; the same compressed; snapshots and clones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Bench, Row, Scenario, sync_filesystem};
use crate::command::run;
use crate::random::Random;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "tree", options: "", run: plain },
    Scenario { name: "zstd", options: "compress=zstd:3", run: compressed },
    Scenario { name: "clone", options: "", run: clone },
];

static UNTAR: Row = Row { name: "untar of a source tree, then sync", unit: "files", goal: 100 };
static READ: Row = Row { name: "the tree read back, cold", unit: "files", goal: 100 };
static COPY: Row = Row { name: "cp -a of the tree, then sync", unit: "files", goal: 100 };
static REMOVE: Row = Row { name: "rm -rf of the tree, then sync", unit: "files", goal: 120 };
static UNTAR_ZSTD: Row = Row { name: "untar with compress=zstd:3, then sync", unit: "files", goal: 100 };
static READ_ZSTD: Row = Row { name: "the compressed tree read back, cold", unit: "files", goal: 90 };
static CLONE: Row = Row { name: "cp of a 1 GiB file (shared extents), then fsync", unit: "copies", goal: 100 };
static OVERWRITE: Row = Row { name: "random overwrites of a shared file, then fsync", unit: "writes", goal: 150 };

fn untar(archive: &Path, dir: &Path) {
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(dir)).ok();
    sync_filesystem(dir);
}

/// Reads a tree as tar does. (With /dev/null as its archive it would not read.)
fn read(tree: &Path) {
    let mut tar = Command::new("tar");
    let mut child =
        tar.arg("-cf").arg("-").arg(tree).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("tar runs");
    let mut out = child.stdout.take().expect("its output is a pipe");
    std::io::copy(&mut out, &mut std::io::sink()).expect("the archive can be read");
    assert!(child.wait().expect("tar ends").success());
}

fn plain(bench: &mut Bench<'_>) {
    let (count, archive) = (bench.scale.tree as f64, bench.archive);
    bench.measure(&UNTAR, count, |dir| untar(archive, dir));
    bench.cold();
    bench.measure(&READ, count, |dir| read(&dir.join("tree")));
    bench.cold();
    bench.measure(&COPY, count, |dir| {
        run(Command::new("cp").arg("-a").arg("--reflink=never").arg(dir.join("tree")).arg(dir.join("copy"))).ok();
        sync_filesystem(dir);
    });
    bench.cold();
    bench.measure(&REMOVE, count, |dir| {
        run(Command::new("rm").arg("-rf").arg(dir.join("copy"))).ok();
        sync_filesystem(dir);
    });
}

fn compressed(bench: &mut Bench<'_>) {
    let (count, archive) = (bench.scale.tree as f64, bench.archive);
    bench.measure(&UNTAR_ZSTD, count, |dir| untar(archive, dir));
    bench.cold();
    bench.measure(&READ_ZSTD, count, |dir| read(&dir.join("tree")));
}

fn clone(bench: &mut Bench<'_>) {
    const PAGE: u64 = 4096;
    const WRITES: usize = 8192;
    if bench.is_null() {
        return;
    }
    let len = bench.scale.large / 2;
    let source = File::create(bench.path("source")).expect("the file can be made");
    let mut numbers = Random::new(5);
    let block: Vec<u8> = (0..1 << 17).flat_map(|_| numbers.bits().to_le_bytes()).collect();
    (0..len).step_by(block.len()).for_each(|at| source.write_all_at(&block, at).expect("a write succeeds"));
    bench.sync();
    bench.measure(&CLONE, 1.0, |dir| {
        run(Command::new("cp").arg("--reflink=auto").arg(dir.join("source")).arg(dir.join("copy"))).ok();
        File::open(dir.join("copy")).and_then(|copy| copy.sync_all()).expect("fsync succeeds");
    });
    bench.measure(&OVERWRITE, WRITES as f64, |dir| {
        let copy = File::options().write(true).open(dir.join("copy")).expect("the file opens");
        for _ in 0..WRITES {
            copy.write_all_at(&[9; PAGE as usize], numbers.below(len / PAGE) * PAGE).expect("a write succeeds");
        }
        copy.sync_all().expect("fsync succeeds");
    });
}
