//! What a filesystem must be like after a power cut.
//!
//! 1. It opens, and the checker finds it clean without any repair (superblock copies may lag; a torn copy is seen).
//! 2. Its generation is that of the last durable commit, or of one that was under way.
//! 3. Names, link counts and snapshots are exactly those of that commit, and a file that was clean then has exactly
//!    its content; of a file with changes that were not synced, each byte is from some version since it was last
//!    durable, or zero. Of a file that is overwritten in place, from some version up to the cut: no commit keeps
//!    older bytes, but snapshots do.
//! 4. Whatever fsync or sync told to be durable is there, under each name that did not change since (or, where a
//!    directory above was renamed and not synced, in its old place). A name that a synced file or directory had lost
//!    by then is not there, unless it came back.
//! 5. After an open for writing (which replays logs) 3 and 4 still hold; it can be written, cleaned and
//!    committed, and is clean again.
//!
//! With a log tree, files and names may each be newer than the commit, up to the moment of the cut; 4 says what must be.

mod gone;

use std::collections::BTreeMap;
use std::sync::Arc;

use butterfs_check::{Kind, Report, Severity};
use butterfs_engine::dir::Place;
use butterfs_engine::filesystem::{self, Access, Filesystem, Flow, NewInode, NewKind, Returning};
use butterfs_engine::inode::InodeId;
use butterfs_engine::{Error, Result};
use butterfs_format::Superblock;
use butterfs_format::items::FileType;
use butterfs_format::superblock::{MAGIC, SUPERBLOCK_OFFSETS, SUPERBLOCK_SIZE};
use butterfs_volume::{BlockDevice, MemDevice, Missing, OpenMode, OpenOptions, Volume};

use super::history::{Durable, History, Names, Node};
use super::states::{CrashState, shared};
use super::workload::{CountingEnvironment, XATTR, open, open_with};
use crate::random::Random;

/// What a good state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// mkfs was not done, and there is no filesystem yet.
    NotMade,
    /// Exactly the last commit that was durable.
    LastCommit,
    /// A newer one.
    Newer,
    /// A commit with a log tree on top.
    WithLog,
}

/// Why a state is bad.
#[derive(Clone, Debug)]
pub struct Violation(pub String);

/// Which states are looked at through a read-only open as well.
const READ_ONLY_EVERY: usize = 4;

pub(super) fn bad<T>(what: &str, why: impl std::fmt::Display) -> std::result::Result<T, Violation> {
    Err(Violation(format!("{what}: {why}")))
}

