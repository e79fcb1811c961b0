//! How a program says that a turn begins or is over: a line on standard output, and it goes on when it is answered by a
//! line. So nothing of the turn is done before the one is noted, and nothing of the next before the other.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Workload;
use super::ledger::Ledger;

/// The program's side.
pub struct Turns {
    counts: Vec<AtomicU64>,
    line: Mutex<()>,
}

impl Turns {
    /// For so many lanes.
    pub fn new(lanes: usize) -> Self {
        Self { counts: (0..lanes).map(|_| AtomicU64::new(0)).collect(), line: Mutex::default() }
    }

    /// One whole turn; `work` is told its number.
    pub fn turn(&self, lane: usize, work: impl FnOnce(u64)) {
        self.say(&format!("begin {lane}"));
        work(self.counts[lane].fetch_add(1, Ordering::Relaxed) + 1);
        self.say(&format!("over {lane}"));
    }

    fn say(&self, what: &str) {
        let _one_at_a_time = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{what}");
        std::io::stdout().flush().expect("somebody listens");
        let mut answer = String::new();
        let count = std::io::stdin().read_line(&mut answer).expect("somebody answers");
        assert!(count > 0, "nobody answers any more");
    }
}

/// A process that is heard and told line by line; killed when dropped.
pub struct Speaker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Speaker {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let input = child.stdin.take().expect("the input is a pipe");
        let output = BufReader::new(child.stdout.take().expect("the output is a pipe"));
        Self { child, input, output }
    }

    /// The next line; none at the end.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).expect("it speaks text");
        (count > 0).then(|| line.trim_end().to_owned())
    }

    /// Says a line.
    pub fn tell(&mut self, line: &str) {
        let told = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        // Who does not listen has ended, and that is seen when it is heard.
        let _it_has_ended = told;
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a workload below `top` as a process of `program` (the `cuts` command), and notes its turns.
pub fn conduct(program: &Path, workload: &dyn Workload, arguments: [u64; 2], top: &Path, ledger: &Ledger) {
    let [turns, seed] = arguments.map(|number| number.to_string());
    let mut command = Command::new(program);
    command.args(["work", &workload.name(), &turns, &seed]).arg(top);
    let mut process = Speaker::start(&mut command);
    while let Some(line) = process.hear() {
        let words: Vec<&str> = line.split(' ').collect();
        let lane = words.get(1).and_then(|word| word.parse().ok());
        match (words.first().copied(), lane) {
            (Some("begin"), Some(lane)) => ledger.begin(lane),
            (Some("over"), Some(lane)) => ledger.over(lane, words.get(2).copied().unwrap_or_default()),
            _ => panic!("{}: {line:?} makes no sense", workload.name()),
        }
        process.tell("");
    }
    let status = process.child.wait().expect("a process ends");
    assert!(status.success(), "{}: {status}", workload.name());
}
