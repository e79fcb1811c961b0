//! Replacements that were under way when the filesystem was last in use: the item that tells of one, and the device that was
//! being filled.
//!
//! A target's superblock has the number 0. It is none of the filesystem's devices, and nothing is read from it; but whoever
//! writes from now on has to write to it, too, or it has to be filled from the beginning.
//!
//! # Invariants
//! * Nothing is written while a volume is being opened.
//! * A target that lacks a commit is filled from the beginning.

use std::sync::{Arc, PoisonError};

use butterfs_format::items::{DevReplaceItem, RootItem, read_front};
use butterfs_format::key::{ItemType, Key};
use butterfs_format::validate::Expected;
use butterfs_format::{Corruption, DevId, Generation, Logical, Superblock, TreeId};

use crate::apart::is_ancestor;
use crate::error::Result;
use crate::member::{Member, Role};
use crate::replacing::{OnDisk, Target};
use crate::superblock::{Found, erase_superblocks};
use crate::volume::Volume;

/// More than a tree has.
const MAX_LEVELS: usize = 8;

/// Whether it is the target of a replacement that this superblock was written to.
pub(crate) fn is_target(sb: &Superblock) -> bool {
    sb.dev_item.devid.get() == DevReplaceItem::TARGET
}

/// Puts the target beside the device that it is to replace, if the filesystem says so; others are left over.
pub(crate) fn settle(volume: &Volume, newest: &Superblock, targets: Vec<Found>) {
    if targets.is_empty() {
        return;
    }
    let item = match volume.stored_replace_item() {
        Ok(item) => item.filter(DevReplaceItem::is_under_way),
        Err(error) => {
            tracing::warn!(%error, "what the filesystem says of the replacement of a device cannot be read");
            return;
        }
    };
    let (mut fitting, others): (Vec<Found>, Vec<Found>) =
        targets.into_iter().partition(|found| is_ancestor(&found.superblock, newest));
    others.iter().for_each(|found| leave_out(found, "it was to replace a device in another history"));
    let Some(item) = item else {
        // The end of the replacement was on disk before the end of the target's superblock.
        fitting.iter().for_each(|found| leave_out(found, "it was to replace a device, and that has ended"));
        let mut left = volume.left_over.lock().unwrap_or_else(PoisonError::into_inner);
        left.extend(fitting.into_iter().map(|found| found.device));
        return;
    };
    fitting.sort_by_key(|found| found.superblock.generation.get());
    let Some(found) = fitting.pop() else { return };
    fitting.iter().for_each(|found| leave_out(found, "another device is to replace the same one"));
    attach(volume, newest, item, found);
}

/// Why a target that is there is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// What it is to replace missed commits. It is of use once that is up to date.
    SourceBehind,
    /// It cannot stand for the device; in words.
    Useless(String),
}

fn leave_out(found: &Found, why: &str) {
    tracing::warn!(device = found.device.name(), "leaving it out: {why}");
}

fn attach(volume: &Volume, newest: &Superblock, item: DevReplaceItem, found: Found) {
    let devid = DevId(item.src_devid.get());
    let behind = volume.devices_behind().iter().any(|(id, _)| id.devid == devid);
    let source = volume.member(devid).map(|place| &volume.members[place]);
    let useless = |why: &str| {
        leave_out(&found, why);
        let _ = volume.unfit_target.set(Unfit::Useless(format!("{} is left out: {why}", found.device.name())));
    };
    let Some(source) = source.filter(|source| source.role() != Role::Seed) else {
        return useless("the filesystem does not know what it is to replace");
    };
    if behind {
        leave_out(&found, "what it is to replace missed commits, and is brought up to date first");
        let _ = volume.unfit_target.set(Unfit::SourceBehind);
        return;
    }
    if found.device.len() < source.item().total_bytes.get() {
        return useless("it is shorter than what it is to replace");
    }
    // A log that it does not know was written without it.
    let moment = |sb: &Superblock| (sb.generation, sb.log_root);
    let (item, on_disk) = if moment(&found.superblock) == moment(newest) {
        (item, OnDisk::Yes)
    } else {
        (from_the_beginning(item), OnDisk::NotYet)
    };
    let member = Member::new(found.device, found.superblock.dev_item, Role::Current, found.seen);
    source.set_target(Some(Arc::new(Target::new(member, item, on_disk))));
}

/// What is written without the target is to be copied again.
pub fn from_the_beginning(item: DevReplaceItem) -> DevReplaceItem {
    DevReplaceItem { cursor_left: 0.into(), cursor_right: 0.into(), ..item }
}

impl Volume {
    /// Why a target that is there is not used, if so.
    pub fn unfit_target(&self) -> Option<Unfit> {
        self.unfit_target.get().cloned()
    }

    /// What the last commit says of the replacement of a device.
    ///
    /// # Errors
    /// If the trees that lead there cannot be read.
    pub fn stored_replace_item(&self) -> Result<Option<DevReplaceItem>> {
        let sb = self.superblock();
        let root = expect(TreeId::ROOT, sb.root.get(), sb.root_level, sb.generation.get());
        let key = Key::new(TreeId::DEV.0, ItemType::ROOT_ITEM, 0);
        let Some(data) = self.look_up(root, &key)? else { return Ok(None) };
        let (dev, _) =
            read_front::<RootItem>(&data).map_err(|problem| Corruption::new(format!("root tree {key}"), problem))?;
        let dev = expect(TreeId::DEV, dev.bytenr.get(), dev.level, dev.generation.get());
        Ok(self.look_up(dev, &DevReplaceItem::KEY)?.and_then(|data| DevReplaceItem::parse(&data)))
    }

    fn look_up(&self, mut expected: Expected, key: &Key) -> Result<Option<Vec<u8>>> {
        for _ in 0..MAX_LEVELS {
            let block = self.read_block(&expected)?;
            let found = block.search(key);
            if block.is_leaf() {
                return Ok(found.ok().map(|slot| block.data(slot).to_vec()));
            }
            let Some(slot) = found.map_or_else(|after| after.checked_sub(1), Some) else { return Ok(None) };
            let ptr = block.ptr(slot);
            let owner = expected.owner;
            expected = Expected {
                level: Some(block.level().saturating_sub(1)),
                generation: Some(Generation(ptr.generation.get())),
                first_key: Some(ptr.key.into()),
                owner,
                ..Expected::at(Logical(ptr.blockptr.get()))
            };
        }
        Ok(None)
    }

    /// Ends what is left of replacements that have ended: their targets, or what they replaced, are devices of nothing any
    /// more. The kernel does not
    /// mount a filesystem while it knows one.
    pub fn erase_left_over(&self) {
        for device in std::mem::take(&mut *self.left_over.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Err(error) = erase_superblocks(&*device) {
                tracing::warn!(device = device.name(), %error, "its superblocks could not be erased");
            }
            device.close();
        }
    }
}

fn expect(owner: TreeId, at: u64, level: u8, generation: u64) -> Expected {
    Expected {
        level: Some(level),
        generation: Some(Generation(generation)),
        owner: Some(owner),
        ..Expected::at(Logical(at))
    }
}
