//! All subvolumes, one after the other, and how they hang in each other.

use std::collections::BTreeMap;

use butterfs_check::{Kind, Severity};
use butterfs_format::TreeId;

use super::edits::Edits;
use super::evidence::Evidence;
use super::root_links::{RootLinks, mend_rest};
use super::subvolume::{self, Outcome, RootName, Surroundings};
use crate::error::Result;
use crate::plan::Step;
use crate::workspace::Workspace;

/// Findings that only derived trees can be blamed for.
const DERIVED: &[Kind] = &[
    Kind::Superblock,
    Kind::SuperblockMirror,
    Kind::BackupRoot,
    Kind::TreeBlockCopy,
    Kind::Chunk,
    Kind::Device,
    Kind::DeviceExtent,
    Kind::DeviceItem,
    Kind::Balance,
    Kind::BlockGroup,
    Kind::Usage,
    Kind::FreeSpace,
    Kind::SpaceCache,
    Kind::UuidTree,
    Kind::DataChecksum,
    Kind::QuotaUsage,
    Kind::Quota,
    Kind::Log,
];

/// Whether something may be wrong with what users stored.
pub fn is_wanted(workspace: &Workspace) -> bool {
    let errors = workspace.report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.into_iter().any(|finding| !DERIVED.contains(&finding.kind))
}

/// Mends all subvolumes.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let links = RootLinks::load(&workspace.store)?;
    let evidence = Evidence::load(workspace)?;
    let mut all =
        All { links: &links, evidence: &evidence, found: BTreeMap::new(), edits: Edits::default(), steps: Vec::new() };
    let reloc = [TreeId::DATA_RELOC];
    // The top subvolume comes last: what hangs nowhere is put there.
    let others = links.living().filter(|id| *id != TreeId::FS).chain(reloc);
    for id in others.collect::<Vec<_>>() {
        let outcome = all.one(workspace, id, &[])?;
        all.take(id, outcome);
    }
    all.top(workspace)?;
    let All { found, edits, mut steps, .. } = all;
    if !edits.is_empty() {
        edits.apply(workspace)?;
    }
    steps.extend(links.settle(workspace, &found)?);
    steps.extend(mend_rest(workspace, &links)?);
    if !steps.is_empty() {
        workspace.look_again();
    }
    Ok(steps)
}

struct All<'a> {
    links: &'a RootLinks,
    evidence: &'a Evidence,
    found: BTreeMap<TreeId, Vec<RootName>>,
    edits: Edits,
    steps: Vec<Step>,
}

impl All<'_> {
    /// The top subvolume; once more with what then still hangs nowhere.
    fn top(&mut self, workspace: &Workspace) -> Result<()> {
        let mut outcome = self.one(workspace, TreeId::FS, &[])?;
        let children = outcome.as_ref().map(|outcome| outcome.children.clone()).unwrap_or_default();
        self.found.insert(TreeId::FS, children);
        let homeless = self.links.homeless(&self.found);
        if !homeless.is_empty() {
            outcome = self.one(workspace, TreeId::FS, &homeless)?;
        }
        self.take(TreeId::FS, outcome);
        Ok(())
    }

    /// Mends one; none if it still cannot be read, which is left to another round.
    fn one(&self, workspace: &Workspace, id: TreeId, homeless: &[u64]) -> Result<Option<Outcome>> {
        if !workspace.survey.is_whole(id) {
            return Ok(None);
        }
        let children = self.links.children(id);
        let around = Surroundings { subvolumes: self.links, children: &children, evidence: self.evidence, homeless };
        subvolume::mend(workspace, id, &around).map(Some)
    }

    fn take(&mut self, id: TreeId, outcome: Option<Outcome>) {
        let Some(Outcome { edits, steps, children }) = outcome else { return };
        self.edits.extend(edits);
        self.steps.extend(steps);
        self.found.insert(id, children);
    }
}
