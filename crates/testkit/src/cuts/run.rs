//! A program on a mount whose device records; cuts, and what is found after each.

use crate::unmount::unmount;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{self, Access, Filesystem};
use butterfs_engine::mkfs::{self, MakeOptions};
use butterfs_format::ChecksumType;
use butterfs_format::items::BlockGroupFlags;
use butterfs_fuse::adapter::{AdapterOptions, Changeable};
use butterfs_fuse::mount::MountSource;
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use super::Workload;
use super::ledger::Ledger;
use super::turns::conduct;
use crate::command::run;
use crate::crash::campaign::Wrap;
use crate::crash::judge::{Maker, Strictness, Verdict, Violation, check_devices, environment, use_it};
use crate::crash::recording::Recorder;
use crate::crash::states::{CrashState, Plan, Settings};
use crate::crash::tally::Tally;
use crate::crash::workload::{DEVICE_LEN, open};
use crate::device_files::DeviceFiles;
use crate::library_tree;
use crate::mounter::{create_sparse, is_mounted, wait_until};
use crate::served::Served;
use crate::workdir::{WorkDir, loops_below};

/// Who writes what is cut; we read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Our mount.
    Butterfs,
    /// `mkfs.btrfs` and the kernel's btrfs, on a loop device over a file of [`DeviceFiles`].
    Kernel,
}

/// How the filesystem is made.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Size of a tree block, in bytes.
    pub nodesize: u32,
    /// Checksums.
    pub csum_type: ChecksumType,
    /// DUP, or none for single.
    pub metadata: BlockGroupFlags,
}

impl Format {
    /// The n-th of all that are tried.
    pub fn number(n: usize) -> Self {
        use ChecksumType::{Blake2b, Crc32c, Sha256, Xxhash64};
        let metadata = if n.is_multiple_of(2) { BlockGroupFlags::DUP } else { BlockGroupFlags::empty() };
        let csum_type = [Crc32c, Xxhash64, Sha256, Blake2b][n % 4];
        Self { nodesize: if n % 3 == 1 { 4096 } else { 16384 }, csum_type, metadata }
    }
}

/// Where a program runs.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// The `cuts` command, which runs programs.
    pub command: &'a Path,
    /// How many turns.
    pub turns: u64,
    /// Of the program's choices.
    pub seed: u64,
    /// Who writes.
    pub writer: Writer,
    /// How the filesystem is made.
    pub format: Format,
    /// What stands between the writer and the device that records.
    pub wrap: Wrap,
}

impl Setup<'_> {
    fn conduct(&self, workload: &dyn Workload, top: &Path, ledger: &Ledger) {
        conduct(self.command, workload, [self.turns, self.seed], top, ledger);
    }
}

/// A program that was run, ready for cuts.
pub struct Recorded<'a> {
    workload: &'a dyn Workload,
    setup: Setup<'a>,
    /// When each turn began and was over.
    pub ledger: Ledger,
    /// The states.
    pub plan: Plan,
    /// How many events made the filesystem.
    pub made: usize,
}

/// Runs a program and plans `states` cuts.
pub fn record<'a>(workload: &'a dyn Workload, setup: Setup<'a>, settings: Settings) -> Recorded<'a> {
    let recorder = Recorder::new();
    let ledger = Ledger::new(Arc::clone(&recorder), workload.lanes());
    let device = (setup.wrap)(recorder.device(Arc::new(MemDevice::named("disk", DEVICE_LEN))));
    let (work, stage) = (WorkDir::new("cuts"), Stage { workload, setup, ledger: &ledger, recorder: &recorder });
    let made = match setup.writer {
        Writer::Butterfs => stage.on_our_mount(device, &work),
        Writer::Kernel => stage.on_the_kernels(device, &work),
    };
    let plan = Plan::new(recorder.events(), vec![MemDevice::named("disk", DEVICE_LEN)], settings);
    Recorded { workload, setup, ledger, plan, made }
}

/// A program that is about to run.
struct Stage<'a> {
    workload: &'a dyn Workload,
    setup: Setup<'a>,
    ledger: &'a Ledger,
    recorder: &'a Recorder,
}

