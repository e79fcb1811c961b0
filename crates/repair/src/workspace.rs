//! What a round of repair works on: the filesystem in the overlay, what the check found, and the survey.

use std::sync::Arc;

use butterfs_check::{Devices, Report};
use butterfs_format::block::{BlockHeader, HEADER_SIZE};
use butterfs_format::items::{BlockGroupFlags, ExtentItem};
use butterfs_format::{Generation, ItemType, Key, Logical, TreeId};
use butterfs_volume::{OpenMode, Volume};
use zerocopy::FromBytes;

use crate::Options;
use crate::error::Result;
use crate::mend::data_can_lie;
use crate::store::{Space, Store};
use crate::survey::{Survey, survey, survey_log};

/// A filesystem under repair.
pub struct Workspace {
    /// Its trees, to be read and edited.
    pub store: Store,
    /// What the check found.
    pub report: Report,
    /// What can be reached, as it was when the round began; [`Workspace::look_again`] renews it.
    pub survey: Survey,
    /// What was asked for.
    pub options: Options,
    /// Items of checksums of which mends guessed something: they are to be tried against the data.
    pub guessed_sums: Vec<Key>,
    /// Keys from, and below, of the extent tree where nodes were made again of the children that were found.
    pub extent_gaps: Vec<(Key, Option<Key>)>,
}

impl Workspace {
    /// Opens the overlaid devices and surveys them.
    ///
    /// # Errors
    /// If the volume cannot be opened.
    pub fn open(devices: &Devices, report: Report, options: &Options) -> Result<Self> {
        let volume = Arc::new(Volume::open(devices.clone(), OpenMode::ReadWrite)?);
        let mut store = Store::new(volume, Generation(options.instead_of.unwrap_or(0)));
        let mut first = survey(&store);
        survey_log(&store, &mut first);
        let space = free_space(&store, &first);
        store.set_space(space);
        Ok(Self {
            store,
            report,
            survey: first,
            options: options.clone(),
            guessed_sums: Vec::new(),
            extent_gaps: Vec::new(),
        })
    }

    /// Whether a tree is made anew whatever it looks like, as was asked for: then nothing of it is mended.
    pub fn is_renewed(&self, tree: TreeId) -> bool {
        let renew = &self.options.renew;
        tree == TreeId::CSUM && renew.checksum_tree || tree == TreeId::EXTENT && renew.extent_tree
    }

    /// Surveys the edited filesystem.
    pub fn look_again(&mut self) {
        let mut again = survey(&self.store);
        again.log = std::mem::take(&mut self.survey.log);
        again.log_data = std::mem::take(&mut self.survey.log_data);
        self.survey = again;
    }
}

/// Space that nothing uses: no reference, no item of the extent tree as it is, no log tree.
fn free_space(store: &Store, survey: &Survey) -> Space {
    let nodesize = u64::from(store.geometry().nodesize);
    let mut space = Space::of_chunks(store.volume());
    survey.blocks.keys().chain(&survey.log).for_each(|at| space.exclude(at.0, nodesize));
    survey.extents.iter().for_each(|(at, extent)| space.exclude(*at, extent.len));
    survey.log_data.iter().for_each(|(at, len)| space.exclude(*at, *len));
    survey.damage.iter().for_each(|damage| space.exclude(damage.expected.bytenr.0, nodesize));
    exclude_old_extents(store, survey, nodesize, &mut space);
    if !survey.damage.is_empty() {
        exclude_unreached(store, survey, &mut space);
    }
    space
}

/// Below what cannot be read there may be more: whatever looks like a block of this filesystem is left alone, and
/// where data is mixed in and nothing tells where it lies, all is.
fn exclude_unreached(store: &Store, survey: &Survey, space: &mut Space) {
    let known = survey.is_whole(TreeId::ROOT) && survey.is_whole(TreeId::EXTENT);
    let nodesize = u64::from(store.geometry().nodesize);
    for (start, chunk) in store.volume().chunks() {
        let (flags, end) = (chunk.flags(), start.0.saturating_add(chunk.length()));
        let has_data = flags.contains(BlockGroupFlags::DATA);
        if has_data && !known {
            space.exclude(start.0, chunk.length());
        }
        if has_data && !flags.contains(BlockGroupFlags::METADATA) {
            continue;
        }
        let first = start.0.checked_next_multiple_of(nodesize).unwrap_or(end);
        for at in (first..end).step_by(nodesize as usize) {
            if looks_like_a_block(store, Logical(at)) {
                space.exclude(at, nodesize);
            }
        }
    }
}

/// Whether a block of this filesystem lies there, by the header of any copy.
pub(crate) fn looks_like_a_block(store: &Store, at: Logical) -> bool {
    let mut header = [0; HEADER_SIZE];
    let copies = store.volume().copies(at).unwrap_or(0);
    (0..copies).any(|copy| {
        let read = store.volume().read_copy(at, &mut header, copy).is_ok();
        let header = BlockHeader::ref_from_bytes(&header);
        read && header.is_ok_and(|header| header.bytenr.get() == at.0 && header.fsid == store.geometry().fsid)
    })
}

/// The extent tree as it was found: each leaf that can be read, also in a tree that has holes.
fn exclude_old_extents(store: &Store, survey: &Survey, nodesize: u64, space: &mut Space) {
    use butterfs_format::validate::Expected;
    let leaves = survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TreeId::EXTENT);
    for (at, _) in leaves {
        let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
        for slot in 0..leaf.len() {
            if let Some(len) = extent_len(store, &leaf.key(slot), leaf.data(slot), nodesize) {
                space.exclude(leaf.key(slot).objectid, len);
            }
        }
    }
}

/// The length of an item's extent; none if it is no extent, or cannot be where it says.
fn extent_len(store: &Store, key: &Key, data: &[u8], nodesize: u64) -> Option<u64> {
    match key.item_type {
        ItemType::METADATA_ITEM => Some(nodesize),
        ItemType::EXTENT_ITEM => match ExtentItem::parse(key, data) {
            Ok(item) if item.block_info.is_some() => Some(nodesize),
            _ => data_can_lie(store, key.objectid, key.offset).then_some(key.offset),
        },
        _ => None,
    }
}
