//! Items of subvolumes, read with patience: what of an item still tells something is used.

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, DirEntryHeader, FileType, InodeExtref, InodeRef, NAME_MAX, pack_dir_entry};
use butterfs_format::{ItemType, Key};
use zerocopy::FromBytes;

const ENTRY_HEADER: usize = size_of::<DirEntryHeader>();
const REF_HEADER: usize = 10;

/// A directory entry or attribute that has its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The target; zero for an attribute.
    pub location: Key,
    /// The transaction that made it.
    pub transid: u64,
    /// The type of the target; unknown if the item does not tell.
    pub file_type: FileType,
    /// The name.
    pub name: Vec<u8>,
    /// The value of an attribute.
    pub value: Vec<u8>,
}

impl Entry {
    fn of(entry: &DirEntry<'_>) -> Self {
        Self {
            location: entry.location,
            transid: entry.transid,
            file_type: entry.file_type,
            name: entry.name.to_vec(),
            value: entry.value.to_vec(),
        }
    }

    /// Appends the entry in its disk form.
    pub fn pack(&self, out: &mut Vec<u8>) {
        let entry = DirEntry {
            location: self.location,
            transid: self.transid,
            file_type: self.file_type,
            name: &self.name,
            value: &self.value,
        };
        pack_dir_entry(&entry, out);
    }
}

/// The entries of a DIR_ITEM, DIR_INDEX or XATTR_ITEM: where a length or type is wrong, the hash in the key and the
/// item's size tell what it must be.
pub fn entries(key: &Key, data: &[u8]) -> Vec<Entry> {
    if let Ok(entries) = DirEntry::parse_all(data) {
        return entries.iter().map(Entry::of).collect();
    }
    let (mut found, mut rest) = (Vec::new(), data);
    while let Some((entry, size)) = patient_entry(key, rest) {
        found.push(entry);
        rest = &rest[size..];
    }
    found
}

/// The entry at the front, and how many bytes it takes.
fn patient_entry(key: &Key, data: &[u8]) -> Option<(Entry, usize)> {
    let (header, rest) = DirEntryHeader::read_from_prefix(data).ok()?;
    let is_xattr = key.item_type == ItemType::XATTR_ITEM;
    let said = (usize::from(header.name_len.get()), usize::from(header.data_len.get()));
    let possible = (1..=NAME_MAX).contains(&said.0) && said.0 + said.1 <= rest.len() && (is_xattr || said.1 == 0);
    let hashes = |len: usize| key.item_type == ItemType::DIR_INDEX || name_hash(&rest[..len]) == key.offset;
    let name_len = if possible && hashes(said.0) {
        said.0
    } else if let Some(len) = (1..=rest.len().min(NAME_MAX)).rev().find(|len| hashes(*len)) {
        len
    } else if possible {
        said.0
    } else {
        return None;
    };
    let value_len = if is_xattr { value_len_of(key, &rest[name_len..], said.1) } else { 0 };
    let kind = if is_xattr { Some(FileType::Xattr) } else { FileType::from_number(header.file_type) };
    let entry = Entry {
        location: header.location.into(),
        transid: header.transid.get(),
        file_type: kind.unwrap_or(FileType::Unknown),
        name: rest[..name_len].to_vec(),
        value: rest[name_len..name_len + value_len].to_vec(),
    };
    Some((entry, ENTRY_HEADER + name_len + value_len))
}

/// The length of an attribute's value: as its item says if nothing or another attribute of the same hash follows;
/// else up to where one does. If none can be found it is as its item says, or all that is left.
fn value_len_of(key: &Key, rest: &[u8], said: usize) -> usize {
    let of_same_hash = |entries: Vec<DirEntry<'_>>| entries.iter().all(|entry| name_hash(entry.name) == key.offset);
    let follows = |len: &usize| match rest.get(*len..) {
        None => false,
        Some([]) => true,
        Some(more) => DirEntry::parse_all(more).is_ok_and(of_same_hash),
    };
    let found = [said].into_iter().chain(0..rest.len()).find(follows);
    found.unwrap_or(if said <= rest.len() { said } else { rest.len() })
}

/// A name of an inode: directory, index and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The directory.
    pub dir: u64,
    /// The index in it.
    pub index: u64,
    /// The name.
    pub name: Vec<u8>,
}

/// The names in an INODE_REF. A single one is as long as its item says.
pub fn inode_refs(key: &Key, data: &[u8]) -> Vec<Name> {
    let name = |r: &InodeRef<'_>| Name { dir: key.offset, index: r.index, name: r.name.to_vec() };
    match InodeRef::parse_all(data) {
        Ok(refs) => refs.iter().map(name).collect(),
        Err(_) if data.len() > REF_HEADER && is_name(&data[REF_HEADER..]) => {
            let index = data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            vec![Name { dir: key.offset, index, name: data[REF_HEADER..].to_vec() }]
        }
        Err(_) => Vec::new(),
    }
}

/// The names in an INODE_EXTREF.
pub fn inode_extrefs(data: &[u8]) -> Vec<Name> {
    let refs = InodeExtref::parse_all(data).unwrap_or_default();
    refs.iter().map(|r| Name { dir: r.parent, index: r.index, name: r.name.to_vec() }).collect()
}

/// Whether a directory may have such a name.
pub fn is_name(name: &[u8]) -> bool {
    let forbidden = name.contains(&b'/') || name.contains(&0) || name == b"." || name == b"..";
    !name.is_empty() && name.len() <= NAME_MAX && !forbidden
}

/// The one name that differs in one bit and has this hash.
pub fn name_of_hash(name: &[u8], hash: u64) -> Option<Vec<u8>> {
    let flipped = |bit: usize| {
        let mut other = name.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        other
    };
    (0..name.len() * 8).map(flipped).find(|other| is_name(other) && name_hash(other) == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], value: &[u8], file_type: FileType) -> Vec<u8> {
        let mut out = Vec::new();
        let entry = Entry { location: Key::MIN, transid: 1, file_type, name: name.to_vec(), value: value.to_vec() };
        entry.pack(&mut out);
        out
    }

    #[test]
    fn the_hash_tells_how_long_a_name_is() {
        let key = Key::new(300, ItemType::XATTR_ITEM, name_hash(b"user.name"));
        let good = entry(b"user.name", b"a value", FileType::Xattr);
        for (at, byte) in [(25, 200), (27, 200), (27, 3), (29, 77)] {
            let mut broken = good.clone();
            broken[at] = byte;
            let found = entries(&key, &broken);
            assert_eq!((&found[0].name[..], &found[0].value[..]), (&b"user.name"[..], &b"a value"[..]), "{at}");
        }
    }

    #[test]
    fn one_bit_of_a_name_is_set_right_by_its_hash() {
        assert_eq!(name_of_hash(b"User.name", name_hash(b"user.name")), Some(b"user.name".to_vec()));
        assert_eq!(name_of_hash(b"other", name_hash(b"user.name")), None);
    }
}
