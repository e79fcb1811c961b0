//! Extended attributes: lengths and hashes.

use butterfs_format::hash::name_hash;
use butterfs_format::items::{DirEntry, FileType};
use butterfs_format::{ItemType, Key};

use super::items::{entries, name_of_hash};

/// An XATTR_ITEM as it must be.
pub struct Mended {
    /// Items to put in its place; none if nothing could be kept.
    pub items: Vec<(Key, Vec<u8>)>,
    /// What was done.
    pub words: String,
}

/// What must be done with an item, if anything.
pub fn mend(key: &Key, data: &[u8]) -> Option<Mended> {
    if is_good(key, data) {
        return None;
    }
    let (mut items, mut words): (Vec<(Key, Vec<u8>)>, Vec<String>) = (Vec::new(), Vec::new());
    let mut names: Vec<Vec<u8>> = Vec::new();
    for mut entry in entries(key, data) {
        (entry.location, entry.file_type) = (Key::MIN, FileType::Xattr);
        if name_hash(&entry.name) != key.offset
            && let Some(right) = name_of_hash(&entry.name, key.offset)
        {
            entry.name = right;
        }
        if names.contains(&entry.name) {
            continue;
        }
        words.push(format!("{:?} is kept", String::from_utf8_lossy(&entry.name)));
        let home = Key::new(key.objectid, ItemType::XATTR_ITEM, name_hash(&entry.name));
        let at = items.iter().position(|(key, _)| *key == home).unwrap_or_else(|| {
            items.push((home, Vec::new()));
            items.len() - 1
        });
        entry.pack(&mut items[at].1);
        names.push(entry.name);
    }
    let words =
        if words.is_empty() { "cannot be read; removed".to_owned() } else { format!("spoilt; {}", words.join(", ")) };
    Some(Mended { items, words })
}

fn is_good(key: &Key, data: &[u8]) -> bool {
    let Ok(entries) = DirEntry::parse_all(data) else { return false };
    let good = |entry: &DirEntry<'_>| {
        entry.location == Key::MIN && entry.file_type == FileType::Xattr && name_hash(entry.name) == key.offset
    };
    let once = |(at, entry): (usize, &DirEntry<'_>)| entries[..at].iter().all(|other| other.name != entry.name);
    !entries.is_empty() && entries.iter().all(good) && entries.iter().enumerate().all(once)
}
