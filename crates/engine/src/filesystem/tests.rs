//! Names, holds, orphans and subvolumes, end to end on a device in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use butterfs_format::hash::name_hash;
use butterfs_format::items::FileType;
use butterfs_format::{Ino, TreeId};
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::{Access, Filesystem, Flow, Leave, NewInode, NewKind, NewSubvolume, OpenOptions, RenameOptions, Replace};
use crate::dir::Place;
use crate::environment::SystemEnvironment;
use crate::error::{Error, Result};
use crate::file::SizeMode;
use crate::inode::xattr::{Xattr, XattrMode};
use crate::inode::{InodeId, orphan};
use crate::mkfs::{self, MakeOptions};

pub(super) const FILE: NewInode<'static> = NewInode { kind: NewKind::File, permissions: 0o644, uid: 1, gid: 2 };
pub(super) const DIR: NewInode<'static> = NewInode { kind: NewKind::Directory, permissions: 0o755, uid: 1, gid: 2 };
pub(super) const SUBVOLUME: NewSubvolume = NewSubvolume { permissions: 0o755, uid: 0, gid: 0 };

pub(super) fn device() -> Arc<MemDevice> {
    let device = Arc::new(MemDevice::new(1 << 30));
    mkfs::make(device.clone(), &MakeOptions::new(1 << 30, &SystemEnvironment)).unwrap();
    device
}

pub(super) fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    Filesystem::open(volume, OpenOptions::default(), Box::new(SystemEnvironment)).unwrap()
}

/// Commits, and has the checker judge what is on the device.
pub(super) fn judge(device: &Arc<MemDevice>, fs: Filesystem) {
    fs.sync().unwrap();
    drop(fs);
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadOnly).unwrap();
    let options = butterfs_check::Options {
        data_csums: true,
        devices: vec![device.clone()],
        ..butterfs_check::Options::default()
    };
    let report = butterfs_check::check(&volume, &options);
    assert!(report.worst().is_none(), "{report}");
}

/// A new file.
pub(super) fn made(fs: &Filesystem, place: Place<'_>) -> InodeId {
    fs.create(place, &FILE).unwrap()
}

pub(super) fn top(name: &[u8]) -> Place<'_> {
    Place::new(InodeId::top_of(TreeId::FS), name)
}

fn names(fs: &Filesystem, dir: InodeId) -> Vec<(Vec<u8>, u64)> {
    let mut found = Vec::new();
    fs.read_dir(dir, 2, |entry| {
        found.push((entry.name.clone(), entry.position));
        Ok(Flow::More)
    })
    .unwrap();
    found
}

fn orphans(fs: &Filesystem, tree: TreeId) -> Vec<u64> {
    fs.shared.gate.view(|tx| orphan::list(tx, tree, 0, 100)).unwrap()
}

fn dir_size(fs: &Filesystem, dir: InodeId) -> u64 {
    fs.attributes(dir).unwrap().item.size.get()
}

#[test]
fn an_unlinked_held_file_lives_until_it_is_released() {
    let device = device();
    let fs = open(&device);
    let id = made(&fs, top(b"a"));
    fs.hold(id).unwrap();
    fs.write(id, 0, &[7; 100_000]).unwrap();
    fs.unlink(top(b"a")).unwrap();
    assert_eq!(fs.attributes(id).unwrap().item.nlink.get(), 0);
    assert_eq!(orphans(&fs, TreeId::FS), [id.ino.0]);
    let mut byte = [0];
    assert_eq!(fs.read(id, 99_999, &mut byte).unwrap(), 1);
    fs.sync().unwrap();
    fs.release(id, 1).unwrap();
    assert!(orphans(&fs, TreeId::FS).is_empty());
    assert!(matches!(fs.attributes(id), Err(Error::NotFound)));
    judge(&device, fs);
}

