//! How long one waits while the filesystem commits all the time.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::{Bench, Row, Scenario, sync_filesystem};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "latency", options: "", run }];

/// The rate is that of a thousandth: at 10 and more, 99.9 % of all creates take less than 100 ms.
static WAIT: Row =
    Row { name: "99.9 % of creates of 4 KiB while others write and sync without a pause", unit: "1/s", goal: 100 };

/// Bytes that are written between two syncs.
const WRITTEN: usize = 1 << 20;

fn run(bench: &mut Bench<'_>) {
    let count = (bench.scale.files / 5).max(1000);
    bench.measure_slowest(&WAIT, |dir| creates(dir, count));
}

/// Seconds that all but a thousandth of the creates took at most.
fn creates(dir: &Path, count: usize) -> f64 {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (file, content) = (dir.join("load"), vec![9; WRITTEN]);
            while !done.load(Ordering::Relaxed) {
                fs::write(&file, &content).expect("a file can be written");
                sync_filesystem(dir);
            }
        });
        let waits = (0..count).map(|number| {
            let begin = Instant::now();
            fs::write(dir.join(format!("wait-{number:06}")), [7; 4096]).expect("a file can be written");
            begin.elapsed().as_secs_f64()
        });
        let slow = thousandth(waits.collect());
        done.store(true, Ordering::Relaxed);
        slow
    })
}

/// What all but a thousandth of the values do not exceed.
fn thousandth(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len() - 1 - values.len() / 1000;
    eprintln!(
        "            waits in ms: half {:.2}, 99.9 % {:.2}, longest {:.2}",
        values[values.len() / 2] * 1e3,
        values[at] * 1e3,
        values[values.len() - 1] * 1e3
    );
    values[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousandth_is_left_out() {
        let values = |count: u32| (1..=count).rev().map(f64::from).collect();
        assert_eq!((thousandth(values(1000)), thousandth(values(10))), (999.0, 10.0));
    }
}
