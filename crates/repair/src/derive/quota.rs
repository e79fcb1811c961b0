//! Quota groups: counters as the check counted them, and a status that belongs to this commit.
//!
//! The check counts what the trees hold, so the counters are right once the trees are: a round that mends leaves
//! them to the next. Simple quotas are never counted by the kernel: their counters are always set here.

use butterfs_check::{Kind, Place, Severity};
use butterfs_engine::tree::{self, TreeWriter};
use butterfs_format::{ItemType, Key, TreeId};

use super::owners::are_counted;
use crate::error::Result;
use crate::plan::Step;
use crate::workspace::Workspace;

const TREE: TreeId = TreeId::QUOTA;
const STATUS: Key = Key::new(0, ItemType::QGROUP_STATUS, 0);
/// Flags of QGROUP_STATUS.
const ON: u64 = 1 << 0;
const RESCAN: u64 = 1 << 1;
const INCONSISTENT: u64 = 1 << 2;
const SIMPLE: u64 = 1 << 3;
/// Sizes of the items, in bytes.
const STATUS_SIZE: usize = 40;
const ITEM_SIZE: usize = 40;
/// Where numbers lie in the status item, in bytes.
const GENERATION_AT: usize = 8;
const FLAGS_AT: usize = 16;
const RESCAN_AT: usize = 24;
/// Of simple quotas only.
const ENABLED_AT: usize = 32;

fn set(data: &mut [u8], at: usize, value: u64) {
    if let Some(field) = data.get_mut(at..at + 8) {
        field.copy_from_slice(&value.to_le_bytes());
    }
}

fn get(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Sets the quota tree right.
///
/// # Errors
/// If the tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    if workspace.survey.tree(TREE).is_none() {
        return Ok(Vec::new());
    }
    if !workspace.survey.is_whole(TREE) {
        return renew(workspace);
    }
    let mut steps = structure(workspace)?;
    steps.extend(counters(workspace)?);
    Ok(steps)
}

/// A new tree with a group for each subvolume. Limits and relations are lost.
fn renew(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let (status, is_simple) = (new_status(workspace), are_counted(workspace));
    let store = &mut workspace.store;
    store.renew_tree(TREE)?;
    tree::insert(store, TREE, &STATUS, &status)?;
    let ids = workspace.survey.trees.iter().filter(|tree| tree.id.is_subvolume() && !tree.is_dead()).map(|t| t.id.0);
    for id in ids {
        for item_type in [ItemType::QGROUP_INFO, ItemType::QGROUP_LIMIT] {
            tree::put(store, TREE, &Key::new(0, item_type, id), &[0; ITEM_SIZE])?;
        }
    }
    let action = match is_simple {
        true => {
            "cannot be read; made anew with a group for each subvolume, which counts what is made from now on; limits \
                 and relations are lost"
        }
        false => {
            "cannot be read; made anew with a group for each subvolume, to be counted by `btrfs quota rescan`; \
                  limits and relations are lost"
        }
    };
    Ok(vec![Step::new("quota", Place::tree(TREE), action)])
}

/// The status of quotas that are on, and of which nothing else is known: to be counted again, or if they are simple
/// ones, since this commit.
fn new_status(workspace: &Workspace) -> Vec<u8> {
    let mut status = vec![0; STATUS_SIZE];
    set(&mut status, 0, 1);
    if are_counted(workspace) {
        set(&mut status, FLAGS_AT, ON | SIMPLE);
        set(&mut status, ENABLED_AT, workspace.store.generation().0);
    } else {
        set(&mut status, FLAGS_AT, ON | INCONSISTENT);
    }
    status
}