#[test]
fn orphans_go_at_the_next_open() {
    let device = device();
    let fs = open(&device);
    let id = made(&fs, top(b"a"));
    fs.hold(id).unwrap();
    fs.write(id, 0, &[7; 1 << 20]).unwrap();
    fs.sync().unwrap();
    fs.unlink(top(b"a")).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let fs = open(&device);
    assert!(orphans(&fs, TreeId::FS).is_empty());
    assert!(matches!(fs.attributes(id), Err(Error::NotFound)));
    judge(&device, fs);
}

#[test]
fn an_unnamed_file_can_be_linked_or_goes() {
    let device = device();
    let fs = open(&device);
    let root = fs.root();
    let kept = fs.create_unnamed(root, &FILE).unwrap();
    let lost = fs.create_unnamed(root, &FILE).unwrap();
    fs.link(kept, top(b"kept")).unwrap();
    fs.release(kept, 1).unwrap();
    fs.release(lost, 1).unwrap();
    assert_eq!(fs.lookup(top(b"kept")).unwrap(), kept);
    assert_eq!(fs.attributes(kept).unwrap().item.nlink.get(), 1);
    assert!(matches!(fs.attributes(lost), Err(Error::NotFound)));
    assert!(orphans(&fs, TreeId::FS).is_empty());
    judge(&device, fs);
}

#[test]
fn names_with_one_hash_share_an_item() {
    let mut seen = HashMap::new();
    let (a, b) = (0u32..)
        .map(|n| format!("name{n}"))
        .find_map(|name| seen.insert(name_hash(name.as_bytes()), name.clone()).map(|other| (other, name)))
        .unwrap();
    let device = device();
    let fs = open(&device);
    let first = made(&fs, top(a.as_bytes()));
    let second = made(&fs, top(b.as_bytes()));
    assert_eq!(fs.lookup(top(a.as_bytes())).unwrap(), first);
    assert_eq!(fs.lookup(top(b.as_bytes())).unwrap(), second);
    fs.rename(top(a.as_bytes()), top(b.as_bytes()), RenameOptions::default()).unwrap();
    assert_eq!(fs.lookup(top(b.as_bytes())).unwrap(), first);
    assert!(matches!(fs.attributes(second), Err(Error::NotFound)));
    fs.unlink(top(b.as_bytes())).unwrap();
    assert_eq!(dir_size(&fs, fs.root()), 0);
    judge(&device, fs);
}

#[test]
fn many_links_spill_into_extended_references() {
    let device = device();
    let fs = open(&device);
    let id = made(&fs, top(b"first"));
    let name = |n: u32| format!("{n:0>250}").into_bytes();
    (0..300).for_each(|n| fs.link(id, top(&name(n))).unwrap());
    assert_eq!(fs.attributes(id).unwrap().item.nlink.get(), 301);
    fs.sync().unwrap();
    fs.rename(top(&name(299)), top(b"again"), RenameOptions::default()).unwrap();
    (0..299).rev().for_each(|n| fs.unlink(top(&name(n))).unwrap());
    fs.unlink(top(b"again")).unwrap();
    assert_eq!(fs.attributes(id).unwrap().item.nlink.get(), 1);
    assert_eq!(dir_size(&fs, fs.root()), 10);
    judge(&device, fs);
}

