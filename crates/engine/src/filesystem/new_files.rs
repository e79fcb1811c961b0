//! What holds for the new files of a subvolume: looked up for each new inode, and set as an attribute.
//!
//! # Invariants
//! * The top directory says in the kernel's own terms what the rule says, as far as those go: what the kernel makes
//!   there, and below new directories, follows the rule.
//!
//! # Locking
//! The rule is remembered by subvolume; it changes with the trees held alone, and is looked up behind the gate.

use std::sync::Arc;

use butterfs_format::TreeId;
use butterfs_format::compression::Choice;
use butterfs_format::items::{InodeFlags, InodeItem};

use super::{Filesystem, properties};
use crate::error::{Error, Result};
use crate::file::{COMPRESSION_PROPERTY, DataRule};
use crate::inode::InodeId;
use crate::inode::xattr::{self, Xattr, XattrMode};
use crate::subvolume::rule::{RULE_ATTRIBUTE, SubvolumeRule};
use crate::tx::{Need, Transaction};

/// What a new inode gets, besides what its directory says.
#[derive(Clone, Copy, Default)]
pub(super) struct NewFileRules<'a> {
    /// By mount options.
    pub mount: DataRule,
    /// By the subvolume, where the directory says nothing itself.
    pub subvolume: Option<&'a SubvolumeRule>,
}

impl NewFileRules<'_> {
    /// The flags of a new file.
    pub fn file_flags(&self) -> InodeFlags {
        self.mount.flags() | self.subvolume.map_or(InodeFlags::empty(), SubvolumeRule::file_flags)
    }

    /// The flags of a new directory.
    pub fn dir_flags(&self) -> InodeFlags {
        self.subvolume.map_or(InodeFlags::empty(), SubvolumeRule::dir_flags)
    }
}

/// Whether an attribute of an inode is the rule of its subvolume.
pub(super) fn is_rule(id: InodeId, name: &[u8]) -> bool {
    id == InodeId::top_of(id.tree) && name == RULE_ATTRIBUTE
}

impl Filesystem {
    /// What holds for new files of a subvolume.
    pub(super) fn rule_of(&self, tx: &Transaction, tree: TreeId) -> Result<Arc<SubvolumeRule>> {
        self.subvolumes.get(tree).rule(|| {
            let stored = xattr::get(tx, InodeId::top_of(tree), RULE_ATTRIBUTE)?;
            // Elsewhere anything can be written there.
            Ok(stored.and_then(|value| SubvolumeRule::parse(&value).ok()).unwrap_or_default())
        })
    }

    /// The rules for a new inode in a directory.
    pub(super) fn new_file_rules<'a>(&self, subvolume: &'a SubvolumeRule, dir: &InodeItem) -> NewFileRules<'a> {
        NewFileRules { mount: self.shared.live().new_data, subvolume: subvolume.below(dir.flags()) }
    }

    /// Sets the rule of a subvolume, by its top directory.
    pub(super) fn set_rule(&self, top: InodeId, value: &[u8], mode: XattrMode) -> Result<()> {
        let rule = SubvolumeRule::parse(value)?;
        self.change_xattrs(top, Need::Items(6), |tx, item| {
            let old = self.rule_of(tx, top.tree)?;
            let flags = followed(item.flags(), &old, &rule)?;
            xattr::set(tx, top, Xattr { name: RULE_ATTRIBUTE, value }, mode)?;
            self.follow_rule(tx, top, item, flags, (&old, &rule))
        })
    }

    /// Takes the rule of a subvolume away.
    pub(super) fn remove_rule(&self, top: InodeId) -> Result<()> {
        self.change_xattrs(top, Need::Deletion, |tx, item| {
            let old = self.rule_of(tx, top.tree)?;
            let none = SubvolumeRule::default();
            let flags = followed(item.flags(), &old, &none)?;
            xattr::remove(tx, top, RULE_ATTRIBUTE)?;
            self.follow_rule(tx, top, item, flags, (&old, &none))
        })
    }

    /// Makes the top directory say what the rule says; nothing can be refused any more.
    fn follow_rule(
        &self,
        tx: &mut Transaction,
        top: InodeId,
        item: &mut InodeItem,
        flags: InodeFlags,
        (old, new): (&SubvolumeRule, &SubvolumeRule),
    ) -> Result<()> {
        self.subvolumes.get(top.tree).forget_rule();
        item.flags = flags.bits().into();
        if let Some(Choice::With(method)) = new.choice() {
            tx.use_compression(method.compression());
        }
        match &new.compression {
            Some(value) => {
                let property = Xattr { name: COMPRESSION_PROPERTY, value: value.as_bytes() };
                xattr::set(tx, top, property, XattrMode::Any)
            }
            None if old.compression.is_some() => match xattr::remove(tx, top, COMPRESSION_PROPERTY) {
                Err(Error::NoAttribute) => Ok(()),
                result => result,
            },
            None => Ok(()),
        }
    }
}

/// The flags of a top directory when its subvolume's rule changes. What it says besides stays.
fn followed(flags: InodeFlags, old: &SubvolumeRule, new: &SubvolumeRule) -> Result<InodeFlags> {
    let mut own = flags - old.dir_flags();
    if new.compression.is_some() {
        own -= properties::COMPRESSION;
    }
    let flags = own | new.dir_flags();
    if flags.contains(InodeFlags::NODATACOW) && flags.intersects(properties::COMPRESSION) && !new.is_empty() {
        return Err(Error::Invalid("what is not copied on write is not compressed; the top directory says otherwise"));
    }
    Ok(flags)
}
