//! A leaf whose checksum is right, but whose structure is not: what of its items can be told apart is kept.
//!
//! Each item says where its data begins and how long it is, and so do its neighbours, because data lies back to
//! back: of these claims the one is taken under which the item keeps its own rules. A key that is out of order
//! is put where it belongs if its neighbours tell, or one bit of it; else the item is lost. Checksums keep every rule
//! anywhere: of several readings of such an item the data tells ([`super::sums`]).

use butterfs_format::block::{HEADER_SIZE, ITEM_HEADER_SIZE, NewBlock};
use butterfs_format::validate::Geometry;
use butterfs_format::validate::item::check_item;
use butterfs_format::{ItemType, Key, TreeBlock};

/// What is known of the leaf: where its keys must lie, and its place.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The lowest key, by the parent.
    pub first: Option<Key>,
    /// All keys are below this.
    pub end: Option<Key>,
}

impl Bounds {
    fn hold(&self, key: &Key) -> bool {
        self.first.is_none_or(|first| *key >= first) && self.end.is_none_or(|end| *key < end)
    }
}

/// A leaf made of what could be kept.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// The leaf.
    pub leaf: TreeBlock,
    /// What was set right, in words.
    pub repaired: Vec<String>,
    /// Keys of items that are lost, as they were found.
    pub lost: Vec<Key>,
    /// Keys of items of which something was guessed.
    pub guessed: Vec<Key>,
}

/// How well an item in a place fits what is known elsewhere; higher is better.
pub type Fit<'a> = &'a dyn Fn(&Key, &[u8]) -> i64;

/// The leaf as it is, and what is known of its items.
struct Raw<'a> {
    block: &'a TreeBlock,
    /// How many items there are.
    count: usize,
    geometry: &'a Geometry,
    fit: Fit<'a>,
}

impl Raw<'_> {
    /// Whether the item before says itself that it ends where the one before it begins.
    fn end_is_certain(&self, slot: usize) -> bool {
        let place = |slot: usize| (self.block.item(slot).offset.get(), self.block.item(slot).size.get());
        let Some(before) = slot.checked_sub(1) else { return true };
        let capacity = TreeBlock::leaf_capacity(self.block.bytes().len()) as u32;
        let end = before.checked_sub(1).map_or(capacity, |first| place(first).0);
        place(before).0.checked_add(place(before).1) == Some(end)
    }
}

/// An item as far as it is known.
struct Found {
    key: Key,
    data: Option<Vec<u8>>,
    /// Its place is not what it says itself.
    is_guessed: bool,
}

/// Takes the items out of a leaf. The header of `raw` must be right but for the count.
pub fn salvage_leaf(raw: &TreeBlock, bounds: &Bounds, geometry: &Geometry, fit: Fit<'_>) -> Salvaged {
    let mut repaired = Vec::new();
    let count = believable_count(raw);
    let is_counted = count == raw.len();
    if !is_counted {
        repaired.push(format!("count of items {} to {count}", raw.len()));
    }
    let raw = Raw { block: raw, count, geometry, fit };
    let items: Vec<Found> = (0..count).map(|slot| found(&raw, slot, &mut repaired)).collect();
    let keys = settle_keys(&raw, &items, bounds, &mut repaired);
    let mut out = Salvaged { leaf: empty_like(raw.block, geometry), repaired, lost: Vec::new(), guessed: Vec::new() };
    for (item, key) in items.iter().zip(keys) {
        let fits = |data: &Vec<u8>| out.leaf.leaf_free() >= data.len() + ITEM_HEADER_SIZE;
        let slot = key.and_then(|key| out.leaf.search(&key).err().map(|slot| (slot, key)));
        match (slot, item.data.as_ref().filter(|data| fits(data))) {
            (Some((slot, key)), Some(data)) => {
                out.leaf.insert_item(slot, &key, data);
                let is_guessed = !is_counted || item.is_guessed || key != item.key;
                out.guessed.extend(is_guessed.then_some(key));
            }
            _ => out.lost.push(item.key),
        }
    }
    out
}

fn empty_like(raw: &TreeBlock, geometry: &Geometry) -> TreeBlock {
    let new = NewBlock {
        bytenr: raw.bytenr(),
        generation: raw.generation(),
        owner: raw.owner(),
        level: 0,
        fsid: geometry.fsid,
        chunk_tree_uuid: raw.header().chunk_tree_uuid,
    };
    TreeBlock::new(raw.bytes().len(), &new)
}

