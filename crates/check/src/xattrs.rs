//! Extended attributes: each name is there once. Attributes whose names have one hash share an item, so only an item
//! with several can have a name twice; all else is a rule of the item by itself.

use butterfs_format::items::DirEntry;

/// A name that an item has twice.
pub(crate) fn twice(data: &[u8]) -> Option<&[u8]> {
    let entries = DirEntry::parse_all(data).ok()?;
    let names = entries.iter().map(|entry| entry.name).enumerate();
    names.into_iter().find(|(at, name)| entries[..*at].iter().any(|other| other.name == *name)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use butterfs_format::Key;
    use butterfs_format::items::{FileType, pack_dir_entry};

    fn item(names: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in names {
            let file_type = FileType::Xattr;
            pack_dir_entry(&DirEntry { location: Key::MIN, transid: 1, file_type, name, value: b"value" }, &mut out);
        }
        out
    }

    #[test]
    fn a_name_is_there_once() {
        assert_eq!(twice(&item(&[b"user.a", b"user.b"])), None);
        assert_eq!(twice(&item(&[b"user.a", b"user.b", b"user.a"])), Some(&b"user.a"[..]));
    }
}