/// Judges a state by the history of the workload that was cut.
pub fn judge(history: &History, state: &CrashState) -> std::result::Result<Verdict, Violation> {
    let being_made = state.cut < history.made;
    let away = history.away_at(state.cut);
    let there = members(&state.devices, away);
    let volume = match open_some(there.iter().map(MemDevice::snapshot), away.is_some()) {
        Ok(volume) => volume,
        Err(_) if being_made => return Ok(Verdict::NotMade),
        Err(error) => return bad("does not open", error),
    };
    // While a filesystem is made, or a device comes or goes, one superblock may be there and the other not yet, or not any more:
    // nobody counts on the other then.
    let one_copy = being_made || state.is_torn() || history.changes_devices_at(state.cut);
    if away.is_none() {
        check(&there, if one_copy { Strictness::OneCopy } else { Strictness::Cut })?;
    }
    if history.steps.is_empty() {
        return Ok(Verdict::NotMade);
    }
    let mut found_commit = Commit::shown(history, state.cut, &volume)?;
    drop(volume);
    if away.is_none() && state.number.is_multiple_of(READ_ONLY_EVERY) {
        let filesystem = open_fork(&there, Access::ReadOnly).or_else(|e| bad("does not open read-only", e))?;
        found_commit.compare(&filesystem).map_err(|why| Violation(format!("read-only: {why}")))?;
    }
    // One that was away is there again. When it has everything it may be the first to be told of the commit that says so.
    if away.is_some() {
        let all = members(&state.devices, None).into_iter();
        let volume = open_some(all, false).or_else(|e| bad("does not open with a device that returned", e))?;
        found_commit = Commit::shown(history, state.cut, &volume)?;
    }
    let mut devices = forks(&members(&state.devices, None));
    let filesystem = match open_returning(devices.clone()) {
        Ok(filesystem) => filesystem,
        Err(Error::Volume(butterfs_volume::Error::NotWritable(_))) if being_made => return Ok(Verdict::NotMade),
        Err(error) => return bad("does not open for writing", error),
    };
    found_commit.compare(&filesystem).map_err(Violation)?;
    if away.is_some() {
        filesystem.resync().or_else(|error| bad("a device cannot be brought up to date", error))?;
        found_commit.compare(&filesystem).map_err(|why| Violation(format!("with a device that returned: {why}")))?;
    }
    use_it(&filesystem).or_else(|error| bad("cannot be used", error))?;
    // The cut may have come before the superblocks of a device went that was removed.
    end_replacement(&filesystem, state.number).or_else(|error| bad("a replacement has no end", error))?;
    let own = filesystem.shared().gate.volume().dev_items();
    drop(filesystem);
    devices.retain(|device| uuid_of(&**device).is_some_and(|uuid| own.iter().any(|item| item.uuid == uuid)));
    check_devices(&devices, Maker::Butterfs, Strictness::Clean)?;
    Ok(found_commit.verdict())
}

/// One that was cut goes on or is cancelled, by turns; without a target there is no going on.
fn end_replacement(filesystem: &Filesystem, number: usize) -> Result<()> {
    if !filesystem.replace_status().is_under_way() {
        return Ok(());
    }
    if number.is_multiple_of(2) && filesystem.shared().gate.volume().replaced_device().is_some() {
        let replacement = filesystem.begin_resumed_replacement()?;
        return filesystem.run_replacement(replacement).map(drop);
    }
    filesystem.cancel_replacement()
}

/// The UUID that a device's first superblock says it has.
fn uuid_of(device: &dyn BlockDevice) -> Option<[u8; 16]> {
    let (mut bytes, offset) = ([0; SUPERBLOCK_SIZE], SUPERBLOCK_OFFSETS[0]);
    device.read_at(offset, &mut bytes).ok()?;
    Superblock::parse(&bytes, offset).ok().map(|sb| sb.dev_item.uuid)
}

/// The cut, and then as many devices are lost for good as may be: what is left still has all of it. Each set of devices
/// comes up in some state. One that was away is among the lost.
pub fn after_losses(history: &History, state: &CrashState, survives: usize) -> std::result::Result<(), Violation> {
    if state.cut < history.made || history.steps.is_empty() {
        return Ok(());
    }
    let away = history.away_at(state.cut);
    let mut left = members(&state.devices, away);
    let mut random = Random::new(state.number as u64);
    for _ in usize::from(away.is_some())..survives {
        left.remove(random.below(left.len() as u64) as usize);
    }
    let volume = open_some(left.into_iter(), true).or_else(|e| bad("does not open without devices", e))?;
    let commit = Commit::shown(history, state.cut, &volume)?;
    let options = filesystem::OpenOptions { access: Access::ReadOnly, ..filesystem::OpenOptions::default() };
    let filesystem = Filesystem::open(volume, options, Box::new(environment()));
    let filesystem = filesystem.or_else(|e| bad("does not open without devices", e))?;
    commit.compare(&filesystem).map_err(|why| Violation(format!("without {survives} devices: {why}")))
}

