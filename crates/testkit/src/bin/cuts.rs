//! Power cuts under programs that rely on fsync (SQLite, logs, files that are replaced), on a real mount; as root:
//! `just cuts 1000`.
//!
//! Prints counts for each program; exits with 1 if something that was promised was lost. `--writer kernel` lets the
//! kernel's btrfs write, and us read; `--kernel N` has N cuts of each program judged by `btrfs check` and the kernel too.
//! `work` runs one program: the command starts itself so.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use butterfs_testkit::crash::kernel::KernelJudge;
use butterfs_testkit::crash::states::Settings;
use butterfs_testkit::crash::tally::Tally;
use butterfs_testkit::cuts::run::{Format, Setup, Writer, record};
use butterfs_testkit::cuts::turns::Turns;
use butterfs_testkit::cuts::{Workload, all};

const USAGE: &str =
    "usage: cuts [--cuts N] [--turns N] [--seed S] [--jobs J] [--only TEXT] [--writer kernel] [--kernel N]";

struct Arguments {
    cuts: usize,
    turns: u64,
    seed: u64,
    jobs: usize,
    only: String,
    writer: Writer,
    kernel: usize,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [work, name, turns, seed, top] = words.as_slice()
        && work == "work"
        && let (Ok(turns), Ok(seed)) = (turns.parse(), seed.parse())
    {
        return work_here(name, turns, seed, Path::new(top));
    }
    match parse(words.into_iter()) {
        Ok(arguments) => run(&arguments),
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Runs a program in this process.
fn work_here(name: &str, turns: u64, seed: u64, top: &Path) -> ExitCode {
    match all(turns, seed).iter().find(|workload| workload.name() == name) {
        Some(workload) => {
            workload.work(top, &Turns::new(workload.lanes()));
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("{name}: no such program");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments =
        Arguments { cuts: 100, turns: 60, seed: 1, jobs, only: String::new(), writer: Writer::Butterfs, kernel: 0 };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match word.as_str() {
            "--cuts" => arguments.cuts = number(value()?)? as usize,
            "--turns" => arguments.turns = number(value()?)?,
            "--seed" => arguments.seed = number(value()?)?,
            "--jobs" => arguments.jobs = number(value()?)? as usize,
            "--only" => arguments.only = value()?,
            "--kernel" => arguments.kernel = number(value()?)? as usize,
            "--writer" => {
                arguments.writer = match value()?.as_str() {
                    "kernel" => Writer::Kernel,
                    "butterfs" => Writer::Butterfs,
                    other => return Err(format!("{other}: butterfs or kernel")),
                }
            }
            _ => return Err(format!("{word}: not known")),
        }
    }
    Ok(arguments)
}

fn run(arguments: &Arguments) -> ExitCode {
    let (start, mut all_of_them) = (Instant::now(), Tally::default());
    let judge = (arguments.kernel > 0).then(KernelJudge::default);
    println!("| program | turns | writes | flushes | cuts | torn | with a log | by the kernel | violations |");
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (number, workload) in all(arguments.turns, arguments.seed).iter().enumerate() {
        if workload.name().contains(&arguments.only) {
            let tally = one(number, &**workload, judge.as_ref(), arguments);
            all_of_them.add(&tally);
        }
    }
    println!("\nseed {}, {:.0} seconds", arguments.seed, start.elapsed().as_secs_f64());
    if all_of_them.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(number: usize, workload: &dyn Workload, kernel: Option<&KernelJudge>, arguments: &Arguments) -> Tally {
    let settings = Settings::new(arguments.seed, arguments.cuts);
    let format = Format::number(number + arguments.seed as usize);
    let command: PathBuf = std::env::current_exe().expect("a process knows its program");
    let Arguments { writer, turns, seed, .. } = *arguments;
    let setup = Setup { command: &command, turns, seed, writer, format, wrap: |device| device };
    let recorded = record(workload, setup, settings);
    let mut tally = recorded.judge(arguments.jobs);
    let sample =
        |kernel: &KernelJudge| kernel.sample(&recorded.plan, recorded.made, recorded.maker(), arguments.kernel);
    let (judged, others) = kernel.map(sample).unwrap_or_default();
    tally.violations.extend(others.into_iter().map(|(state, violation)| (state, violation.0)));
    for (state, why) in tally.violations.iter().take(5) {
        println!("VIOLATION {}, {format:?}: {state}\n  {}", workload.name(), why.replace('\n', "\n  "));
    }
    let Tally { writes, flushes, states, torn, with_log, violations, .. } = &tally;
    let (name, turns, bad) = (workload.name(), recorded.ledger.turns(), violations.len());
    println!("| {name} | {turns} | {writes} | {flushes} | {states} | {torn} | {with_log} | {judged} | {bad} |");
    tally
}
