//! Several threads that change files at the same time, each in a directory of its own, and make each change durable;
//! beside them one that changes things without a word of fsync, and snapshots come and go.
//!
//! A change that was made durable is there. One under way is there or not; what it changes in place may be there in part.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_fuse::control::{self, Access};
use rustix::fs::OFlags;

use super::ledger::Lane;
use super::turns::Turns;
use super::{Files, Workload};
use crate::random::Random;

/// How many threads make their changes durable.
const LANES: usize = 4;
/// A name that is never looked at.
const DRAFT: &str = "draft";

/// What a turn does.
#[derive(Clone, Debug)]
enum Change {
    /// A new file.
    Create { name: String, bytes: Vec<u8> },
    /// Bytes at its end.
    Append { name: String, bytes: Vec<u8> },
    /// Bytes in its middle.
    Overwrite { name: String, at: u64, bytes: Vec<u8>, sync: Sync },
    /// Another size.
    Truncate { name: String, len: u64 },
    /// A hole.
    Punch { name: String, at: u64, len: u64 },
    /// Another file in its place.
    Replace { name: String, bytes: Vec<u8> },
    /// Another name.
    Rename { from: String, to: String },
    /// No name.
    Remove { name: String },
}

/// How bytes in the middle are made durable.
#[derive(Clone, Copy, Debug)]
enum Sync {
    Fsync,
    Fdatasync,
    Open,
}

type Contents = BTreeMap<String, Arc<[u8]>>;

/// A change, and all that the directory has after it.
struct Step {
    change: Change,
    after: Contents,
}

/// The program.
pub struct MixedFiles {
    lanes: Vec<Vec<Step>>,
    seed: u64,
}

impl MixedFiles {
    /// So many turns in each thread.
    pub fn new(turns: u64, seed: u64) -> Self {
        let lane = |lane| plan(turns, &mut Random::new(seed ^ (lane as u64 + 1) << 32));
        Self { lanes: (0..LANES).map(lane).collect(), seed }
    }

    fn contents(&self, lane: usize, turn: u64) -> Contents {
        let index = turn.checked_sub(1);
        index.map(|index| self.lanes[lane][index as usize].after.clone()).unwrap_or_default()
    }
}

fn plan(turns: u64, random: &mut Random) -> Vec<Step> {
    let (mut steps, mut now) = (Vec::new(), Contents::new());
    for _ in 0..turns {
        let change = choose(&now, random);
        apply(&change, &mut now);
        steps.push(Step { change, after: now.clone() });
    }
    steps
}

fn choose(now: &Contents, random: &mut Random) -> Change {
    let names: Vec<&String> = now.keys().collect();
    let fresh = format!("f{}", random.below(12));
    let len = random.between(1, if random.clone().percent(30) { 60_000 } else { 3000 }) as usize;
    let bytes = random.bytes(len);
    let Some(name) = random.pick(&names).map(|name| (*name).clone()) else {
        return Change::Create { name: fresh, bytes };
    };
    let size = now[&name].len() as u64;
    match random.below(10) {
        0 | 1 if !now.contains_key(&fresh) => Change::Create { name: fresh, bytes },
        2 | 3 if size < 200_000 => Change::Append { name, bytes },
        4 | 5 => {
            let sync = [Sync::Fsync, Sync::Fdatasync, Sync::Open][random.below(3) as usize];
            Change::Overwrite { name, at: random.below(size + 1), bytes, sync }
        }
        6 => Change::Truncate { name, len: random.below(size + 5000) },
        7 => Change::Punch { name, at: random.below(size + 1), len: random.between(1, 20_000) },
        8 if !now.contains_key(&fresh) => Change::Rename { from: name, to: fresh },
        9 if now.len() > 6 => Change::Remove { name },
        _ => Change::Replace { name, bytes },
    }
}

/// What a change makes of the contents.
fn apply(change: &Change, now: &mut Contents) {
    let old = |name: &String| now.get(name).map(|bytes| bytes.to_vec()).unwrap_or_default();
    let (name, bytes) = match change {
        Change::Create { name, bytes } | Change::Replace { name, bytes } => (name, bytes.clone()),
        Change::Append { name, bytes } => (name, [old(name), bytes.clone()].concat()),
        Change::Overwrite { name, at, bytes, .. } => {
            let (mut all, end) = (old(name), *at as usize + bytes.len());
            all.resize(all.len().max(end), 0);
            all[*at as usize..end].copy_from_slice(bytes);
            (name, all)
        }
        Change::Truncate { name, len } => {
            let mut all = old(name);
            all.resize(*len as usize, 0);
            (name, all)
        }
        Change::Punch { name, at, len } => {
            let mut all = old(name);
            let end = ((at + len) as usize).min(all.len());
            all[*at as usize..end].fill(0);
            (name, all)
        }
        Change::Rename { from, to } => {
            let bytes = now.remove(from).expect("a file that is renamed is there");
            now.insert(to.clone(), bytes);
            return;
        }
        Change::Remove { name } => {
            now.remove(name);
            return;
        }
    };
    now.insert(name.clone(), bytes.into());
}

