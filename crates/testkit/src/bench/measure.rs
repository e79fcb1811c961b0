//! Time, CPU seconds and memory of one row.

use std::time::Instant;

/// Clock ticks in a second, in `/proc`: the same on all architectures that Linux has for userspace.
const TICKS: f64 = 100.0;

/// What one row took once.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How many units were done.
    pub units: f64,
    /// Wall time, in seconds.
    pub seconds: f64,
    /// CPU seconds of those who called.
    pub client: f64,
    /// CPU seconds of the daemon; zero if there is none. (What threads of the kernel did is in neither.)
    pub server: f64,
    /// Most memory that the daemon had so far, in MiB.
    pub memory: f64,
}

impl Sample {
    /// Units in a second.
    pub fn rate(&self) -> f64 {
        self.units / self.seconds
    }

    /// Both, one after the other.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            units: self.units + other.units,
            seconds: self.seconds + other.seconds,
            client: self.client + other.client,
            server: self.server + other.server,
            memory: self.memory.max(other.memory),
        }
    }
}

/// Measures from `start` to `stop`.
#[derive(Debug)]
pub struct Stopwatch {
    server: Option<u32>,
    client_before: f64,
    server_before: f64,
    begun: Instant,
}

impl Stopwatch {
    /// Starts; `server` is the daemon's process id.
    pub fn start(server: Option<u32>) -> Self {
        let server_before = server.map_or(0.0, |pid| cpu_seconds(&pid.to_string(), 2));
        Self { server, client_before: cpu_seconds("self", 4), server_before, begun: Instant::now() }
    }

    /// What happened since.
    pub fn stop(self, units: f64) -> Sample {
        let seconds = self.begun.elapsed().as_secs_f64();
        let server = self.server.map_or(0.0, |pid| cpu_seconds(&pid.to_string(), 2) - self.server_before);
        let client = cpu_seconds("self", 4) - self.client_before;
        Sample { units, seconds, client, server, memory: self.server.map_or(0.0, peak_memory) }
    }
}

/// User and system time of a process; with four fields, that of children that have ended, too.
fn cpu_seconds(process: &str, fields: usize) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = rest.split_ascii_whitespace().skip(11).take(fields).filter_map(|word| word.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

fn peak_memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default() / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_and_memory() {
        let watch = Stopwatch::start(Some(std::process::id()));
        let end = Instant::now() + std::time::Duration::from_millis(50);
        let mut sum = 0_u64;
        while Instant::now() < end {
            sum = std::hint::black_box(sum + 1);
        }
        let sample = watch.stop(100.0);
        assert!(sample.seconds >= 0.05 && sample.rate() <= 2000.0);
        assert!(sample.client > 0.0 && sample.server > 0.0 && sample.memory > 1.0, "{sample:?}");
    }
}
