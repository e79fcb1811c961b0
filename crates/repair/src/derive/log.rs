//! The log tree: what was fsynced since the last commit, and waits to be replayed.
//!
//! A log belongs to the commit after the superblock's, so a new commit would make it worthless. One that is whole
//! is carried over: its root block is written again with the generation that the next mount wants, the rest stays.
//! One that is damaged cannot be replayed, and keeps the kernel from mounting: it is dropped, as btrfs-progs does.

use std::collections::HashMap;
use std::sync::Arc;

use butterfs_check::{Finding, Kind, Place, Severity};
use butterfs_engine::tree::TreeWriter;
use butterfs_engine::tx::seal::write_blocks;
use butterfs_format::validate::Expected;
use butterfs_format::{Logical, TreeId};

use crate::error::{Error, Result};
use crate::plan::Step;
use crate::workspace::Workspace;

fn is_of_log(finding: &Finding) -> bool {
    let place = &finding.place;
    finding.kind == Kind::Log || place.what == "in the log" || place.tree == Some(TreeId::TREE_LOG)
}

/// Drops a log that cannot be replayed.
pub fn run(workspace: &mut Workspace) -> Vec<Step> {
    if workspace.store.superblock.log_root.get() == 0 {
        return Vec::new();
    }
    let findings = workspace.report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    let Some(finding) = findings.into_iter().find(|finding| is_of_log(finding)) else { return Vec::new() };
    let action =
        format!("cannot be replayed ({}); dropped: what was fsynced after the last commit is lost", finding.problem);
    drop_log(workspace);
    vec![Step::new("log", Place::superblock(), action)]
}

fn drop_log(workspace: &mut Workspace) {
    let sb = &mut workspace.store.superblock;
    (sb.log_root, sb.log_root_level, sb.log_root_transid) = (0.into(), 0, 0.into());
    workspace.survey.log.clear();
    workspace.survey.log_data.clear();
}

/// Writes the log's root block again for the next generation.
///
/// # Errors
/// If it cannot be read or there is no space.
pub fn carry_over(workspace: &mut Workspace) -> Result<()> {
    let store = &mut workspace.store;
    let at = Logical(store.superblock.log_root.get());
    if at.0 == 0 {
        return Ok(());
    }
    let old = store.read(&Expected { level: Some(store.superblock.log_root_level), ..Expected::at(at) })?;
    let new_at = store.space_for_log().ok_or_else(|| Error::Refused("there is no space for the log's root".into()))?;
    let mut block = (*old).clone();
    block.header_mut().bytenr = new_at.0.into();
    let generation = store.generation().next();
    block.header_mut().generation = generation.0.into();
    write_blocks(&HashMap::from([(new_at, Arc::new(block))]), generation, store.volume())?;
    store.superblock.log_root = new_at.0.into();
    Ok(())
}