/// Does a change for real, and makes it durable.
fn execute(change: &Change, dir: &Path) -> io::Result<()> {
    let open = |name: &String| OpenOptions::new().write(true).open(dir.join(name));
    let sync_dir = || File::open(dir)?.sync_all();
    match change {
        Change::Create { name, bytes } => {
            let file = File::create_new(dir.join(name))?;
            file.write_all_at(bytes, 0)?;
            // With the file, btrfs makes its new name durable.
            file.sync_all()
        }
        Change::Append { name, bytes } => {
            let file = OpenOptions::new().append(true).open(dir.join(name))?;
            io::Write::write_all(&mut &file, bytes)?;
            file.sync_data()
        }
        Change::Overwrite { name, at, bytes, sync: Sync::Open } => {
            let flags = OFlags::SYNC.bits() as i32;
            OpenOptions::new().write(true).custom_flags(flags).open(dir.join(name))?.write_all_at(bytes, *at)
        }
        Change::Overwrite { name, at, bytes, sync } => {
            let file = open(name)?;
            file.write_all_at(bytes, *at)?;
            if matches!(sync, Sync::Fsync) { file.sync_all() } else { file.sync_data() }
        }
        Change::Truncate { name, len } => open(name).and_then(|file| file.set_len(*len).and_then(|()| file.sync_all())),
        Change::Punch { name, at, len } => {
            let file = open(name)?;
            let mode = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, mode, *at, *len)?;
            file.sync_all()
        }
        Change::Replace { name, bytes } => {
            let file = File::create(dir.join(DRAFT))?;
            file.write_all_at(bytes, 0)?;
            file.sync_all()?;
            std::fs::rename(dir.join(DRAFT), dir.join(name))?;
            sync_dir()
        }
        Change::Rename { from, to } => std::fs::rename(dir.join(from), dir.join(to)).and_then(|()| sync_dir()),
        Change::Remove { name } => std::fs::remove_file(dir.join(name)).and_then(|()| sync_dir()),
    }
}

/// Changes that nobody waits for, until told to stop.
fn noise(top: &Path, seed: u64, stop: &AtomicBool) -> io::Result<()> {
    let (mut random, dir) = (Random::new(seed), top.join("noise"));
    std::fs::create_dir(&dir)?;
    while !stop.load(Ordering::Relaxed) {
        let (path, other) = (dir.join(format!("n{}", random.below(30))), dir.join(format!("n{}", random.below(30))));
        let len = random.below(30_000) as usize;
        match random.below(20) {
            0..12 => std::fs::write(&path, random.bytes(len))?,
            12..16 => _ = std::fs::remove_file(&path),
            16..19 => _ = std::fs::rename(&path, &other),
            _ => come_and_go(top)?,
        }
        std::thread::sleep(std::time::Duration::from_millis(random.below(4)));
    }
    Ok(())
}

/// A snapshot, and the end of the one before it. Only our mount knows these calls; elsewhere nothing is done.
fn come_and_go(top: &Path) -> io::Result<()> {
    let dir = File::open(top)?;
    let name = std::ffi::OsStr::new("snapshot");
    let unknown = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::NOTTY.raw_os_error());
    match control::delete_subvolume(dir.as_fd(), name) {
        Err(error) if unknown(&error) => return Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match control::snapshot(dir.as_fd(), dir.as_fd(), name, Access::ReadOnly) {
        Err(error) if unknown(&error) => Ok(()),
        other => other.map(|_| ()),
    }
}

impl Workload for MixedFiles {
    fn name(&self) -> String {
        format!("mixed files, {LANES} threads")
    }

    fn lanes(&self) -> usize {
        LANES
    }

