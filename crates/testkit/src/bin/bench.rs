//! Benchmarks beside the kernel's btrfs, as root: `scripts/bench.sh`.
//!
//! Prints a table in Markdown. `null` serves the ceiling: the command starts itself so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use butterfs_fuse::session::{SessionOptions, Transport};
use butterfs_testkit::bench::subject::{NullServer, Place, Subject};
use butterfs_testkit::bench::table::Results;
use butterfs_testkit::bench::{Bench, SCENARIOS, Scale, Scenario, null, source};

const USAGE: &str = "usage: bench [--rounds N] [--scale PERCENT] [--only SCENARIO,...] [--with btrfs,ceiling,ext4,xfs] \
                     [--dir DIRECTORY] [--transport device|uring] [--options MOUNT_OPTIONS] [--binary BUTTERFS]";

struct Arguments {
    rounds: usize,
    scale: u64,
    only: Vec<String>,
    with: Vec<String>,
    dir: PathBuf,
    transport: String,
    options: String,
    binary: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, dir, how] = words.as_slice()
        && serve == "null"
    {
        let transport = if how == "uring" { Transport::Uring } else { Transport::Device };
        null::serve(Path::new(dir), &SessionOptions { transport, ..SessionOptions::default() });
        return ExitCode::SUCCESS;
    }
    match parse(words.into_iter()) {
        Ok(arguments) => run(&arguments),
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        rounds: 5,
        scale: 100,
        only: Vec::new(),
        with: list("btrfs,ceiling"),
        dir: PathBuf::from("/dev/shm"),
        transport: "device".into(),
        options: String::new(),
        binary: PathBuf::from("target/release/butterfs"),
    };
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--rounds" => arguments.rounds = number()? as usize,
            "--scale" => arguments.scale = number()?,
            "--only" => arguments.only = list(&value),
            "--with" => arguments.with = list(&value),
            "--dir" => arguments.dir = value.into(),
            "--transport" => arguments.transport = value,
            "--options" => arguments.options = value,
            "--binary" => arguments.binary = value.into(),
            _ => return Err(format!("{word}: no such option")),
        }
    }
    Ok(arguments)
}

/// A directory that is gone at the end.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn subjects(arguments: &Arguments, base: &Path) -> Vec<Subject> {
    let butterfs = Subject::Butterfs {
        binary: arguments.binary.clone(),
        options: format!("transport={},{}", arguments.transport, arguments.options),
        name: "butterfs",
        place: Place::below(base, "butterfs"),
    };
    let mut all = vec![butterfs];
    for name in &arguments.with {
        let place = Place::below(base, name);
        all.push(match name.as_str() {
            "btrfs" => Subject::Kernel { kind: "btrfs", place },
            "ext4" => Subject::Kernel { kind: "ext4", place },
            "xfs" => Subject::Kernel { kind: "xfs", place },
            "ceiling" => {
                let server = Arc::new(Mutex::new(NullServer::start(&place.dir, &arguments.transport)));
                Subject::Null { server, place }
            }
            _ => panic!("{name}: nothing to compare with; known are btrfs, ceiling, ext4, xfs"),
        });
    }
    all
}

fn run(arguments: &Arguments) {
    let base = arguments.dir.join(format!("butterfs-bench-{}", std::process::id()));
    std::fs::create_dir_all(&base).expect("a directory can be made");
    let work = Work(base);
    let scale = Scale::percent(arguments.scale);
    let archive = work.0.join("tree.tar");
    let wanted = |scenario: &Scenario| arguments.only.is_empty() || arguments.only.iter().any(|n| n == scenario.name);
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().flat_map(|some| *some).filter(|one| wanted(one)).collect();
    if scenarios.iter().any(|scenario| ["tree", "zstd", "git", "mkfs"].contains(&scenario.name)) {
        source::write_archive(&archive, scale.tree).expect("the archive can be written");
    }
    let subjects = subjects(arguments, &work.0);
    let names: Vec<&'static str> = subjects.iter().map(Subject::name).collect();
    let mut results = Results::default();
    for scenario in scenarios {
        for round in 1..=arguments.rounds {
            eprintln!("== {}, round {round} of {}", scenario.name, arguments.rounds);
            for subject in &subjects {
                Bench::run(subject, scenario, scale, &archive, &mut results);
            }
        }
    }
    println!("{}", results.markdown(&names));
}
