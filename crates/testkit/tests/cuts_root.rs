//! Power cuts under programs on a real mount: a bounded sample in each run; `just cuts 1000` has more. See
//! `docs/crash-testing.md`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;

use butterfs_testkit::crash::breaker::{Breach, BrokenDevice};
use butterfs_testkit::crash::kernel::KernelJudge;
use butterfs_testkit::crash::states::Settings;
use butterfs_testkit::cuts::run::{Format, Setup, Writer, record};
use butterfs_testkit::cuts::{Workload, all, records, sqlite};
use butterfs_testkit::report::is_root;

/// Cuts of each program.
const CUTS: usize = 60;
/// Of these, judged by `btrfs check` and the kernel.
const BY_THE_KERNEL: usize = 5;
const TURNS: u64 = 25;
const SEED: u64 = 1;

fn setup(writer: Writer, number: usize) -> Setup<'static> {
    let (command, format) = (Path::new(env!("CARGO_BIN_EXE_cuts")), Format::number(number));
    Setup { command, turns: TURNS, seed: SEED, writer, format, wrap: |device| device }
}

fn require_none(name: &str, violations: &[(String, String)]) {
    let first: Vec<_> = violations.iter().take(5).map(|(state, why)| format!("{state}\n  {why}")).collect();
    assert!(first.is_empty(), "{name}: {} violations:\n{}", violations.len(), first.join("\n"));
}

fn cut(writer: Writer, chosen: impl Fn(&str) -> bool) {
    let kernel = KernelJudge::default();
    let workloads = all(TURNS, SEED);
    let chosen: Vec<_> = workloads.iter().enumerate().filter(|(_, workload)| chosen(&workload.name())).collect();
    assert!(!chosen.is_empty());
    for (number, workload) in chosen {
        let recorded = record(&**workload, setup(writer, number), Settings::new(SEED, CUTS));
        let tally = recorded.judge(2);
        println!("{}", tally.row(&workload.name()));
        require_none(&workload.name(), &tally.violations);
        assert_eq!(tally.states, CUTS + 1);
        assert!(tally.with_log + tally.last_commit > CUTS / 2, "most cuts come after mkfs: {tally:?}");
        let (judged, others) = kernel.sample(&recorded.plan, recorded.made, recorded.maker(), BY_THE_KERNEL);
        println!("  {judged} by the kernel, too");
        let others: Vec<_> = others.into_iter().map(|(state, violation)| (state, violation.0)).collect();
        require_none(&workload.name(), &others);
    }
}

#[test]
fn sqlite_loses_no_transaction() {
    if is_root("sqlite_loses_no_transaction") {
        cut(Writer::Butterfs, |name| name.starts_with("SQLite"));
    }
}

#[test]
fn logs_and_replaced_files_are_whole() {
    if is_root("logs_and_replaced_files_are_whole") {
        cut(Writer::Butterfs, |name| name.starts_with("append") || name.starts_with("replace"));
    }
}

#[test]
fn threads_that_change_files_at_the_same_time() {
    if is_root("threads_that_change_files_at_the_same_time") {
        cut(Writer::Butterfs, |name| name.starts_with("mixed"));
    }
}

/// The kernel writes, with logs of its own; we replay them and find what was promised.
#[test]
fn what_the_kernel_promised_is_found_by_us() {
    if is_root("what_the_kernel_promised_is_found_by_us") {
        cut(Writer::Kernel, |_| true);
    }
}

/// The judge can say no: what a device without flushes loses is missed, by the log and by the database.
#[test]
fn a_device_that_does_not_flush_is_found_out() {
    if !is_root("a_device_that_does_not_flush_is_found_out") {
        return;
    }
    let log = records::Records { durable: records::Durable::Fsync, turns: TURNS, seed: SEED };
    let database = sqlite::Sqlite::new(sqlite::MODES[4], TURNS, SEED);
    let workloads: [&dyn Workload; 2] = [&log, &database];
    for workload in workloads {
        let broken = Setup {
            wrap: |device| Arc::new(BrokenDevice::new(device, Breach::FlushAfterSuperblock)),
            ..setup(Writer::Butterfs, 0)
        };
        let tally = record(workload, broken, Settings::new(SEED, 150)).judge(2);
        let lost = tally.violations.iter().filter(|(_, why)| why.contains("turn")).count();
        println!("{}: {} violations, {lost} of a promise", workload.name(), tally.violations.len());
        assert!(lost >= 3, "{:?}", tally.violations);
    }
}
