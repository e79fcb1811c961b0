//! What a new subvolume has from where it is made.

use butterfs_format::items::InodeFlags;

use super::tests::{DIR, FILE, SUBVOLUME, device, judge, open, top};
use super::{Filesystem, NewInode};
use crate::dir::Place;
use crate::error::Error;
use crate::file::COMPRESSION_PROPERTY;
use crate::inode::InodeId;
use crate::inode::xattr::{Xattr, XattrMode};

/// Makes a subvolume; gives its top directory.
fn subvolume(fs: &Filesystem, place: Place<'_>) -> InodeId {
    InodeId::top_of(fs.create_subvolume(place, &SUBVOLUME).unwrap())
}

fn compress(fs: &Filesystem, id: InodeId, value: &[u8]) {
    fs.set_xattr(id, Xattr { name: COMPRESSION_PROPERTY, value }, XattrMode::Any).unwrap();
}

fn flags(fs: &Filesystem, id: InodeId) -> InodeFlags {
    fs.attributes(id).unwrap().item.flags()
}

#[test]
fn a_directory_gives_new_subvolumes_neither_flags_nor_group() {
    let device = device();
    let fs = open(&device);
    let dir = fs.create(top(b"dir"), &NewInode { permissions: 0o2775, ..DIR }).unwrap();
    fs.set_flags(dir, InodeFlags::NODATACOW).unwrap();
    let packed = fs.create(top(b"packed"), &DIR).unwrap();
    compress(&fs, packed, b"zstd");
    let made = subvolume(&fs, Place::new(dir, b"subvolume"));
    let item = fs.attributes(made).unwrap().item;
    assert_eq!((item.flags(), item.mode.get(), item.gid.get()), (InodeFlags::empty(), 0o040_755, SUBVOLUME.gid));
    let file = fs.create(Place::new(made, b"file"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), InodeFlags::empty());
    let made = subvolume(&fs, Place::new(packed, b"subvolume"));
    assert_eq!(flags(&fs, made), InodeFlags::empty());
    assert!(matches!(fs.xattr(made, COMPRESSION_PROPERTY), Err(Error::NoAttribute)));
    judge(&device, fs);
}

#[test]
fn a_subvolume_gives_those_within_its_compression() {
    let device = device();
    let fs = open(&device);
    let outer = subvolume(&fs, top(b"outer"));
    let dir = fs.create(Place::new(outer, b"dir"), &DIR).unwrap();
    compress(&fs, outer, b"lzo");
    let inner = subvolume(&fs, Place::new(dir, b"inner"));
    assert_eq!(
        (flags(&fs, inner), fs.xattr(inner, COMPRESSION_PROPERTY).unwrap()),
        (InodeFlags::COMPRESS, b"lzo".to_vec())
    );
    let file = fs.create(Place::new(inner, b"file"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), InodeFlags::COMPRESS);
    compress(&fs, outer, b"none");
    let plain = subvolume(&fs, Place::new(dir, b"plain"));
    assert_eq!(flags(&fs, plain), InodeFlags::empty());
    judge(&device, fs);
}