#[test]
fn renames_keep_the_rules() {
    let device = device();
    let fs = open(&device);
    let outer = fs.create(top(b"outer"), &DIR).unwrap();
    let inner = fs.create(Place::new(outer, b"inner"), &DIR).unwrap();
    let file = made(&fs, top(b"file"));
    let into_itself = fs.rename(top(b"outer"), Place::new(inner, b"x"), RenameOptions::default());
    assert!(matches!(into_itself, Err(Error::Invalid(_))));
    let over_dir = fs.rename(top(b"file"), top(b"outer"), RenameOptions::default());
    assert!(matches!(over_dir, Err(Error::IsDirectory)));
    let refuse = RenameOptions { replace: Replace::Refuse, leave: Leave::Nothing };
    assert!(matches!(fs.rename(top(b"file"), top(b"outer"), refuse), Err(Error::Exists)));
    fs.exchange(top(b"file"), Place::new(outer, b"inner")).unwrap();
    assert_eq!((fs.lookup(top(b"file")).unwrap(), fs.lookup(Place::new(outer, b"inner")).unwrap()), (inner, file));
    assert_eq!(fs.parent(inner).unwrap(), fs.root());
    assert_eq!((dir_size(&fs, outer), dir_size(&fs, fs.root())), (10, 18));
    let leave = RenameOptions { replace: Replace::Allow, leave: Leave::Whiteout { uid: 0, gid: 0 } };
    fs.rename(top(b"file"), Place::new(outer, b"moved"), leave).unwrap();
    let whiteout = fs.attributes(fs.lookup(top(b"file")).unwrap()).unwrap();
    assert_eq!((whiteout.file_type, whiteout.item.rdev.get()), (FileType::CharDevice, 0));
    assert!(matches!(fs.rmdir(top(b"outer")), Err(Error::NotEmpty)));
    judge(&device, fs);
}

#[test]
fn a_reader_meets_each_entry_once_while_others_come_and_go() {
    let device = device();
    let fs = open(&device);
    let name = |n: u32| format!("f{n}").into_bytes();
    for n in 0..500 {
        made(&fs, top(&name(n)));
    }
    let (mut seen, mut extra) = (Vec::new(), 500);
    fs.read_dir(fs.root(), 2, |entry| {
        seen.push(entry.name.clone());
        if seen.len() <= 100 {
            fs.unlink(Place::new(fs.root(), &entry.name))?;
            fs.create(top(&name(extra)), &FILE)?;
            extra += 1;
        }
        Ok(Flow::More)
    })
    .unwrap();
    let want: Vec<_> = (0..600).map(name).collect();
    assert_eq!(seen, want);
    assert!(names(&fs, fs.root()).is_sorted_by(|a, b| a.1 < b.1));
    judge(&device, fs);
}

