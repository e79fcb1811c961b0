//! Damage of the kinds that the suite of btrfs-progs has an image of, and some more, each seeded in the small
//! filesystem: what is done to it, and what must be there after a repair.

use butterfs_format::hash::name_hash;
use butterfs_format::{ItemType as T, Key, TreeBlock, TreeId};

use super::small::*;
use butterfs_testkit::damage::Subject;

/// What a repair makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is wrong with it.
    Clean,
    /// Everything is where it was.
    Kept,
    /// All is there, but what was at the first path of each pair is at the second.
    Moved(&'static [(&'static str, &'static str)]),
}

/// One kind of damage.
pub struct DamageKind {
    pub name: &'static str,
    pub outcome: Outcome,
    pub seed: fn(&Subject) -> Subject,
}

const fn kind(name: &'static str, outcome: Outcome, seed: fn(&Subject) -> Subject) -> DamageKind {
    DamageKind { name, outcome, seed }
}

use Outcome::{Clean, Kept, Moved};

/// All of them.
pub const KINDS: &[DamageKind] = &[
    kind("an entry whose two directory items are lost", Kept, |s| {
        with_leaf(s, FS, &|leaf| take_entries(leaf, TOP, b"plain"))
    }),
    kind("a directory whose two entries are lost", Kept, |s| with_leaf(s, FS, &|leaf| take_entries(leaf, TOP, b"a"))),
    kind("a file without any name", Moved(&[("/plain", "/lost+found/262")]), |s| {
        with_leaf(s, FS, &|leaf| {
            let ino = inode_of(leaf, TOP, b"plain");
            take_entries(leaf, TOP, b"plain");
            take(leaf, Key::new(ino, T::INODE_REF, TOP));
        })
    }),
    kind("directories in a circle", Moved(&[("/a/", "/lost+found/a/")]), |s| with_leaf(s, FS, &circle)),
    kind(
        "a circle beside a lost+found with the same name",
        Moved(&[("/a/", "/lost+found/a.257/"), ("/plain", "/lost+found/a")]),
        |s| {
            with_leaf(s, FS, &|leaf| {
                circle(leaf);
                // The file takes the name that the directory had, in a directory of the well-known name.
                let file = inode_of(leaf, TOP, b"plain");
                let index = index_of(leaf, TOP, b"plain");
                take_entries(leaf, TOP, b"plain");
                take(leaf, Key::new(file, T::INODE_REF, TOP));
                let dir = 400;
                let item = take(leaf, Key::new(257, T::INODE_ITEM, 0));
                put(leaf, Key::new(257, T::INODE_ITEM, 0), &item);
                put(leaf, Key::new(dir, T::INODE_ITEM, 0), &item);
                put_entries(leaf, TOP, b"lost+found", dir, index);
                put_entries(leaf, dir, b"a", file, 2);
            })
        },
    ),
    kind("a subvolume whose entries are lost", Kept, |s| with_leaf(s, FS, &|leaf| take_entries(leaf, TOP, b"sub"))),
    kind("a subvolume that hangs nowhere", Moved(&[("/sub/", "/lost+found/subvolume-256/")]), |s| {
        let s = with_leaf(s, FS, &|leaf| take_entries(leaf, TOP, b"sub"));
        with_leaf(&s, TreeId::ROOT, &|leaf| {
            take(leaf, Key::new(TreeId::FS.0, T::ROOT_REF, SUB.0));
            take(leaf, Key::new(SUB.0, T::ROOT_BACKREF, TreeId::FS.0));
        })
    }),
    kind("a length in the first of two attributes of one hash", Kept, |s| with_xattrs(s, |data| data[27] = 200)),
    kind("a length of the value of the first of two attributes", Kept, |s| with_xattrs(s, |data| data[25] = 77)),
    kind("a length in the second of two attributes of one hash", Kept, |s| {
        with_xattrs(s, |data| {
            let second = second_xattr(data);
            data[second + 27] = 3;
        })
    }),
    kind("a wrong bit in the name of the second of two attributes", Kept, |s| {
        with_xattrs(s, |data| {
            let second = second_xattr(data);
            data[second + 30] ^= 1;
        })
    }),
    kind("an attribute twice", Kept, |s| {
        with_xattrs(s, |data| {
            let first = data[..second_xattr(data)].to_vec();
            data.extend(first);
        })
    }),
    kind("041: a root of a generation to come, block and item", Kept, |s| {
        let to_come = s.volume.superblock().generation.get() + 100;
        let s = with_leaf(s, FS, &|leaf| leaf.header_mut().generation = to_come.into());
        with_root_item(&s, TreeId::FS, |item| {
            item[160..168].copy_from_slice(&to_come.to_le_bytes());
            item[239..247].copy_from_slice(&to_come.to_le_bytes());
        })
    }),
    kind("041: a root of a generation to come, item alone", Kept, |s| {
        let to_come = s.volume.superblock().generation.get() + 100;
        with_root_item(s, TreeId::FS, |item| {
            item[160..168].copy_from_slice(&to_come.to_le_bytes());
            item[239..247].copy_from_slice(&to_come.to_le_bytes());
        })
    }),
    kind("045: checksums that reach into the next item", Kept, |s| {
        with_leaf(s, TreeId::CSUM, &|leaf| {
            let key = leaf.key(0);
            let sums = leaf.data(0).to_vec();
            let (first, second) = sums.split_at(sums.len() / 8 * 4);
            take(leaf, key);
            put(leaf, key, &[first, &second[..4]].concat());
            put(leaf, Key { offset: key.offset + first.len() as u64 / 4 * 4096, ..key }, second);
        })
    }),
    kind("049: a directory of two links", Kept, |s| {
        with_leaf(s, FS, &|leaf| {
            let ino = inode_of(leaf, TOP, b"a");
            change(leaf, Key::new(ino, T::INODE_ITEM, 0), |item| item[40] = 2);
        })
    }),
    kind("054: a deleted directory and its file, not cleaned up", Clean, |s| {
        with_leaf(s, FS, &|leaf| {
            let dir = inode_of(leaf, TOP, b"a");
            let name = b"more";
            let file = inode_of(leaf, dir, name);
            let b = inode_of(leaf, dir, b"b");
            // What is below moves to the top, so that the rest is as it was.
            let index = index_of(leaf, TOP, b"a");
            take_entries(leaf, TOP, b"a");
            take_entries(leaf, dir, b"b");
            take_entries(leaf, dir, name);
            for (ino, parent) in [(dir, TOP), (file, dir), (b, dir)] {
                take(leaf, Key::new(ino, T::INODE_REF, parent));
            }
            put_entries(leaf, TOP, b"a", b, index);
            for ino in [dir, file] {
                change(leaf, Key::new(ino, T::INODE_ITEM, 0), |item| item[40..44].fill(0));
                put(leaf, Key::new(-5i64 as u64, T::ORPHAN_ITEM, ino), &[]);
            }
            change(leaf, Key::new(dir, T::INODE_ITEM, 0), |item| item[16..24].fill(0));
        })
    }),
    kind("066: a deleted subvolume without its orphan item", Kept, |s| {
        with_leaf(s, TreeId::ROOT, &|leaf| drop(take(leaf, Key::new(-5i64 as u64, T::ORPHAN_ITEM, GONE.0))))
    }),
    kind("068: a device extent without a chunk", Kept, |s| {
        const LEN: u64 = 16 << 20;
        let (extent, at) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let s = with_leaf(s, TreeId::DEV, &|leaf| {
            let last = leaf.len() - 1;
            let (key, mut data) = (leaf.key(last), leaf.data(last).to_vec());
            let end = key.offset + u64::from_le_bytes(*data[24..].first_chunk().unwrap());
            extent.set(end);
            at.set(s.volume.chunks().last().map_or(0, |(start, chunk)| start.0 + chunk.length()));
            data[16..24].copy_from_slice(&at.get().to_le_bytes());
            data[24..32].copy_from_slice(&LEN.to_le_bytes());
            put(leaf, Key { offset: end, ..key }, &data);
        });
        let more = |item: &mut [u8]| {
            let used = u64::from_le_bytes(*item[16..].first_chunk().unwrap());
            item[16..24].copy_from_slice(&(used + LEN).to_le_bytes());
        };
        let s = with_leaf(&s, TreeId::CHUNK, &|leaf| {
            change(leaf, Key::new(1, T::DEV_ITEM, 1), |item| more(item));
        });
        with_superblock(&s, |sb| sb.dev_item.bytes_used = (sb.dev_item.bytes_used.get() + LEN).into())
    }),
    kind("070: a name without its INODE_REF", Kept, |s| {
        with_leaf(s, FS, &|leaf| {
            let ino = inode_of(leaf, TOP, b"plain");
            take(leaf, Key::new(ino, T::INODE_REF, TOP));
        })
    }),
    kind("071: free space of block groups that are gone", Kept, |s| {
        let end = s.volume.chunks().last().map_or(0, |(start, chunk)| start.0 + chunk.length());
        with_leaf(s, TreeId::FREE_SPACE, &|leaf| {
            for at in [1 << 20, end] {
                put(leaf, Key::new(at, T::FREE_SPACE_INFO, 4 << 20), &[1, 0, 0, 0, 0, 0, 0, 0]);
                put(leaf, Key::new(at, T::FREE_SPACE_EXTENT, 4 << 20), &[]);
            }
        })
    }),
    kind("026: an entry under the hash of another name", Kept, |s| {
        with_leaf(s, FS, &|leaf| {
            let from = Key::new(TOP, T::DIR_ITEM, name_hash(b"plain"));
            let other = Key::new(TOP, T::DIR_ITEM, name_hash(b"a"));
            let moved = take(leaf, from);
            change(leaf, other, |data| data.splice(0..0, moved.iter().copied()).for_each(drop));
        })
    }),
    kind("051: a superblock that counts wrongly", Kept, |s| {
        with_superblock(s, |sb| sb.bytes_used = (sb.bytes_used.get() + 4096).into())
    }),
];

