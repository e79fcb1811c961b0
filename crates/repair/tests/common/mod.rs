//! What the tests of repair have in common: what files a filesystem has, and a repair whose outcome is judged.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]
#![allow(dead_code, reason = "each test program uses a part")]

pub mod kinds;
pub mod small;
pub mod subvolumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use butterfs_check::{Finding, Severity};
use butterfs_engine::environment::SystemEnvironment;
use butterfs_engine::filesystem::{Access, Filesystem, Flow, OpenOptions};
use butterfs_engine::inode::InodeId;
use butterfs_format::items::FileType;
use butterfs_repair::{Devices, Options, Plan, Verdict, apply, plan, undo};
use butterfs_volume::{BlockDevice, MemDevice, OpenMode, Volume};

use butterfs_testkit::damage::findings;

pub fn shared(device: &MemDevice) -> Devices {
    vec![Arc::new(device.snapshot())]
}

/// Every file of a filesystem: its path and its bytes.
pub type Content = BTreeMap<String, Vec<u8>>;

pub fn content(device: &MemDevice) -> Content {
    let volume = Volume::open(shared(device), OpenMode::ReadOnly).unwrap();
    let options = OpenOptions { access: Access::ReadOnly, ..OpenOptions::default() };
    let fs = Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap();
    let mut files = BTreeMap::new();
    collect(&fs, fs.root(), String::new(), &mut files);
    files
}

fn collect(fs: &Filesystem, dir: InodeId, path: String, files: &mut Content) {
    let mut entries = Vec::new();
    fs.read_dir(dir, 2, |entry| {
        entries.push((entry.id, entry.file_type, entry.name.clone()));
        Ok(Flow::More)
    })
    .unwrap();
    for (id, file_type, name) in entries {
        let path = format!("{path}/{}", String::from_utf8_lossy(&name));
        let item = fs.attributes(id).unwrap().item;
        match file_type {
            FileType::Directory => {
                files.insert(format!("{path}/"), item.mode.get().to_string().into_bytes());
                collect(fs, id, path, files);
            }
            FileType::Regular => {
                let mut bytes = vec![0; item.size.get() as usize];
                fs.read(id, 0, &mut bytes).unwrap();
                for name in fs.xattrs(id).unwrap() {
                    bytes.extend(fs.xattr(id, &name).unwrap());
                }
                files.insert(path, bytes);
            }
            _ => drop(files.insert(path, item.mode.get().to_string().into_bytes())),
        }
    }
}

/// Files that are not as they were: path, and how many bytes differ.
pub fn differing(good: &Content, now: &Content) -> Vec<String> {
    let missing = good.keys().filter(|path| !now.contains_key(*path)).map(|path| format!("{path} is gone"));
    let extra = now.keys().filter(|path| !good.contains_key(*path)).map(|path| format!("{path} is new"));
    let changed = good.iter().filter(|(path, bytes)| now.get(*path).is_some_and(|other| other != *bytes));
    let all = missing.chain(extra).chain(changed.map(|(path, _)| format!("{path} differs")));
    all.map(|text| text.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect()).collect()
}

pub fn make_plan(device: &MemDevice) -> Result<Plan, String> {
    plan(&shared(device), &Options::default()).map_err(|error| error.to_string())
}

/// Repairs a copy; gives it and what was done, or why not.
pub fn repaired(device: &MemDevice, folder: &tempfile::TempDir) -> Result<(MemDevice, Plan), String> {
    let (copy, plan) = repaired_in_place(device, folder)?;
    std::fs::remove_file(undo_file(folder)).unwrap();
    Ok((copy.snapshot(), plan))
}

/// As [`repaired`], and takes the repair back: that must give back every byte.
pub fn repaired_and_undone(device: &MemDevice, folder: &tempfile::TempDir) -> Result<MemDevice, String> {
    let (copy, _) = repaired_in_place(device, folder)?;
    let after = copy.snapshot();
    undo(&undo_file(folder), &vec![copy.clone() as Arc<dyn BlockDevice>]).map_err(|error| error.to_string())?;
    std::fs::remove_file(undo_file(folder)).unwrap();
    assert_same(device, &copy);
    Ok(after)
}

fn undo_file(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("undo")
}

fn repaired_in_place(device: &MemDevice, folder: &tempfile::TempDir) -> Result<(Arc<MemDevice>, Plan), String> {
    let plan = make_plan(device)?;
    if plan.verdict != Verdict::Repaired {
        let left: String = plan.after.findings.iter().take(5).map(|finding| format!("\n    left: {finding}")).collect();
        return Err(format!("{plan}{left}"));
    }
    if plan.steps.is_empty() {
        return Err("a plan without steps".into());
    }
    let copy = Arc::new(device.snapshot());
    let devices: Devices = vec![copy.clone()];
    apply(&plan, &devices, &undo_file(folder), [0; 16]).map_err(|error| error.to_string())?;
    Ok((copy, plan))
}

#[track_caller]
fn assert_same(a: &MemDevice, b: &MemDevice) {
    let zeros = |part: &(u64, Vec<u8>)| part.1.iter().any(|byte| *byte != 0);
    let parts = |device: &MemDevice| device.written().into_iter().filter(zeros).collect::<Vec<_>>();
    assert!(parts(a) == parts(b), "undo does not give back every byte");
}

pub fn has_errors(device: &MemDevice) -> bool {
    findings(device, false).iter().any(|f| f.severity == Severity::Error)
}

/// What is wrong, data included.
pub fn errors(device: &MemDevice) -> Vec<Finding> {
    findings(device, true).into_iter().filter(|finding| finding.severity == Severity::Error).collect()
}

/// Repairs, and says what is not as it must be: no error may be left, data included, and no more files may differ than
/// that.
pub fn trouble(
    name: &str,
    broken: &MemDevice,
    good: &Content,
    most: usize,
    folder: &tempfile::TempDir,
) -> Option<String> {
    match repaired(broken, folder) {
        Ok((device, plan)) => {
            let left: Vec<_> = errors(&device).into_iter().take(3).collect();
            let differing = differing(good, &content(&device));
            let bad = !left.is_empty() || differing.len() > most;
            let (few, number) = (&differing[..differing.len().min(4)], differing.len());
            bad.then(|| format!("{name}: {left:?}\n    {number} differ: {few:?}\n{plan}"))
        }
        Err(problem) => Some(format!("{name}: {problem}")),
    }
}
