//! The checksum tree: checksums where data is, and nowhere else.
//!
//! A checksum that is lost can only be computed from the data as it is. What can be read of a damaged tree is
//! kept, so that bad data is still found.

mod stray;

use std::collections::{BTreeMap, BTreeSet};

use butterfs_check::{Kind, Place, Severity};
use butterfs_engine::tree::{self};
use butterfs_engine::tx::ChecksumTreeMut;
use butterfs_format::checksum::{CSUM_FIELD_SIZE, Checksum};
use butterfs_format::ids::objectid;
use butterfs_format::items::{FileExtent, InodeFlags, InodeItem, read_exact};
use butterfs_format::validate::Expected;
use butterfs_format::{ItemType, Key, Logical, TreeBlock, TreeId};

use crate::error::{Error, Result};
use crate::mend::sums::{contradicted, fit};
use crate::plan::Step;
use crate::store::Store;
use crate::survey::Survey;
use crate::workspace::Workspace;

const TREE: TreeId = TreeId::CSUM;
/// Data is read in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// Disjoint ranges: start to end.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range; the ranges come in order.
    fn push(&mut self, start: u64, end: u64) {
        match self.0.last_entry() {
            Some(mut last) if *last.get() >= start => *last.get_mut() = (*last.get()).max(end),
            _ => drop(self.0.insert(start, end)),
        }
    }

    /// Adds a range anywhere.
    fn add(&mut self, mut start: u64, mut end: u64) {
        let before = self.0.range(..=start).next_back().filter(|(_, to)| **to >= start).map(|(from, _)| *from);
        let inside = self.0.range(start..=end).map(|(from, _)| *from);
        let touched: Vec<u64> = before.into_iter().chain(inside).collect();
        for from in touched {
            let to = self.0.remove(&from).unwrap_or(from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.0.insert(start, end);
    }

    /// The parts of a range that are in none of these.
    fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut at, mut gaps) = (start, Vec::new());
        let before = self.0.range(..=start).next_back();
        for (from, to) in before.into_iter().chain(self.0.range(start + 1..end.max(start + 1))) {
            if *from > at {
                gaps.push((at, (*from).min(end)));
            }
            at = at.max(*to);
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }
}

/// Sets the checksum tree right, if something is wrong with it.
///
/// # Errors
/// If a tree cannot be edited.
pub fn run(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let place = Place::tree(TREE);
    let renew = workspace.options.renew.checksum_tree;
    let whole = workspace.survey.is_whole(TREE);
    let guessed = std::mem::take(&mut workspace.guessed_sums);
    if renew || !whole {
        let kept = if renew { BTreeMap::new() } else { readable(&workspace.store, &workspace.survey) };
        workspace.store.renew_tree(TREE)?;
        let action = match renew {
            true => "made anew from the data as it is, as was asked for".to_owned(),
            false => format!("cannot be read; made anew with {} items that can", kept.len()),
        };
        steps.push(Step::new("checksum", place.clone(), action));
        insert_kept(&mut workspace.store, kept)?;
        if !renew {
            let found = stray::sums(&workspace.store, &workspace.survey)?;
            if !found.is_empty() {
                let action = format!("{} sums are found in blocks that nothing leads to any more", found.len());
                steps.push(Step::new("checksum", place.clone(), action));
            }
            insert_kept(&mut workspace.store, found)?;
            refuse_unknown(workspace)?;
        }
    } else if !has_findings(workspace) && guessed.is_empty() {
        return Ok(steps);
    } else {
        steps.extend(move_misplaced(workspace)?);
        steps.extend(remove_broken(workspace)?);
    }
    if !renew {
        steps.extend(remove_contradicted(&mut workspace.store, &guessed)?);
    }
    if workspace.survey.damage.iter().all(|damage| damage.tree == TREE) {
        steps.extend(remove_stray(workspace)?);
    }
    steps.extend(add_missing(workspace)?);
    Ok(steps)
}

/// Without a trace of the tree, sums of the data as it is would call all of it good.
fn refuse_unknown(workspace: &Workspace) -> Result<()> {
    let is_known = workspace.survey.tree(TREE).is_some() || !covered(&workspace.store)?.0.is_empty();
    let ids = workspace.survey.trees.iter().filter(|tree| tree.id.is_subvolume() && !tree.is_dead());
    for id in ids.map(|tree| tree.id).filter(|id| !is_known && workspace.survey.is_whole(*id)) {
        if !wanted_by(&workspace.store, id)?.is_empty() {
            return Err(Error::Refused(
                "the checksum tree is lost, and no block of it is found: whether data is bad cannot be known; \
                 --init-csum-tree makes it anew from the data as it is"
                    .into(),
            ));
        }
    }
    Ok(())
}

