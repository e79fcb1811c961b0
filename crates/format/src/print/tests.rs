//! Pieces of lines; whole trees are compared with btrfs-progs in the tests of the program.

use zerocopy::{FromZeros, IntoBytes};

use super::*;
use crate::ids::objectid;
use crate::items::{InodeItem, Timespec};
use crate::key::{ItemType, Key};

fn options() -> Options {
    let mut superblock = Superblock::new_zeroed();
    superblock.sectorsize = 4096.into();
    Options::of(&superblock)
}

fn item(key: Key, data: &[u8]) -> String {
    ItemText { key, data, options: &options() }.to_string()
}

#[test]
fn keys_have_names() {
    let reloc = Key::new(objectid::TREE_RELOC, ItemType::ROOT_ITEM, 5);
    let texts = [
        (Key::new(256, ItemType::INODE_ITEM, 0), "(256 INODE_ITEM 0)"),
        (Key::new(5, ItemType::ROOT_ITEM, 0), "(FS_TREE ROOT_ITEM 0)"),
        (Key::new(300, ItemType::ROOT_ITEM, 5), "(300 ROOT_ITEM 5)"),
        (reloc, "(TREE_RELOC ROOT_ITEM FS_TREE)"),
        (Key::new(1, ItemType::DEV_ITEM, 1), "(DEV_ITEMS DEV_ITEM 1)"),
        (Key::new(1, ItemType::DEV_EXTENT, 5), "(1 DEV_EXTENT 5)"),
        (Key::new(256, ItemType::CHUNK_ITEM, 5), "(FIRST_CHUNK_TREE CHUNK_ITEM 5)"),
        (Key::new(objectid::ORPHAN, ItemType::ORPHAN_ITEM, 257), "(ORPHAN ORPHAN_ITEM 257)"),
        (Key::new(objectid::FREE_SPACE, ItemType::UNTYPED, 7), "(FREE_SPACE UNTYPED 7)"),
        (Key::new(0, ItemType::UNTYPED, u64::MAX), "(0 UNKNOWN.0 -1)"),
        (Key::new(0, ItemType::PERSISTENT_ITEM, 1), "(DEV_STATS PERSISTENT_ITEM 1)"),
        (Key::new((1 << 48) | 7, ItemType::QGROUP_RELATION, 256), "(1/7 QGROUP_RELATION 0/256)"),
        (Key::new(0, ItemType::QGROUP_INFO, (2 << 48) | 1), "(0 QGROUP_INFO 2/1)"),
        (Key::new(1, ItemType::UUID_SUBVOL, 2), "(0x0000000000000001 UUID_KEY_SUBVOL 0x0000000000000002)"),
        (Key::new(9, ItemType(99), 3), "(UUID_TREE UNKNOWN.99 3)"),
    ];
    for (key, text) in texts {
        assert_eq!(key.to_string(), text);
    }
}

#[test]
fn names_are_escaped() {
    assert_eq!(Escaped(b"a b\\c\n\t\x1b\x00\xff~").to_string(), "a\\ b\\\\c\\n\\t\\e\\000\\377~");
    assert_eq!(name::Plain(b"a b\xc3\xa9\xff\n\x01x\x00rest").to_string(), "a b\u{e9}\\377\\n\\001x");
    assert_eq!(Printable(b"a\xff\n").to_string(), "a..");
}

#[test]
fn times_are_told_in_utc_by_default() {
    let text = |seconds| (LocalTime::UTC.0)(seconds).to_string();
    assert_eq!(text(0), "1970-01-01 00:00:00");
    assert_eq!(text(951_782_400), "2000-02-29 00:00:00");
    assert_eq!(text(1_709_251_199), "2024-02-29 23:59:59");
    assert_eq!(text(-1), "1969-12-31 23:59:59");
    assert_eq!(text(4_107_542_400), "2100-03-01 00:00:00");
}