/// Those of the devices that a scan would find, but for one.
fn members(devices: &[MemDevice], without: Option<usize>) -> Vec<MemDevice> {
    let has_magic = |device: &MemDevice| {
        let mut magic = [0; 8];
        device.read_at(SUPERBLOCK_OFFSETS[0] + 64, &mut magic).is_ok() && magic == MAGIC
    };
    let is_found = |(place, device): &(usize, &MemDevice)| Some(*place) != without && has_magic(device);
    let found: Vec<_> = devices.iter().enumerate().filter(is_found).map(|(_, device)| device.snapshot()).collect();
    // None at all: whoever opens them says what is wrong.
    if found.is_empty() { devices.iter().map(MemDevice::snapshot).collect() } else { found }
}

fn open_some(devices: impl Iterator<Item = MemDevice>, some_are_lost: bool) -> butterfs_volume::Result<Volume> {
    let missing = if some_are_lost { Missing::Accept } else { Missing::Refuse };
    Volume::open_with(shared(devices.collect()), &OpenOptions { missing, ..OpenOptions::new(OpenMode::ReadOnly) })
}

fn open_returning(devices: Vec<Arc<dyn BlockDevice>>) -> Result<Filesystem> {
    let options = filesystem::OpenOptions { returning: Returning::CatchUp, ..filesystem::OpenOptions::default() };
    open_with(devices, options, environment())
}

/// For devices that lied (lost, misdirected or damaged writes): what can be read at all is what was written. Errors
/// are allowed, and so is the state of an older commit. Gives how many paths could be read, and how many not.
pub fn tells_no_lies(history: &History, state: &CrashState) -> std::result::Result<(usize, usize), Violation> {
    let Ok(volume) = Volume::open(forks(&state.devices), OpenMode::ReadOnly) else { return Ok((0, 0)) };
    let sb = volume.superblock();
    let options = butterfs_check::Options { data_csums: true, ..butterfs_check::Options::default() };
    // It must come to an end; what it finds is another matter.
    let _report = butterfs_check::check(&volume, &options);
    drop(volume);
    if history.steps.is_empty() {
        return Ok((0, 0));
    }
    let commit = Commit::of(history, state.cut, sb.generation.get(), sb.log_root.get() != 0);
    let Ok(filesystem) = open_fork(&state.devices, Access::ReadOnly) else { return Ok((0, 0)) };
    let (found, unreadable) = read_what_can_be(&filesystem);
    let moments: Vec<ExpectedNames> = commit.moments();
    for (path, node) in &found {
        let fits_one = |moment: &ExpectedNames| moment.get(path).is_some_and(|expected| fits(expected, node).is_ok());
        if !moments.iter().any(fits_one) {
            let step = &history.steps[commit.step];
            return bad("a lie", format!("{path} is not as any of {} moments had it ({})", moments.len(), step.what));
        }
    }
    Ok((found.len(), unreadable))
}

fn read_what_can_be(filesystem: &Filesystem) -> (FoundNames, usize) {
    let (mut found, mut unreadable) = (FoundNames::new(), 0);
    let mut open: Vec<(InodeId, String)> = vec![(filesystem.root(), String::new())];
    while let Some((dir, prefix)) = open.pop() {
        let mut names = Vec::new();
        let listed = filesystem.read_dir(dir, 2, |entry| {
            names.push(entry.name.clone());
            Ok(Flow::More)
        });
        unreadable += usize::from(listed.is_err());
        for name in names {
            let path = format!("{prefix}{}", String::from_utf8_lossy(&name));
            let one = filesystem.lookup(Place::new(dir, &name)).and_then(|id| Ok((id, read_one(filesystem, id, dir)?)));
            let Ok((id, node)) = one else {
                unreadable += 1;
                continue;
            };
            if matches!(node, Found::Directory | Found::Subvolume) {
                open.push((id, format!("{path}/")));
            }
            found.insert(path, node);
        }
    }
    (found, unreadable)
}

fn forks(devices: &[MemDevice]) -> Vec<Arc<dyn BlockDevice>> {
    shared(devices.iter().map(MemDevice::snapshot).collect())
}

/// A clock and UUIDs for whoever opens a state.
pub fn environment() -> CountingEnvironment {
    CountingEnvironment::new(u64::from(u32::MAX) << 20)
}