/// Items that lie where there is no data, or could be none, or on another's place, though with one bit of their address set
/// right every one of their sums fits the data there.
fn move_misplaced(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let data = written_data(&workspace.survey);
    let store = &mut workspace.store;
    let overlapping = overlapping(store)?;
    let mut moves: Vec<(Key, Key, Vec<u8>)> = Vec::new();
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, sums)) = cursor.item() {
        let end = |key: &Key| key.offset.saturating_add(covered_by(store, sums));
        let all = (sums.len() / store.geometry().csum_type.size()) as i64;
        let on_data = |key: &Key| self::is_sound(store, key, sums) && data.gaps(key.offset, end(key)).is_empty();
        let is_alone = !overlapping.contains(&key.offset) || fit(store, &key, sums) == all;
        if !(on_data(&key) && is_alone)
            && (key.objectid, key.item_type) == (objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM)
        {
            let bits = (0..u64::BITS).map(|bit| Key { offset: key.offset ^ (1 << bit), ..key });
            let mut right = bits.filter(on_data).filter(|key| fit(store, key, sums) == all);
            if let (Some(right), None) = (right.next(), right.next()) {
                moves.push((key, right, sums.to_vec()));
            }
        }
        cursor.advance()?;
    }
    let mut steps = Vec::new();
    for (from, to, sums) in moves {
        tree::remove(store, TREE, &from)?;
        // What lies there already is cut or joined.
        insert_kept(store, BTreeMap::from([(to.offset, sums)]))?;
        let action = format!("belongs to {}, where all its sums fit the data; moved there", to.offset);
        steps.push(Step::new("checksum", Place::item(TREE, &from), action));
    }
    Ok(steps)
}

/// Where items begin that cover what another one covers too.
fn overlapping(store: &Store) -> Result<BTreeSet<u64>> {
    let (mut found, mut before) = (BTreeSet::new(), 0..0);
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, sums)) = cursor.item() {
        if is_sound(store, &key, sums) {
            let range = key.offset..key.offset.saturating_add(covered_by(store, sums));
            if range.start < before.end {
                found.extend([before.start, range.start]);
            }
            before = if range.end > before.end { range } else { before };
        }
        cursor.advance()?;
    }
    Ok(found)
}

/// Bytes of data that the sums of an item cover.
fn covered_by(store: &Store, sums: &[u8]) -> u64 {
    (sums.len() / store.geometry().csum_type.size()) as u64 * u64::from(store.geometry().sectorsize)
}

/// Of items that were damaged themselves, the sums that do not fit the data go: see [`crate::mend::sums`].
fn remove_contradicted(store: &mut Store, guessed: &[Key]) -> Result<Vec<Step>> {
    let (geometry, mut steps) = (*store.geometry(), Vec::new());
    for key in guessed {
        let Some(sums) = store.get(TREE, key)? else { continue };
        let wrong = contradicted(store, key, &sums);
        for at in &wrong {
            ChecksumTreeMut::new(store, geometry).delete(*at, geometry.sectorsize.into())?;
        }
        if !wrong.is_empty() {
            let action = format!(
                "was damaged itself, and {} of its sums do not fit the data; they are computed from the data as it is",
                wrong.len()
            );
            steps.push(Step::new("checksum", Place::item(TREE, key), action));
        }
    }
    Ok(steps)
}

fn has_findings(workspace: &Workspace) -> bool {
    let errors = workspace.report.findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.into_iter().any(|finding| {
        let foreign = finding.kind == Kind::UnknownKey && finding.place.tree == Some(TREE);
        foreign || finding.kind == Kind::Checksum && finding.place.what != "in the log"
    })
}

fn is_sums(key: &Key) -> bool {
    (key.objectid, key.item_type) == (objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM)
}

fn is_sound(store: &Store, key: &Key, data: &[u8]) -> bool {
    let geometry = store.geometry();
    let aligned = key.offset.is_multiple_of(u64::from(geometry.sectorsize));
    is_sums(key) && aligned && !data.is_empty() && data.len().is_multiple_of(geometry.csum_type.size())
}

