//! Power cuts, as many as you like: `cargo run --release -p butterfs-testkit --example crash -- --states 100000 --seed 1`.
//!
//! Prints counts for each workload; exits with 1 if a state was not as it must be. A violation names its workload, its
//! seed, how many states that workload had, and its number: `--only NAME --seed S --of STATES --state N` builds that
//! state again, tells what was done up to the cut, and `--save FILE` keeps it as an image. `--kernel N` has N states of
//! each workload judged by `btrfs check` and the kernel too (as root).

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use butterfs_testkit::crash::campaign::{Campaign, Tally, by_name, campaigns};
use butterfs_testkit::crash::cut::Cut;
use butterfs_testkit::crash::kernel::KernelJudge;
use butterfs_testkit::crash::recording::Event;
use butterfs_testkit::crash::states::{Settings, SuperblockTear};
use butterfs_testkit::crash::tools::{Tool, tools};
use butterfs_testkit::crash::workload::OnError;

const USAGE: &str = "usage: crash [--states N] [--seed S] [--jobs J] [--torn-superblocks] [--kernel N] \
                     [--only NAME [--of STATES --state N [--save FILE]]]";

/// What is cut: operations on the engine, or a tool.
#[derive(Clone, Copy)]
enum Work {
    Operations(Campaign),
    Tool(Tool, Settings),
}

impl Work {
    fn all(arguments: &Arguments) -> Vec<Self> {
        let (seed, states) = (arguments.seed, arguments.states);
        let operations = campaigns(seed, states, arguments.superblocks).into_iter().map(Self::Operations);
        operations.chain(tools(seed, states).map(|(tool, settings)| Self::Tool(tool, settings))).collect()
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Operations(campaign) => campaign.script.name,
            Self::Tool(tool, _) => tool.name,
        }
    }

    fn settings(&self) -> Settings {
        match self {
            Self::Operations(campaign) => campaign.settings,
            Self::Tool(_, settings) => *settings,
        }
    }

    fn with(self, settings: Settings) -> Self {
        match self {
            Self::Operations(campaign) => Self::Operations(Campaign { settings, ..campaign }),
            Self::Tool(tool, _) => Self::Tool(tool, settings),
        }
    }

    fn record(&self) -> Box<dyn Cut> {
        match self {
            Self::Operations(campaign) => Box::new(campaign.record(|device| device, OnError::Panic)),
            Self::Tool(tool, settings) => tool.record(*settings),
        }
    }
}

struct Arguments {
    states: usize,
    seed: u64,
    jobs: usize,
    superblocks: SuperblockTear,
    only: Option<String>,
    of: Option<usize>,
    state: Option<usize>,
    save: Option<PathBuf>,
    kernel: usize,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut chosen = Work::all(&arguments);
    if let Some(only) = &arguments.only {
        chosen.retain(|work| work.name() == only);
    }
    match (chosen.as_slice(), arguments.state) {
        ([], _) => {
            eprintln!("no such workload");
            ExitCode::from(2)
        }
        ([first, ..], Some(number)) if arguments.only.is_some() => {
            let states = arguments.of.unwrap_or(first.settings().states);
            let settings = Settings { states, ..first.settings() };
            one_state(first.with(settings), number, &arguments)
        }
        (_, Some(_)) => {
            eprintln!("--state needs --only\n{USAGE}");
            ExitCode::from(2)
        }
        (all, None) => run(all, &arguments),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = Arguments {
        states: 10_000,
        seed: 1,
        jobs,
        superblocks: SuperblockTear::Never,
        only: None,
        of: None,
        state: None,
        save: None,
        kernel: 0,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match word.as_str() {
            "--states" => arguments.states = number(value()?)? as usize,
            "--seed" => arguments.seed = number(value()?)?,
            "--jobs" => arguments.jobs = number(value()?)? as usize,
            "--torn-superblocks" => arguments.superblocks = SuperblockTear::OneCopy,
            "--only" => arguments.only = Some(value()?),
            "--of" => arguments.of = Some(number(value()?)? as usize),
            "--state" => arguments.state = Some(number(value()?)? as usize),
            "--kernel" => arguments.kernel = number(value()?)? as usize,
            "--save" => arguments.save = Some(value()?.into()),
            _ => return Err(format!("{word}: not known")),
        }
    }
    Ok(arguments)
}

fn run(all_work: &[Work], arguments: &Arguments) -> ExitCode {
    let (start, mut tallies) = (Instant::now(), Vec::new());
    let (kernel, mut by_kernel) = ((arguments.kernel > 0).then(KernelJudge::default), 0);
    for work in all_work {
        let recorded = work.record();
        let mut tally = recorded.judge_all(arguments.jobs);
        if let Some(kernel) = &kernel {
            let (judged, others) = kernel.sample_of(&*recorded, arguments.kernel);
            by_kernel += judged;
            tally.violations.extend(others.into_iter().map(|(state, violation)| (state, violation.0)));
        }
        let (name, Settings { seed, states, .. }) = (work.name(), work.settings());
        for (state, why) in tally.violations.iter().take(5) {
            println!("VIOLATION {name}, seed {seed}, of {states}: {state}\n  {}", why.replace('\n', "\n  "));
        }
        tallies.push((name, tally));
    }
    println!("{}", Tally::HEAD);
    let mut all = Tally::default();
    for (name, tally) in by_name(&tallies) {
        println!("{}", tally.row(name));
        all.add(&tally);
    }
    println!("{}", all.row("all"));
    println!(
        "\nseed {}, {by_kernel} states judged by the kernel too, {:.0} seconds",
        arguments.seed,
        start.elapsed().as_secs_f64()
    );
    if all.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one_state(work: Work, number: usize, arguments: &Arguments) -> ExitCode {
    let recorded = work.record();
    let events = recorded.plan().events();
    let state = recorded.plan().state(number);
    println!("{state}");
    for event in &events[..state.cut.min(events.len())] {
        if let Event::Mark(label) = event {
            println!("  {label}");
        }
    }
    if let Some(path) = &arguments.save
        && let Err(error) = state.save(0, path)
    {
        eprintln!("{}: {error}", path.display());
        return ExitCode::from(2);
    }
    match recorded.judge(&state) {
        Ok(verdict) => {
            println!("as it must be: {verdict:?}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("VIOLATION {}", why.0);
            ExitCode::FAILURE
        }
    }
}