    fn work(&self, top: &Path, turns: &Turns) {
        for lane in 0..LANES {
            std::fs::create_dir(top.join(lane.to_string())).expect("a directory is made");
        }
        File::open(top).and_then(|dir| dir.sync_all()).expect("the directories are durable");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let noise = scope.spawn(|| noise(top, self.seed, &stop).expect("noise"));
            let lanes = self.lanes.iter().enumerate().map(|(lane, steps)| {
                scope.spawn(move || {
                    let dir = top.join(lane.to_string());
                    for step in steps {
                        let done = |error| panic!("lane {lane}, {:?}: {error}", step.change);
                        turns.turn(lane, |_| execute(&step.change, &dir).unwrap_or_else(done));
                    }
                })
            });
            let ends: Vec<_> = lanes.collect::<Vec<_>>().into_iter().map(|lane| lane.join()).collect();
            stop.store(true, Ordering::Relaxed);
            noise.join().expect("the noise ends well");
            ends.into_iter().for_each(|end| end.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        });
    }

    fn judge(&self, files: &Files, at: &Lane) -> Result<(), String> {
        let lane = at.number;
        let (before, after) = (self.contents(lane, at.over), self.contents(lane, at.begun));
        let prefix = format!("{lane}/");
        let found: BTreeMap<&str, &[u8]> = files
            .iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix(&prefix)?, bytes.as_slice())))
            .filter(|(name, _)| *name != DRAFT)
            .collect();
        let under_way = (at.begun > at.over).then(|| &self.lanes[lane][at.over as usize].change);
        judge_change(&before, &after, &found, under_way).map_err(|why| {
            format!("lane {lane}, turns {:?}, under way {:.100}: {why}", at.possible(), format!("{under_way:?}"))
        })
    }
}

fn judge_change(
    before: &Contents,
    after: &Contents,
    found: &BTreeMap<&str, &[u8]>,
    under_way: Option<&Change>,
) -> Result<(), String> {
    if let Some(name) = found.keys().find(|name| !before.contains_key(**name) && !after.contains_key(**name)) {
        return Err(format!("{name} should not be there"));
    }
    for name in before.keys().chain(after.keys()) {
        let versions = (before.get(name).map(|bytes| &**bytes), after.get(name).map(|bytes| &**bytes));
        let in_place = !matches!(under_way, None | Some(Change::Replace { .. } | Change::Remove { .. }));
        version_fits(versions, found.get(name.as_str()).copied(), in_place).map_err(|why| format!("{name} {why}"))?;
    }
    match under_way {
        Some(Change::Rename { from, to }) if !found.contains_key(from.as_str()) && !found.contains_key(to.as_str()) => {
            Err(format!("neither {from} nor {to} is there"))
        }
        _ => Ok(()),
    }
}

/// One of two versions; of a file that is changed in place, each byte from one of them.
fn version_fits(versions: (Option<&[u8]>, Option<&[u8]>), found: Option<&[u8]>, in_place: bool) -> Result<(), String> {
    if found == versions.0 || found == versions.1 {
        return Ok(());
    }
    let Some(found) = found else { return Err("is lost".into()) };
    // A new file is empty, and then grows.
    let (old, new) = (versions.0.unwrap_or_default(), versions.1.unwrap_or_default());
    let sizes = old.len().min(new.len())..=old.len().max(new.len());
    if !in_place || !sizes.contains(&found.len()) {
        return Err(format!("has {} bytes, and is neither the old version nor the new ({sizes:?})", found.len()));
    }
    let possible = |at: usize, byte: u8| old.get(at) == Some(&byte) || new.get(at) == Some(&byte);
    match found.iter().enumerate().find(|(at, byte)| !possible(*at, **byte)) {
        None => Ok(()),
        Some((at, byte)) => Err(format!("has {byte} at {at} of {}, from no version", found.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_in_place_may_be_there_in_part_and_nothing_else() {
        let old_and_new = (Some(&[1, 1, 1][..]), Some(&[2, 2, 2, 2][..]));
        assert!(version_fits(old_and_new, Some(&[1, 2, 1]), true).is_ok());
        assert!(version_fits(old_and_new, Some(&[1, 2, 1]), false).is_err());
        assert!(version_fits(old_and_new, Some(&[1, 0, 1]), true).is_err());
        assert!(version_fits(old_and_new, None, true).is_err());
        assert!(version_fits((Some(&[1]), Some(&[1])), Some(&[]), true).is_err());
    }

    #[test]
    fn a_rename_leaves_one_of_the_names() {
        let contents = |name: &str| Contents::from([(name.to_owned(), Arc::from(&[7][..]))]);
        let change = Change::Rename { from: "a".into(), to: "b".into() };
        let judge = |found: &BTreeMap<&str, &[u8]>| judge_change(&contents("a"), &contents("b"), found, Some(&change));
        assert!(judge(&BTreeMap::from([("a", &[7][..])])).is_ok());
        assert!(judge(&BTreeMap::from([("b", &[7][..])])).is_ok());
        assert!(judge(&BTreeMap::new()).is_err());
        assert!(judge(&BTreeMap::from([("b", &[8][..])])).is_err());
    }
}
