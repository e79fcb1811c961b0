//! A replacement that is under way: what is written without its target, or to one that lacks commits, is to be copied again.
//!
//! Nothing but the item says up to where the target is filled, and whoever opens the filesystem next believes it.

use butterfs_check::Place;
use butterfs_engine::tree;
use butterfs_format::TreeId;
use butterfs_format::items::{DevReplaceItem, ReplaceState};
use butterfs_volume::from_the_beginning;
use zerocopy::IntoBytes;

use crate::error::Result;
use crate::plan::Step;
use crate::workspace::Workspace;

/// Has it begin anew, unless the target gets what is written, and had all before.
pub fn run(workspace: &mut Workspace) -> Result<Option<Step>> {
    let store = &mut workspace.store;
    let data = store.get(TreeId::DEV, &DevReplaceItem::KEY)?;
    let Some(on_disk) = data.and_then(|data| DevReplaceItem::parse(&data)).filter(DevReplaceItem::is_under_way) else {
        return Ok(None);
    };
    let without_target = || from_the_beginning(on_disk).with_state(ReplaceState::Suspended);
    let wanted = store.volume().replace_item().unwrap_or_else(without_target);
    if wanted.cursor_left == on_disk.cursor_left {
        return Ok(None);
    }
    tree::put(store, TreeId::DEV, &DevReplaceItem::KEY, wanted.as_bytes())?;
    let action = "the device that is to replace another lacks what was written; it is to be filled from the beginning";
    Ok(Some(Step::new("device-replace", Place::item(TreeId::DEV, &DevReplaceItem::KEY), action)))
}