fn open_fork(devices: &[MemDevice], access: Access) -> Result<Filesystem> {
    open(forks(devices), access, environment())
}

/// Who made the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// We.
    Butterfs,
    /// `mkfs.btrfs`, which leaves entries of its temporary block groups in the free space tree.
    Mkfs,
}

/// What the checker may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing.
    Clean,
    /// Superblock copies that are older, a log tree.
    Cut,
    /// A superblock copy that is half written or not there, besides.
    OneCopy,
}

fn check(devices: &[MemDevice], strictness: Strictness) -> std::result::Result<(), Violation> {
    check_devices(&forks(devices), Maker::Butterfs, strictness)
}

/// Runs the checker over devices that nobody uses.
pub fn check_devices(
    devices: &[Arc<dyn BlockDevice>],
    maker: Maker,
    strictness: Strictness,
) -> std::result::Result<(), Violation> {
    let volume = Volume::open(devices.to_vec(), OpenMode::ReadOnly).or_else(|e| bad("does not open", e))?;
    let options =
        butterfs_check::Options { data_csums: true, devices: devices.to_vec(), ..butterfs_check::Options::default() };
    let report = butterfs_check::check(&volume, &options);
    if allowed(&report, maker, strictness) {
        Ok(())
    } else {
        bad("check is not clean", format!("{strictness:?}\n{report}"))
    }
}

fn allowed(report: &Report, maker: Maker, strictness: Strictness) -> bool {
    report.statistics.suppressed == 0
        && report.findings.iter().all(|finding| match finding.severity {
            Severity::Note => true,
            Severity::Warning if maker == Maker::Mkfs && finding.kind == Kind::FreeSpace => true,
            Severity::Warning => {
                strictness != Strictness::Clean && matches!(finding.kind, Kind::SuperblockMirror | Kind::Log)
            }
            Severity::Error => strictness == Strictness::OneCopy && finding.kind == Kind::Superblock,
        })
}

/// After a crash one goes on working: write, sync, delete, clean. A full filesystem may refuse what is new.
pub fn use_it(filesystem: &Filesystem) -> Result<()> {
    let top = filesystem.root();
    let new = NewInode { kind: NewKind::File, permissions: 0o600, uid: 0, gid: 0 };
    match filesystem.create(Place::new(top, b"after the cut"), &new) {
        Ok(id) => match filesystem.write(id, 10, &[7; 9000]) {
            Ok(_) | Err(Error::NoSpace) => filesystem.fsync(id)?,
            Err(error) => return Err(error),
        },
        Err(Error::NoSpace) => {}
        Err(error) => return Err(error),
    }
    let mut first = None;
    filesystem.read_dir(top, 2, |entry| {
        if entry.file_type == FileType::Regular && first.is_none() {
            first = Some(entry.name.clone());
        }
        Ok(Flow::More)
    })?;
    if let Some(name) = first {
        filesystem.unlink(Place::new(top, &name))?;
    }
    while filesystem.clean_once(1000)? {}
    filesystem.sync()
}

/// What was found under a path.
#[derive(Debug)]
enum Found {
    Directory,
    Subvolume,
    Symlink(Vec<u8>),
    File { id: InodeId, links: u32, bytes: Vec<u8>, xattr: Vec<u8> },
}

type FoundNames = BTreeMap<String, Found>;

fn read_all(filesystem: &Filesystem) -> Result<FoundNames> {
    let mut all = FoundNames::new();
    read_dir(filesystem, filesystem.root(), "", &mut all)?;
    Ok(all)
}

