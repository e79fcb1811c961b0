//! How long fsync takes on two mounted directories, in one run: `fsync_bench ROUNDS DIR...`.
//!
//! For each directory and pattern it prints microseconds per operation and fsync, the best of three.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

type Pattern = fn(&Path, usize) -> io::Result<()>;

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn create(path: &Path) -> io::Result<File> {
    let file = File::create(path)?;
    file.write_all_at(&[7; 4096], 0)?;
    Ok(file)
}

const PATTERNS: [(&str, Pattern); 5] = [
    ("append to a file", |dir, n| {
        let file = File::options().append(false).create(true).write(true).truncate(false).open(dir.join("log"))?;
        file.write_all_at(&[n as u8; 4096], n as u64 * 4096)?;
        file.sync_all()
    }),
    ("create in one directory", |dir, n| create(&dir.join(format!("f{n}")))?.sync_all()),
    ("create in a new directory", |dir, n| {
        let new = dir.join(format!("d{n}"));
        fs::create_dir(&new)?;
        create(&new.join("file"))?.sync_all()
    }),
    ("write, rename over, sync", |dir, n| {
        let draft = dir.join("draft");
        fs::write(&draft, [n as u8; 4096])?;
        fs::rename(&draft, dir.join("target"))?;
        sync(&dir.join("target"))
    }),
    ("create, sync the directory", |dir, n| {
        create(&dir.join(format!("g{n}")))?;
        sync(dir)
    }),
];

fn measure(root: &Path, pattern: Pattern, rounds: usize) -> io::Result<f64> {
    let mut best = f64::MAX;
    for attempt in 0..3 {
        let dir = root.join(format!("bench{attempt}"));
        fs::create_dir(&dir)?;
        sync(&dir)?;
        let begun = Instant::now();
        (0..rounds).try_for_each(|n| pattern(&dir, n))?;
        best = best.min(begun.elapsed().as_secs_f64() * 1e6 / rounds as f64);
        fs::remove_dir_all(&dir)?;
    }
    Ok(best)
}

fn main() -> io::Result<()> {
    let mut words = std::env::args().skip(1);
    let rounds = words.next().and_then(|text| text.parse().ok());
    let dirs: Vec<String> = words.collect();
    let (Some(rounds), false) = (rounds, dirs.is_empty()) else {
        eprintln!("usage: fsync_bench ROUNDS DIR...");
        std::process::exit(2);
    };
    println!("| pattern, microseconds each | {} |\n|---|{}", dirs.join(" | "), "--:|".repeat(dirs.len()));
    for (name, pattern) in PATTERNS {
        let times: io::Result<Vec<String>> =
            dirs.iter().map(|dir| Ok(format!("{:.0}", measure(Path::new(dir), pattern, rounds)?))).collect();
        println!("| {name} | {} |", times?.join(" | "));
    }
    Ok(())
}