#[test]
fn an_inode_has_all_its_fields() {
    let mut inode = InodeItem::new_zeroed();
    inode.mode = 0o100_644.into();
    inode.nlink = 1.into();
    inode.flags = ((1u64 << 32) | 3).into();
    inode.atime = Timespec::new(-1, 5);
    let text = item(Key::new(257, ItemType::INODE_ITEM, 0), inode.as_bytes());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[1], "\t\tblock group 0 mode 100644 links 1 uid 0 gid 0 rdev 0");
    assert_eq!(lines[2], "\t\tsequence 0 flags 0x100000003(NODATASUM|NODATACOW|UNKNOWN: 0x100000000)");
    assert_eq!(lines[3], "\t\tatime 18446744073709551615.5 (1969-12-31 23:59:59)");
    assert_eq!(lines.len(), 7);
}

/// Each kind of item, cut at each length, is printed without a panic, and says so if it is too short.
#[test]
fn short_items_are_told_of() {
    for kind in 0..=u8::MAX {
        for len in 0..200 {
            let data = vec![kind; len];
            let _ = item(Key::new(objectid::BALANCE, ItemType(kind), 0), &data);
            let _ = item(Key::new(0, ItemType(kind), 0), &vec![0; len]);
        }
    }
    for kind in [ItemType::INODE_ITEM, ItemType::DEV_ITEM, ItemType::QGROUP_INFO, ItemType::DEV_REPLACE] {
        assert!(item(Key::new(0, kind, 0), &[0; 12]).ends_with("\t\titem of 12 bytes is too short\n"), "{kind}");
    }
}

#[test]
fn hidden_names_are_nowhere() {
    let options = Options { names: Names::Hidden, ..options() };
    let secret = b"secret";
    let mut entry = [0; 30];
    entry[25] = 6; // length of the value
    entry[27] = 6; // length of the name
    entry[29] = 1;
    let named = [
        (ItemType::INODE_REF, [&[0; 8][..], &[6, 0], secret].concat()),
        (ItemType::INODE_EXTREF, [&[0; 16][..], &[6, 0], secret].concat()),
        (ItemType::ROOT_REF, [&[0; 16][..], &[6, 0], secret].concat()),
        (ItemType::ROOT_BACKREF, [&[0; 16][..], &[6, 0], secret].concat()),
        (ItemType::DIR_ITEM, [&entry[..], secret, secret].concat()),
    ];
    for (kind, data) in named {
        let key = Key::new(256, kind, 0);
        let text = ItemText { key, data: &data, options: &options }.to_string();
        assert!(text.contains("HIDDEN") && !text.contains("secret"), "{kind}: {text}");
        let text = item(key, &data);
        assert!(text.contains("secret"), "{kind}: {text}");
    }
}

#[test]
fn checksums_are_told_in_lines_of_one_width() {
    let options = Options { item_csums: Show::Yes, ..options() };
    let key = Key::new(objectid::EXTENT_CSUM, ItemType::EXTENT_CSUM, 8192);
    let data = [[1u8, 0, 0, 0], [2; 4], [3; 4], [4; 4], [5; 4]].concat();
    let text = ItemText { key, data: &data, options: &options }.to_string();
    let expected = "\t\trange start 8192 end 28672 length 20480\n\
        \t\t[8192] 0x01000000 [12288] 0x02020202 [16384] 0x03030303 [20480] 0x04040404\n\
        \t\t[24576] 0x05050505\n";
    assert_eq!(text, expected);
}

#[test]
fn a_broken_system_chunk_array_is_printed_as_far_as_it_goes() {
    let mut superblock = Superblock::new_zeroed();
    superblock.sys_chunk_array_size = 4000.into();
    assert!(system_chunks(&superblock).problem.unwrap().contains("shouldn't exceed 2048"));
    superblock.sys_chunk_array_size = 97.into();
    superblock.sys_chunk_array[8] = ItemType::CHUNK_ITEM.0;
    assert!(system_chunks(&superblock).problem.unwrap().contains("invalid number of stripes 0"));
    superblock.sys_chunk_array[17 + 44] = 9;
    assert!(system_chunks(&superblock).problem.unwrap().contains("too short to read 336 bytes at offset 17"));
    superblock.sys_chunk_array[17 + 44] = 1;
    let chunks = system_chunks(&superblock);
    assert_eq!((chunks.entries.len(), chunks.problem), (1, None));
}
