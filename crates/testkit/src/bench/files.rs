//! Many small files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Bench, Row, Scenario, sync_filesystem};
use crate::command::run_program;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "files", options: "", run: small_files },
    Scenario { name: "directory", options: "", run: directory },
    Scenario { name: "rename", options: "", run: rename },
];

/// How many directories files are spread over.
pub(super) const DIRECTORIES: usize = 50;

static CREATE: Row = Row { name: "create files of 4 KiB in 50 directories, then sync", unit: "files", goal: 100 };
static STAT: Row = Row { name: "stat of files, cold", unit: "files", goal: 60 };
static FIND: Row = Row { name: "find with stat, cold", unit: "files", goal: 120 };
static READ: Row = Row { name: "read of files of 4 KiB, cold", unit: "files", goal: 100 };
static UNLINK: Row = Row { name: "unlink of files, cold, then sync", unit: "files", goal: 150 };
static READDIR: Row = Row { name: "readdir of one directory, cold", unit: "entries", goal: 70 };
static RENAME: Row = Row { name: "rename of files, then sync", unit: "files", goal: 120 };

fn name(number: usize) -> String {
    format!("d{}/file-{number:06}", number % DIRECTORIES)
}

/// Makes files in 50 directories; empty ones if they are to have no bytes.
pub(super) fn create(dir: &Path, count: usize, bytes: usize) {
    let content = vec![7; bytes];
    for number in 0..DIRECTORIES {
        fs::create_dir(dir.join(format!("d{number}"))).expect("a directory can be made");
    }
    for number in 0..count {
        fs::write(dir.join(name(number)), &content).expect("a file can be written");
    }
    sync_filesystem(dir);
}

/// Looks at everything below a directory; gives how many files there are.
pub(super) fn walk(dir: &Path) -> usize {
    let below = |entry: fs::DirEntry| {
        let stat = rustix::fs::lstat(entry.path()).expect("the file is there");
        if stat.st_mode & 0o170_000 == 0o040_000 { walk(&entry.path()) } else { 1 }
    };
    fs::read_dir(dir).expect("the directory can be read").map(|entry| below(entry.expect("an entry can be read"))).sum()
}

fn small_files(bench: &mut Bench<'_>) {
    let count = bench.scale.files;
    let units = count as f64;
    let each = |dir: &Path, work: &dyn Fn(&Path)| (0..count).for_each(|number| work(&dir.join(name(number))));
    bench.measure(&CREATE, units, |dir| create(dir, count, 4096));
    bench.cold();
    bench.measure(&STAT, units, |dir| {
        // As stat(1) and find(1) do: without the birth time.
        each(dir, &|path| assert_eq!(rustix::fs::lstat(path).expect("the file is there").st_size, 4096));
    });
    bench.cold();
    bench.measure(&FIND, units, |dir| {
        run_program(
            "find",
            &[dir.as_os_str(), "-newermt".as_ref(), "2000-01-01".as_ref(), "-size".as_ref(), "+1M".as_ref()],
        )
        .ok();
    });
    bench.cold();
    bench.measure(&READ, units, |dir| {
        each(dir, &|path| assert_eq!(fs::read(path).expect("the file can be read").len(), 4096));
    });
    bench.cold();
    bench.measure(&UNLINK, units, |dir| {
        each(dir, &|path| fs::remove_file(path).expect("the file can be removed"));
        sync_filesystem(dir);
    });
}

fn directory(bench: &mut Bench<'_>) {
    let count = bench.scale.files;
    let top = bench.path("directory");
    fs::create_dir(&top).expect("a directory can be made");
    for number in 0..count {
        fs::File::create(top.join(format!("file-{number:06}"))).expect("a file can be made");
    }
    bench.cold();
    bench.measure(&READDIR, count as f64, |dir| {
        let found = fs::read_dir(dir.join("directory")).expect("the directory can be read").count();
        assert_eq!(found, count);
    });
}

fn rename(bench: &mut Bench<'_>) {
    let count = bench.scale.files * 2;
    create(&bench.path(""), count, 0);
    let inode = fs::metadata(bench.path(&name(0))).expect("the file is there").ino();
    bench.measure(&RENAME, count as f64, |dir| {
        for number in 0..count {
            let old = dir.join(name(number));
            fs::rename(&old, old.with_extension("new")).expect("a file can be renamed");
        }
        sync_filesystem(dir);
    });
    let moved = fs::metadata(bench.path(&name(0)).with_extension("new")).expect("the file is there").ino();
    assert_eq!(inode, moved);
}
