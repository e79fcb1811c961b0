//! The UUID tree, brought in line with the subvolumes (`rescan_uuid_tree`).

use butterfs_format::items::RootItem;
use butterfs_format::{Key, TreeId};
use zerocopy::FromZeros;

use super::Filesystem;
use crate::error::{Error, Result};
use crate::subvolume::uuid::{self, Noted, Role};
use crate::tx::{Need, Transaction};

/// Subvolumes, or UUIDs, in one transaction.
const STEP: usize = 8;

impl Filesystem {
    /// Notes the UUIDs of all subvolumes that are not in the UUID tree, and takes out those that are of none.
    /// Where there is no UUID tree one is made.
    pub fn rescan_uuid_tree(&self) -> Result<()> {
        if !self.shared.gate.view(uuid::exists)? {
            self.shared.gate.change(Need::Items(4), |tx| {
                let mut item = RootItem::new_zeroed();
                item.refs = 1.into();
                tx.create_subvolume_tree(TreeId::UUID, item)
            })?;
        }
        self.note_uuids()?;
        self.forget_uuids()?;
        self.shared.gate.change(Need::Items(1), |tx| {
            tx.uuid_tree_is_current();
            Ok(())
        })?;
        self.sync_quietly()
    }

    fn note_uuids(&self) -> Result<()> {
        let mut after = 0;
        loop {
            let page = self.subvolume_page(after, STEP)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id.0;
            self.shared.gate.change(Need::Items(2 * STEP as u32), |tx| {
                for info in &page {
                    uuid::check(tx, &info.uuid, Role::Own)?;
                    uuid::check(tx, &info.received_uuid, Role::Received)?;
                }
                page.iter().try_for_each(|info| {
                    uuid::add(tx, &info.uuid, Role::Own, info.id)?;
                    uuid::add(tx, &info.received_uuid, Role::Received, info.id)
                })
            })?;
        }
    }

    fn forget_uuids(&self) -> Result<()> {
        let mut from = Key::MIN;
        loop {
            let page = self.shared.gate.view(|tx| uuid::page(tx, from, STEP))?;
            let Some(last) = page.last() else { return Ok(()) };
            let next = last.key.next();
            self.shared.gate.change(Need::Items(2 * STEP as u32), |tx| {
                let mut wrong = Vec::new();
                for noted in &page {
                    for tree in &noted.trees {
                        if !is_of(tx, noted, *tree)? {
                            wrong.push((noted, *tree));
                        }
                    }
                }
                wrong.into_iter().try_for_each(|(noted, tree)| uuid::remove(tx, &noted.uuid, noted.role, tree))
            })?;
            from = next;
        }
    }
}

/// Whether a subvolume has the UUID that the tree says it has.
fn is_of(tx: &Transaction, noted: &Noted, tree: TreeId) -> Result<bool> {
    match tx.root_item(tree) {
        Ok(item) => {
            let has = if noted.role == Role::Own { item.uuid } else { item.received_uuid };
            Ok(item.refs.get() > 0 && has == noted.uuid)
        }
        Err(Error::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
