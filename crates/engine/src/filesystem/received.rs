//! Where a subvolume was received from, and the filesystem's label.

use butterfs_format::TreeId;
use butterfs_format::items::Timespec;

use super::{Filesystem, require_subvolume};
use crate::error::Result;
use crate::inode::item::require_writable;
use crate::subvolume::uuid::{self, Role};
use crate::tx::Need;

/// Where a subvolume was received from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The UUID that it had there; zeros if it was not received.
    pub uuid: [u8; 16],
    /// The transaction that it was sent with, there.
    pub sent_in: u64,
    /// When it was sent.
    pub sent: Timespec,
}

impl Filesystem {
    /// Notes where a writable subvolume was received from; gives the transaction and the time that go with it.
    pub fn set_received(&self, tree: TreeId, from: &Received) -> Result<(u64, Timespec)> {
        require_subvolume(tree)?;
        let now = self.now();
        self.shared.gate.change(Need::Items(4), |tx| {
            require_writable(tx, tree)?;
            let old = tx.root_item(tree)?.received_uuid;
            uuid::check(tx, &old, Role::Received)?;
            uuid::check(tx, &from.uuid, Role::Received)?;
            if old != from.uuid {
                uuid::remove(tx, &old, Role::Received, tree)?;
                uuid::add(tx, &from.uuid, Role::Received, tree)?;
            }
            let generation = tx.generation().0;
            tx.change_root_item(tree, |root| {
                root.received_uuid = from.uuid;
                (root.stransid, root.rtransid) = (from.sent_in.into(), generation.into());
                (root.stime, root.rtime) = (from.sent, now);
            })?;
            Ok((generation, now))
        })
    }

    /// The filesystem's label.
    pub fn label(&self) -> Result<Vec<u8>> {
        self.shared.gate.view(|tx| Ok(tx.label().to_vec()))
    }

    /// Changes the filesystem's label, and commits.
    pub fn set_label(&self, label: &[u8]) -> Result<()> {
        self.shared.gate.change(Need::Items(1), |tx| tx.set_label(label))?;
        self.shared.gate.commit()
    }
}
