//! Deleted subvolumes go by bounded steps, over as many mounts as it takes.

use std::sync::Arc;

use butterfs_format::{Key, TreeId};
use butterfs_volume::MemDevice;

use super::Filesystem;
use super::tests::{FILE, SUBVOLUME, device, judge, open, top};
use crate::dir::Place;
use crate::inode::InodeId;

const FILES: usize = 3000;
const LIMIT: usize = 8;

/// A device with a subvolume of many leaves, all its own, which is deleted and not gone.
fn deleted() -> (Arc<MemDevice>, TreeId) {
    let device = device();
    let fs = open(&device);
    let tree = fs.create_subvolume(top(b"sub"), &SUBVOLUME).unwrap();
    for number in 0..FILES {
        let name = format!("{number}").into_bytes();
        let id = fs.create(Place::new(InodeId::top_of(tree), &name), &FILE).unwrap();
        fs.write(id, 0, &[7; 1500]).unwrap();
    }
    fs.sync().unwrap();
    fs.delete_subvolume(top(b"sub")).unwrap();
    fs.sync().unwrap();
    drop(fs);
    (device, tree)
}

fn steps_to_the_end(fs: &Filesystem) -> usize {
    (0..).take_while(|_| fs.clean_once(LIMIT).unwrap()).count()
}

fn progress(fs: &Filesystem, tree: TreeId) -> Key {
    fs.shared.gate.view(|tx| tx.root_item(tree)).unwrap().drop_progress.into()
}

#[test]
fn a_step_is_bounded_and_the_next_mount_goes_on() {
    let (device, tree) = deleted();
    let at_once = Arc::new(device.snapshot());
    let fs = open(&at_once);
    let leaves = FILES * 1500 / 16384;
    let steps = steps_to_the_end(&fs);
    assert!(steps >= leaves / LIMIT, "{steps} steps for {leaves} leaves and more");
    judge(&at_once, fs);

    let fs = open(&device);
    assert_eq!(progress(&fs, tree), Key::MIN);
    for _ in 0..steps / 2 {
        assert!(fs.clean_once(LIMIT).unwrap());
    }
    fs.sync().unwrap();
    let reached = progress(&fs, tree);
    assert_ne!(reached, Key::MIN);
    judge(&device, fs);
    let fs = open(&device);
    assert_eq!(progress(&fs, tree), reached);
    let rest = steps_to_the_end(&fs);
    assert!(rest <= steps - steps / 2 + 1, "{rest} steps after half of {steps}");
    judge(&device, fs);
}
