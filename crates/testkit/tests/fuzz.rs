//! A bounded number of inputs of each kind in every run, the same ones each time; first all that failed once.
//!
//! `just fuzz SECONDS` goes further. What fails here is written to the file that the message names; kept as
//! `corpus/found/NAME.txt` it is run for ever after.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;

use butterfs_check::{Options, Severity, check};
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, OpenOptions};
use butterfs_testkit::everything::{self, Limits};
use butterfs_testkit::fuzz::guard::Guard;
use butterfs_testkit::fuzz::{Campaign, Corpus, Input, Kind, bases};
use butterfs_testkit::report::scaled;
use butterfs_volume::{OpenMode, Volume};

const SEED: u64 = 1;

/// What fails, as a file to keep.
fn told(kind: Kind, (input, failure): (Input, String)) -> ! {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}.txt", kind.name()));
    std::fs::write(&path, format!("# {failure}\n{input}")).unwrap();
    panic!("{failure}: the input is in {}", path.display());
}

fn fuzz(kind: Kind, rounds: usize) {
    let (corpus, bases) = (Corpus::default(), Corpus::default().bases());
    let current = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-running-{}.txt", kind.name()));
    let mut campaign = Campaign::new(kind, &corpus, &bases, SEED, Guard::new(Some(current)));
    let known = campaign.seen();
    let mut left = scaled(rounds);
    while left > 0 && campaign.failed.is_empty() {
        campaign.round();
        left -= 1;
    }
    if let Some(failed) = campaign.failed.pop() {
        told(kind, failed);
    }
    println!("{}: {known} messages from the corpus, {} in the end", kind.name(), campaign.seen());
    assert!(known > 1, "the corpus says nothing");
    campaign.finish();
}

#[test]
fn superblocks() {
    fuzz(Kind::Superblock, 4000);
}

#[test]
fn blocks() {
    fuzz(Kind::Block, 6000);
}

#[test]
fn items() {
    fuzz(Kind::Item, 20_000);
}

#[test]
fn streams() {
    fuzz(Kind::Stream, 6000);
}

#[test]
fn send_streams() {
    fuzz(Kind::Send, 10_000);
}

#[test]
fn images() {
    fuzz(Kind::Image, 150);
}

/// The base images are good, all of them can be read, and they hold what they must.
#[test]
fn bases_are_good() {
    let corpus = Corpus::default();
    for base in corpus.bases() {
        let device = Arc::new(base.device());
        let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
        let options = Options { data_csums: true, devices: vec![device], ..Options::default() };
        let report = check(&volume, &options);
        assert!(report.worst() <= Some(Severity::Note), "{}: {report}", base.name);
        let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
        let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
        let all = everything::read(&fs, Limits { objects: 1000, bytes: 1 << 30 });
        assert!(all.problems.is_empty() && all.objects > 50, "{}: {all:?}", base.name);
        assert!(base.blocks.len() > 15, "{}: {} blocks", base.name, base.blocks.len());
        assert_eq!(base.name == "logged", base.superblock.log_root.get() != 0);
        assert!(base.pack().len() < 100 << 10, "{}: {} bytes", base.name, base.pack().len());
    }
    assert_eq!(corpus.bases().len(), bases::NAMES.len());
}

/// The guard tells of what must not happen.
#[test]
fn a_panic_is_a_failure() {
    let unknown = "image nowhere".parse().unwrap();
    let failure = Guard::default().run(&unknown, &Corpus::default().bases()).unwrap_err();
    assert!(failure.contains("there is no base"), "{failure}");
}
