//! Benchmarks beside the kernel's btrfs, as root: `scripts/bench.sh`.
//!
//! Prints a table in Markdown. `growth` measures how costs grow with files and snapshots, and writes a plot. `null` serves the ceiling: the command starts itself so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use butterfs_fuse::session::{SessionOptions, Transport};
use butterfs_testkit::bench::growth::{self, Sizes};
use butterfs_testkit::bench::profile::Profiles;
use butterfs_testkit::bench::subject::{NullServer, Place, Subject};
use butterfs_testkit::bench::table::Results;
use butterfs_testkit::bench::{Bench, SCENARIOS, Scale, Scenario, null, source};

const USAGE: &str = "usage: bench [--rounds N] [--scale PERCENT] [--only SCENARIO,...] [--with btrfs,ceiling,ext4,xfs] \
                     [--dir DIRECTORY] [--transport device|uring] [--options MOUNT_OPTIONS] [--binary BUTTERFS] \
                     [--profile yes|no]\n       \
                     bench growth [--plot FILE.svg] [--files N,...] [--snapshots N,...] [--snapshot-files N] \
                     [--dir DIRECTORY] [--options MOUNT_OPTIONS] [--binary BUTTERFS]";

struct Arguments {
    rounds: usize,
    scale: u64,
    only: Vec<String>,
    with: Vec<String>,
    dir: PathBuf,
    transport: String,
    options: String,
    binary: PathBuf,
    profile: bool,
    sizes: Sizes,
    plot: Option<PathBuf>,
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
    let grow = words.first().is_some_and(|word| word == "growth");
    match parse(words.into_iter().skip(usize::from(grow))) {
        Ok(arguments) if grow => growth(&arguments),
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
        profile: false,
        sizes: Sizes {
            files: vec![10_000, 100_000, 1_000_000],
            snapshots: vec![10, 100, 1000],
            snapshot_files: 20_000,
        },
        plot: None,
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
            "--profile" => arguments.profile = value == "yes",
            "--plot" => arguments.plot = Some(value.into()),
            "--files" => arguments.sizes.files = numbers(&value)?,
            "--snapshots" => arguments.sizes.snapshots = numbers(&value)?,
            "--snapshot-files" => arguments.sizes.snapshot_files = number()? as usize,
            _ => return Err(format!("{word}: no such option")),
        }
    }
    Ok(arguments)
}

fn numbers(text: &str) -> Result<Vec<usize>, String> {
    list(text).iter().map(|word| word.parse().map_err(|_| format!("{word}: not a number"))).collect()
}

/// A directory that is gone at the end.
struct Work(PathBuf);

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn butterfs(arguments: &Arguments, base: &Path) -> Subject {
    Subject::Butterfs {
        binary: arguments.binary.clone(),
        options: format!("transport={},{}", arguments.transport, arguments.options),
        name: "butterfs",
        place: Place::below(base, "butterfs"),
    }
}

fn work_directory(arguments: &Arguments) -> Work {
    let base = arguments.dir.join(format!("butterfs-bench-{}", std::process::id()));
    std::fs::create_dir_all(&base).expect("a directory can be made");
    Work(base)
}

fn growth(arguments: &Arguments) {
    let work = work_directory(arguments);
    let (text, plot) = growth::run(&butterfs(arguments, &work.0), &arguments.sizes);
    println!("{text}");
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot).expect("the plot can be written");
    }
}

fn subjects(arguments: &Arguments, base: &Path) -> Vec<Subject> {
    let mut all = vec![butterfs(arguments, base)];
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
    let work = work_directory(arguments);
    let scale = Scale::percent(arguments.scale);
    let archive = work.0.join("tree.tar");
    let wanted = |scenario: &Scenario| arguments.only.is_empty() || arguments.only.iter().any(|n| n == scenario.name);
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().flat_map(|some| *some).filter(|one| wanted(one)).collect();
    if scenarios.iter().any(|scenario| ["tree", "zstd", "git", "mkfs"].contains(&scenario.name)) {
        source::write_archive(&archive, scale.tree).expect("the archive can be written");
    }
    let subjects = subjects(arguments, &work.0);
    let names: Vec<&'static str> = subjects.iter().map(Subject::name).collect();
    let profiles = arguments.profile.then(|| Profiles::new(&work.0));
    let mut results = Results::new(profiles);
    for scenario in scenarios {
        for round in 1..=arguments.rounds {
            eprintln!("== {}, round {round} of {}", scenario.name, arguments.rounds);
            for subject in &subjects {
                Bench::run(subject, scenario, scale, &archive, &mut results);
            }
        }
    }
    println!("{}", results.markdown(&names));
    results.profiles.iter().for_each(|profiles| println!("{}", profiles.markdown()));
}
