//! What the user hears while it is copied.
//!
//! # Locking
//! Counters only; lines are written whole.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use rustix::io::Errno;

use super::{Outcome, Problem};
use crate::host::{Lost, is_privileged};
use crate::names::Shown;
use crate::output;

/// Whether every file is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Only what goes wrong.
    Quiet,
    /// Every file.
    Each,
}

/// The sum of what happened.
#[derive(Debug)]
pub struct Report {
    /// The command that complaints name.
    command: &'static str,
    bar: Option<ProgressBar>,
    verbosity: Verbosity,
    stop: Arc<AtomicBool>,
    failures: AtomicU64,
    /// Attributes that only root may set.
    privileged: AtomicU64,
}

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(200);

impl Report {
    /// A new one for a command, which has everything stop once `stop` is true; with a bar if there is a terminal.
    pub fn new(command: &'static str, verbosity: Verbosity, stop: Arc<AtomicBool>) -> Self {
        let bar = io::stderr().is_terminal().then(new_bar);
        Self { command, bar, verbosity, stop, failures: AtomicU64::new(0), privileged: AtomicU64::new(0) }
    }

    /// Whether somebody looks at how far it got.
    pub fn has_bar(&self) -> bool {
        self.bar.is_some()
    }

    /// How many bytes there are to copy.
    pub fn expect(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(bytes);
        }
    }

    /// A file is begun.
    pub fn begin(&self, name: &[u8]) {
        if let Some(bar) = &self.bar {
            bar.set_message(Shown(name).to_string());
        }
    }

    /// Bytes were copied, or are holes.
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Something was copied.
    pub fn copied(&self, path: &[u8]) {
        if self.verbosity == Verbosity::Each {
            self.lines(|| {
                let _ = writeln!(io::stdout().lock(), "{}", Shown(path));
            });
        }
    }

    /// Something was not copied: that is said, if it is news.
    pub fn failed(&self, path: &[u8], problem: &Problem) {
        match problem {
            Problem::Skipped | Problem::Stopped => {}
            _ => self.complain(path, problem),
        }
    }

    fn complain(&self, path: &[u8], problem: impl Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.lines(|| output::complain(self.command, format_args!("{}: {problem}", Shown(path))));
    }

    /// Something was copied but for some of its attributes.
    pub fn lost(&self, path: &[u8], lost: &Lost) {
        for (name, error) in &lost.xattrs {
            let may_not = matches!(Errno::from_io_error(error), Some(Errno::PERM | Errno::ACCESS));
            if may_not && is_privileged(name) {
                self.privileged.fetch_add(1, Ordering::Relaxed);
            } else {
                self.complain(path, format_args!("attribute {} was not copied: {error}", Shown(name)));
            }
        }
    }

    /// Lines on the terminal do not mix with the bar.
    fn lines(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Fails once the user wants an end.
    pub fn go_on(&self) -> Outcome<()> {
        if self.is_stopped() { Err(Problem::Stopped) } else { Ok(()) }
    }

    /// Whether the user wants an end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Takes the bar away, and says what is left to say; gives whether all was copied.
    pub fn finish(&self) -> bool {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let privileged = self.privileged.load(Ordering::Relaxed);
        if privileged > 0 {
            let text = "extended attributes that only root may set were left out; run it as root to have them";
            output::complain(self.command, format_args!("{privileged} {text}"));
        }
        self.failures.load(Ordering::Relaxed) == 0
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{elapsed} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} {msg:!30}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(TICK);
    bar
}

impl Drop for Report {
    /// What is said after a failure is not said behind a bar.
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