fn read_dir(filesystem: &Filesystem, dir: InodeId, prefix: &str, all: &mut FoundNames) -> Result<()> {
    let mut entries = Vec::new();
    filesystem.read_dir(dir, 2, |entry| {
        entries.push((entry.id, String::from_utf8_lossy(&entry.name).into_owned()));
        Ok(Flow::More)
    })?;
    for (listed, name) in entries {
        let path = format!("{prefix}{name}");
        let id = filesystem.lookup(Place::new(dir, name.as_bytes()))?;
        if id != listed {
            return Err(Error::Unsupported(format!("{path}: listed as {listed:?}, found as {id:?}")));
        }
        let found = read_one(filesystem, id, dir)?;
        if matches!(found, Found::Directory | Found::Subvolume) {
            read_dir(filesystem, id, &format!("{path}/"), all)?;
        }
        all.insert(path, found);
    }
    Ok(())
}

fn read_one(filesystem: &Filesystem, id: InodeId, dir: InodeId) -> Result<Found> {
    let attributes = filesystem.attributes(id)?;
    Ok(match attributes.file_type {
        FileType::Directory if id.tree != dir.tree => Found::Subvolume,
        FileType::Directory => Found::Directory,
        FileType::Symlink => Found::Symlink(filesystem.read_link(id)?),
        _ => {
            let size = usize::try_from(attributes.item.size.get()).unwrap_or(usize::MAX).min(1 << 30);
            let mut bytes = vec![0; size + 1];
            let len = filesystem.read(id, 0, &mut bytes)?;
            bytes.truncate(len);
            let xattr = match filesystem.xattr(id, XATTR) {
                Err(Error::NoAttribute) => Vec::new(),
                other => other?,
            };
            Found::File { id, links: attributes.item.nlink.get(), bytes, xattr }
        }
    })
}

/// What must be under a path.
enum Expected {
    Directory,
    Subvolume,
    Symlink(Vec<u8>),
    /// Hard links have the same identity; in snapshots another than outside.
    File {
        identity: (usize, usize),
        content: Vec<Arc<[u8]>>,
        xattr: Vec<Arc<[u8]>>,
    },
}

type ExpectedNames = BTreeMap<String, Expected>;

/// The commit that a state shows, and what may lie on top.
struct Commit<'a> {
    history: &'a History,
    /// The step that made it.
    step: usize,
    /// That step was a sync or the like, and ended with this commit: its promise is kept by it.
    exact: bool,
    has_log: bool,
    /// The last step that had returned.
    done: Option<usize>,
    /// The last step that had begun.
    begun: usize,
    newer: bool,
}

impl<'a> Commit<'a> {
    /// The one that a volume shows.
    fn shown(history: &'a History, cut: usize, volume: &Volume) -> std::result::Result<Self, Violation> {
        let sb = volume.superblock();
        Self::find(history, cut, sb.generation.get(), sb.log_root.get() != 0)
    }

    fn find(history: &'a History, cut: usize, generation: u64, has_log: bool) -> std::result::Result<Self, Violation> {
        let commit = Self::of(history, cut, generation, has_log);
        let floor = commit.done.map_or(0, |done| history.steps[done].generation);
        let made_by = history.steps.first().map_or(0, |step| step.generation);
        let ceiling = history.steps[commit.begun].generation.max(made_by);
        if generation < floor || generation > ceiling {
            let last = commit.done.map_or("nothing", |done| &history.steps[done].what);
            return bad("generation", format!("{generation} found, {floor} to {ceiling} possible after {last:?}"));
        }
        Ok(commit)
    }

    /// The commit of a generation, whether it may be that one or not.
    fn of(history: &'a History, cut: usize, generation: u64, has_log: bool) -> Self {
        let (done, begun) = (history.done_at(cut), history.begun_at(cut));
        let step = history.steps.iter().position(|step| step.generation >= generation).unwrap_or(begun);
        let at = &history.steps[step];
        let exact = step == 0 || at.durable != Durable::Nothing && at.generation == generation;
        let newer = done.is_none_or(|done| generation > history.steps[done].generation);
        Self { history, step, exact, has_log, done, begun, newer }
    }

