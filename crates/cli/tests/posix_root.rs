//! Requirement 6: pjdfstest, and fsx on five seeds, with mapped and with direct I/O.

mod common;

use butterfs_testkit::command::{Finished, run};
use butterfs_testkit::mounter::{Mounted, Mounter};
use butterfs_testkit::report::scaled;
use butterfs_testkit::{operations, oracle};
use common::{GIB, kernel, setup, subject};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const PJDFSTEST: &str = "\
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
rename_ctime = {}
[settings]
naptime = 0.01
allow_remount = false
[dummy_auth]
entries = [[\"butterfs-test1\", \"butterfs-test1\"], [\"butterfs-test2\", \"butterfs-test2\"]]
";

/// Every case that the kernel's btrfs passes in the same run passes on our mount.
#[test]
fn pjdfstest_as_the_kernel() {
    let Some(work) = setup("p") else { return };
    let config = work.file("pjdfstest.toml");
    std::fs::write(&config, PJDFSTEST).expect("write");
    let mut results = Vec::new();
    for (name, mounter) in [("kernel", kernel()), ("subject", subject())] {
        // Short names: a socket's path, with the suite's own parts, must stay below 108 bytes.
        let (image, mnt) = (work.file(name), work.dir(&name[..1]));
        kernel().mkfs(&image, GIB, &[]);
        // The suite changes to other users, who must be able to enter.
        open_path(work.path());
        let mounted = mounter.mount(&image, &mnt, &suid_options(&mounter));
        open_path(&mnt);
        let suite = mounted.join("p");
        std::fs::create_dir(&suite).expect("mkdir");
        open_path(&suite);
        let finished =
            run(Command::new("pjdfstest").arg("-c").arg(&config).arg("-p").arg(&suite).arg("-s").arg(work.path()));
        let cases = cases(&finished);
        println!("{name}: {:?}", tally(&cases));
        assert!(cases.len() > 300, "pjdfstest ran {} cases: {finished}", cases.len());
        mounted.unmount();
        oracle::assert_clean(&image);
        results.push((cases, finished));
    }
    let (expected, found) = (&results[0].0, &results[1].0);
    let worse: Vec<_> = expected
        .iter()
        .filter(|(case, verdict)| verdict.as_str() == "ok" && found.get(*case) != Some(verdict))
        .map(|(case, _)| (case, found.get(case)))
        .collect();
    let failing = expected.iter().filter(|(_, verdict)| verdict.as_str() == "FAILED").map(|(case, _)| case);
    println!("the kernel fails: {:?}", failing.collect::<Vec<_>>());
    assert!(worse.is_empty(), "the kernel passes, we do not: {worse:#?}\n{}", results[1].1);
}

fn suid_options(mounter: &Mounter) -> String {
    if mounter.is_butterfs() { "suid,dev,allow_other".into() } else { String::new() }
}

fn open_path(path: &Path) {
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o777)).expect("chmod");
}

/// Case name to verdict, from lines such as `chmod::changes_mode    ok`.
fn cases(finished: &Finished) -> BTreeMap<String, String> {
    let mut cases = BTreeMap::new();
    for line in finished.stdout.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(verdict)) = (words.next(), words.next())
            && name.contains("::")
        {
            let verdict = if verdict.eq_ignore_ascii_case("failed") { "FAILED" } else { verdict };
            cases.insert(name.to_owned(), verdict.trim_matches(':').to_owned());
        }
    }
    cases
}

fn tally(cases: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    let mut tally = BTreeMap::new();
    cases.values().for_each(|verdict| *tally.entry(verdict.as_str()).or_default() += 1);
    tally
}

macro_rules! seeds {
    ($($fsx:ident, $direct:ident: $seed:literal;)*) => {$(
        #[test]
        fn $fsx() {
            fsx($seed);
        }

        #[test]
        fn $direct() {
            direct($seed);
        }
    )*};
}

seeds! {
    fsx_seed_1, direct_seed_1: 1;
    fsx_seed_2, direct_seed_2: 2;
    fsx_seed_3, direct_seed_3: 3;
    fsx_seed_4, direct_seed_4: 4;
    fsx_seed_5, direct_seed_5: 5;
}

/// fsx: reads, writes, truncations and mapped access, each checked. Seed 1 has an msync after every mapped write, and
/// fewer of these: each waits for the disk.
fn fsx(seed: u64) {
    on_a_mount(&format!("fsx{seed}"), |mounted, work| {
        let config = work.join("fsx.toml");
        let text = format!(
            "nomsyncafterwrite = {}\nflen = 262144\n[opsize]\nmax = 65536\n[weights]\n\
             read = 10\nwrite = 10\nmapread = 10\nmapwrite = {}\ntruncate = 5\n\
             invalidate = 1\nclose_open = 1\nfsync = 0.05\nfdatasync = 0.05\n",
            seed != 1,
            if seed == 1 { 1 } else { 10 }
        );
        std::fs::write(&config, text).expect("write");
        run(Command::new("fsx")
            .args(["-q", "-N", &scaled(100_000).to_string(), "-S", &seed.to_string(), "-P"])
            .arg(work)
            .arg("-f")
            .arg(&config)
            .arg(mounted.join("file")))
        .ok();
    });
}

/// The same for O_DIRECT, which the crate `fsx` (0.3.2) does not know: our own exerciser.
fn direct(seed: u64) {
    on_a_mount(&format!("direct{seed}"), |mounted, _| {
        let done = operations::exercise_direct(&mounted.join("file"), seed, scaled(100_000));
        done.unwrap_or_else(|text| panic!("seed {seed}: {text}"));
    });
}

fn on_a_mount(name: &str, test: impl Fn(&Mounted, &Path)) {
    let Some(work) = setup(name) else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 2 * GIB, &[]);
    let mounted = subject().mount(&image, &mnt, "");
    test(&mounted, work.path());
    mounted.unmount();
    oracle::assert_clean(&image);
}

/// The rule for access times is shown to who lists mounts, as the kernel shows it.
#[test]
fn the_rule_for_access_times_is_shown() {
    let Some(work) = setup("times_shown") else { return };
    let (image, mnt) = (work.file("image"), work.dir("mnt"));
    subject().mkfs(&image, 256 << 20, &[]);
    for (options, relatime, noatime) in [("strictatime", false, false), ("noatime", false, true), ("", true, false)] {
        let mounted = subject().mount(&image, &mnt, options);
        let list = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let line = list.lines().find(|line| line.split(' ').nth(4) == mnt.to_str()).expect("the mount is listed");
        let shown: Vec<&str> = line.split(' ').nth(5).expect("options").split(',').collect();
        assert_eq!((shown.contains(&"relatime"), shown.contains(&"noatime")), (relatime, noatime), "{options}: {line}");
        mounted.unmount();
    }
}
