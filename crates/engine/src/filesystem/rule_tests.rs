//! Rules for the new files of whole subvolumes.

use butterfs_format::TreeId;
use butterfs_format::items::InodeFlags;

use super::new_files::is_rule;
use super::tests::{DIR, FILE, device, judge, open, top};
use super::{Filesystem, NewSubvolume};
use crate::dir::Place;
use crate::error::Error;
use crate::file::COMPRESSION_PROPERTY;
use crate::inode::InodeId;
use crate::inode::xattr::{Xattr, XattrMode};
use crate::subvolume::RULE_ATTRIBUTE;
use crate::subvolume::root::Access;

/// A subvolume with a directory that was there before any rule.
fn subvolume(fs: &Filesystem) -> (InodeId, InodeId) {
    let new = NewSubvolume { permissions: 0o755, uid: 1, gid: 2 };
    let top = InodeId::top_of(fs.create_subvolume(top(b"subvolume"), &new).unwrap());
    let old = fs.create(Place::new(top, b"old"), &DIR).unwrap();
    (top, old)
}

fn set(fs: &Filesystem, id: InodeId, value: &[u8]) -> crate::error::Result<()> {
    fs.set_xattr(id, Xattr { name: RULE_ATTRIBUTE, value }, XattrMode::Any)
}

fn flags(fs: &Filesystem, id: InodeId) -> InodeFlags {
    fs.attributes(id).unwrap().item.flags()
}

const IN_PLACE: InodeFlags = InodeFlags::NODATACOW.union(InodeFlags::NODATASUM);

#[test]
fn a_rule_holds_in_directories_that_were_there_before() {
    let device = device();
    let fs = open(&device);
    let (top, old) = subvolume(&fs);
    assert!(is_rule(top, RULE_ATTRIBUTE) && !is_rule(old, RULE_ATTRIBUTE));
    set(&fs, top, b"nodatacow").unwrap();
    assert_eq!(flags(&fs, top), InodeFlags::NODATACOW, "the kernel inherits it from here");
    let file = fs.create(Place::new(old, b"file"), &FILE).unwrap();
    let dir = fs.create(Place::new(old, b"dir"), &DIR).unwrap();
    let unnamed = fs.create_unnamed(dir, &FILE).unwrap();
    assert_eq!((flags(&fs, file), flags(&fs, dir), flags(&fs, unnamed)), (IN_PLACE, InodeFlags::NODATACOW, IN_PLACE));
    fs.release(unnamed, 1).unwrap();

    set(&fs, top, b"compression=lzo").unwrap();
    assert_eq!(
        (flags(&fs, top), fs.xattr(top, COMPRESSION_PROPERTY).unwrap()),
        (InodeFlags::COMPRESS, b"lzo".to_vec())
    );
    let file = fs.create(Place::new(old, b"compressed"), &FILE).unwrap();
    assert_eq!(
        (flags(&fs, file), fs.xattr(file, COMPRESSION_PROPERTY).unwrap()),
        (InodeFlags::COMPRESS, b"lzo".to_vec())
    );
    // What a directory says itself goes first.
    let file = fs.create(Place::new(dir, b"in place"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), IN_PLACE);

    set(&fs, top, b"nodatasum").unwrap();
    assert_eq!(flags(&fs, top), InodeFlags::empty());
    assert!(matches!(fs.xattr(top, COMPRESSION_PROPERTY), Err(Error::NoAttribute)));
    let file = fs.create(Place::new(old, b"no sums"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), InodeFlags::NODATASUM);
    fs.remove_xattr(top, RULE_ATTRIBUTE).unwrap();
    let file = fs.create(Place::new(old, b"as usual"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), InodeFlags::empty());
    judge(&device, fs);
}

#[test]
fn a_rule_is_the_subvolumes_alone_and_stays() {
    let device = device();
    let fs = open(&device);
    let (top_id, old) = subvolume(&fs);
    set(&fs, top_id, b"nodatacow").unwrap();
    let outside = fs.create(top(b"outside"), &FILE).unwrap();
    assert_eq!(flags(&fs, outside), InodeFlags::empty());
    let snapshot = fs.snapshot(top_id.tree, top(b"snapshot"), Access::ReadWrite).unwrap();
    let inside = InodeId { tree: snapshot, ..old };
    let file = fs.create(Place::new(inside, b"file"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), IN_PLACE);
    judge(&device, fs);
    let fs = open(&device);
    let file = fs.create(Place::new(old, b"later"), &FILE).unwrap();
    assert_eq!(flags(&fs, file), IN_PLACE);
    judge(&device, fs);
}

#[test]
fn what_is_no_rule_is_refused_and_elsewhere_it_is_an_attribute_as_others() {
    let device = device();
    let fs = open(&device);
    let (top_id, old) = subvolume(&fs);
    for wrong in [&b"fast"[..], b"compression=gzip", b"compression=zstd,nodatacow"] {
        assert!(matches!(set(&fs, top_id, wrong), Err(Error::Invalid(_))));
    }
    fs.set_flags(top_id, InodeFlags::COMPRESS).unwrap();
    assert!(matches!(set(&fs, top_id, b"nodatacow"), Err(Error::Invalid(_))));
    set(&fs, old, b"anything").unwrap();
    assert!(matches!(fs.remove_xattr(top_id, RULE_ATTRIBUTE), Err(Error::NoAttribute)));
    judge(&device, fs);
}

#[test]
fn the_label_is_durable_when_it_was_changed() {
    let device = device();
    let fs = open(&device);
    let before = fs.shared.gate.volume().superblock().generation();
    fs.set_label(b"a name").unwrap();
    assert_eq!(fs.shared.gate.volume().superblock().generation(), before.next());
    assert!(fs.set_label(&[b'x'; 256]).is_err());
    drop(fs);
    assert_eq!(open(&device).label().unwrap(), b"a name");
    let fs = open(&device);
    fs.create(Place::new(InodeId::top_of(TreeId::FS), b"file"), &FILE).unwrap();
    judge(&device, fs);
    assert_eq!(open(&device).label().unwrap(), b"a name");
}