    fn verdict(&self) -> Verdict {
        match (self.has_log, self.newer) {
            (true, _) => Verdict::WithLog,
            (false, true) => Verdict::Newer,
            (false, false) => Verdict::LastCommit,
        }
    }

    fn compare(&self, filesystem: &Filesystem) -> std::result::Result<(), String> {
        let found = read_all(filesystem).map_err(|error| format!("cannot be read: {error}"))?;
        let matched = if self.has_log { self.matches_with_log(&found) } else { self.matches_commit(&found) };
        matched.and_then(|()| self.keeps_promises(&found)).and_then(|()| self.keeps_removals(&found)).map_err(|why| {
            let step = &self.history.steps[self.step];
            let begun = &self.history.steps[self.begun].what;
            format!("commit of step {} ({}), cut in step {} ({begun}): {why}", self.step, step.what, self.begun)
        })
    }

    /// Names are those after the step that committed, or before it if it committed on its way.
    fn matches_commit(&self, found: &FoundNames) -> std::result::Result<(), String> {
        let after = same(&self.expected(self.step, self.step, self.step..=self.step), found);
        match after {
            Err(_) if !self.exact && self.step > 0 => {
                let before = self.step - 1;
                let before = same(&self.expected(before, self.step, before..=before), found);
                before.map_err(|why| format!("{why} (or: {})", after.err().unwrap_or_default()))
            }
            other => other,
        }
    }

    /// Each entry is as it was at some moment since the commit.
    fn matches_with_log(&self, found: &FoundNames) -> std::result::Result<(), String> {
        let moments = self.moments();
        for (path, node) in found {
            let fits = |moment: &ExpectedNames| {
                moment
                    .get(path)
                    .is_some_and(|expected| fits(expected, node).is_ok() || is_new(expected) && is_empty(node))
            };
            if !moments.iter().any(fits) {
                return Err(format!("with its log: {path} is as it never was since the commit"));
            }
        }
        let missing = moments
            .first()
            .into_iter()
            .flat_map(|moment| moment.keys())
            .find(|path| !found.contains_key(*path) && moments.iter().all(|moment| moment.contains_key(*path)));
        missing.map_or(Ok(()), |path| Err(format!("with its log: {path} is missing")))
    }

    /// What entries led to at each moment since the commit, with any data up to the cut.
    fn moments(&self) -> Vec<ExpectedNames> {
        let first = if self.exact { self.step } else { self.step.saturating_sub(1) };
        let mut moments = Vec::new();
        let mut last: Option<&Arc<Names>> = None;
        for step in first..=self.begun {
            let names = &self.history.steps[step].names;
            if last.is_none_or(|last| !Arc::ptr_eq(last, names)) {
                moments.push(self.expected(step, self.begun, first..=self.begun));
            }
            last = Some(names);
        }
        moments
    }

    /// What was made durable is there, under names that did not change since.
    fn keeps_promises(&self, found: &FoundNames) -> std::result::Result<(), String> {
        let Some(done) = self.done else { return Ok(()) };
        let now = &self.history.steps[self.begun].names;
        for (path, entry) in self.history.steps[done].names.iter() {
            let Node::File(number) = entry.node else { continue };
            let Some(durable) = self.history.durable_step(number, done) else { continue };
            if entry.since > durable || now.get(path) != Some(entry) {
                continue;
            }
            let file = &self.history.files[number];
            let (content, xattr) =
                (file.content.between(Some(durable), self.begun), file.xattr.between(Some(durable), self.begun));
            let what = &self.history.steps[durable].what;
            let Some(node) = found.get(path).or_else(|| self.elsewhere(path, number, found)) else {
                return Err(format!("{path} is lost, in spite of {what}"));
            };
            fits(&Expected::File { identity: (0, 0), content, xattr }, node)
                .map_err(|why| format!("{path} {why}, in spite of {what}"))?;
        }
        (0..=done).try_for_each(|step| self.keeps_directory(step, done, found))
    }