/// The items in those leaves of a damaged tree that can be read; the newest of two that overlap.
fn readable(store: &Store, survey: &Survey) -> BTreeMap<u64, Vec<u8>> {
    let mut leaves: Vec<_> =
        survey.blocks.iter().filter(|(_, block)| block.level == 0 && block.owner == TREE).collect();
    leaves.sort_by_key(|(_, block)| block.generation);
    let mut kept = BTreeMap::new();
    for (at, _) in leaves {
        let Ok(leaf) = store.read(&Expected::at(*at)) else { continue };
        for slot in 0..leaf.len() {
            if is_sound(store, &leaf.key(slot), leaf.data(slot)) {
                kept.insert(leaf.key(slot).offset, leaf.data(slot).to_vec());
            }
        }
    }
    kept
}

fn insert_kept(store: &mut Store, kept: BTreeMap<u64, Vec<u8>>) -> Result<()> {
    let geometry = *store.geometry();
    let size = geometry.csum_type.size();
    for (start, bytes) in kept {
        let sums: Vec<Checksum> = bytes.chunks_exact(size).map(padded).collect();
        ChecksumTreeMut::new(store, geometry).insert(Logical(start), &sums)?;
    }
    Ok(())
}

fn padded(sum: &[u8]) -> Checksum {
    let mut full = [0; CSUM_FIELD_SIZE];
    full[..sum.len()].copy_from_slice(sum);
    full
}

/// Items that break a rule: what they covered is computed anew. Of one that overlaps the one before, what lies
/// past it is kept; one that is too large is cut.
fn remove_broken(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let store = &mut workspace.store;
    let (size, sector) = (store.geometry().csum_type.size(), u64::from(store.geometry().sectorsize));
    let most = most_sums(store);
    let (mut bad, mut again, mut end) = (Vec::new(), Vec::new(), 0u64);
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        if !is_sound(store, &key, data) {
            bad.push(key);
        } else {
            let skipped = (end.saturating_sub(key.offset) / sector) as usize * size;
            if skipped > 0 || data.len() / size > most {
                let kept = data.get(skipped..).unwrap_or_default().to_vec();
                again.push((key, key.offset.max(end), kept));
            }
            end = end.max(key.offset.saturating_add((data.len() / size) as u64 * sector));
        }
        cursor.advance()?;
    }
    let mut steps = Vec::new();
    for key in bad {
        tree::remove(store, TREE, &key)?;
        steps.push(Step::new("checksum", Place::item(TREE, &key), "is broken; removed"));
    }
    for (key, _, _) in &again {
        tree::remove(store, TREE, key)?;
        let action = "is too large or overlaps the checksums before; cut";
        steps.push(Step::new("checksum", Place::item(TREE, key), action));
    }
    for (_, start, kept) in again.into_iter().filter(|(_, _, kept)| !kept.is_empty()) {
        insert_kept(store, BTreeMap::from([(start, kept)]))?;
    }
    Ok(steps)
}

/// No writer makes a larger item.
fn most_sums(store: &Store) -> usize {
    let room = TreeBlock::leaf_capacity(store.geometry().nodesize as usize)
        .saturating_sub(2 * butterfs_format::block::ITEM_HEADER_SIZE);
    (room / store.geometry().csum_type.size()).saturating_sub(1)
}

/// Which data has checksums.
fn covered(store: &Store) -> Result<Ranges> {
    let (size, sector) = (store.geometry().csum_type.size(), u64::from(store.geometry().sectorsize));
    let mut covered = Ranges::default();
    let mut cursor = store.cursor(TREE, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        covered.push(key.offset, key.offset.saturating_add((data.len() / size) as u64 * sector));
        cursor.advance()?;
    }
    Ok(covered)
}

/// Data that files or logs refer to and that was written.
fn written_data(survey: &Survey) -> Ranges {
    let mut data = Ranges::default();
    let written = survey.extents.iter().filter(|(_, extent)| extent.written);
    written.for_each(|(at, extent)| data.add(*at, at.saturating_add(extent.len)));
    survey.log_data.iter().for_each(|(start, len)| data.add(*start, start.saturating_add(*len)));
    data
}

