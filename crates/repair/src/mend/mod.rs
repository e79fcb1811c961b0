//! Mends: repairs of what users stored, and of the root items that lead to it. Everything derived is worked out
//! anew afterwards ([`crate::derive`]), so a mend edits its tree and nothing else.
//!
//! 1. `root_items`: where trees begin; `lost_roots`: items that are lost are found again, before anything can be
//!    deleted because its tree seems to be gone.
//! 2. `structure`: blocks that cannot be read are healed (`heal`, `flip`, `salvage`), made again of their children
//!    (`reclaim`), or given up.
//! 3. `subvolumes`: each is read into a `model`; `extents`, `xattrs`, `names`, `inodes` and `found` decide what it
//!    must be, from all the evidence there is; `root_links` does so for how they hang in each other.
//!
//! What snapshots share is mended once and stays shared (`edits`, `relink`).

mod edits;
mod evidence;
mod extent_record;
mod extents;
mod flip;
mod found;
mod heal;
mod inodes;
mod items;
mod lost_roots;
mod model;
mod names;
mod on_device;
mod reclaim;
mod relink;
mod root_items;
mod root_links;
mod salvage;
mod structure;
mod subvolume;
mod subvolumes;
pub(crate) mod sums;
mod xattrs;

use butterfs_format::block::NewBlock;
use butterfs_format::{Generation, Key, Logical, TreeBlock, TreeId};

pub(crate) use evidence::data_can_lie;

use crate::error::Result;
use crate::plan::Step;
use crate::store::Store;
use crate::workspace::Workspace;

/// Trees that are found again can lead to others that are lost; so many times they are looked for.
const MAX_PASSES: usize = 8;

/// Mends what can be mended; gives what was done.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let searched = lost_roots::Search::begin(workspace);
    let mut steps = root_items::run(workspace)?;
    steps.extend(lost_roots::run(workspace, searched)?);
    // A leaf of the root tree that was given up took root items with it, and a tree that is found again leads to more.
    for _ in 0..MAX_PASSES {
        steps.extend(structure::run(workspace)?);
        let found = lost_roots::run(workspace, searched)?;
        if found.is_empty() {
            break;
        }
        steps.extend(found);
    }
    if workspace.survey.is_whole(TreeId::ROOT) && (!steps.is_empty() || subvolumes::is_wanted(workspace)) {
        steps.extend(subvolumes::run(workspace)?);
    }
    Ok(steps)
}

/// Whether an item by itself breaks no rule in a tree.
fn keeps_rules(store: &Store, tree: TreeId, key: &Key, data: &[u8]) -> bool {
    let new = NewBlock {
        bytenr: Logical(0),
        generation: Generation(store.superblock.generation.get()),
        owner: tree,
        level: 0,
        fsid: store.geometry().fsid,
        chunk_tree_uuid: [0; 16],
    };
    let like = TreeBlock::new(store.geometry().nodesize as usize, &new);
    salvage::keeps_rules(&like, key, data, store.geometry())
}