    /// Whether a directory above was renamed since the commit. Nobody synced that: it may be undone.
    fn was_moved(&self, path: &str) -> bool {
        let names = &self.history.steps[self.begun].names;
        let above = path.match_indices('/').map(|(at, _)| &path[..at]);
        above.filter_map(|dir| names.get(dir)).any(|dir| dir.since >= self.step)
    }

    /// The same file in the directory's old place.
    fn elsewhere<'f>(&self, path: &str, number: usize, found: &'f FoundNames) -> Option<&'f Found> {
        let was_there = |old: &str| {
            let mut moments = self.history.steps[self.step..=self.begun].iter();
            moments.any(|step| step.names.get(old).is_some_and(|entry| entry.node == Node::File(number)))
        };
        let name = path.rsplit('/').next();
        let same = |old: &&String| old.rsplit('/').next() == name && was_there(old);
        self.was_moved(path).then(|| found.keys().find(same)).flatten().and_then(|old| found.get(old))
    }

    /// A directory that was synced in a step has the names that it had, but for those that changed since.
    fn keeps_directory(&self, step: usize, done: usize, found: &FoundNames) -> std::result::Result<(), String> {
        let at = &self.history.steps[step];
        let Durable::Directory(dir) = &at.durable else { return Ok(()) };
        let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let since = |step: usize| &self.history.steps[step].names;
        for (path, entry) in at.names.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix)) {
            let unchanged = [done, self.begun].iter().all(|step| since(*step).get(path) == Some(entry));
            let required = unchanged && !path[prefix.len()..].contains('/') && !self.was_moved(path);
            if required && !found.contains_key(path) {
                return Err(format!("{path} is lost, in spite of {}", at.what));
            }
        }
        Ok(())
    }

    /// What the names of a step lead to, with data up to another step, and attributes of a range of steps.
    fn expected(&self, step: usize, data: usize, xattrs: std::ops::RangeInclusive<usize>) -> ExpectedNames {
        let mut all = ExpectedNames::new();
        let data = if self.history.in_place { self.begun } else { data };
        for (path, entry) in self.history.steps[step].names.iter() {
            let expected = match &entry.node {
                Node::Directory => Expected::Directory,
                Node::Subvolume => Expected::Subvolume,
                Node::Snapshot(number) => {
                    self.add_snapshot(*number, path, &mut all);
                    Expected::Subvolume
                }
                Node::Symlink(target) => Expected::Symlink(target.clone()),
                Node::File(number) => {
                    let durable_by = if self.exact { Some(self.step) } else { self.step.checked_sub(1) };
                    let durable = durable_by.and_then(|step| self.history.durable_step(*number, step));
                    let file = &self.history.files[*number];
                    Expected::File {
                        identity: (0, *number),
                        content: file.content.between(durable, data),
                        xattr: file.xattr.between(Some(*xattrs.start()), *xattrs.end()),
                    }
                }
            };
            all.insert(path.clone(), expected);
        }
        all
    }

    /// A snapshot has what was there before it, with an empty directory for each nested subvolume.
    fn add_snapshot(&self, number: usize, at: &str, all: &mut ExpectedNames) {
        let made = self.history.snapshots[number];
        let Some(before) = made.checked_sub(1) else { return };
        let names = &self.history.steps[before].names;
        let nested = |path: &str| {
            path.split_once('/').and_then(|(top, _)| names.get(top)).is_some_and(|top| top.node == Node::Subvolume)
        };
        for (path, entry) in names.iter().filter(|(path, _)| !nested(path)) {
            let expected = match &entry.node {
                Node::Directory | Node::Subvolume | Node::Snapshot(_) => Expected::Directory,
                Node::Symlink(target) => Expected::Symlink(target.clone()),
                Node::File(file) => Expected::File {
                    identity: (number + 1, *file),
                    content: vec![self.history.files[*file].content.at(before)],
                    xattr: vec![self.history.files[*file].xattr.at(before)],
                },
            };
            all.insert(format!("{at}/{path}"), expected);
        }
    }
}

