//! Renames that look like others.

use super::tests::{DIR, FILE, SUBVOLUME, device, judge, open, top};
use super::{Access, RenameOptions};
use crate::dir::Place;
use crate::error::Error;
use crate::inode::InodeId;

/// The first file of each subvolume has the same number, and is another file all the same.
#[test]
fn files_of_one_number_in_two_subvolumes_are_not_exchanged() {
    let device = device();
    let fs = open(&device);
    let places = [&b"a"[..], b"b"].map(|name| {
        let tree = fs.create_subvolume(top(name), &SUBVOLUME).unwrap();
        Place::new(InodeId::top_of(tree), b"file")
    });
    let files = places.map(|place| fs.create(place, &FILE).unwrap());
    assert_eq!(files[0].ino, files[1].ino);
    assert!(matches!(fs.exchange(places[0], places[1]), Err(Error::CrossSubvolume)));
    assert_eq!(places.map(|place| fs.lookup(place).unwrap()), files);
    judge(&device, fs);
}

/// The way up from a subvolume is a part of it.
#[test]
fn a_read_only_subvolume_gets_another_name_but_no_other_directory() {
    let device = device();
    let fs = open(&device);
    let tree = fs.create_subvolume(top(b"subvolume"), &SUBVOLUME).unwrap();
    fs.create_subvolume(top(b"other"), &SUBVOLUME).unwrap();
    let dir = fs.create(top(b"dir"), &DIR).unwrap();
    let inside = fs.create(Place::new(dir, b"inside"), &FILE).unwrap();
    fs.set_subvolume_access(tree, Access::ReadOnly).unwrap();
    let elsewhere = Place::new(dir, b"moved");
    assert!(matches!(fs.rename(top(b"subvolume"), elsewhere, RenameOptions::default()), Err(Error::ReadOnly)));
    assert!(matches!(fs.exchange(Place::new(dir, b"inside"), top(b"subvolume")), Err(Error::ReadOnly)));
    assert_eq!(fs.lookup(Place::new(dir, b"inside")).unwrap(), inside);
    fs.exchange(top(b"subvolume"), top(b"other")).unwrap();
    fs.rename(top(b"other"), top(b"renamed"), RenameOptions::default()).unwrap();
    fs.set_subvolume_access(tree, Access::ReadWrite).unwrap();
    fs.rename(top(b"renamed"), elsewhere, RenameOptions::default()).unwrap();
    assert_eq!(fs.subvolume(tree).unwrap().path, b"dir/moved");
    judge(&device, fs);
}
