//! Where the daemon's time goes, row by row: `perf` samples it while a row is measured.
//!
//! Sampling costs time, so rates of such a run are not to be compared with others.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Row;
use crate::command::run;

/// Samples in a second.
const FREQUENCY: &str = "2500";
/// `perf` needs so long until it samples.
const START: Duration = Duration::from_millis(300);
/// So many symbols are shown of each row.
const SHOWN: usize = 5;

/// Samples of all rows so far.
pub struct Profiles {
    dir: PathBuf,
    rows: Vec<(&'static Row, Profile)>,
}

/// `perf`, which samples a daemon.
pub struct Recorder {
    perf: Child,
    data: PathBuf,
}

/// Percent of the samples.
#[derive(Clone, Debug, Default, PartialEq)]
struct Profile {
    switching: f64,
    kernel: f64,
    symbols: BTreeMap<String, f64>,
}

impl Profiles {
    /// Samples are kept in a directory until they are read.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), rows: Vec::new() }
    }

    /// Begins to sample a process.
    pub fn record(&self, process: u32) -> Recorder {
        let data = self.dir.join("perf.data");
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-F", FREQUENCY, "-p", &process.to_string(), "-o"]).arg(&data);
        let perf = perf.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("perf is installed (linux-perf)");
        std::thread::sleep(START);
        Recorder { perf, data }
    }

    /// Ends it, and adds what was found to a row.
    pub fn add(&mut self, row: &'static Row, mut recorder: Recorder) {
        let pid = Pid::from_child(&recorder.perf);
        kill_process(pid, Signal::INT).expect("perf runs");
        recorder.perf.wait().expect("perf ends");
        let report = ["report", "--stdio", "-q", "--no-children", "-g", "none", "-F", "overhead,sym", "-i"];
        let text = run(Command::new("perf").args(report).arg(&recorder.data)).ok().stdout;
        let profile = Profile::parse(&text);
        // The last round counts.
        self.rows.retain(|(known, _)| *known != row);
        self.rows.push((row, profile));
    }

    /// The table, in Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::from(
            "| row | kernel, switching % | kernel, other % | own code % | most of the own code |\n|---|--:|--:|--:|---|\n",
        );
        for (row, profile) in &self.rows {
            let own: f64 = profile.symbols.values().sum();
            let symbols = profile.most().iter().map(|(name, share)| format!("`{name}` {share:.1}")).collect::<Vec<_>>();
            let (name, switching, other) = (row.name, profile.switching, profile.kernel - profile.switching);
            writeln!(out, "| {name} | {switching:.0} | {other:.0} | {own:.0} | {} |", symbols.join(", "))
                .expect("a string can be written");
        }
        out
    }
}

impl Profile {
    /// Lines like ` 12.34%  [k] finish_task_switch`.
    fn parse(report: &str) -> Self {
        let mut profile = Self::default();
        for line in report.lines() {
            let mut words = line.trim().splitn(2, "% ").map(str::trim);
            let (Some(Ok(share)), Some(rest)) = (words.next().map(str::parse::<f64>), words.next()) else { continue };
            match rest.split_at_checked(4) {
                Some(("[k] ", name)) => {
                    profile.kernel += share;
                    profile.switching += if is_switching(name) { share } else { 0.0 };
                }
                Some((_, name)) => *profile.symbols.entry(short(name)).or_default() += share,
                None => {}
            }
        }
        profile
    }

    fn most(&self) -> Vec<(&str, f64)> {
        let mut all: Vec<_> = self.symbols.iter().map(|(name, share)| (name.as_str(), *share)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(SHOWN);
        all
    }
}

/// What a processor does to let another thread run.
fn is_switching(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "finish_task_switch",
        "_raw_spin_unlock_irqrestore",
        "sched",
        "try_to_wake",
        "pick_",
        "enqueue_",
        "dequeue_",
        "update_",
    ];
    NAMES.iter().any(|start| name.starts_with(start))
}

/// A symbol without its path's middle and its parameters.
fn short(name: &str) -> String {
    let name = name.trim().trim_start_matches('<');
    let plain: String = name.chars().take_while(|c| !"<>({ ".contains(*c)).collect();
    let parts: Vec<&str> = plain.trim_end_matches(':').split("::").collect();
    match parts.as_slice() {
        [first, .., before, last] if parts.len() > 3 => format!("{first}::…::{before}::{last}"),
        _ => parts.join("::"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_taken_apart() {
        let report = "    40.00%  [k] finish_task_switch.isra.0\n     9.50%  [k] fuse_dev_do_read\n\n     \
                      1.50%  [.] butterfs_engine::tx::roots::<impl butterfs_engine::tx::transaction::Transaction>::load_root\n     \
                      0.25%  [.] butterfs_engine::tree::search::path::find\n     0.25%  [.] malloc\n";
        let profile = Profile::parse(report);
        assert_eq!((profile.switching, profile.kernel), (40.0, 49.5));
        let wanted = [("butterfs_engine::tx::roots", 1.5), ("butterfs_engine::…::path::find", 0.25), ("malloc", 0.25)];
        assert_eq!(profile.most(), wanted);
    }
}
