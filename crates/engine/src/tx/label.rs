//! The filesystem's label, which lies in the superblock alone.

use butterfs_format::TreeId;
use butterfs_format::superblock::LABEL_MAX;

use super::Transaction;
use crate::error::{Error, Result};

impl Transaction {
    /// The label, without the zeros behind it.
    pub fn label(&self) -> &[u8] {
        let field = &self.superblock.label;
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
    }

    /// Sets the label; the next commit writes it, also if nothing else changed.
    pub fn set_label(&mut self, label: &[u8]) -> Result<()> {
        if label.len() > LABEL_MAX || label.contains(&0) {
            return Err(Error::Invalid("a label has at most 255 bytes and no zero"));
        }
        // The root tree must be of the generation that the superblock will be of, so an item of it is written again.
        self.change_root_item(TreeId::DEV, |_| {})?;
        self.superblock.label.fill(0);
        self.superblock.label[..label.len()].copy_from_slice(label);
        Ok(())
    }

    /// Whether the devices have another label.
    pub(super) fn label_changed(&self) -> bool {
        self.volume.superblock().label != self.superblock.label
    }
}
