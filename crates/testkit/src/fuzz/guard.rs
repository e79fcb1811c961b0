//! What an input must not do: panic, take long, take much memory. What ends the whole process is told of by
//! a file that has the input while it runs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::base::Base;
use super::input::{Input, Kind};
use super::target::{self, Words};

/// An input that neither ends nor computes is given up after this time.
const STUCK: Duration = Duration::from_secs(240);

/// What an input did that it must not.
pub type Failure = String;

/// Processor time that one input may take, over all threads. (Tests are not built for speed.)
fn most_time(kind: Kind) -> Duration {
    match kind {
        Kind::Image => Duration::from_secs(20),
        _ => Duration::from_secs(2),
    }
}

/// MiB that the process may grow by for one input.
fn most_memory(kind: Kind) -> u64 {
    match kind {
        Kind::Image => 256,
        _ => 24,
    }
}

/// Runs inputs under watch.
pub struct Guard {
    current: Option<Running>,
    watch: Arc<Watch>,
}

/// The file that the running input is written to.
struct Running {
    path: PathBuf,
    file: File,
}

impl Running {
    fn new(path: PathBuf) -> Self {
        let file = File::create(&path).expect("the running input can be kept");
        Self { path, file }
    }

    /// In place: no new file, that the filesystem would have to write out.
    fn set(&self, input: &Input) {
        let text = input.to_string();
        let written = self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
        written.expect("the running input can be kept");
    }
}

impl Default for Guard {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Guard {
    /// A guard that keeps the running input in a file, if one is named.
    pub fn new(current: Option<PathBuf>) -> Self {
        Self { current: current.map(Running::new), watch: Watch::start() }
    }

    /// Runs an input.
    ///
    /// # Errors
    /// What it did wrong.
    pub fn run(&self, input: &Input, bases: &[Base]) -> Result<Words, Failure> {
        if let Some(running) = &self.current {
            running.set(input);
        }
        let before = Usage::now();
        reset_peak();
        self.watch.begin();
        let result = catch_unwind(AssertUnwindSafe(|| target::run(input, bases)));
        self.watch.end();
        let words = result.map_err(|panic| format!("panic: {} at {}", message(&*panic), self.watch.place()))?;
        let after = Usage::now();
        let took = after.time.saturating_sub(before.time);
        if took > most_time(input.kind()) {
            return Err(format!("slow: {took:?} of processor time"));
        }
        let grown = after.peak_mib.saturating_sub(before.now_mib);
        if grown > most_memory(input.kind()) {
            return Err(format!("memory: {grown} MiB"));
        }
        Ok(words)
    }

    /// The file with the running input is needed no more.
    pub fn finish(self) {
        if let Some(running) = &self.current {
            let _ = std::fs::remove_file(&running.path);
        }
    }
}

/// The input that ended a process which wrote what it ran to `current`.
pub fn left_behind(current: &Path) -> Option<Input> {
    std::fs::read_to_string(current).ok()?.parse().ok()
}

fn message(panic: &dyn std::any::Any) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of an unknown kind")
}

/// What the process has used.
struct Usage {
    time: Duration,
    now_mib: u64,
    peak_mib: u64,
}

impl Usage {
    fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let time = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
        };
        Self { time, now_mib: field("VmRSS:"), peak_mib: field("VmHWM:") }
    }
}

/// Lets the peak of memory begin anew.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Ends the process when an input is stuck, and notes where it panics.
struct Watch {
    epoch: Instant,
    /// When the running input began, in milliseconds from the epoch; 0 when none runs.
    began: AtomicU64,
    /// Where the first panic of the running input was.
    place: Mutex<Option<String>>,
}

impl Watch {
    /// The one watch of this process.
    fn start() -> Arc<Self> {
        static WATCH: OnceLock<Arc<Watch>> = OnceLock::new();
        let new = || {
            let watch = Arc::new(Self { epoch: Instant::now(), began: AtomicU64::new(0), place: Mutex::default() });
            let watching = Arc::clone(&watch);
            std::thread::spawn(move || watching.look());
            watch.hear();
            watch
        };
        Arc::clone(WATCH.get_or_init(new))
    }

    /// Panics while an input runs are not printed, but noted.
    fn hear(self: &Arc<Self>) {
        let (watch, before) = (Arc::clone(self), take_hook());
        set_hook(Box::new(move |info| {
            if watch.began.load(Ordering::Relaxed) == 0 {
                return before(info);
            }
            let place = info.location().map(|place| format!("{} line {}", place.file(), place.line()));
            let mut first = watch.place.lock().unwrap_or_else(PoisonError::into_inner);
            *first = first.take().or(place);
        }));
    }

    fn place(&self) -> String {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    fn begin(&self) {
        self.place();
        self.began.store(self.millis(), Ordering::Relaxed);
    }

    fn end(&self) {
        self.began.store(0, Ordering::Relaxed);
    }

    fn look(&self) {
        loop {
            std::thread::sleep(Duration::from_secs(5));
            let began = self.began.load(Ordering::Relaxed);
            if began != 0 && self.millis() - began > STUCK.as_millis() as u64 {
                eprintln!("stuck: an input does not end");
                std::process::abort();
            }
        }
    }
}