const FS: TreeId = TreeId::FS;

/// `a` is taken out of the top directory, and put into `a/b/c`.
fn circle(leaf: &mut TreeBlock) {
    let a = inode_of(leaf, TOP, b"a");
    let b = inode_of(leaf, a, b"b");
    let c = inode_of(leaf, b, b"c");
    take_entries(leaf, TOP, b"a");
    take(leaf, Key::new(a, T::INODE_REF, TOP));
    put_entries(leaf, c, b"a", a, 10);
}

fn with_xattrs(subject: &Subject, spoil: fn(&mut Vec<u8>)) -> Subject {
    let key = |leaf: &TreeBlock| {
        let keys = (0..leaf.len()).map(|slot| leaf.key(slot));
        keys.into_iter().find(|key| key.item_type == T::XATTR_ITEM).unwrap()
    };
    with_leaf(subject, FS, &|leaf| {
        let key = key(leaf);
        change(leaf, key, spoil);
    })
}

/// Where the second of two attributes begins.
fn second_xattr(data: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_le_bytes([data[at], data[at + 1]]));
    30 + number(25) + number(27)
}

fn with_root_item(subject: &Subject, tree: TreeId, spoil: impl Fn(&mut Vec<u8>)) -> Subject {
    with_leaf(subject, TreeId::ROOT, &|leaf| change(leaf, Key::new(tree.0, T::ROOT_ITEM, 0), &spoil))
}