#[test]
fn a_snapshot_shows_nested_subvolumes_as_empty_directories() {
    let device = device();
    let fs = open(&device);
    let sub = fs.create_subvolume(top(b"sub"), &SUBVOLUME).unwrap();
    let file = made(&fs, Place::new(InodeId::top_of(sub), b"file"));
    fs.write(file, 0, b"hello").unwrap();
    let snap = fs.snapshot(TreeId::FS, top(b"snap"), Access::ReadOnly).unwrap();
    let in_snap = |name| Place::new(InodeId::top_of(snap), name);
    let stub = fs.lookup(in_snap(b"sub")).unwrap();
    assert!(stub.is_placeholder() && names(&fs, stub).is_empty());
    // As in the kernel, a snapshot was made before it had a name.
    assert!(matches!(fs.lookup(in_snap(b"snap")), Err(Error::NotFound)));
    assert!(matches!(fs.create(in_snap(b"x"), &FILE), Err(Error::ReadOnly)));
    assert!(matches!(fs.rmdir(in_snap(b"sub")), Err(Error::ReadOnly)));
    fs.set_subvolume_access(snap, Access::ReadWrite).unwrap();
    fs.rmdir(in_snap(b"sub")).unwrap();
    assert_eq!(fs.lookup(top(b"sub")).unwrap(), InodeId::top_of(sub));
    let inner = fs.snapshot(sub, Place::new(InodeId::top_of(sub), b"inner"), Access::ReadWrite).unwrap();
    assert_eq!(fs.subvolume(inner).unwrap().path, b"sub/inner");
    let mut bytes = [0; 5];
    fs.read(InodeId::new(inner, file.ino), 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    judge(&device, fs);
}

/// What is a hole already keeps its times; preallocated space past the end goes.
#[test]
fn holes_are_punched_where_something_is() {
    let device = device();
    let fs = open(&device);
    let file = made(&fs, top(b"f"));
    fs.write(file, 0, &[1; 4096]).unwrap();
    fs.preallocate(file, 1 << 20..2 << 20, SizeMode::Keep).unwrap();
    fs.sync().unwrap();
    let item = |fs: &Filesystem| fs.attributes(file).unwrap().item;
    let before = item(&fs);
    fs.punch_hole(file, 8192..100_000).unwrap();
    fs.punch_hole(file, 8 << 20..9 << 20).unwrap();
    assert_eq!(item(&fs), before);
    fs.punch_hole(file, 1 << 20..2 << 20).unwrap();
    assert_eq!((item(&fs).nbytes.get(), item(&fs).size.get()), (4096, 4096));
    assert_ne!(item(&fs).mtime, before.mtime);
    judge(&device, fs);
}

/// A background sync that is under way does not hide dirty data from a snapshot or from another sync.
#[test]
fn a_snapshot_waits_for_a_writeback_that_runs() {
    let device = device();
    let fs = open(&device);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs.sync().unwrap();
            }
        });
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for number in 0..60_u8 {
                let name = format!("f{number}");
                let files: Vec<_> =
                    (0..20).map(|n| made(&fs, Place::new(fs.root(), format!("{name}-{n}").as_bytes()))).collect();
                for file in &files {
                    assert_eq!(fs.write(*file, 0, &[number; 5000]).unwrap(), 5000);
                }
                let snap = fs.snapshot(TreeId::FS, top(format!("s{number}").as_bytes()), Access::ReadOnly).unwrap();
                for file in files {
                    let mut bytes = [255; 5000];
                    let read = fs.read(InodeId::new(snap, file.ino), 0, &mut bytes).unwrap();
                    assert!(read == 5000 && bytes == [number; 5000], "snapshot {number}: {read} bytes");
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        checked.unwrap();
    });
    judge(&device, fs);
}

#[test]
fn subvolumes_are_renamed_and_deleted() {
    let device = device();
    let fs = open(&device);
    let a = fs.create_subvolume(top(b"a"), &SUBVOLUME).unwrap();
    let b = fs.create_subvolume(top(b"b"), &SUBVOLUME).unwrap();
    let (in_a, in_b) = (InodeId::top_of(a), InodeId::top_of(b));
    fs.rename(top(b"b"), Place::new(in_a, b"moved"), RenameOptions::default()).unwrap();
    assert_eq!(fs.subvolume(b).unwrap().path, b"a/moved");
    assert_eq!(fs.parent(in_b).unwrap(), in_a);
    let circle = fs.rename(top(b"a"), Place::new(in_b, b"x"), RenameOptions::default());
    assert!(matches!(circle, Err(Error::Invalid(_))));
    assert!(matches!(fs.delete_subvolume(top(b"a")), Err(Error::NotEmpty)));
    made(&fs, Place::new(in_b, b"file"));
    assert!(matches!(fs.rmdir(Place::new(in_a, b"moved")), Err(Error::NotEmpty)));
    fs.delete_subvolume(Place::new(in_a, b"moved")).unwrap();
    fs.rmdir(top(b"a")).unwrap();
    assert_eq!(fs.subvolumes().unwrap().len(), 1);
    fs.sync().unwrap();
    drop(fs);
    let fs = open(&device);
    assert_eq!(orphans(&fs, TreeId::ROOT), [a.0, b.0]);
    while fs.clean_once(10).unwrap() {}
    assert!(orphans(&fs, TreeId::ROOT).is_empty());
    judge(&device, fs);
}