/// Takes away checksums of what is no data, or was never written.
fn remove_stray(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let data = written_data(&workspace.survey);
    let stray: Vec<_> =
        covered(&workspace.store)?.0.into_iter().flat_map(|(start, end)| data.gaps(start, end)).collect();
    let geometry = *workspace.store.geometry();
    let mut steps = Vec::new();
    for (start, end) in stray {
        ChecksumTreeMut::new(&mut workspace.store, geometry).delete(Logical(start), end - start)?;
        steps.push(Step::new("checksum", Place::checksums(start, end), "there is no data; removed"));
    }
    Ok(steps)
}

/// Computes the checksums that files miss.
fn add_missing(workspace: &mut Workspace) -> Result<Vec<Step>> {
    let mut covered = covered(&workspace.store)?;
    let ids: Vec<TreeId> = workspace
        .survey
        .trees
        .iter()
        .filter(|tree| (tree.id.is_subvolume() || tree.id == TreeId::DATA_RELOC) && !tree.is_dead())
        .map(|tree| tree.id)
        .collect();
    let mut missing = Vec::new();
    for id in ids.into_iter().filter(|id| workspace.survey.is_whole(*id)) {
        for (start, len) in wanted_by(&workspace.store, id)? {
            let gaps = covered.gaps(start, start.saturating_add(len));
            gaps.iter().for_each(|(from, to)| covered.add(*from, *to));
            missing.extend(gaps);
        }
    }
    let (mut bytes, mut unread) = (0, 0);
    for (start, end) in &missing {
        match add_sums(&mut workspace.store, *start, *end)? {
            Added::All => bytes += end - start,
            Added::Unreadable => unread += end - start,
        }
    }
    let step = |action| Step::new("checksum", Place::tree(TREE), action);
    let mut steps = Vec::new();
    if bytes > 0 {
        let action =
            format!("checksums of {bytes} bytes in {} ranges are computed from the data as it is", missing.len());
        steps.push(step(action));
    }
    if unread > 0 {
        steps.push(step(format!("{unread} bytes of data cannot be read, and get no checksums")));
    }
    Ok(steps)
}

/// The data that files of a tree want checksums for.
fn wanted_by(store: &Store, tree: TreeId) -> Result<Vec<(u64, u64)>> {
    let mut wanted = Vec::new();
    let mut without = None;
    let mut cursor = store.cursor(tree, &Key::MIN)?;
    while let Some((key, data)) = cursor.item() {
        match key.item_type {
            ItemType::INODE_ITEM => {
                let item = read_exact::<InodeItem>(data);
                let nodatasum = item.is_ok_and(|item| item.flags().contains(InodeFlags::NODATASUM));
                without = nodatasum.then_some(key.objectid);
            }
            ItemType::EXTENT_DATA if without != Some(key.objectid) => {
                wanted.extend(FileExtent::parse(data).ok().and_then(|extent| extent.checksummed_range()));
            }
            _ => {}
        }
        cursor.advance()?;
    }
    Ok(wanted)
}

enum Added {
    All,
    Unreadable,
}

fn add_sums(store: &mut Store, start: u64, end: u64) -> Result<Added> {
    let geometry = *store.geometry();
    let sector = u64::from(geometry.sectorsize);
    let mut at = start / sector * sector;
    while at < end {
        let len = (end - at).min(PIECE).next_multiple_of(sector);
        let mut bytes = vec![0; len as usize];
        if store.volume().read(Logical(at), &mut bytes).is_err() {
            return Ok(Added::Unreadable);
        }
        let sums: Vec<Checksum> =
            bytes.chunks(sector as usize).map(|sector| geometry.csum_type.compute(sector)).collect();
        ChecksumTreeMut::new(store, geometry).insert(Logical(at), &sums)?;
        at += len;
    }
    Ok(Added::All)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_is_not_covered() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (40, 50), (20, 25), (100, 110), (45, 60)] {
            ranges.add(start, end);
        }
        assert_eq!(ranges.0, BTreeMap::from([(10, 25), (40, 60), (100, 110)]));
        assert_eq!(ranges.gaps(0, 45), [(0, 10), (25, 40)]);
        assert_eq!(ranges.gaps(12, 22), []);
        assert_eq!(ranges.gaps(50, 105), [(60, 100)]);
        assert_eq!(ranges.gaps(70, 80), [(70, 80)]);
    }
}
