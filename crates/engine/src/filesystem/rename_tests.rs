//! Renames that look like others, and names that cannot be.

use butterfs_format::hash::name_hash;

use super::tests::{DIR, FILE, SUBVOLUME, device, judge, open, top};
use super::{Access, RenameOptions};
use crate::dir::Place;
use crate::error::{Error, Result};
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

/// A name is as free as the hash of it: names of 200 bytes with one hash, of which bits were changed that take each other
/// out of it.
fn names_of_one_hash() -> Vec<Vec<u8>> {
    let plain = vec![b'@'; 200];
    let flipped = |bits: &[usize]| {
        let mut name = plain.clone();
        bits.iter().for_each(|bit| name[bit / 5] ^= 1 << (bit % 5));
        name
    };
    let zero = name_hash(&plain);
    let (mut basis, mut names) = (vec![None::<(u64, Vec<usize>)>; 64], vec![plain.clone()]);
    for bit in 0..1000 {
        let (mut hash, mut bits) = (name_hash(&flipped(&[bit])) ^ zero, vec![bit]);
        while hash != 0 {
            let place = &mut basis[hash.ilog2() as usize];
            let Some((other, more)) = place else {
                *place = Some((hash, bits.clone()));
                break;
            };
            hash ^= *other;
            bits.extend(more.iter());
        }
        if hash == 0 {
            names.push(flipped(&bits));
        }
    }
    names
}

#[test]
fn a_directory_has_so_many_names_of_one_hash() {
    let device = device();
    let fs = open(&device);
    let names = names_of_one_hash();
    let is_full = |result: Result<InodeId>| matches!(result, Err(Error::HashIsFull));
    let most = names.iter().take_while(|name| fs.create(top(name), &FILE).is_ok()).count();
    assert!((60..80).contains(&most), "{most}");
    let next = top(&names[most]);
    assert!(is_full(fs.create(next, &FILE)) && is_full(fs.create(next, &DIR)));
    assert!(is_full(fs.create_subvolume(next, &SUBVOLUME).map(InodeId::top_of)));
    let file = fs.create(top(b"file"), &FILE).unwrap();
    assert!(is_full(fs.link(file, next).map(|()| file)));
    assert!(is_full(fs.rename(top(b"file"), next, RenameOptions::default()).map(|()| file)));
    judge(&device, fs);
}

#[test]
fn a_default_subvolume_with_files_is_not_empty_first() {
    let device = device();
    let fs = open(&device);
    let tree = fs.create_subvolume(top(b"subvolume"), &SUBVOLUME).unwrap();
    let file = Place::new(InodeId::top_of(tree), b"file");
    fs.create(file, &FILE).unwrap();
    fs.set_default_subvolume(tree).unwrap();
    assert!(matches!(fs.rmdir(top(b"subvolume")), Err(Error::NotEmpty)));
    fs.unlink(file).unwrap();
    assert!(matches!(fs.rmdir(top(b"subvolume")), Err(Error::NotPermitted(_))));
    judge(&device, fs);
}