/// Groups without limit or counters, relations in one direction, items that do not belong here.
fn structure(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let wrong = workspace.report.findings.iter().any(|finding| {
        let foreign = finding.kind == Kind::UnknownKey && finding.place.tree == Some(TREE);
        finding.severity == Severity::Error && (finding.kind == Kind::Quota || foreign)
    });
    if !wrong {
        return Ok(Vec::new());
    }
    let (mut keys, mut bad) = (std::collections::BTreeSet::new(), Vec::new());
    let mut status = None;
    let new_status = new_status(workspace);
    let store = &mut workspace.store;
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        let fits = match key.item_type {
            ItemType::QGROUP_STATUS => key == STATUS && matches!(data.len(), 32 | STATUS_SIZE),
            ItemType::QGROUP_INFO | ItemType::QGROUP_LIMIT => key.objectid == 0 && data.len() == ITEM_SIZE,
            ItemType::QGROUP_RELATION => data.is_empty() && key.objectid >> 48 != key.offset >> 48,
            _ => false,
        };
        if key == STATUS && fits {
            status = Some(data.to_vec());
        }
        if fits {
            keys.insert(key);
        } else {
            bad.push(key);
        }
        cursor.advance()?;
    }
    let mut steps = Vec::new();
    let mut step = |key: &Key, action: &str| steps.push(Step::new("quota", Place::item(TREE, key), action));
    let has_group = |id: u64| keys.contains(&Key::new(0, ItemType::QGROUP_INFO, id));
    for key in bad {
        tree::remove(store, TREE, &key)?;
        step(&key, "breaks a rule; removed");
    }
    for key in keys.iter().filter(|key| key.item_type == ItemType::QGROUP_RELATION) {
        let (other, exists) = (Key::new(key.offset, key.item_type, key.objectid), has_group(key.objectid));
        if !exists || !has_group(key.offset) {
            tree::remove(store, TREE, key)?;
            step(key, "of a group that does not exist; removed");
        } else if !keys.contains(&other) {
            tree::put(store, TREE, &other, &[])?;
            step(&other, "is there in one direction only; the other is added");
        }
    }
    for key in keys.iter() {
        let other = match key.item_type {
            ItemType::QGROUP_INFO => ItemType::QGROUP_LIMIT,
            ItemType::QGROUP_LIMIT => ItemType::QGROUP_INFO,
            _ => continue,
        };
        let other = Key::new(0, other, key.offset);
        if !keys.contains(&other) {
            tree::put(store, TREE, &other, &[0; ITEM_SIZE])?;
            step(&other, "is missing; added, without limits");
        }
    }
    if !is_possible(status.as_deref(), &new_status) {
        tree::put(store, TREE, &STATUS, &new_status)?;
        step(&STATUS, "is impossible; set to: on, to be counted again");
    }
    Ok(steps)
}

/// Whether a status has a known version, known flags, and the kind of quotas of the new one.
fn is_possible(status: Option<&[u8]>, new: &[u8]) -> bool {
    let Some(status) = status else { return false };
    let (flags, known) = (get(status, FLAGS_AT), ON | RESCAN | INCONSISTENT | SIMPLE);
    let is_simple = get(new, FLAGS_AT) & SIMPLE != 0;
    let same_kind = flags & ON == 0 || (flags & SIMPLE != 0) == is_simple;
    let enabled = if is_simple { get(status, ENABLED_AT) } else { 0 };
    get(status, 0) == 1 && flags & !known == 0 && same_kind && enabled <= get(new, ENABLED_AT)
}

/// Counters that are not what the check counted.
fn counters(workspace: &mut Workspace) -> Result<Vec<Step>> {
    if !workspace.report.has(Kind::QuotaUsage) {
        return Ok(Vec::new());
    }
    let errors = |kind| workspace.report.findings.iter().any(move |f| f.kind == kind && f.severity == Severity::Error);
    if !errors(Kind::QuotaUsage) {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    let newest = workspace.store.generation().0;
    let wrong: Vec<_> = workspace.report.quota_groups.iter().filter(|group| !group.agrees()).copied().collect();
    for group in wrong {
        let key = Key::new(0, ItemType::QGROUP_INFO, group.id);
        tree::update(&mut workspace.store, TREE, &key, |data| {
            let (referenced, exclusive) = (group.referenced.counted, group.exclusive.counted);
            // Generation, referenced, the same compressed, exclusive, the same compressed.
            for (index, value) in [newest, referenced, referenced, exclusive, exclusive].into_iter().enumerate() {
                set(data, index * 8, value);
            }
        })?;
        let place = Place::qgroup(group.id);
        let action = format!("set to {} bytes, {} exclusive", group.referenced.counted, group.exclusive.counted);
        steps.push(Step::new("quota-usage", place, action));
    }
    tree::update(&mut workspace.store, TREE, &STATUS, |data| {
        let flags = get(data, FLAGS_AT) & !(RESCAN | INCONSISTENT);
        set(data, FLAGS_AT, flags);
        set(data, RESCAN_AT, 0);
    })?;
    Ok(steps)
}

/// Counters that were right at the last commit belong to this one too; else the next mount counts again.
///
/// # Errors
/// If the tree cannot be edited.
pub fn carry_over(workspace: &mut Workspace, counted: bool) -> Result<()> {
    if !workspace.store.has_tree(TREE) {
        return Ok(());
    }
    let old = workspace.store.superblock.generation.get();
    let new = workspace.store.generation().0;
    let Some(status) = workspace.store.get(TREE, &STATUS)? else { return Ok(()) };
    if counted || get(&status, GENERATION_AT) == old {
        tree::update(&mut workspace.store, TREE, &STATUS, |data| set(data, GENERATION_AT, new))?;
    }
    Ok(())
}