/// How many items there are: as the header says if so many fit, else as long as each begins where the one before
/// ends.
fn believable_count(raw: &TreeBlock) -> usize {
    let capacity = TreeBlock::leaf_capacity(raw.bytes().len());
    let lowest = |count: usize| (0..count).map(|slot| raw.item(slot).offset.get() as usize).min();
    let most = capacity / ITEM_HEADER_SIZE;
    let in_order = |count: usize| count < 2 || raw.item(count - 1).offset < raw.item(count - 2).offset;
    let said = raw.len();
    let is_blank = |slot: usize| raw.key(slot) == Key::MIN && raw.item(slot).size.get() == 0;
    if said <= most && said > chain(raw, most) && is_blank(said - 1) {
        return (0..said).rev().find(|slot| !is_blank(*slot)).map_or(0, |slot| slot + 1);
    }
    if said <= most && lowest(said).is_none_or(|_| chain(raw, most) <= said || in_order(said)) {
        return said;
    }
    chain(raw, most)
}

/// The number of items from the first on that lie back to back.
fn chain(raw: &TreeBlock, most: usize) -> usize {
    let mut end = TreeBlock::leaf_capacity(raw.bytes().len());
    for slot in 0..most {
        let (offset, size) = (raw.item(slot).offset.get() as usize, raw.item(slot).size.get() as usize);
        let headers = (slot + 1) * ITEM_HEADER_SIZE;
        let ordered = slot == 0 || raw.key(slot - 1) < raw.key(slot);
        if offset.checked_add(size) != Some(end) || offset < headers || !ordered {
            return slot;
        }
        end = offset;
    }
    most
}

/// An item's key and data.
fn found(raw: &Raw<'_>, slot: usize, repaired: &mut Vec<String>) -> Found {
    let key = raw.block.key(slot);
    let capacity = TreeBlock::leaf_capacity(raw.block.bytes().len());
    let item = |slot: usize| (raw.block.item(slot).offset.get() as usize, raw.block.item(slot).size.get() as usize);
    let (offset, size) = item(slot);
    // Where the data ends by the neighbour before, and begins by the one after.
    let end = if slot == 0 { capacity } else { item(slot - 1).0 };
    let start = if slot + 1 < raw.count { item(slot + 1).0.saturating_add(item(slot + 1).1) } else { offset };
    let claims = [
        (offset, size),
        (end.wrapping_sub(size), size),
        (start, size),
        (start, end.wrapping_sub(start)),
        (offset, end.wrapping_sub(offset)),
    ];
    let headers = raw.count * ITEM_HEADER_SIZE;
    let inside =
        |(from, len): &(usize, usize)| *from >= headers && from.checked_add(*len).is_some_and(|to| to <= capacity);
    let data = |(from, len): (usize, usize)| &raw.block.bytes()[HEADER_SIZE + from..HEADER_SIZE + from + len];
    let possible = |claim: &&(usize, usize)| inside(claim) && keeps_rules(raw.block, &key, data(**claim), raw.geometry);
    // Where the item before ends is certain if that itself lies back to back: then its own word may be what is wrong.
    let is_wrong = raw.end_is_certain(slot) && offset.checked_add(size) != Some(end);
    let snug = |(from, len): (usize, usize)| {
        let ends = from + len == end;
        if is_wrong { u8::from(ends) + u8::from(ends && from == start) } else { 0 }
    };
    // The first of those that fit best.
    let best = claims.iter().filter(possible).rev().max_by_key(|claim| ((raw.fit)(&key, data(**claim)), snug(**claim)));
    if let Some((from, len)) = best.copied() {
        let is_guessed = (from, len) != (offset, size);
        if is_guessed || offset + size != end {
            repaired.push(format!("place of item {slot} {key}: {from}+{len}, was {offset}+{size}"));
        }
        return Found { key, data: Some(data((from, len)).to_vec()), is_guessed };
    }
    // Its own rules may be broken for another reason; the place that it says itself is good if it is possible.
    let own = (offset, size);
    let fits = inside(&own) && offset + size == end;
    Found { key, data: fits.then(|| data(own).to_vec()), is_guessed: false }
}

