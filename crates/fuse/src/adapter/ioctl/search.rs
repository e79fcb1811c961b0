//! `BTRFS_IOC_TREE_SEARCH` and its second version: items of any tree, as they lie in it.

use butterfs_engine::Error;
use butterfs_engine::tx::Transaction;
use butterfs_format::{ItemType, Key, TreeId};
use zerocopy::native_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::memory::Memory;
use super::{number, reply};
use crate::adapter::{EngineFrontEnd, Site};
use crate::types::{Caller, IoctlCall, IoctlReply};
use crate::{Errno, Result};
use butterfs_engine::inode::InodeId;

pub(super) const TREE_SEARCH_V2: u32 = 0xc070_9411;

/// Room for items in the first version.
const ROOM: usize = 3992;
/// The most that is given at once in the second.
const MOST: u64 = 16 << 20;

/// `struct btrfs_ioctl_search_key`.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SearchKey {
    tree: U64,
    min_objectid: U64,
    max_objectid: U64,
    min_offset: U64,
    max_offset: U64,
    min_transid: U64,
    max_transid: U64,
    min_type: U32,
    max_type: U32,
    count: U32,
    spare: [U32; 9],
}
const _: () = assert!(size_of::<SearchKey>() == 104);

/// `struct btrfs_ioctl_search_header`, before each item.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ItemHeader {
    transid: U64,
    objectid: U64,
    offset: U64,
    item_type: U32,
    len: U32,
}

impl SearchKey {
    fn range(&self) -> (Key, Key) {
        let item_type = |number: U32| ItemType(u8::try_from(number.get()).unwrap_or(u8::MAX));
        let first = Key::new(self.min_objectid.get(), item_type(self.min_type), self.min_offset.get());
        (first, Key::new(self.max_objectid.get(), item_type(self.max_type), self.max_offset.get()))
    }

    fn wants(&self, generation: u64) -> bool {
        (self.min_transid.get()..=self.max_transid.get()).contains(&generation)
    }
}

/// What a search gave.
#[derive(Default)]
struct Found {
    items: Vec<u8>,
    count: u32,
    /// So much room the first item takes, which is more than there is.
    needs: Option<usize>,
}

impl Found {
    /// Whether one more item fits and is wanted.
    fn push(&mut self, (key, data): (Key, &[u8]), transid: u64, room: usize, most: u32) -> bool {
        let size = size_of::<ItemHeader>() + data.len();
        if self.items.len() + size > room {
            if self.count == 0 {
                self.needs = Some(size);
            }
            return false;
        }
        let header = ItemHeader {
            transid: transid.into(),
            objectid: key.objectid.into(),
            offset: key.offset.into(),
            item_type: u32::from(key.item_type.0).into(),
            len: (data.len() as u32).into(),
        };
        self.items.extend_from_slice(header.as_bytes());
        self.items.extend_from_slice(data);
        self.count += 1;
        self.count < most
    }
}

impl EngineFrontEnd {
    pub(super) fn tree_search(&self, caller: &Caller, id: InodeId, input: &[u8]) -> Result<IoctlReply> {
        let (mut key, found) = self.search(caller, id, input, ROOM)?;
        if found.needs.is_some() {
            return Err(Errno::EOVERFLOW);
        }
        key.count = found.count.into();
        reply([key.as_bytes(), &found.items].concat())
    }

    pub(super) fn tree_search_v2(&self, caller: &Caller, id: InodeId, call: &IoctlCall<'_>) -> Result<IoctlReply> {
        let size = number(call.input, size_of::<SearchKey>())?.min(MOST);
        if size < size_of::<ItemHeader>() as u64 {
            return Err(Errno::EOVERFLOW);
        }
        let (mut key, found) = self.search(caller, id, call.input, size as usize)?;
        if let Some(needed) = found.needs {
            let output = [key.as_bytes(), &(needed as u64).to_ne_bytes()].concat();
            return Ok(IoctlReply { result: -Errno::EOVERFLOW.number(), output });
        }
        Memory::behind(caller, call, call.input.len())?.write(&found.items)?;
        key.count = found.count.into();
        reply([key.as_bytes(), &size.to_ne_bytes()].concat())
    }

    fn search(&self, caller: &Caller, id: InodeId, input: &[u8], room: usize) -> Result<(SearchKey, Found)> {
        self.require_privileged(caller)?;
        let (key, _) = SearchKey::read_from_prefix(input).map_err(|_| Errno::EINVAL)?;
        let tree = if key.tree.get() == 0 { id.tree } else { TreeId(key.tree.get()) };
        let found = self.fs.shared().gate.view(|tx| search(tx, tree, &key, room));
        Ok((key, found.map_err(|error| Site::new("tree search", id).fail(&error))?))
    }
}

fn search(tx: &Transaction, tree: TreeId, wanted: &SearchKey, room: usize) -> std::result::Result<Found, Error> {
    let mut found = Found::default();
    if wanted.count.get() == 0 {
        return Ok(found);
    }
    let (first, last) = wanted.range();
    let mut cursor = tx.cursor(tree, &first)?;
    while let (Some((key, data)), Some(leaf)) = (cursor.item(), cursor.leaf())
        && key <= last
    {
        let generation = leaf.generation().0;
        if wanted.wants(generation) && !found.push((key, data), generation, room, wanted.count.get()) {
            break;
        }
        cursor.advance()?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_given_whole_until_room_or_count_end() {
        let key = Key::new(1, ItemType::INODE_ITEM, 2);
        let mut found = Found::default();
        assert!(found.push((key, &[7; 8]), 9, 104, 3));
        assert!(found.push((key, &[]), 9, 104, 3));
        assert!(!found.push((key, &[]), 9, 104, 3), "as many as wanted");
        assert_eq!((found.count, found.items.len(), found.needs), (3, 104, None));
        assert!(!found.push((key, &[]), 9, 104, 9), "no room");
        assert_eq!((found.count, found.needs), (3, None));
        let mut none = Found::default();
        assert!(!none.push((key, &[0; 100]), 9, 100, 9));
        assert_eq!((none.count, none.needs), (0, Some(132)));
    }
}