#[test]
fn a_deleted_subvolume_waits_for_who_uses_it() {
    let device = device();
    let fs = open(&device);
    let sub = fs.create_subvolume(top(b"sub"), &SUBVOLUME).unwrap();
    let file = made(&fs, Place::new(InodeId::top_of(sub), b"f"));
    fs.hold(file).unwrap();
    fs.write(file, 0, &[1; 9000]).unwrap();
    fs.sync().unwrap();
    fs.delete_subvolume(top(b"sub")).unwrap();
    assert!(!fs.clean_once(100).unwrap());
    let mut bytes = [0; 9000];
    assert_eq!(fs.read(file, 0, &mut bytes).unwrap(), 9000);
    fs.write(file, 100_000, &[2; 5000]).unwrap();
    fs.sync().unwrap();
    assert_eq!(fs.read(file, 96_000, &mut bytes).unwrap(), 9000);
    assert_eq!((bytes[0], bytes[8999]), (0, 2));
    fs.release(file, 1).unwrap();
    while fs.clean_once(100).unwrap() {}
    assert!(orphans(&fs, TreeId::ROOT).is_empty());
    judge(&device, fs);
}

#[test]
fn attributes_survive_a_reopen() {
    let device = device();
    let fs = open(&device);
    let id = made(&fs, top(b"f"));
    let x = |name, value| Xattr { name, value };
    fs.set_xattr(id, x(b"user.a", b"1"), XattrMode::Create).unwrap();
    assert!(matches!(fs.set_xattr(id, x(b"user.a", b"2"), XattrMode::Create), Err(Error::Exists)));
    assert!(matches!(fs.set_xattr(id, x(b"user.b", b"2"), XattrMode::Replace), Err(Error::NoAttribute)));
    let link = fs.create(top(b"l"), &NewInode { kind: NewKind::Symlink(b"target"), ..FILE }).unwrap();
    let before = fs.attributes(id).unwrap();
    fs.sync().unwrap();
    drop(fs);
    let fs = open(&device);
    assert_eq!(fs.attributes(id).unwrap(), before);
    assert_eq!(fs.xattrs(id).unwrap(), [b"user.a".to_vec()]);
    assert_eq!(fs.read_link(link).unwrap(), b"target");
    assert_eq!(made(&fs, top(b"next")).ino, Ino(link.ino.0 + 1));
    judge(&device, fs);
}