/// Whether an item by itself breaks no rule.
pub fn keeps_rules(like: &TreeBlock, key: &Key, data: &[u8], geometry: &Geometry) -> bool {
    let mut leaf = empty_like(like, geometry);
    if leaf.leaf_free() < data.len() + ITEM_HEADER_SIZE {
        return false;
    }
    leaf.insert_item(0, key, data);
    check_item(&leaf, 0, geometry).is_ok()
}

/// The key of each item: its own, or the one that it must have had, or none.
fn settle_keys(raw: &Raw<'_>, items: &[Found], bounds: &Bounds, repaired: &mut Vec<String>) -> Vec<Option<Key>> {
    let mut keys: Vec<Option<Key>> = items.iter().map(|item| Some(item.key)).collect();
    let ordered = longest_ordered(items, bounds);
    let outliers: Vec<usize> = (0..items.len()).filter(|index| ordered.binary_search(index).is_err()).collect();
    outliers.iter().for_each(|index| keys[*index] = None);
    for index in outliers {
        let before = keys[..index].iter().rev().flatten().next().copied();
        let after = keys[index + 1..].iter().flatten().next().copied();
        let between = Between { before, after, bounds: *bounds };
        let key = swapped(items, index, &keys).or_else(|| one_bit(raw, &items[index], &between));
        let sorted = || Some(items[index].key).filter(|key| bounds.hold(key) && !keys.contains(&Some(*key)));
        keys[index] = key.or_else(sorted);
        if let Some(key) = keys[index] {
            repaired.push(format!("key {} to {key}", items[index].key));
        }
    }
    keys
}

/// The indexes of the longest run of items, gaps allowed, whose keys rise within the bounds.
fn longest_ordered(items: &[Found], bounds: &Bounds) -> Vec<usize> {
    // For each item: the length of the longest run that ends there, and the one before it in that run.
    let mut best: Vec<(usize, Option<usize>)> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let inside = bounds.hold(&item.key);
        let before = (0..index).filter(|i| best[*i].0 > 0 && items[*i].key < item.key).max_by_key(|i| best[*i].0);
        best.push(if inside { (before.map_or(1, |i| best[i].0 + 1), before) } else { (0, None) });
    }
    let mut run = Vec::new();
    let mut at = (0..items.len()).filter(|i| best[*i].0 > 0).max_by_key(|i| best[*i].0);
    while let Some(index) = at {
        run.push(index);
        at = best[index].1;
    }
    run.reverse();
    run
}

/// The keys between which one must lie.
struct Between {
    before: Option<Key>,
    after: Option<Key>,
    bounds: Bounds,
}

impl Between {
    fn holds(&self, key: &Key) -> bool {
        self.before.is_none_or(|before| before < *key)
            && self.after.is_none_or(|after| *key < after)
            && self.bounds.hold(key)
    }
}

/// Two neighbours that changed places keep their keys.
fn swapped(items: &[Found], index: usize, keys: &[Option<Key>]) -> Option<Key> {
    let own = items[index].key;
    // At the ends of a leaf any high or low key would fit: there a wrong bit is likelier.
    let fits =
        |low: Option<Key>, high: Option<Key>| low.is_some_and(|low| low < own) && high.is_some_and(|high| own < high);
    let at = |i: Option<usize>| i.and_then(|i| keys.get(i).copied().flatten());
    let down = fits(at(index.checked_sub(2)), at(index.checked_sub(1)));
    let up = fits(at(index.checked_add(1)), at(index.checked_add(2)));
    (down || up).then_some(own)
}

/// The one key that differs in one bit and fits; of several the one of the neighbour's object.
fn one_bit(raw: &Raw<'_>, item: &Found, between: &Between) -> Option<Key> {
    let data = item.data.as_deref()?;
    let is_right = |key: &Key| key.item_type.name().is_some() && keeps_rules(raw.block, key, data, raw.geometry);
    let mut candidates: Vec<Key> = one_bit_keys(&item.key).filter(|key| between.holds(key) && is_right(key)).collect();
    if candidates.len() > 1 {
        let best = candidates.iter().map(|key| (raw.fit)(key, data)).max();
        candidates.retain(|key| Some((raw.fit)(key, data)) == best);
    }
    if let [only] = candidates[..] {
        return Some(only);
    }
    let near = |key: &&Key| [between.before, between.after].iter().flatten().any(|n| n.objectid == key.objectid);
    let mut near = candidates.iter().filter(near);
    let first = near.next().copied();
    first.filter(|_| near.next().is_none())
}