fn is_new(expected: &Expected) -> bool {
    matches!(expected, Expected::File { content, .. } if content.iter().any(|bytes| bytes.is_empty()))
}

fn is_empty(found: &Found) -> bool {
    matches!(found, Found::File { bytes, .. } if bytes.is_empty())
}

/// Exactly these names, with link counts and identities.
fn same(expected: &ExpectedNames, found: &FoundNames) -> std::result::Result<(), String> {
    if let Some(path) = found.keys().find(|path| !expected.contains_key(*path)) {
        return Err(format!("{path} should not be there"));
    }
    let mut ids: BTreeMap<(usize, usize), (InodeId, u32)> = BTreeMap::new();
    for (path, expected) in expected {
        let Some(node) = found.get(path) else { return Err(format!("{path} is missing")) };
        fits(expected, node).map_err(|why| format!("{path} {why}"))?;
        if let (Expected::File { identity, .. }, Found::File { id, .. }) = (expected, node) {
            let (first, count) = ids.entry(*identity).or_insert((*id, 0));
            *count += 1;
            if first != id {
                return Err(format!("{path} is {id:?}, its other name leads to {first:?}"));
            }
        }
    }
    let counts: BTreeMap<InodeId, u32> = ids.values().copied().collect();
    for (path, node) in found {
        let Found::File { id, links, .. } = node else { continue };
        if counts.get(id) != Some(links) {
            return Err(format!("{path} says that it has {links} links, it has {:?}", counts.get(id)));
        }
    }
    Ok(())
}

fn fits(expected: &Expected, found: &Found) -> std::result::Result<(), String> {
    match (expected, found) {
        (Expected::Directory, Found::Directory) | (Expected::Subvolume, Found::Subvolume) => Ok(()),
        (Expected::Symlink(want), Found::Symlink(target)) if want == target => Ok(()),
        (Expected::File { content, xattr, .. }, Found::File { bytes, xattr: found, .. }) => {
            if !xattr.iter().any(|version| **version == **found) {
                return Err(format!("has an attribute of {} bytes, another one than it had", found.len()));
            }
            content_fits(content, bytes)
        }
        _ => Err("is of another type".into()),
    }
}

/// Content of one version; or, when there are several, bytes of any of them or zeros, and a size between theirs.
fn content_fits(versions: &[Arc<[u8]>], bytes: &[u8]) -> std::result::Result<(), String> {
    let sizes = || versions.iter().map(|version| version.len());
    let (low, high) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    if !(low..=high).contains(&bytes.len()) {
        return Err(format!("has {} bytes, {low} to {high} are possible", bytes.len()));
    }
    if versions.iter().any(|version| **version == *bytes) {
        return Ok(());
    }
    let possible = |at: usize, byte: u8| {
        versions.len() > 1 && byte == 0 || versions.iter().any(|version| version.get(at) == Some(&byte))
    };
    match bytes.iter().enumerate().find(|(at, byte)| !possible(*at, **byte)) {
        None => Ok(()),
        Some((at, byte)) => {
            Err(format!("has {byte} at {at} of {}, which none of {} versions has", bytes.len(), versions.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_a_clean_file_is_exact_and_of_a_dirty_one_from_its_versions() {
        let version = |bytes: &[u8]| Arc::from(bytes);
        let one = [version(&[1, 2, 3])];
        assert!(content_fits(&one, &[1, 2, 3]).is_ok());
        assert!(content_fits(&one, &[1, 0, 3]).is_err());
        assert!(content_fits(&one, &[1, 2]).is_err());
        let two = [version(&[1, 2, 3]), version(&[4, 4, 4, 4])];
        assert!(content_fits(&two, &[1, 0, 4, 4]).is_ok());
        assert!(content_fits(&two, &[1, 9, 4, 4]).is_err());
        assert!(content_fits(&two, &[1, 4, 4, 4, 4]).is_err());
    }
}
