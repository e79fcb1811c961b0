//! What is held and not in memory is as if it were.

use std::sync::Arc;

use butterfs_format::TreeId;
use butterfs_volume::{MemDevice, OpenMode, Volume};

use super::tests::{DIR, SUBVOLUME, device, judge, made, top};
use super::{Filesystem, OpenOptions};
use crate::dir::Place;
use crate::environment::SystemEnvironment;
use crate::error::Error;
use crate::inode::InodeId;

const BUDGET: usize = 4;

/// With room for few inodes.
fn open(device: &Arc<MemDevice>) -> Filesystem {
    let volume = Volume::open(vec![device.clone()], OpenMode::ReadWrite).unwrap();
    let options = OpenOptions { cached_inodes: BUDGET, ..OpenOptions::default() };
    Filesystem::open(volume, options, Box::new(SystemEnvironment)).unwrap()
}

/// Holds a new file.
fn held(fs: &Filesystem, name: &[u8]) -> InodeId {
    let id = made(fs, top(name));
    fs.hold(id).unwrap();
    id
}

/// Looks at as many other inodes as it takes to have those go that can.
fn press(fs: &Filesystem) {
    let dir = fs.create(top(b"press"), &DIR).unwrap();
    let others: Vec<_> = (0..100)
        .map(|number| {
            let name = format!("{number}").into_bytes();
            (made(fs, Place::new(dir, &name)), name)
        })
        .collect();
    for (id, name) in others {
        fs.attributes(id).unwrap();
        fs.unlink(Place::new(dir, &name)).unwrap();
    }
    fs.rmdir(top(b"press")).unwrap();
}

#[test]
fn held_inodes_go_and_come_back() {
    let device = device();
    let fs = open(&device);
    let files: Vec<(InodeId, _)> = (0..200)
        .map(|number| {
            let id = held(&fs, format!("f{number}").as_bytes());
            fs.write(id, 0, &[number; 5000]).unwrap();
            (id, number)
        })
        .collect();
    fs.sync().unwrap();
    press(&fs);
    assert!(fs.inodes.loaded() <= 2 * BUDGET, "{}", fs.inodes.loaded());
    for (id, number) in files {
        let mut byte = [0];
        fs.read(id, 4999, &mut byte).unwrap();
        assert_eq!((byte[0], fs.attributes(id).unwrap().item.size.get()), (number, 5000));
        fs.unlink(top(format!("f{number}").as_bytes())).unwrap();
        assert_eq!(fs.attributes(id).unwrap().item.nlink.get(), 0);
        fs.release(id, 1).unwrap();
        assert!(matches!(fs.attributes(id), Err(Error::NotFound)));
    }
    judge(&device, fs);
}

#[test]
fn what_is_open_without_a_name_stays() {
    let device = device();
    let fs = open(&device);
    let file = held(&fs, b"a");
    fs.write(file, 0, &[7; 5000]).unwrap();
    fs.sync().unwrap();
    press(&fs);
    fs.unlink(top(b"a")).unwrap();
    press(&fs);
    fs.write(file, 5000, &[8]).unwrap();
    press(&fs);
    let mut bytes = [0; 2];
    assert_eq!(fs.read(file, 4999, &mut bytes).unwrap(), 2);
    assert_eq!(bytes, [7, 8]);
    fs.release(file, 1).unwrap();
    assert!(matches!(fs.attributes(file), Err(Error::NotFound)));
    judge(&device, fs);
}

#[test]
fn a_number_means_the_same_inode_as_long_as_it_is_held() {
    let device = device();
    let fs = open(&device);
    let file = held(&fs, b"a");
    let before = fs.attributes(file).unwrap();
    fs.sync().unwrap();
    press(&fs);
    fs.unlink(top(b"a")).unwrap();
    fs.sync().unwrap();
    let other = held(&fs, b"a");
    press(&fs);
    assert_ne!(other, file);
    assert_eq!(fs.attributes(file).unwrap().item.generation, before.item.generation);
    assert_eq!(fs.attributes(other).unwrap().item.nlink.get(), 1);
    fs.release(file, 1).unwrap();
    fs.release(other, 1).unwrap();
    assert_eq!(fs.lookup(top(b"a")).unwrap(), other);
    judge(&device, fs);
}

#[test]
fn a_deleted_subvolume_waits_for_who_is_not_in_memory() {
    let device = device();
    let fs = open(&device);
    let sub = fs.create_subvolume(top(b"sub"), &SUBVOLUME).unwrap();
    let file = made(&fs, Place::new(InodeId::top_of(sub), b"f"));
    fs.hold(file).unwrap();
    fs.write(file, 0, &[1; 9000]).unwrap();
    fs.sync().unwrap();
    fs.delete_subvolume(top(b"sub")).unwrap();
    press(&fs);
    assert!(!fs.clean_once(100).unwrap());
    press(&fs);
    let mut byte = [0];
    assert_eq!(fs.read(file, 8999, &mut byte).unwrap(), 1);
    press(&fs);
    fs.release(file, 1).unwrap();
    while fs.clean_once(100).unwrap() {}
    assert!(fs.inodes.of_trees(&[sub], 10).is_empty());
    judge(&device, fs);
}

#[test]
fn an_open_file_is_told_of_what_was_lost_long_ago() {
    let device = device();
    let fs = open(&device);
    let (file, other) = (held(&fs, b"a"), held(&fs, b"b"));
    let mut cursors = [file, other].map(|id| fs.error_cursor(id).unwrap());
    fs.inode(file).unwrap().data.errors().note(&Error::NoSpace);
    press(&fs);
    let [mine, others] = &mut cursors;
    assert!(fs.fsync_open(other, others).is_ok());
    assert!(matches!(fs.fsync_open(file, mine), Err(Error::NoSpace)));
    press(&fs);
    assert!(fs.fsync_open(file, mine).is_ok());
    assert!(fs.fsync_open(file, &mut fs.error_cursor(file).unwrap()).is_ok(), "who opens it now is not told");
    judge(&device, fs);
}

/// Also of subvolumes behind one that is in use for long.
#[test]
fn names_in_the_way_are_known_of_held_inodes() {
    let device = device();
    let fs = open(&device);
    let mut held = Vec::new();
    for name in [b"one", b"two"] {
        let sub = fs.create_subvolume(top(name), &SUBVOLUME).unwrap();
        for file in [b"f", b"g"] {
            let file = made(&fs, Place::new(InodeId::top_of(sub), file));
            fs.hold(file).unwrap();
            held.push(file);
        }
        fs.sync().unwrap();
        assert!(!fs.is_deleted(sub));
        fs.delete_subvolume(top(name)).unwrap();
        assert!(fs.is_deleted(sub) && sub != TreeId::FS);
    }
    press(&fs);
    let mut found = fs.names_in_the_way(10).unwrap();
    found.sort();
    let name = |file: &InodeId, name: &[u8]| (InodeId::top_of(file.tree), name.to_vec());
    assert_eq!(found, [name(&held[0], b"f"), name(&held[0], b"g"), name(&held[2], b"f"), name(&held[2], b"g")]);
    let found = fs.names_in_the_way(1).unwrap();
    assert!(found.len() == 2 && found[0].0 != found[1].0, "one of each: {found:?}");
    held.into_iter().for_each(|file| fs.release(file, 1).unwrap());
    judge(&device, fs);
}
