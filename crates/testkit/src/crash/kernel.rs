//! Others judge a state: `btrfs check`, and the kernel's own driver, which mounts it and shows what is there.
//!
//! # Invariants
//! * The kernel mounts only what both checkers call clean (a log may wait to be replayed): a damaged filesystem could
//!   hang it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use butterfs_engine::filesystem::Access;
use butterfs_volume::{BlockDevice, FileDevice};

use super::cut::Cut;
use super::judge::{Maker, Strictness, Violation, bad, check_devices, environment};
use super::states::{CrashState, Plan};
use super::workload::open;
use crate::command::{Finished, run_program};
use crate::library_tree;
use crate::mounter::Mounter;
use crate::oracle;
use crate::tree_compare::{Time, Times, Tree};
use crate::workdir::WorkDir;

/// A place for images and mounts.
pub struct KernelJudge {
    work: WorkDir,
}

impl Default for KernelJudge {
    fn default() -> Self {
        Self { work: WorkDir::new("kernel") }
    }
}

impl KernelJudge {
    /// Judges a state of one device, after the filesystem was made.
    ///
    /// # Errors
    /// What is wrong with it for `btrfs check` or the kernel, or where the kernel shows something else than we do.
    pub fn judge(&self, state: &CrashState, maker: Maker) -> Result<(), Violation> {
        check_devices(&state.forks(), maker, Strictness::Cut)?;
        let image = self.work.file("image");
        state.save(0, &image).or_else(|error| bad("cannot be saved", error))?;
        if btrfs_check(&image, "btrfs check", maker)? == Finding::KernelLog {
            return Ok(());
        }
        let filesystem = open(state.forks(), Access::ReadWrite, environment())
            .or_else(|error| bad("does not open for writing", error))?;
        let ours = library_tree::try_read(&filesystem)
            .or_else(|(path, error)| bad("cannot be read", format!("{}: {error}", path.display())))?;
        drop(filesystem);
        let before = SystemTime::now();
        let mounted = match Mounter::Kernel.try_mount(&image, &self.work.dir("mnt"), "") {
            Ok(mounted) => mounted,
            Err(finished) => return bad("the kernel does not mount it", finished),
        };
        let mut theirs = Tree::read(mounted.path());
        mounted.unmount();
        forget_replay_times(&mut theirs, &ours, before);
        let differences = ours.differences(&theirs, Times::Exact);
        if !differences.is_empty() {
            return bad("we | the kernel", differences.join("\n"));
        }
        btrfs_check(&image, "btrfs check, after the kernel had it", maker)?;
        let device = FileDevice::open_read_only(&image).or_else(|error| bad("the image does not open", error))?;
        check_devices(&[Arc::new(device) as Arc<dyn BlockDevice>], maker, Strictness::Clean)
    }

    /// Judges about `count` states of a plan, those cut after event `made` alone. Gives how many they were, and what was
    /// wrong.
    pub fn sample(&self, plan: &Plan, made: usize, maker: Maker, count: usize) -> (usize, Vec<(String, Violation)>) {
        self.sample_where(plan, maker, count, |state| {
            // A superblock that is half written is no clean filesystem to others.
            state.cut >= made && (!state.is_torn() || check_devices(&state.forks(), maker, Strictness::Cut).is_ok())
        })
    }

    /// As [`KernelJudge::sample`], of any work by us on one device: those states that others can be asked about.
    pub fn sample_of(&self, cut: &dyn Cut, count: usize) -> (usize, Vec<(String, Violation)>) {
        self.sample_where(cut.plan(), Maker::Butterfs, count, |state| {
            state.devices.len() == 1 && cut.is_for_others(state)
        })
    }

    fn sample_where(
        &self,
        plan: &Plan,
        maker: Maker,
        count: usize,
        wanted: impl Fn(&CrashState) -> bool,
    ) -> (usize, Vec<(String, Violation)>) {
        let (mut judged, mut violations) = (0, Vec::new());
        let step = (plan.len() / count.max(1)).max(1);
        for state in (0..plan.len()).step_by(step).take(count).map(|number| plan.state(number)).filter(wanted) {
            judged += 1;
            if let Err(violation) = self.judge(&state, maker) {
                violations.push((state.to_string(), violation));
            }
        }
        (judged, violations)
    }
}

/// The kernel's replay of a log sets times of its own in files whose names it changes: those are not compared.
fn forget_replay_times(theirs: &mut Tree, ours: &Tree, mounted: SystemTime) {
    // Its clock for files goes in steps of up to ten milliseconds.
    let mounted = mounted.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(Duration::from_millis(20));
    let since: Time = (mounted.as_secs() as i64, mounted.subsec_nanos());
    for (path, entry) in &mut theirs.entries {
        let Some(ours) = ours.entries.get(path) else { continue };
        if entry.ctime >= since {
            entry.ctime = ours.ctime;
        }
        if entry.mtime >= since {
            entry.mtime = ours.mtime;
        }
    }
}

/// `btrfs check`, which must find nothing.
///
/// Its usual mode counts an inode without names as an error that it does not name, when its record stayed unfinished
/// (seen where snapshots share leaves); its other mode reads the same trees without that. So where no error is named,
/// the other mode decides. And of a log that the kernel wrote it wants checksums for a hole that was cut into.
fn btrfs_check(image: &Path, who: &str, maker: Maker) -> Result<Finding, Violation> {
    let usual = oracle::check(image);
    if is_clean(&usual) {
        return Ok(Finding::Nothing);
    }
    let named: Vec<String> =
        oracle::complaints(&usual).into_iter().filter(|line| !UNNAMED.iter().any(|text| line.contains(text))).collect();
    if named.is_empty() {
        let arguments = ["check".as_ref(), "--mode=lowmem".as_ref(), "--check-data-csum".as_ref(), image.as_os_str()];
        let other = run_program("btrfs", &arguments);
        return if is_clean(&other) { Ok(Finding::Nothing) } else { bad(who, other) };
    }
    let of_a_log = |line: &String| KERNEL_LOG.iter().any(|text| line.contains(text));
    if maker == Maker::Mkfs && named.iter().all(of_a_log) {
        return Ok(Finding::KernelLog);
    }
    bad(who, usual)
}

/// What `btrfs check` says where it names no error.
const UNNAMED: [&str; 2] = ["ERROR: errors found in fs roots", "error(s) found"];

/// What it says of such a log.
const KERNEL_LOG: [&str; 2] = ["csum missing in log", "errors found in log"];

/// What `btrfs check` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Nothing,
    /// It dislikes a log of the kernel's own: nobody mounts that.
    KernelLog,
}

fn is_clean(finished: &Finished) -> bool {
    finished.status.success() && format!("{}{}", finished.stdout, finished.stderr).contains("no error found")
}
