//! Renames that look like others.

use super::tests::{FILE, SUBVOLUME, device, judge, open, top};
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