impl Stage<'_> {
    /// Gives how many events made the filesystem.
    fn on_our_mount(&self, device: Arc<dyn BlockDevice>, work: &WorkDir) -> usize {
        let mut options = MakeOptions::new(DEVICE_LEN, &SystemEnvironment);
        let Format { nodesize, csum_type, metadata } = self.setup.format;
        (options.nodesize, options.csum_type, options.metadata_profile) = (nodesize, csum_type, metadata);
        mkfs::make(Arc::clone(&device), &options).expect("a filesystem is made");
        let made = self.recorder.mark("mkfs returned");
        let volume = Volume::open(vec![device], OpenMode::ReadWrite).expect("the device opens");
        let options = filesystem::OpenOptions { access: Access::ReadWrite, ..Default::default() };
        let filesystem = Filesystem::open(volume, options, Box::new(SystemEnvironment)).expect("the filesystem opens");
        let stand_in = work.file("stand-in");
        create_sparse(&stand_in, DEVICE_LEN);
        // Often, so that commits meet the program at many moments.
        let changeable = Changeable { commit_interval: Duration::from_millis(200), ..Changeable::default() };
        let options = AdapterOptions { changeable, ..AdapterOptions::default() };
        let served = Served::filesystem(Arc::new(filesystem), &work.dir("mnt"), &stand_in, options);
        self.setup.conduct(self.workload, served.path(), self.ledger);
        if let Err(error) = served.unmount() {
            // With a device that breaks its promise this may be.
            println!("{}: at the end: {error}", self.workload.name());
        }
        made
    }

    /// Gives how many events made the filesystem.
    fn on_the_kernels(&self, device: Arc<dyn BlockDevice>, work: &WorkDir) -> usize {
        let source = MountSource::Named("devices".into());
        let files = Served::mount(DeviceFiles::new(vec![device]), &source, &work.dir("devices"));
        let attached = Loop::new(&files.path().join(DeviceFiles::name(0)));
        run(Command::new("mkfs.btrfs").args(kernel_options(self.setup.format)).arg(&attached.path)).ok();
        let made = self.recorder.mark("mkfs returned");
        let mounted = KernelMount::new(&attached.path, work.dir("mnt"));
        self.setup.conduct(self.workload, &mounted.path, self.ledger);
        drop(mounted);
        drop(attached);
        wait_until("the loop device is let go", || loops_below(work.path()).is_empty());
        files.unmount().expect("the devices are taken away");
        made
    }
}

fn kernel_options(format: Format) -> Vec<String> {
    let csum = match format.csum_type {
        ChecksumType::Crc32c => "crc32c",
        ChecksumType::Xxhash64 => "xxhash",
        ChecksumType::Sha256 => "sha256",
        ChecksumType::Blake2b => "blake2",
    };
    let profile = if format.metadata == BlockGroupFlags::DUP { "dup" } else { "single" };
    let nodesize = format.nodesize.to_string();
    ["-q", "-f", "--csum", csum, "--nodesize", &nodesize, "-m", profile, "-d", "single"].map(str::to_owned).to_vec()
}

/// A loop device over a file that this process serves. It holds no descriptor of it: that would keep the process from
/// ending, were it killed.
struct Loop {
    path: PathBuf,
}

impl Loop {
    fn new(file: &Path) -> Self {
        let attached = run(Command::new("losetup").args(["--find", "--show"]).arg(file)).ok();
        Self { path: attached.stdout.trim().into() }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run(Command::new("losetup").arg("-d").arg(&self.path));
    }
}

/// A mount by the kernel, unmounted when dropped.
struct KernelMount {
    path: PathBuf,
}

impl KernelMount {
    fn new(device: &Path, path: PathBuf) -> Self {
        run(Command::new("mount").args(["-t", "btrfs", "-o", "commit=1"]).arg(device).arg(&path)).ok();
        Self { path }
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        unmount(&self.path);
        if is_mounted(&self.path) {
            run(Command::new("umount").arg("-l").arg(&self.path));
        }
    }
}

impl Recorded<'_> {
    /// Judges all cuts, with so many threads.
    pub fn judge(&self, threads: usize) -> Tally {
        Tally::of(&self.plan, threads, |state| self.judge_one(state))
    }

    /// Who made the filesystem.
    pub fn maker(&self) -> Maker {
        match self.setup.writer {
            Writer::Butterfs => Maker::Butterfs,
            Writer::Kernel => Maker::Mkfs,
        }
    }

    /// Judges a cut: it opens, is clean, holds what was promised, and can be used.
    pub fn judge_one(&self, state: &CrashState) -> Result<Verdict, Violation> {
        let bad = |what: &str, why: &dyn std::fmt::Display| Violation(format!("{what}: {why}"));
        let volume = match Volume::open(state.forks(), OpenMode::ReadOnly) {
            Ok(volume) => volume,
            Err(_) if state.cut < self.made => return Ok(Verdict::NotMade),
            Err(error) => return Err(bad("does not open", &error)),
        };
        if state.cut < self.made {
            return Ok(Verdict::NotMade);
        }
        let has_log = volume.superblock().log_root.get() != 0;
        drop(volume);
        check_devices(
            &state.forks(),
            self.maker(),
            if state.is_torn() { Strictness::OneCopy } else { Strictness::Cut },
        )?;
        let devices = state.forks();
        let filesystem = open(devices.clone(), Access::ReadWrite, environment())
            .map_err(|error| bad("does not open for writing", &error))?;
        let files = library_tree::files(&filesystem)
            .map_err(|(path, error)| bad("cannot be read", &format!("{}: {error}", path.display())))?;
        for lane in 0..self.workload.lanes() {
            self.workload.judge(&files, &self.ledger.at(lane, state.cut)).map_err(Violation)?;
        }
        use_it(&filesystem).map_err(|error| bad("cannot be used", &error))?;
        drop(filesystem);
        check_devices(&devices, self.maker(), Strictness::Clean)?;
        Ok(if has_log { Verdict::WithLog } else { Verdict::LastCommit })
    }
}