#[test]
fn threads_rename_in_circles_without_deadlock() -> Result<()> {
    let device = device();
    let fs = open(&device);
    let dirs: Vec<InodeId> = (0..3).map(|n| fs.create(top(format!("d{n}").as_bytes()), &DIR)).collect::<Result<_>>()?;
    fs.create(Place::new(dirs[0], b"a"), &FILE)?;
    fs.create(Place::new(dirs[1], b"b"), &FILE)?;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (fs, dirs) = (&fs, &dirs);
            scope.spawn(move || {
                for n in 0..300 {
                    let (from, to) = (dirs[(n + thread) % 3], dirs[(n * 7 + thread + 1) % 3]);
                    for (old, new) in [(b"a", b"b"), (b"b", b"a")] {
                        match fs.rename(Place::new(from, old), Place::new(to, new), RenameOptions::default()) {
                            Ok(()) | Err(Error::NotFound) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    let left: usize = dirs.iter().map(|dir| names(&fs, *dir).len()).sum();
    assert!((1..=2).contains(&left));
    judge(&device, fs);
    Ok(())
}

/// Caches, the cleaner and users of a mount may still know the subvolume that had the number.
#[test]
fn numbers_of_subvolumes_are_not_given_twice() {
    let device = device();
    let fs = open(&device);
    let first = fs.create_subvolume(top(b"a"), &SUBVOLUME).unwrap();
    fs.delete_subvolume(top(b"a")).unwrap();
    while fs.clean_once(100).unwrap() {}
    fs.sync().unwrap();
    let second = fs.snapshot(TreeId::FS, top(b"b"), Access::ReadWrite).unwrap();
    assert!(second.0 > first.0, "{second} was {first} before");
    judge(&device, fs);
}

/// A cleaner that found a dead subvolume, and is late, leaves alone what lives.
#[test]
fn a_late_cleaner_drops_nothing_that_lives() {
    let device = device();
    let fs = open(&device);
    let tree = fs.create_subvolume(top(b"a"), &SUBVOLUME).unwrap();
    made(&fs, Place::new(InodeId::top_of(tree), b"file"));
    fs.drop_step(tree, 100).unwrap();
    assert_eq!(names(&fs, InodeId::top_of(tree)).len(), 1);
    judge(&device, fs);
}

#[test]
fn subvolumes_are_listed_in_pages() {
    let device = device();
    let fs = open(&device);
    for number in 0..7 {
        fs.create_subvolume(top(format!("s{number}").as_bytes()), &SUBVOLUME).unwrap();
    }
    let all = fs.subvolumes().unwrap();
    assert_eq!(all.len(), 8);
    let (mut paged, mut after) = (Vec::new(), 0);
    while let Some(last) = paged.last().map_or(Some(after), |info: &crate::subvolume::SubvolumeInfo| Some(info.id.0)) {
        after = last;
        let page = fs.subvolume_page(after, 3).unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

/// As the kernel: each commit's roots go behind those of the one before, in turn, whatever their numbers.
#[test]
fn backup_roots_go_round() {
    let device = device();
    let fs = open(&device);
    let superblock = || fs.shared.gate.volume().superblock();
    let mut slots = Vec::new();
    for commit in 0..6 {
        let before = superblock();
        made(&fs, top(format!("f{commit}").as_bytes()));
        fs.sync().unwrap();
        let now = superblock();
        let slot = before.next_backup();
        assert_eq!(now.next_backup(), (slot + 1) % 4);
        let backup = &now.super_roots[slot];
        assert_eq!(
            (backup.tree_root, backup.tree_root_gen, backup.tree_root_level),
            (now.root, now.generation, now.root_level)
        );
        assert_eq!(
            (backup.total_bytes, backup.bytes_used, backup.num_devices),
            (now.total_bytes, now.bytes_used, now.num_devices)
        );
        assert_eq!((backup.chunk_root, backup.chunk_root_gen), (now.chunk_root, now.chunk_root_generation));
        for tree in [backup.extent_root, backup.fs_root, backup.dev_root, backup.csum_root] {
            assert_ne!(tree.get(), 0);
        }
        // The others are left as they were.
        for other in (0..4).filter(|other| *other != slot) {
            assert_eq!(now.super_roots[other].tree_root_gen, before.super_roots[other].tree_root_gen);
        }
        slots.push(slot);
    }
    assert_eq!(slots[4..], slots[..2]);
}

/// Attributes that a new inode inherits come with it, or it does not come.
#[test]
fn an_inode_comes_with_its_attributes_or_not_at_all() {
    let device = device();
    let fs = open(&device);
    let xattrs = |value| [Xattr { name: b"system.posix_acl_access", value }, Xattr { name: b"user.b", value: b"2" }];
    let large = vec![0; 20_000];
    assert!(matches!(fs.create_with(top(b"a"), &DIR, &xattrs(&large)), Err(Error::NoSpace)));
    assert!(matches!(fs.create_unnamed_with(fs.root(), &FILE, &xattrs(&large)), Err(Error::NoSpace)));
    assert!(fs.shared.gate.check_writable().is_ok(), "it failed half-way");
    assert!(names(&fs, fs.root()).is_empty());
    let made = fs.create_with(top(b"a"), &DIR, &xattrs(b"1")).unwrap();
    let unnamed = fs.create_unnamed_with(fs.root(), &FILE, &xattrs(b"1")).unwrap();
    for id in [made, unnamed] {
        assert_eq!(fs.xattr(id, b"system.posix_acl_access").unwrap(), b"1");
        assert_eq!(fs.xattr(id, b"user.b").unwrap(), b"2");
    }
}
