//! The filesystem's label, which lies in the superblock alone.

use butterfs_format::superblock::LABEL_MAX;

use super::Transaction;
use crate::error::{Error, Result};

impl Transaction {
    /// The label, without the zeros behind it.
    pub fn label(&self) -> &[u8] {
        let field = &self.superblock.label;
        &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
    }

    /// Sets the label; the next commit writes it.
    pub fn set_label(&mut self, label: &[u8]) -> Result<()> {
        if label.len() > LABEL_MAX || label.contains(&0) {
            return Err(Error::Invalid("a label has at most 255 bytes and no zero"));
        }
        self.superblock.label.fill(0);
        self.superblock.label[..label.len()].copy_from_slice(label);
        self.changes += 1;
        Ok(())
    }

    /// Whether the devices have another label.
    pub(super) fn label_changed(&self) -> bool {
        self.volume.superblock().label != self.superblock.label
    }
}