/// All keys that differ in one bit.
pub fn one_bit_keys(key: &Key) -> impl Iterator<Item = Key> {
    let key = *key;
    let objectids = (0..64).map(move |bit| Key { objectid: key.objectid ^ (1 << bit), ..key });
    let types = (0..8).map(move |bit| Key { item_type: ItemType(key.item_type.0 ^ (1 << bit)), ..key });
    let offsets = (0..64).map(move |bit| Key { offset: key.offset ^ (1 << bit), ..key });
    objectids.chain(types).chain(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_format::{Generation, Logical, TreeId};

    const GEOMETRY: Geometry = Geometry {
        nodesize: 4096,
        sectorsize: 4096,
        csum_type: butterfs_format::ChecksumType::Crc32c,
        fsid: [1; 16],
        seeds: [None; Geometry::MAX_SEEDS],
    };
    const ANY: Bounds = Bounds { first: None, end: None };

    fn leaf() -> TreeBlock {
        let new = NewBlock {
            bytenr: Logical(4096),
            generation: Generation(9),
            owner: TreeId::FS,
            level: 0,
            fsid: [1; 16],
            chunk_tree_uuid: [2; 16],
        };
        let mut leaf = TreeBlock::new(4096, &new);
        for n in 0..10u64 {
            let name = format!("name-{n}");
            let mut data = vec![0; 10];
            data[0] = n as u8;
            data[8] = name.len() as u8;
            data.extend_from_slice(name.as_bytes());
            leaf.insert_item(n as usize, &Key::new(300 + 10 * n, ItemType::INODE_REF, 256), &data);
        }
        leaf
    }

    fn set(leaf: &mut TreeBlock, slot: usize, at: usize, bytes: &[u8]) {
        let from = HEADER_SIZE + slot * ITEM_HEADER_SIZE + at;
        leaf.bytes_mut()[from..from + bytes.len()].copy_from_slice(bytes);
    }

    fn assert_kept(broken: &TreeBlock) {
        let salvaged = salvage_leaf(broken, &ANY, &GEOMETRY, &|_, _| 0);
        let good = leaf();
        assert_eq!(salvaged.lost, [], "{:?}", salvaged.repaired);
        let items =
            |leaf: &TreeBlock| (0..leaf.len()).map(|s| (leaf.key(s), leaf.data(s).to_vec())).collect::<Vec<_>>();
        assert_eq!(items(&salvaged.leaf), items(&good));
    }

    #[test]
    fn a_wrong_place_is_told_by_the_neighbours() {
        for (at, value) in [(17, 9u32), (17, 1 << 30), (21, 3), (21, 500), (21, 1 << 31)] {
            for slot in [0, 4, 8] {
                let mut broken = leaf();
                set(&mut broken, slot, at, &value.to_le_bytes());
                assert_kept(&broken);
            }
        }
    }

    #[test]
    fn a_key_with_a_wrong_bit_is_told_by_its_neighbours() {
        for slot in [0, 4, 8] {
            let mut broken = leaf();
            let key = broken.key(slot);
            set(&mut broken, slot, 0, &(key.objectid ^ 1 << 40).to_le_bytes());
            assert_kept(&broken);
        }
    }

    #[test]
    fn neighbours_that_changed_places_are_put_back() {
        let mut broken = leaf();
        let (one, other) = (HEADER_SIZE + 3 * ITEM_HEADER_SIZE, HEADER_SIZE + 4 * ITEM_HEADER_SIZE);
        let keys = [broken.bytes()[one..one + 17].to_vec(), broken.bytes()[other..other + 17].to_vec()];
        broken.bytes_mut()[one..one + 17].copy_from_slice(&keys[1]);
        broken.bytes_mut()[other..other + 17].copy_from_slice(&keys[0]);
        let salvaged = salvage_leaf(&broken, &ANY, &GEOMETRY, &|_, _| 0);
        assert_eq!((salvaged.leaf.len(), salvaged.lost.len()), (10, 0));
    }

    #[test]
    fn a_count_that_is_too_high_is_counted_again() {
        let mut broken = leaf();
        broken.header_mut().nritems = 100_000.into();
        assert_kept(&broken);
    }
}
