//! What is printed of scrubs: the words of `btrfs scrub`.

use std::fmt::Write;

use butterfs_engine::scrub::ScrubProgress;
use butterfs_format::print::WallClock;

use super::record::{NAMES, Record};
use crate::size;

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// In words.
    Summary,
    /// All numbers.
    Raw,
}

/// Whether scrubs are limited in how fast they read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    Free,
    Limited,
}

/// How a scrub is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Cancelled,
    Finished,
    /// Whoever kept the record is gone, and no scrub runs.
    Interrupted,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Cancelled => "aborted",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Several devices as one: what was done together, from the first start to the longest duration.
pub fn together(records: &[Record]) -> Record {
    let mut sum = Record { finished: true, ..Record::default() };
    let mut values = [0; 15];
    for record in records {
        let mut more = record.progress.values();
        // A place is none to be added up.
        more[13] = 0;
        values.iter_mut().zip(more).for_each(|(sum, value)| *sum += value);
        values[13] = values[13].max(record.progress.last_physical);
        sum.started = if sum.started == 0 { record.started } else { sum.started.min(record.started) };
        sum.resumed = sum.resumed.max(record.resumed);
        sum.duration = sum.duration.max(record.duration);
        sum.cancelled |= record.cancelled;
        sum.finished &= record.finished;
    }
    sum.progress = ScrubProgress::from_values(values);
    sum
}

/// A scrub in words. `total` is what there is to be read, where that is known.
pub fn text(record: &Record, state: State, style: Style, total: Option<u64>, speed: Speed) -> String {
    let mut out = String::new();
    let (word, at) = if record.resumed > 0 { ("resumed", record.resumed) } else { ("started", record.started) };
    let _ = writeln!(out, "Scrub {word}:    {}", time(at));
    let _ = writeln!(out, "Status:           {}", state.word());
    let _ = writeln!(out, "Duration:         {}", duration(record.duration));
    match style {
        Style::Raw => raw(&mut out, &record.progress),
        Style::Summary => summary(&mut out, record, state, total, speed),
    }
    out
}

fn raw(out: &mut String, progress: &ScrubProgress) {
    let values = progress.values();
    for (name, at) in NAMES {
        if name == "corrected_errors" {
            let _ = writeln!(out, "\tunverified_errors: {}", progress.unverified_errors);
        }
        let _ = writeln!(out, "\t{name}: {}", values[at]);
    }
}

fn summary(out: &mut String, record: &Record, state: State, total: Option<u64>, speed: Speed) {
    let progress = &record.progress;
    let bytes = progress.data_bytes + progress.tree_bytes;
    let rate = bytes / record.duration.max(1);
    let total = total.unwrap_or(bytes);
    if state == State::Running && rate > 0 {
        let left = total.saturating_sub(bytes) / rate;
        let _ = writeln!(out, "Time left:        {}", duration(left));
        let eta = record.started.max(record.resumed) + record.duration + left;
        let _ = writeln!(out, "ETA:              {}", time(eta));
    }
    let _ = writeln!(out, "Total to scrub:   {}", size::display(total));
    if state != State::Finished {
        let percent = bytes as f64 * 100.0 / total.max(1) as f64;
        let _ = writeln!(out, "Bytes scrubbed:   {}  ({percent:.2}%)", size::display(bytes));
    }
    let note = if speed == Speed::Limited { " (some device limits set)" } else { "" };
    let _ = writeln!(out, "Rate:             {}/s{note}", size::display(rate));
    errors(out, progress);
}

fn errors(out: &mut String, progress: &ScrubProgress) {
    let handled = progress.corrected_errors + progress.uncorrectable_errors;
    if progress.errors() + handled == 0 {
        let _ = writeln!(out, "Error summary:    no errors found");
        return;
    }
    let kinds = [
        ("read", progress.read_errors),
        ("super", progress.super_errors),
        ("verify", progress.verify_errors),
        ("csum", progress.csum_errors),
    ];
    let met: String =
        kinds.iter().filter(|(_, count)| *count > 0).map(|(kind, count)| format!(" {kind}={count}")).collect();
    let _ = writeln!(out, "Error summary:   {met}");
    let _ = writeln!(out, "  Corrected:      {}", progress.corrected_errors);
    let _ = writeln!(out, "  Uncorrectable:  {}", progress.uncorrectable_errors);
    let _ = writeln!(out, "  Unverified:     {}", progress.unverified_errors);
}

/// Hours, minutes, seconds.
fn duration(seconds: u64) -> String {
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// As ctime(3) writes it.
fn time(seconds: u64) -> String {
    let clock = (crate::wall_clock::WALL_CLOCK.0)(seconds.cast_signed());
    ctime(seconds.cast_signed(), &clock)
}

fn ctime(seconds: i64, clock: &WallClock) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let day = (seconds + i64::from(clock.ahead)).div_euclid(86400).rem_euclid(7) as usize;
    let month = MONTHS[usize::from(clock.month.clamp(1, 12)) - 1];
    let [hour, minute, second] = clock.clock;
    format!("{} {month} {:2} {hour:02}:{minute:02}:{second:02} {}", DAYS[day], clock.day, clock.year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_ctime() {
        let at = |seconds| ctime(seconds, &WallClock::utc(seconds));
        assert_eq!(at(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(at(1_795_826_976), "Sat Nov 28 00:49:36 2026");
    }

    #[test]
    fn words_are_those_of_btrfs() {
        let progress = ScrubProgress { data_bytes: 80 << 20, tree_bytes: 393_216, ..ScrubProgress::default() };
        let record = Record { progress, duration: 1, finished: true, ..Record::default() };
        let clean = text(&record, State::Finished, Style::Summary, None, Speed::Free);
        let lines: Vec<&str> = clean.lines().skip(1).collect();
        let wanted = [
            "Status:           finished",
            "Duration:         0:00:01",
            "Total to scrub:   80.38MiB",
            "Rate:             80.38MiB/s",
            "Error summary:    no errors found",
        ];
        assert_eq!(lines, wanted);
        let progress = ScrubProgress { csum_errors: 3, super_errors: 1, corrected_errors: 3, ..progress };
        let bad = text(&Record { progress, ..record }, State::Finished, Style::Summary, None, Speed::Limited);
        assert!(bad.contains("80.38MiB/s (some device limits set)\n"), "{bad}");
        assert!(bad.ends_with(
            "Error summary:    super=1 csum=3\n  Corrected:      3\n  Uncorrectable:  0\n  Unverified:     0\n"
        ));
    }
}
