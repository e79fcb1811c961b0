//! Results, and the table that they make.

use std::fmt::Write;

use super::Row;
use super::measure::Sample;
use super::profile::Profiles;

/// What we are measured against.
const OPPONENT: &str = "btrfs";

type BySubject = Vec<(&'static str, Vec<Sample>)>;

/// Samples by row and subject, in the order in which they first came.
pub struct Results {
    /// Where our daemon's time goes, if that is asked for.
    pub profiles: Option<Profiles>,
    rows: Vec<(&'static Row, BySubject)>,
}

/// Median, and the lowest and highest of all.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    Spread { median: at(values.len() / 2), low: at(0), high: at(values.len().saturating_sub(1)) }
}

fn of(samples: &[Sample], what: impl Fn(&Sample) -> f64) -> Spread {
    spread(samples.iter().map(what).collect())
}

impl Results {
    /// None yet; with `profiles`, rows are sampled too.
    pub fn new(profiles: Option<Profiles>) -> Self {
        Self { profiles, rows: Vec::new() }
    }

    /// Adds a sample.
    pub fn add(&mut self, row: &'static Row, subject: &'static str, sample: Sample) {
        let index = self.rows.iter().position(|(known, _)| *known == row).unwrap_or_else(|| {
            self.rows.push((row, Vec::new()));
            self.rows.len() - 1
        });
        let subjects = &mut self.rows[index].1;
        match subjects.iter_mut().find(|(known, _)| *known == subject) {
            Some((_, samples)) => samples.push(sample),
            None => subjects.push((subject, vec![sample])),
        }
    }

    /// The table, in Markdown: rates by subject, median and spread; ratios of medians to the kernel's btrfs; CPU
    /// seconds of callers and daemon; memory of the daemon.
    pub fn markdown(&self, subjects: &[&'static str]) -> String {
        let others: Vec<_> = subjects.iter().filter(|name| **name != OPPONENT).collect();
        let mut out = String::from("| row | unit |");
        subjects.iter().for_each(|name| write!(out, " {name} |").expect("a string can be written"));
        others.iter().for_each(|name| write!(out, " {name} / btrfs |").expect("a string can be written"));
        out.push_str(" goal | CPU s, ours: callers + daemon | CPU s, btrfs: callers | daemon MiB |\n|");
        out.push_str(&"---|".repeat(subjects.len() + others.len() + 6));
        out.push('\n');
        self.rows.iter().for_each(|(row, all)| line(&mut out, row, all, subjects));
        out
    }
}

fn line(out: &mut String, row: &Row, all: &[(&'static str, Vec<Sample>)], subjects: &[&'static str]) {
    let find = |name: &str| all.iter().find(|(known, _)| *known == name).map(|(_, samples)| samples.as_slice());
    let mut cells = vec![row.name.to_owned(), row.unit.to_owned()];
    for name in subjects {
        cells.push(find(name).map_or_else(String::new, |samples| {
            let rate = of(samples, Sample::rate);
            format!("{} ({}–{})", short(rate.median), short(rate.low), short(rate.high))
        }));
    }
    for name in subjects.iter().filter(|name| **name != OPPONENT) {
        let medians = find(name).zip(find(OPPONENT));
        let medians = medians.map(|(ours, theirs)| (of(ours, Sample::rate), of(theirs, Sample::rate)));
        cells.push(medians.map_or_else(String::new, |(a, b)| format!("**{:.2}**", a.median / b.median)));
    }
    cells.push(format!("{:.2}", f64::from(row.goal) / 100.0));
    let ours = subjects.first().and_then(|name| find(name)).unwrap_or_default();
    let seconds = |samples, what: fn(&Sample) -> f64| format!("{:.2}", of(samples, what).median);
    cells.push(format!("{} + {}", seconds(ours, |s| s.client), seconds(ours, |s| s.server)));
    cells.push(find(OPPONENT).map_or_else(String::new, |samples| seconds(samples, |s| s.client)));
    cells.push(format!("{:.0}", of(ours, |sample| sample.memory).high));
    writeln!(out, "| {} |", cells.join(" | ")).expect("a string can be written");
}

/// Three digits are enough.
fn short(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.1}k", value / 1000.0),
        value if value >= 100.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row { name: "work", unit: "files", goal: 120 };

    fn sample(seconds: f64) -> Sample {
        Sample { units: 1000.0, seconds, client: 0.5, server: 0.25, memory: 40.0 }
    }

    #[test]
    fn medians_make_ratios() {
        static STATIC: Row = ROW;
        let mut results = Results::new(None);
        for (ours, theirs) in [(1.0, 3.0), (2.0, 4.0), (4.0, 9.0)] {
            results.add(&STATIC, "butterfs", sample(ours));
            results.add(&STATIC, "btrfs", sample(theirs));
        }
        let table = results.markdown(&["butterfs", "btrfs"]);
        let line = table.lines().last().unwrap_or_default();
        assert!(
            line.contains("| 500 (250–1000) | 250 (111–333) | **2.00** | 1.20 | 0.50 + 0.25 | 0.50 | 40 |"),
            "{line}"
        );
        let widths: Vec<usize> = table.lines().map(|line| line.matches('|').count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
    }
}
