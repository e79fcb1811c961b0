//! Files that grow, after another system left something past their ends.

use std::sync::Arc;

use butterfs_volume::MemDevice;

use super::Filesystem;
use super::tests::{FILE, device, judge, open, top};
use crate::file::SizeMode;
use crate::inode::{InodeId, item};
use crate::tx::Need;

const SIZE: u64 = 9000;

/// A file of 9,000 bytes in front of others in its last sector, as the kernel may leave one that it cut.
fn cut_by_another(device: &Arc<MemDevice>) -> (Filesystem, InodeId) {
    let fs = open(device);
    let id = fs.create(top(b"file"), &FILE).unwrap();
    fs.write(id, 0, &[7; 12_000]).unwrap();
    fs.sync().unwrap();
    let shorten = |tx: &mut _| {
        let mut found = item::read(tx, id)?;
        found.size = SIZE.into();
        item::write_inode_item(tx, id, &mut found)
    };
    fs.shared.gate.change(Need::Items(1), shorten).unwrap();
    fs.shared.gate.commit().unwrap();
    drop(fs);
    (open(device), id)
}

#[test]
fn bytes_past_the_end_do_not_come_back_when_a_file_grows() {
    type Grow = fn(&Filesystem, InodeId);
    let ways: [(&str, Grow); 4] = [
        ("truncate", |fs, id| fs.set_size(id, 20_000).unwrap()),
        ("write past the sector", |fs, id| assert_eq!(fs.write(id, 20_000, b"x").unwrap(), 1)),
        ("write in the sector", |fs, id| assert_eq!(fs.write(id, 11_000, b"x").unwrap(), 1)),
        ("preallocate", |fs, id| fs.preallocate(id, 0..20_000, SizeMode::Extend).unwrap()),
    ];
    for (way, grow) in ways {
        let device = device();
        let (fs, id) = cut_by_another(&device);
        grow(&fs, id);
        for round in ["in memory", "on the device"] {
            let mut bytes = vec![1; 11_000];
            assert_eq!(fs.read(id, 0, &mut bytes).unwrap(), 11_000, "{way}");
            assert!(bytes[..SIZE as usize].iter().all(|byte| *byte == 7), "{way}, {round}");
            assert!(bytes[SIZE as usize..].iter().all(|byte| *byte == 0), "{way}, {round}");
            fs.sync().unwrap();
        }
        judge(&device, fs);
    }
}
