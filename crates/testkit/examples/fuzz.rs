//! Fuzzes for a while: `fuzz [--seconds N] [--kind KIND] [--seed S]`; `fuzz --make-bases` makes the base images
//! anew; `fuzz --run FILE` runs one input.
//!
//! Each kind runs in a process of its own, in turn. Inputs that fail are written to `corpus/found`, one for each
//! way to fail; inputs that did something new are written to `corpus/kept`. When an input ends the process, the
//! campaign goes on with the next seed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use butterfs_testkit::fuzz::guard::{Guard, left_behind};
use butterfs_testkit::fuzz::{Campaign, Corpus, Input, Kind};

/// Before the file of an input that failed, on a line of a worker.
const FOUND: &str = "kept: ";

#[derive(Debug)]
struct Arguments {
    seconds: u64,
    seed: u64,
    kinds: Vec<Kind>,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--make-bases"] => {
            Corpus::default().make_bases();
            ExitCode::SUCCESS
        }
        ["--run", file] => run(Path::new(file)),
        ["--worker", kind, seconds, seed, current] => {
            let parsed = (kind.parse(), seconds.parse(), seed.parse());
            let (Ok(kind), Ok(seconds), Ok(seed)) = parsed else { return usage() };
            worker(kind, Duration::from_secs(seconds), seed, current.into())
        }
        _ => parse(&words).map_or_else(usage, |arguments| supervise(&arguments)),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: fuzz [--seconds N] [--kind KIND] [--seed S] | --make-bases | --run FILE");
    ExitCode::from(2)
}

fn parse(words: &[String]) -> Option<Arguments> {
    let mut arguments = Arguments { seconds: 60, seed: 1, kinds: Kind::ALL.to_vec() };
    for pair in words.chunks(2) {
        let [option, value] = pair else { return None };
        match option.as_str() {
            "--seconds" => arguments.seconds = value.parse().ok()?,
            "--seed" => arguments.seed = value.parse().ok()?,
            "--kind" => arguments.kinds = vec![value.parse().ok()?],
            _ => return None,
        }
    }
    Some(arguments)
}

fn run(file: &Path) -> ExitCode {
    let text = std::fs::read_to_string(file).expect("the input reads");
    let input: Input = text.parse().expect("the input is one");
    match Guard::default().run(&input, &Corpus::default().bases()) {
        Ok(words) => {
            words.iter().for_each(|word| println!("{word}"));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Each kind gets its share of the time; images, which are slow and go deepest, as much as all others together.
fn supervise(arguments: &Arguments) -> ExitCode {
    let weight = |kind: Kind| if kind == Kind::Image { Kind::ALL.len() as u64 - 1 } else { 1 };
    let total: u64 = arguments.kinds.iter().map(|kind| weight(*kind)).sum();
    let mut found = Vec::new();
    for kind in &arguments.kinds {
        let share = Duration::from_secs((arguments.seconds * weight(*kind)).div_ceil(total));
        campaign(*kind, share, arguments.seed, &mut found);
    }
    found.iter().for_each(|path: &PathBuf| println!("found: {}", path.display()));
    if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn campaign(kind: Kind, share: Duration, mut seed: u64, found: &mut Vec<PathBuf>) {
    let end = Instant::now() + share;
    let current = std::env::temp_dir().join(format!("butterfs-fuzz-{}-{}", std::process::id(), kind.name()));
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| left.as_secs() > 0) {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["--worker", kind.name(), &left.as_secs().to_string(), &seed.to_string()]).arg(&current);
        let output = command.output().expect("a worker starts");
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        found.extend(text.lines().filter_map(|line| line.strip_prefix(FOUND)).map(PathBuf::from));
        if output.status.success() {
            break;
        }
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        // A signal: the input is to blame, and not this program.
        let input = left_behind(&current).filter(|_| output.status.code().is_none());
        let Some(input) = input else { panic!("a worker ended: {}", output.status) };
        found.push(Corpus::default().add_found(&input, &format!("process ended: {}", output.status)));
        seed += 1;
    }
    let _ = std::fs::remove_file(current);
}

fn worker(kind: Kind, time: Duration, seed: u64, current: PathBuf) -> ExitCode {
    let (corpus, end) = (Corpus::default(), Instant::now() + time);
    let bases = corpus.bases();
    let mut campaign = Campaign::new(kind, &corpus, &bases, seed, Guard::new(Some(current)));
    while Instant::now() < end {
        campaign.round();
    }
    corpus.set_kept(kind, &campaign.inputs);
    for (input, failure) in &campaign.failed {
        println!("{failure}\n{FOUND}{}", corpus.add_found(input, failure).display());
    }
    let (rounds, seen, kept) = (campaign.rounds, campaign.seen(), campaign.inputs.len());
    println!("{}: {rounds} inputs, {seen} different messages, {kept} inputs kept", kind.name());
    campaign.finish();
    ExitCode::SUCCESS
}
